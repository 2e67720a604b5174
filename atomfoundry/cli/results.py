"""``atomfoundry results`` and ``report``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.run import JsonOption, ProjectOption, find_project
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from atomfoundry.results import Result


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
    label_sets = "label_sets"
    forgetting = "forgetting"
    coverage = "coverage"


class ResultsCommand(TyperCommand):
    """``results KIND``, and ``results migrate SOURCE TARGET``, which is ``migrate``."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Give ``migrate`` what follows its name."""
        if args and args[0] == "migrate" and parent is not None:
            return parent.command.commands["migrate"].make_context(f"{info_name} migrate", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


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
    sort: Annotated[
        str | None, typer.Option(help="Field to sort by, '-FIELD' for the greatest first [default: oldest first].")
    ] = None,
    newest: Annotated[bool, typer.Option("--newest", help="Newest first.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="At most so many [default: all].")] = 0,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="One line a result, one column a value; lists left out.")
    ] = False,
) -> None:
    """List models with their metrics, datasets and harvests with their counts, labels, benchmarks, alignments.

    'results migrate SOURCE TARGET' moves all of them between SQLite and MongoDB, as 'migrate' does.
    """
    from atomfoundry.results import open_results
    from atomfoundry.results.database import to_pandas

    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other.", remedy="Give one of them.")
    database = open_results(find_project(project))
    results: list[Result] = getattr(database, kind.value)(
        parse_where(where or []), sort=sort, newest=newest, limit=limit
    )
    if as_csv:
        console.file.write(to_pandas(results).to_csv(index=False))
        return
    if kind is Kind.labels:
        _labels([result.document for result in results], as_json=as_json)
        return
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


def _labels(labels: list[Any], *, as_json: bool) -> None:
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


def _forces(metrics: Any) -> str | None:
    return None if metrics is None or metrics.forces_mae is None else f"{metrics.forces_mae * 1000:.1f}"


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
    Kind.label_sets: (
        ["labels", "engine", "level", "labelled", "reused", "failed"],
        lambda doc: [
            [
                doc.name,
                doc.engine,
                doc.level.label,
                f"{doc.n_labelled}/{doc.n_requested}",
                doc.n_reused,
                ", ".join(f"{n} {reason}" for reason, n in doc.reasons.items()),
            ]
        ],
    ),
    Kind.forgetting: (
        ["task", "replay frames", *(f"F MAE {way} (meV/A)" for way in ("pretrained", "naive", "replay"))],
        lambda doc: [
            [doc.task, doc.n_replay, *(_forces(doc.task_metrics.get(way)) for way in ("pretrained", "naive", "replay"))]
        ],
    ),
    Kind.coverage: (["coverage", "frames", "gaps"], lambda doc: [[doc.name, doc.n_frames, "; ".join(doc.gaps)]]),
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
