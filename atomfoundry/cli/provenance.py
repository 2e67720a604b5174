"""``atomfoundry lineage``, ``withdraw``, ``restore`` and ``export-crate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomfoundry.cli.console import coloured, console, print_json, print_table
from atomfoundry.cli.run import JsonOption, ProjectOption, find_project
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from atomfoundry.results import LineageGraph, Project, ResultsDB
    from atomfoundry.results.withdrawal import Withdrawal

FramesArgument = Annotated[
    list[str], typer.Argument(metavar="FRAME...", help="Frame ids, as 'results labels --json' lists them.")
]
LevelOption = Annotated[
    str | None, typer.Option("--level", help="Id of a level of theory, or its beginning [default: all].")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what it would change.")]
LicenseOption = Annotated[str | None, typer.Option("--license", help="URL or SPDX name of a licence.")]
AuthorOption = Annotated[
    list[str] | None, typer.Option("--author", help="Name of an author, or 'Name <ORCID URL>'; repeatable.")
]


class LineageFormat(StrEnum):
    """How lineage is written."""

    tree = "tree"
    mermaid = "mermaid"
    json = "json"
    prov_json = "prov-json"
    ro_crate = "ro-crate"


def lineage_command(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="uuid of a result, sha256 of an artifact, frame id (FRAME@LEVEL for one level), the unique beginning "
            "of one of these, or a path.",
        ),
    ],
    output_format: Annotated[LineageFormat, typer.Option("--format", "-f")] = LineageFormat.tree,
    forward: Annotated[bool, typer.Option("--forward", help="What was made from it, instead.")] = False,
    level: LevelOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; for ro-crate a folder or a .zip.")
    ] = None,
    project: ProjectOption = None,
) -> None:
    """Walk from a result, an artifact or a label back to the structures it was made from, or forward."""
    from atomfoundry.results import Project, open_results
    from atomfoundry.results.lineage_subjects import trace

    opened = Project.open(find_project(project))
    database = open_results(opened)
    graph = trace(database, opened, what, forward=forward, level=level)
    if output_format is LineageFormat.ro_crate:
        if output is None:
            raise InputError("A crate needs a place.", remedy="Give --output DIR or --output FILE.zip.")
        _write_crate(graph, database, opened, output)
        return
    if output_format is LineageFormat.tree and output is None:
        from atomfoundry.results.lineage_formats import to_tree

        console.print(to_tree(graph))
        _print_summary(graph)
        return
    text = _text(graph, output_format)
    if output is None:
        console.file.write(text)
    else:
        output.write_text(text, encoding="utf-8")
        console.print(f"Wrote {output}", highlight=False)


def _text(graph: LineageGraph, output_format: LineageFormat) -> str:
    import json

    from atomfoundry.results.lineage_formats import to_json, to_mermaid, to_text
    from atomfoundry.results.prov_json import to_prov_json

    if output_format is LineageFormat.tree:
        return to_text(graph)
    if output_format is LineageFormat.mermaid:
        return to_mermaid(graph)
    content = to_json(graph) if output_format is LineageFormat.json else to_prov_json(graph)
    return json.dumps(content, indent=2) + "\n"


def _print_summary(graph: LineageGraph) -> None:
    from atomfoundry.results.lineage_summary import summarise_lineage

    found = summarise_lineage(graph)
    lines = {
        "levels": ", ".join(f"{label} {level[:8]}" for level, label in found["levels"].items()),
        "code": ", ".join(f"Atomfoundry {version}" for version in found["code"]),
        "seeds": ", ".join(f"{name} {'/'.join(map(str, seeds))}" for name, seeds in found["seeds"].items()),
        "machines": ", ".join([*found["hosts"], *(d for d in found["devices"] if d != "cpu")]),
        "withdrawn": ", ".join(frame[:12] for frame in found["stale"]),
    }
    for name, text in lines.items():
        if text:
            console.print(f"{name + ':':<10} {text}", highlight=False, soft_wrap=True)


def withdraw_command(
    frames: FramesArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who meet the marks.")],
    level: LevelOption = None,
    dry_run: DryRunOption = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take labels back: never used again, and all that was made of them is marked as stale."""
    from atomfoundry.results import Project
    from atomfoundry.results.withdrawal import withdraw

    done = withdraw(Project.open(find_project(project)), frames, reason, level=level, dry_run=dry_run)
    _print_withdrawal(done, "withdrawn", as_json=as_json)


def restore_command(
    frames: FramesArgument,
    level: LevelOption = None,
    dry_run: DryRunOption = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Undo a withdrawal: the labels are good again and their marks go."""
    from atomfoundry.results import Project
    from atomfoundry.results.withdrawal import restore

    done = restore(Project.open(find_project(project)), frames, level=level, dry_run=dry_run)
    _print_withdrawal(done, "restored", as_json=as_json)


def _print_withdrawal(done: Withdrawal, verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json(done.as_dict())
        return
    rows = [[node.kind, node.name, node.uuid, *_use(how)] for node, how in done.documents]
    if rows:
        print_table(["document", "job", "uuid", "holds", "used for"], rows)
    would = "would be " if done.dry_run else ""
    console.print(f"{_number(len(done.labels), 'label')} {would}{verb}; {_number(len(rows), 'document')} concerned.")
    for (frame, _), why in done.skipped.items():
        console.print(f"{frame} stays as it is: {why}.", highlight=False)


def _use(how: dict[Any, Any]) -> list[str]:
    holds = sum(effect.holds for effect in how.values())
    splits = sorted({split for effect in how.values() for split in effect.splits})
    certain = all(effect.certain for effect in how.values())
    return [f"{holds}" if holds else "-", ", ".join([*splits, *([] if certain else ["not certain"])])]


def _number(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def export_crate_command(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="As for 'lineage'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make, or a .zip file.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the crate.")] = None,
    license_: LicenseOption = None,
    authors: AuthorOption = None,
    project: ProjectOption = None,
) -> None:
    """Pack a result, its files and its whole lineage into an RO-Crate."""
    from atomfoundry.results import Project, open_results
    from atomfoundry.results.lineage_subjects import trace

    opened = Project.open(find_project(project))
    database = open_results(opened)
    graph = trace(database, opened, what)
    _write_crate(graph, database, opened, output, name=name, license_=license_, authors=authors or [])


def _write_crate(graph: LineageGraph, database: ResultsDB, project: Project, output: Path, **fields: Any) -> None:
    from atomfoundry.results.research_crate import write_crate

    written = write_crate(graph, database, project.artifacts, output, **fields)
    console.print(
        f"Wrote {output} ({_number(written.n_files, 'artifact')}, {_number(written.n_actions, 'job')})", highlight=False
    )
    for missing in written.missing:
        console.print(coloured(("missing", "yellow"), f" {missing}"), highlight=False)
