"""``atomfoundry harvest``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.run import JsonOption
from atomfoundry.errors import InputError

_SHOWN = 50


def harvest_command(
    folder: Annotated[Path, typer.Argument(help="Folder of finished calculations, or one file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Dataset folder to write.")] = None,
    all_steps: Annotated[bool, typer.Option("--all-steps", help="Every ionic step, not only the last.")] = False,
    sigma0: Annotated[bool, typer.Option("--sigma0", help="Energies at zero smearing as labels.")] = False,
    require_level: Annotated[
        bool, typer.Option("--require-level", help="Refuse files that state no level of theory.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option("--processes", "-j", min=1, help="Reading processes [default: one a core, up to 8].")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", help="HTML page to write: convergence and dynamics of every run.")
    ] = None,
    resubmit: Annotated[
        Path | None, typer.Option("--resubmit", help="File to write: the folders of runs to do again, one a line.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds a file may take.")] = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Turn finished calculations into a dataset; every file ends in frames or in a reason.

    VASP, Quantum ESPRESSO, CP2K, FHI-aims, GPAW, CASTEP, ABINIT, ORCA, trajectories, extended XYZ, npz, TaskDocs.
    With --plots or --resubmit alone nothing is harvested.
    """
    if output is None and plots is None and resubmit is None:
        raise InputError("Nothing to write.", remedy="Give --output, --plots or --resubmit.")
    if not folder.exists():
        raise InputError(f"There is no file or folder '{folder}'.", remedy="Check the path.")
    if plots is not None or resubmit is not None:
        _look(folder, plots, resubmit, quiet=as_json)
    if output is None:
        return
    from atomfoundry.harvest import harvest_dataset

    if output.exists():
        raise InputError(f"{output} exists.", remedy="Give another folder.")
    report = harvest_dataset(
        folder,
        output,
        name=folder.name,
        steps="all" if all_steps else "last",
        energy="sigma0" if sigma0 else "free",
        require_level=require_level,
        processes=processes or min(os.cpu_count() or 1, 8),
        timeout=timeout,
    )
    rejected = dict(Counter(rejection.reason for rejection in report.rejections))
    if as_json:
        print_json(
            {
                "files": len(report.files),
                "skipped": report.skipped,
                "frames": report.n_frames,
                "without_level": report.without_level,
                "levels": {key: level.label for key, level in report.levels.items()},
                "reasons": report.reasons,
                "rejected": [rejection.model_dump(mode="json") for rejection in report.rejections],
            }
        )
    else:
        console.print(
            f"{len(report.files)} files: {report.n_frames} frames, {sum(rejected.values())} refused; "
            f"{report.skipped} other files",
            highlight=False,
        )
        for level in report.levels.values():
            console.print(f"  level {level.id}: {level.label}", highlight=False)
        if report.without_level:
            console.print(f"  {report.without_level} frames of files that state no level of theory", highlight=False)
        if report.rejections:
            print_table(
                ["file", "reason", "because"],
                [[item.source, item.reason, item.message] for item in report.rejections[:_SHOWN]],
                title=", ".join(f"{reason} {number}" for reason, number in report.reasons.items()),
            )
        if len(report.rejections) > _SHOWN:
            console.print(f"  ... and {len(report.rejections) - _SHOWN} more (--json lists all)", highlight=False)
    if not report.n_frames:
        raise typer.Exit(1)


def _look(folder: Path, plots: Path | None, resubmit: Path | None, *, quiet: bool) -> None:
    """Write the page of plots and the list of unfinished runs; each run is read once for both."""
    from atomfoundry.harvest import convergence_table, write_convergence_page, write_resubmission_list

    for target in (plots, resubmit):
        if target is not None and not target.absolute().parent.is_dir():
            raise InputError(f"There is no folder for '{target}'.", remedy="Make it, or give another path.")
    records = convergence_table(folder)
    said = [f"{len(records)} runs"]
    if plots is not None:
        write_convergence_page(plots, folder, records)
        said.append(f"plots in {plots}")
    if resubmit is not None:
        unfinished = write_resubmission_list(resubmit, folder, records)
        said.append(f"{len(unfinished)} folders to run again in {resubmit}")
    if not quiet:
        console.print("; ".join(said), highlight=False)
