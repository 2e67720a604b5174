"""``atomfoundry dataset curate`` and ``coverage``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.run import JsonOption


def curate_command(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the good frames.")],
    rejected: Annotated[
        Path | None, typer.Option(help="Folder of the refused frames, flagged with the reason.")
    ] = None,
    max_force: Annotated[float, typer.Option(min=0, help="eV/A")] = 50.0,
    max_stress: Annotated[float, typer.Option(min=0, help="GPa")] = 100.0,
    valence: Annotated[bool, typer.Option("--valence", help="Neutral organic molecules must be whole.")] = False,
    no_noble_gases: Annotated[bool, typer.Option("--no-noble-gases", help="Refuse frames with noble gases.")] = False,
    weights: Annotated[float | None, typer.Option(min=0, help="Temperature of Boltzmann weights, K.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Sort out what must not be trained on; every filter says how many frames it refused."""
    from atomfoundry.curation import FilterSettings, curate_dataset
    from atomfoundry.datasets import Dataset
    from atomfoundry.datasets.checks import NOBLE_GASES

    settings = FilterSettings(
        max_force=max_force,
        max_stress=max_stress,
        check_valence=valence,
        excluded_elements=NOBLE_GASES if no_noble_gases else (),
        weight_temperature=weights,
    )
    kept, report = curate_dataset(Dataset.open(path), output, settings=settings, rejected=rejected)
    if as_json:
        print_json(
            {
                "frames": report.n_frames,
                "kept": report.n_kept,
                "refused": report.reasons,
                "examples": [example.model_dump(mode="json") for example in report.examples],
                "settings": report.settings,
            }
        )
    else:
        print_table(["filter", "frames refused"], [[reason, n] for reason, n in report.reasons.items()])
        where = f"; the good ones are in {output}" if kept is not None else "; nothing was written"
        console.print(f"{report.n_kept} of {report.n_frames} frames are good{where}", highlight=False)
    if kept is None:
        raise typer.Exit(1)


def coverage_command(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML page to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a dataset covers and what it lacks, with pictures."""
    from atomfoundry.curation import coverage
    from atomfoundry.datasets import Dataset
    from atomfoundry.results.report.coverage import write_coverage_page

    dataset = Dataset.open(path)
    report = coverage(dataset)
    if output is not None:
        write_coverage_page(report, output, title=f"Coverage of {dataset.name}")
    if as_json:
        print_json(report.as_dict())
        return
    for what, counts in (
        ("element", report.elements),
        ("kind", report.domains),
        ("sampling", report.samplings),
        ("level", report.levels),
    ):
        print_table([what, "frames"], [[name, n] for name, n in counts.items()])
    for gap in report.gaps:
        console.print(gap, highlight=False)
    if output is not None:
        console.print(f"Wrote {output}", highlight=False)
