"""``atomfoundry dataset``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.curation import coverage_command, curate_command, split_command
from atomfoundry.cli.dataset_progress import counting
from atomfoundry.cli.dataset_store import convert_command, merge_command, select_command
from atomfoundry.cli.run import JsonOption

app = typer.Typer(help="Datasets on disk.", no_args_is_help=True)
app.command("convert")(convert_command)
app.command("merge")(merge_command)
app.command("select")(select_command)
app.command("curate")(curate_command)
app.command("coverage")(coverage_command)
app.command("split")(split_command)


@app.command("info")
def info_command(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")],
    version: Annotated[int | None, typer.Option("--version", help="An older version; the latest by default.")] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not read the files to check their hashes.")
    ] = False,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Count structures that occur twice.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a dataset holds; every file's hash is checked."""
    from ase.data import atomic_numbers

    from atomfoundry.datasets import Dataset, duplicate_frames

    dataset = Dataset.open(path, version=version)
    size = sum(
        record.size for shard in dataset.metadata.shards for record in (shard, shard.index, shard.rows) if record
    )
    if not no_verify:
        with counting("Checking hashes (bytes)", size) as progress:
            dataset.verify(progress)
    counts = dataset.metadata.counts
    info = {
        "name": dataset.name,
        "version": dataset.version,
        "frames": len(dataset),
        "atoms": counts.atoms,
        "energies": counts.energies,
        "forces": counts.forces,
        "stresses": counts.stresses,
        "elements": dict(sorted(counts.elements.items(), key=lambda item: atomic_numbers[item[0]])),
        "level": dataset.level.label if dataset.level else None,
        "levels": {record.id: record.label for record in dataset.levels},
        "splits": {key: len(indices) for key, indices in dataset.splits.items()},
        "sampling": counts.samplings,
        "source": counts.sources,
        "flags": counts.flags,
        "isolated_energies": dataset.isolated_energies,
        "shards": len(dataset.metadata.shards),
        "bytes": size,
        "content_hash": dataset.content_hash,
        "verified": not no_verify,
    }
    if duplicates:
        info["duplicates"] = sum(1 for row, first in enumerate(duplicate_frames(dataset).tolist()) if row != first)
    if as_json:
        print_json(info)
        return
    print_table(
        ["", ""],
        [
            [key, ", ".join(f"{k or '-'} {v}" for k, v in value.items()) if isinstance(value, dict) else value]
            for key, value in info.items()
        ],
    )


@app.command("export")
def export_command(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Extended XYZ file to write.")],
) -> None:
    """Write a dataset as extended XYZ; `convert` knows more formats."""
    from atomfoundry.datasets import Dataset, write_extxyz

    dataset = Dataset.open(path)
    write_extxyz(output, dataset.frames())
    console.print(f"Wrote {len(dataset)} frames to {output}", highlight=False)
