"""``atomfoundry results`` and ``report``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.run import JsonOption, ProjectOption, find_project
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from atomfoundry.results import Result, ResultsDB


class Kind(StrEnum):
    """What can be asked for."""

    models = "models"
    datasets = "datasets"
    labels = "labels"
    harvests = "harvests"
    benchmarks = "benchmarks"
    alignments = "alignments"
    structures = "structures"
    uncertainties = "uncertainties"
    selections = "selections"
    reports = "reports"


def parse_where(conditions: list[str]) -> dict[str, Any]:
    """Turn ``key=value`` texts or one JSON object into a Mongo-style filter; values are JSON where they can be.

    Raises
    ------
    InputError
        If a condition is neither.
    """
    query: dict[str, Any] = {}
    for condition in conditions:
        if condition.lstrip().startswith("{"):
            try:
                query.update(json.loads(condition))
            except ValueError as error:
                raise InputError(f"--where {condition!r} is not JSON: {error}.") from error
            continue
        key, sign, text = condition.partition("=")
        if not sign or not key.strip():
            raise InputError(f"--where {condition!r} is neither KEY=VALUE nor a JSON object.")
        try:
            value: Any = json.loads(text)
        except ValueError:
            value = text
        query[key.strip()] = value
    return query


def results_command(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", help="KEY=VALUE, or a Mongo-style JSON filter; repeatable."),
    ] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """List models with their metrics, datasets and harvests with their counts, labels, benchmarks, alignments."""
    from atomfoundry.results import open_results

    database = open_results(find_project(project))
    query = parse_where(where or [])
    if kind is Kind.labels:
        _labels(database, query, as_json=as_json)
        return
    results: list[Result] = getattr(database, kind.value)(_of_output(query) or None)
    if as_json:
        print_json(
            [
                {
                    "uuid": r.uuid,
                    "index": r.index,
                    "name": r.name,
                    "completed_at": r.completed_at,
                    "stale": r.stale,
                    "document": r.document.model_dump(mode="json"),
                }
                for r in results
            ]
        )
        return
    columns, row = _TABLES[kind]
    rows = [cells for result in results for cells in row(result.document)]
    uuids = [result.uuid for result in results for _ in row(result.document)]
    if not rows:
        console.print(f"No {kind.value}.")
        return
    marks = [_stale(result.stale) for result in results for _ in row(result.document)]
    extra = ["stale"] if any(marks) else []
    table = zip(rows, uuids, marks, strict=True)
    print_table([*columns, "uuid", *extra], [[*cells, uuid, *([mark] if extra else [])] for cells, uuid, mark in table])


def _stale(marks: list[dict[str, Any]]) -> str:
    """Say in a table that a result holds or was made from withdrawn labels."""
    return f"{len(marks)} withdrawn" if marks else ""


def _of_output(query: dict[str, Any]) -> dict[str, Any]:
    top = ("uuid", "index", "name", "completed_at", "output", "$", "metadata", "hosts")
    return {key if key.startswith(top) else f"output.{key}": value for key, value in query.items()}


def _labels(database: ResultsDB, query: dict[str, Any], *, as_json: bool) -> None:
    labels = [result.document for result in database.labels(query or None)]
    if as_json:
        print_json([label.model_dump(mode="json") for label in labels])
        return
    rows = [
        [
            label.frame_id[:12],
            label.formula,
            label.engine,
            label.level_id[:8],
            label.status,
            label.reason or "",
            None if label.energy is None else f"{label.energy:.6f}",
            f"{label.wall_time_s:.1f}",
        ]
        for label in labels
    ]
    if rows:
        print_table(["frame", "formula", "engine", "level", "status", "reason", "energy/eV", "s"], rows)
    else:
        console.print("No labels.")


def _model_rows(doc: Any) -> list[list[Any]]:
    rows = []
    for m in doc.metrics:
        if m.split == "test":
            forces = None if m.forces_mae is None else f"{m.forces_mae * 1000:.1f}"
            rows.append(
                [
                    doc.name,
                    doc.kind,
                    m.head,
                    doc.n_parameters,
                    doc.n_epochs,
                    f"{m.energy_mae * 1000:.2f}",
                    forces,
                ]
            )
    return rows or [[doc.name, doc.kind, None, doc.n_parameters, doc.n_epochs, None, None]]


def _dataset_rows(doc: Any) -> list[list[Any]]:
    splits = "/".join(str(doc.splits.get(key, 0)) for key in ("train", "valid", "test"))
    refused = ", ".join(f"{n} {reason}" for reason, n in doc.rejections.items())
    return [[doc.name, doc.n_frames, doc.n_atoms, " ".join(doc.elements), splits, refused]]


def _harvest_rows(doc: Any) -> list[list[Any]]:
    levels = ", ".join(level.label for level in doc.levels)
    refused = ", ".join(f"{n} {reason}" for reason, n in doc.rejections.items())
    return [
        [doc.name, f"{doc.n_files_with_frames}/{doc.n_files}", doc.n_frames, " ".join(doc.elements), levels, refused]
    ]


def _benchmark_rows(doc: Any) -> list[list[Any]]:
    keys = _BENCHMARK_KEYS.get(doc.benchmark, list(doc.summary)[:4])
    values = ", ".join(f"{key} {_short(doc.summary.get(key))}" for key in keys if key in doc.summary)
    reference = ", ".join(
        f"{key} {_short(doc.reference_summary.get(key))}" for key in keys if key in doc.reference_summary
    )
    return [[doc.name, doc.calculator, values, reference, f"{doc.n_failed}/{doc.n_items}"]]


_BENCHMARK_KEYS = {
    "equation_of_state": ["a", "V0", "B0"],
    "elasticity": ["C11", "C12", "C44"],
    "nve_drift": ["drift", "fluctuation", "mean_temperature"],
    "diatomic": ["r_min", "well_depth", "repulsive"],
    "parity": ["energy_mae", "forces_mae", "stress_mae"],
}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _alignment_rows(doc: Any) -> list[list[Any]]:
    def rmse(key: str) -> str | None:
        return f"{doc.metrics[key].rmse * 1000:.2f}" if key in doc.metrics else None

    return [
        [
            doc.source_level.label,
            doc.target_level.label,
            doc.mode,
            f"{doc.scale:.5f}",
            doc.n_overlap,
            rmse("raw"),
            rmse("aec"),
            rmse("cross_validated"),
        ]
    ]


_TABLES: dict[Kind, tuple[list[str], Callable[[Any], list[list[Any]]]]] = {
    Kind.models: (
        ["model", "kind", "head", "parameters", "epochs", "E MAE test (meV/atom)", "F MAE test (meV/A)"],
        _model_rows,
    ),
    Kind.datasets: (["dataset", "frames", "atoms", "elements", "train/valid/test", "refused"], _dataset_rows),
    Kind.harvests: (["harvest", "files with frames", "frames", "elements", "levels", "refused"], _harvest_rows),
    Kind.benchmarks: (["benchmark", "calculator", "values", "reference", "failed"], _benchmark_rows),
    Kind.alignments: (
        ["source", "target", "mode", "scale", "overlap", "raw (meV/atom)", "aligned", "cross-validated"],
        _alignment_rows,
    ),
    Kind.structures: (
        ["structures", "number", "elements", "sampling"],
        lambda doc: [
            [
                doc.name,
                doc.n_structures,
                " ".join(doc.elements),
                ", ".join(f"{n} {s}" for s, n in doc.samplings.items()),
            ]
        ],
    ),
    Kind.uncertainties: (
        ["kind", "heads", "alpha", "calibration frames"],
        lambda doc: [
            [
                doc.kind,
                " ".join(doc.heads),
                " ".join(f"{a:.3g}" for a in doc.alpha.values()),
                doc.n_calibration,
            ]
        ],
    ),
    Kind.selections: (
        ["round", "runs", "candidates", "selected", "not chosen"],
        lambda doc: [
            [
                doc.round,
                len(doc.trajectories),
                doc.n_candidates,
                doc.n_selected,
                ", ".join(f"{n} {reason}" for reason, n in doc.n_rejected.items()),
            ]
        ],
    ),
    Kind.reports: (["title", "sha256"], lambda doc: [[doc.title, doc.html.sha256[:12]]]),
}


def report_command(
    uuid: Annotated[str | None, typer.Argument(help="uuid of a report [default: the newest].")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")] = Path("report.html"),
    project: ProjectOption = None,
) -> None:
    """Write a report's HTML file."""
    import shutil

    from atomfoundry.results import Project, open_results

    folder = find_project(project)
    database = open_results(folder)
    reports = database.reports()
    if uuid is not None:
        reports = [result for result in reports if result.uuid.startswith(uuid)]
    if not reports:
        raise InputError(
            f"No report {uuid or ''} in {folder}.", remedy="See `atomfoundry results reports` and `status`."
        )
    document = max(reports, key=lambda result: result.completed_at or "").document
    shutil.copyfile(Project.open(folder).artifacts.fetch(document.html), output)
    console.print(f"Wrote {output}", highlight=False)
