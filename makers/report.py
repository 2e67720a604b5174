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
    FoundryDocument,
    LabelSetDoc,
    ModelDoc,
    ReportDoc,
    SelectionDoc,
    StructureSetDoc,
    UncertaintyDoc,
)
from atomfoundry.results import current_artifacts

if TYPE_CHECKING:
    from atomfoundry.results.report.data import Predictions

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
        from atomfoundry.results.report import DatasetArrays, ReportInputs, render_report

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
        inputs = inputs.model_copy(update={"jobs": job_rows(inputs.documents())})
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

    from atomfoundry.results.report.data import Predictions

    columns = pq.read_table(str(path)).to_pydict()
    n_atoms = np.array(columns["n_atoms"], dtype=float)
    base = np.array(columns["baseline"], dtype=float)
    for key in ("energy_ref", "energy_pred"):
        total = np.array([np.nan if value is None else value for value in columns[key]], dtype=float)
        columns[key] = list((total - base) / n_atoms)
    return Predictions.from_arrays(columns)


def job_rows(documents: Any) -> list[dict[str, Any]]:
    """Describe the jobs behind documents: the nodes and edges of the pipeline graph."""
    rows = []
    for document in documents:
        provenance = document.provenance
        if provenance is None:
            continue
        row = {
            "uuid": provenance.job_uuid,
            "name": provenance.job_name,
            "stage": stage_of(document),
            "start": provenance.started_at,
            "wall_time_s": provenance.wall_time_s,
            "parents": [reference.uuid for reference in provenance.inputs],
            "counts": counts_of(document),
            "peak_memory_mb": provenance.peak_memory_mb,
        }
        if isinstance(document, LabelSetDoc):
            row |= {
                "wall_time_s": document.compute_time_s,
                "n_labels": document.n_labelled,
                "n_reused": document.n_reused,
                "n_failed": document.n_failed,
            }
        rows.append(row)
    return rows


def stage_of(document: FoundryDocument) -> str:
    """Return the stage of the pipeline that a document belongs to."""
    if isinstance(document, ModelDoc):
        return {"base": "training", "active_learning": "active learning"}.get(document.kind, "fine-tuning")
    stages: dict[type[FoundryDocument], str] = {
        StructureSetDoc: "structures",
        LabelSetDoc: "labels",
        DatasetDoc: "dataset",
        AlignmentDoc: "alignment",
        ForgettingDoc: "fine-tuning",
        UncertaintyDoc: "active learning",
        SelectionDoc: "active learning",
        BenchmarkDoc: "benchmarks",
    }
    return stages.get(type(document), "")


def counts_of(document: FoundryDocument) -> str:
    """Say in a few words what came out of a job."""
    if isinstance(document, StructureSetDoc):
        return f"{document.n_structures} structures"
    if isinstance(document, LabelSetDoc):
        failed = f", {document.n_failed} failed" if document.n_failed else ""
        return f"{document.n_labelled} of {document.n_requested} labels{failed}"
    if isinstance(document, DatasetDoc):
        return f"{document.n_frames} frames"
    if isinstance(document, AlignmentDoc):
        return f"{document.n_aligned} frames aligned, a = {document.scale:.4f}"
    if isinstance(document, ModelDoc):
        return f"{document.n_epochs} epochs, {document.n_parameters:,} parameters"
    if isinstance(document, SelectionDoc):
        return f"{document.n_selected} of {document.n_candidates} uncertain frames"
    if isinstance(document, BenchmarkDoc):
        return f"{document.n_items - document.n_failed} of {document.n_items} items"
    return ""
