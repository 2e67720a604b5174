"""``atomfoundry dataset align``."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomfoundry.cli.console import console, errors, print_json, print_table
from atomfoundry.cli.run import JsonOption
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from atomfoundry.alignment import Alignment
    from atomfoundry.datasets import Dataset
    from atomfoundry.documents import AlignmentDoc


class Dispersion(StrEnum):
    """What to do about a D3 correction that only one of the levels has."""

    keep = "keep"
    subtract_source = "subtract_source"
    add_source = "add_source"


class Mode(StrEnum):
    """How to align."""

    auto = "auto"
    atoms = "atoms"
    overlap = "overlap"
    pairs = "pairs"
    bridge = "bridge"
    model = "model"


def align_command(
    sources: Annotated[list[Path], typer.Argument(help="Dataset folders to be aligned, each of one level of theory.")],
    target: Annotated[Path, typer.Option("--to", help="Dataset of the target level.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    through: Annotated[
        list[Path] | None, typer.Option(help="Dataset of a level in between (or the bridge); may be repeated.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="What is fitted; auto: atoms or overlap, over the best path.")] = Mode.auto,
    model: Annotated[Path | None, typer.Option(help="Model of the target level, for mode model.")] = None,
    molecules: Annotated[bool, typer.Option("--molecules", help="Match molecules whatever box they are in.")] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave out frames that cannot be aligned instead of stopping.")
    ] = False,
    keep_forces: Annotated[bool, typer.Option("--keep-forces", help="Leave forces and stress unscaled.")] = False,
    dispersion: Annotated[
        Dispersion, typer.Option(help="A D3 correction that only one level has: keep, or change the source's labels.")
    ] = Dispersion.keep,
    force: Annotated[bool, typer.Option("--force", help="Align even where the procedure refuses.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put datasets of several levels of theory on the energy scale of one (Total Energy Alignment)."""
    from rich.markup import escape
    from rich.progress import track

    from atomfoundry.alignment import align_dataset, fit_datasets, molecule_key
    from atomfoundry.datasets import Dataset, frame_id

    if (mode is Mode.model) != (model is not None):
        raise InputError("Mode 'model' and option --model belong together.", remedy="Give both or none.")
    if output.exists():
        raise InputError(f"'{output}' exists already.", remedy="Name another folder.")
    datasets = [Dataset.open(path) for path in sources]
    predictor = None
    if model is not None:
        from atomfoundry.makers.align import model_energy

        predictor = model_energy(model)
    alignments = fit_datasets(
        datasets,
        Dataset.open(target),
        through=[Dataset.open(path) for path in through or []],
        mode=mode.value,
        predictor=predictor,
        key=molecule_key if molecules else frame_id,
        scale_forces=not keep_forces,
        dispersion=dispersion.value,
        force=force,
    )
    output.mkdir(parents=True)
    documents: list[AlignmentDoc] = []
    for number, dataset in enumerate(datasets):
        if dataset.level is None or dataset.level.id not in alignments:
            console.print(f"{dataset.path} is of the target's level already", highlight=False)
            continue
        alignment = alignments[dataset.level.id]
        name = f"{number + 1}-{dataset.path.name}" if len(datasets) > 1 else dataset.path.name
        shown = escape(name)
        watch = partial(track, description=shown, total=len(dataset), console=errors, transient=True, disable=as_json)
        aligned, left_out = align_dataset(dataset, alignment, output / name, leave_out=leave_out, watch=watch)
        documents.append(_document(alignment, output / f"{name}.alignment.json", aligned, left_out))
    report = output / "report.html"
    _report(documents, report)
    if as_json:
        print_json([document.model_dump(mode="json", exclude={"points"}) for document in documents])
        return
    print_table(
        ["from", "to", "mode", "scale", "structures", "expected RMSE (meV/atom)", "frames", "left out"],
        [
            [
                document.source_level.label,
                document.target_level.label,
                " > ".join(step.mode for step in document.path) or document.mode,
                document.scale,
                document.n_overlap,
                None if document.expected_error is None else 1000 * document.expected_error,
                document.n_aligned,
                sum(document.left_out.values()) or None,
            ]
            for document in documents
        ],
    )
    for note in {document.dispersion_note: None for document in documents if document.dispersion_note}:
        console.print(f"Dispersion: {note}", highlight=False)
    console.print(f"Aligned datasets, alignments and {report.name} are in {output}", highlight=False)


def _document(alignment: Alignment, path: Path, aligned: Dataset, left_out: dict[str, int]) -> AlignmentDoc:
    """Write the alignment beside its dataset and describe both."""
    from atomfoundry.datasets.writer import file_sha256
    from atomfoundry.documents import Artifact

    alignment.save(path)
    artifact = Artifact(
        uri=path.resolve().as_uri(), sha256=file_sha256(path), size=path.stat().st_size, media_type="application/json"
    )
    return alignment.document(artifact, n_aligned=len(aligned), left_out=left_out)


def _report(documents: list[AlignmentDoc], path: Path) -> None:
    from datetime import UTC, datetime

    from atomfoundry.results.report import ReportInputs, render_report

    inputs = ReportInputs(
        title="Total Energy Alignment",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        alignments=documents,
    )
    render_report(inputs, path)
