"""The Maker of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from atomfoundry.makers.job import foundry_job
from jobflow import Maker

from atomfoundry.documents import (
    AlignmentDoc,
    BenchmarkDoc,
    DatasetDoc,
    ForgettingDoc,
    LabelSetDoc,
    ModelDoc,
    ReportDoc,
    SelectionDoc,
    StructureSetDoc,
    UncertaintyDoc,
)
from atomfoundry.results import current_artifacts

if TYPE_CHECKING:
    from atomfoundry.results.report import JobRow, Predictions

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
        "name": "Forgetting of forces, replay over naive",
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
        from atomfoundry.results.report import DatasetArrays, ReportInputs, jobs_from_documents, render_report

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
                doc.model.sha256: read_predictions(artifacts.fetch(doc.predictions))
                for doc in models
                if doc.predictions is not None
            },
            forgetting=[forgetting] if forgetting else [],
            uncertainties=[uncertainty] if uncertainty else [],
            selections=[selection] if selection else [],
            benchmarks=benchmarks,
            targets=targets,
        )
        inputs = inputs.model_copy(update={"jobs": connect_jobs(jobs_from_documents(inputs.documents()))})
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
            if record.quantity == "forces" and record.head == "ft"
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


def read_predictions(path: str | Path) -> Predictions:
    """Read stored predictions with energies per atom above isolated atoms."""
    import pyarrow.parquet as pq

    from atomfoundry.results.report import Predictions

    columns = pq.read_table(str(path)).to_pydict()
    n_atoms = np.array(columns["n_atoms"], dtype=float)
    base = np.array(columns["baseline"], dtype=float)
    for key in ("energy_ref", "energy_pred"):
        total = np.array([np.nan if value is None else value for value in columns[key]], dtype=float)
        columns[key] = list((total - base) / n_atoms)
    return Predictions.from_arrays(columns)


def connect_jobs(rows: list[JobRow]) -> list[JobRow]:
    """Let every job's parents be jobs of the report: those in between (batches, dynamic branches) are skipped."""
    from atomfoundry.results import current_project, open_results
    from atomfoundry.results.lineage import lineage

    known = {row.uuid for row in rows}
    database = open_results(current_project())
    connected = []
    for row in rows:
        graph = lineage(database, row.uuid)
        parents: dict[str, None] = {}
        seen, queue = {graph.root}, [graph.root]
        while queue:
            for node, _ in graph.neighbours(queue.pop()):
                if node.key in seen:
                    continue
                seen.add(node.key)
                if node.uuid in known and node.uuid != row.uuid:
                    parents[node.uuid] = None
                else:
                    queue.append(node.key)
        connected.append(row.model_copy(update={"parents": list(parents)}))
    return connected
