"""``atomfoundry dataset`` and ``harvest``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.run import JsonOption
from atomfoundry.errors import InputError

app = typer.Typer(help="Datasets on disk.", no_args_is_help=True)


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


def harvest_command(
    folder: Annotated[Path, typer.Argument(help="Folder of finished calculations, or one file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Dataset folder to write.")],
    all_steps: Annotated[bool, typer.Option("--all-steps", help="Every ionic step, not only the last.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn finished calculations (VASP, Quantum ESPRESSO, extended XYZ, ASE) into a dataset."""
    from atomfoundry.datasets import Dataset
    from atomfoundry.harvest import harvest

    if output.exists():
        raise InputError(f"{output} exists.", remedy="Give another folder.")
    report = harvest(folder, steps="all" if all_steps else "last")
    if report.frames:
        Dataset.create(output, report.frames, name=folder.name)
    rejected = dict(Counter(rejection.reason for rejection in report.rejections))
    if as_json:
        print_json(
            {
                "files": len(report.files),
                "skipped": report.skipped,
                "frames": len(report.frames),
                "rejected": [rejection.model_dump(mode="json") for rejection in report.rejections],
            }
        )
    else:
        console.print(
            f"{len(report.files)} files: {len(report.frames)} frames, {sum(rejected.values())} refused "
            f"{rejected or ''}",
            highlight=False,
        )
        for rejection in report.rejections:
            console.print(f"  {rejection.source}: {rejection.reason}: {rejection.message}", highlight=False)
    if not report.frames:
        raise typer.Exit(1)
