"""``atomfoundry dataset``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.curation import coverage_command, curate_command
from atomfoundry.cli.run import JsonOption

app = typer.Typer(help="Datasets on disk.", no_args_is_help=True)
app.command("curate")(curate_command)
app.command("coverage")(coverage_command)


@app.command("info")
def info_command(path: Annotated[Path, typer.Argument(help="Dataset folder.")], as_json: JsonOption = False) -> None:
    """Show what a dataset holds; every shard's hash is checked."""
    from atomfoundry.datasets import Dataset

    dataset = Dataset.open(path)
    dataset.verify()
    numbers = Counter(int(z) for row in dataset.column("numbers") for z in row)
    from ase.data import chemical_symbols

    info = {
        "name": dataset.name,
        "frames": len(dataset),
        "atoms": sum(numbers.values()),
        "elements": {chemical_symbols[z]: numbers[z] for z in sorted(numbers)},
        "level": dataset.level.label if dataset.level else None,
        "splits": {key: len(indices) for key, indices in dataset.splits.items()},
        "sampling": dict(Counter(dataset.column("sampling"))),
        "isolated_energies": dataset.isolated_energies,
    }
    if as_json:
        print_json(info)
        return
    print_table(
        ["", ""],
        [
            [key, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value]
            for key, value in info.items()
        ],
    )


@app.command("export")
def export_command(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Extended XYZ file to write.")],
) -> None:
    """Write a dataset as extended XYZ."""
    from atomfoundry.datasets import Dataset, write_extxyz

    dataset = Dataset.open(path)
    write_extxyz(output, dataset.frames())
    console.print(f"Wrote {len(dataset)} frames to {output}", highlight=False)
