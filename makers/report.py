"""The Maker of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobflow import Maker

from atomfoundry.documents import (
    AlignmentDoc,
    BenchmarkDoc,
    DatasetDoc,
    ForgettingDoc,
    FoundryDocument,
    LabelSetDoc,
    ModelDoc,
    ReportDoc,
    SelectionDoc,
    StructureSetDoc,
    UncertaintyDoc,
)
from atomfoundry.makers.job import foundry_job
from atomfoundry.results import current_artifacts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atomfoundry.results.lineage import LineageGraph
    from atomfoundry.results.report import JobRow

DEFAULT_TARGETS: list[dict[str, Any]] = [
    {"quantity": "energy_mae", "name": "Energy MAE, test", "target": 10.0, "unit": "meV/atom"},
    {"quantity": "forces_mae", "name": "Force MAE, test", "target": 100.0, "unit": "meV/A"},
    {
        "quantity": "bulk_modulus",
        "name": "Bulk modulus, deviation from the engine",
        "target": 10.0,
        "unit": "%",
    },
    {"quantity": "nve_drift", "name": "NVE drift", "target": 0.1, "unit": "meV/atom/ps"},
    {
        "quantity": "forgetting",
        "name": "Forgetting of forces (head pt), replay over naive",
        "target": 1.0,
        "unit": "",
    },
]


@dataclass
class ReportMaker(Maker):
    """One self-contained HTML file for people, and the headline numbers for machines.

    Parameters
    ----------
    name
        Name of the job.
    title
        Title of the page.
    targets
        What the run should reach: dictionaries with ``quantity``, ``name``, ``target``, ``unit``; every number is
        to be below its target.
    """

    name: str = "report"
    title: str = "Atomfoundry report"
    targets: list[dict[str, Any]] = field(default_factory=lambda: list(DEFAULT_TARGETS))

    @foundry_job(output_schema=ReportDoc)
    def make(
        self,
        structures: list[StructureSetDoc],
        labels: list[LabelSetDoc],
        datasets: list[DatasetDoc],
        alignments: list[AlignmentDoc],
        models: list[ModelDoc],
        forgetting: ForgettingDoc | None,
        uncertainty: UncertaintyDoc | None,
        selection: SelectionDoc | None,
        benchmarks: list[BenchmarkDoc],
    ) -> ReportDoc:
        """Write the report of everything that is given."""
        from atomfoundry.results.report import DatasetArrays, Predictions, ReportInputs, render_report
        from atomfoundry.results.report.data import TargetRow

        artifacts = current_artifacts()
        targets = [
            {
                **{key: target[key] for key in ("name", "target", "unit")},
                "value": measured(target["quantity"], models, benchmarks, forgetting),
            }
            for target in self.targets
        ]
        for target in targets:
            target["passed"] = None if target["value"] is None else target["value"] < target["target"]
        inputs = ReportInputs(
            title=self.title,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            structure_sets=structures,
            label_sets=labels,
            datasets=datasets,
            dataset_arrays=[DatasetArrays.from_dataset(artifacts.fetch(doc.dataset)) for doc in datasets],
            alignments=alignments,
            models=models,
            predictions={
                doc.model.sha256: Predictions.from_parquet(artifacts.fetch(doc.predictions))
                for doc in models
                if doc.predictions is not None
            },
            forgetting=[forgetting] if forgetting else [],
            uncertainties=[uncertainty] if uncertainty else [],
            selections=[selection] if selection else [],
            benchmarks=benchmarks,
            targets=[TargetRow(**target) for target in targets],
        )
        inputs = inputs.model_copy(update={"jobs": pipeline(inputs.documents())})
        path = Path("report.html")
        headline = render_report(inputs, path)
        return ReportDoc(
            title=self.title,
            html=artifacts.put(path, media_type="text/html"),
            headline=headline,
            targets=targets,
        )


def measured(
    quantity: str,
    models: list[ModelDoc],
    benchmarks: list[BenchmarkDoc],
    forgetting: ForgettingDoc | None,
) -> float | None:
    """Return the value of a target, in its unit, or None if the run has no such number."""
    final = models[-1] if models else None
    if quantity in ("energy_mae", "forces_mae"):
        for metrics in final.metrics if final else []:
            if metrics.split == "test" and metrics.head == "pt":
                value = getattr(metrics, quantity)
                return None if value is None else value * 1000
        return None
    if quantity == "forgetting":
        ratios = {
            record.method: record.ratio
            for record in (forgetting.records if forgetting else [])
            if record.quantity == "forces" and record.head == "pt"
        }
        return ratios["replay"] / ratios["naive"] if {"replay", "naive"} <= set(ratios) else None
    for document in benchmarks:
        if quantity == "bulk_modulus" and document.benchmark == "equation_of_state":
            error = document.summary.get("B0_relative_error")
            return None if error is None else abs(float(error)) * 100
        if quantity == "nve_drift" and document.benchmark == "nve_drift":
            drift = document.summary.get("drift")
            return None if drift is None else float(drift)
    return None


def pipeline(documents: Iterable[FoundryDocument]) -> list[JobRow]:
    """Describe the jobs behind documents, the batches of labels included, and how they read from each other.

    Jobs without a document of their own in between (dynamic branches) are skipped over.
    """
    from atomfoundry.makers.label import LabelBatchDoc
    from atomfoundry.results import current_project, open_results
    from atomfoundry.results.lineage import lineage
    from atomfoundry.results.report import JobRow, jobs_from_documents

    rows = {row.uuid: row for row in jobs_from_documents(documents)}
    database = open_results(current_project())
    graphs = {uuid: lineage(database, uuid) for uuid in rows}
    for graph in list(graphs.values()):
        for node in graph.of_kind(LabelBatchDoc.__name__):
            if node.uuid in rows:
                continue
            batch = database.document(node.uuid, node.index).document
            graphs[node.uuid] = lineage(database, node.uuid, node.index)
            rows[node.uuid] = JobRow(
                uuid=node.uuid,
                name=node.name,
                stage="labels",
                start=node.provenance["started_at"],
                wall_time_s=node.provenance["wall_time_s"],
                counts=f"{batch['n_computed']} computed, {batch['n_failed']} failed",
                peak_memory_mb=node.provenance["peak_memory_mb"],
            )
    return [
        row.model_copy(update={"parents": _known_parents(graphs[uuid], set(rows) - {uuid})})
        for uuid, row in rows.items()
    ]


def _known_parents(graph: LineageGraph, known: set[str]) -> list[str]:
    """Return the nearest ancestors of a graph's root among known jobs."""
    parents: dict[str, None] = {}
    seen, queue = {graph.root}, [graph.root]
    while queue:
        for node, _ in graph.neighbours(queue.pop()):
            if node.key in seen:
                continue
            seen.add(node.key)
            if node.uuid in known:
                parents[node.uuid] = None
            else:
                queue.append(node.key)
    return list(parents)
