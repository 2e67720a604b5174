"""``atomfoundry dataset curate``, ``coverage`` and ``split``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.run import JsonOption
from atomfoundry.errors import InputError


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


def split_command(
    path: Annotated[Path, typer.Argument(help="Dataset folder; it gets a new version.")],
    fractions: Annotated[tuple[float, float, float], typer.Option(help="Shares of training, validation and test.")] = (
        0.8,
        0.1,
        0.1,
    ),
    method: Annotated[str, typer.Option(help="quota (small sets) or hash (sets that grow).")] = "quota",
    hold_out: Annotated[
        str | None,
        typer.Option("--hold-out", help="element=Au,Ag | formula=SiO2 | source=a | size=64: what the test set is."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Split a dataset into training, validation and test, whole groups at a time; older versions keep theirs."""
    from atomfoundry.curation import hold_out as held_out
    from atomfoundry.datasets import Dataset, split

    dataset = Dataset.open(path)
    if hold_out is None:
        parts = split(list(dataset.column("group_id")), fractions=fractions, method=method, seed=seed)  # type: ignore[arg-type]
    else:
        axis, equals, words = hold_out.partition("=")
        if not equals or axis not in ("element", "formula", "source", "size"):
            raise InputError(f"--hold-out {hold_out} is not element=..., formula=..., source=... or size=...")
        if axis == "size" and not words.isdigit():
            raise InputError(f"--hold-out {hold_out}: '{words}' is no number of atoms.")
        values = int(words) if axis == "size" else [word.strip() for word in words.split(",")]
        parts = held_out(dataset, axis, values, valid_fraction=fractions[1], seed=seed)  # type: ignore[arg-type]
    new = dataset.revise(splits=parts)
    counts = {name: len(rows) for name, rows in parts.items()}
    if as_json:
        print_json({"version": new.version, "splits": counts})
        return
    print_table(["split", "frames"], [[name, n] for name, n in counts.items()])
    console.print(f"Version {new.version} of {path}", highlight=False)
