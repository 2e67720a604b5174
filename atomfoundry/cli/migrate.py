"""``atomfoundry migrate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.run import JsonOption


class Database(StrEnum):
    """Where a project keeps its results."""

    sqlite = "sqlite"
    mongodb = "mongodb"


def migrate_command(
    source: Annotated[Path, typer.Argument(help="Project folder; only read.")],
    target: Annotated[Path, typer.Argument(help="New folder, or that of an interrupted migration.")],
    to: Annotated[Database | None, typer.Option(help="Kind of the target [default: the other one].")] = None,
    launchpad: Annotated[
        Path | None,
        typer.Option(help="FireWorks' my_launchpad.yaml with the MongoDB [default: that of target or source]."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Move a project's results between SQLite and MongoDB, without loss; the same command resumes."""
    from atomfoundry.results.migration import migrate
    from atomfoundry.results.mongodb import MongoConnection

    connection = None
    if launchpad is not None:
        connection = MongoConnection.load(launchpad)
        connection.check()

    def tell(what: str, number: int) -> None:
        if not as_json and console.is_terminal:
            console.print(f"{what}: {number}", end="\r", highlight=False)

    report = migrate(
        source,
        target,
        database="mongodb" if to is Database.mongodb else "sqlite" if to else None,
        connection=connection,
        progress=tell,
    )
    if as_json:
        print_json(report.as_dict())
        return
    rows = [[name, found.count, found.sha256] for name, found in report.collections.items()]
    print_table(["collection", "documents", "sha256 in both"], rows)
    console.print(
        f"{report.artifacts} artifacts ({report.artifact_bytes / 1e6:.1f} MB), their hashes checked.\n"
        f"{report.source} ({report.source_database}) is as it was; "
        f"the results are in {report.target} ({report.target_database}) too.",
        highlight=False,
    )
