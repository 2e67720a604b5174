"""Job rows from documents: for reports of results whose queue is gone or ran elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from atomfoundry.documents import (
    AlignmentDoc,
    BenchmarkDoc,
    DatasetDoc,
    ForgettingDoc,
    FoundryDocument,
    LabelSetDoc,
    ModelDoc,
    SelectionDoc,
    StructureSetDoc,
    UncertaintyDoc,
)
from atomfoundry.results.report import text
from atomfoundry.results.report.data import JobRow


def jobs_from_documents(documents: Iterable[FoundryDocument]) -> list[JobRow]:
    """Return one row for each job that the documents' provenance names.

    Parents are the jobs whose outputs were read, whether or not those have documents here. A job that
    wrote several documents gets one row, about the last of them. Documents without provenance are left out.
    """
    rows: dict[str, JobRow] = {}
    for document in documents:
        record = document.provenance
        if record is None:
            continue
        stage, counts = _stage_and_counts(document)
        row = JobRow(
            uuid=record.job_uuid,
            name=record.job_name or type(document).__name__.removesuffix("Doc"),
            stage=stage,
            start=record.started_at or None,
            wall_time_s=record.wall_time_s,
            parents=list(dict.fromkeys(reference.uuid for reference in record.inputs)),
            counts=counts,
            peak_memory_mb=record.peak_memory_mb or None,
        )
        if isinstance(document, LabelSetDoc):
            row.name = document.name
            row.n_labels, row.n_reused = document.n_labelled, document.n_reused
            row.n_failed = document.n_failed
        rows[record.job_uuid] = row
    return list(rows.values())


def _stage_and_counts(document: FoundryDocument) -> tuple[str, str]:
    """Return the stage that writes such a document, and what came out in a few words."""
    match document:
        case StructureSetDoc():
            return "structures", text.count(document.n_structures, "structure")
        case LabelSetDoc():
            return "labels", text.count(document.n_labelled, "label")
        case DatasetDoc():
            return "dataset", text.count(document.n_frames, "frame")
        case AlignmentDoc():
            return "alignment", f"scale {text.fixed(document.scale, 4)}"
        case ModelDoc():
            stage = {"base": "training", "active_learning": "active learning"}.get(document.kind, "fine-tuning")
            return stage, text.count(document.n_epochs, "epoch")
        case ForgettingDoc():
            return "fine-tuning", text.count(len(document.records), "ratio")
        case UncertaintyDoc():
            return "active learning", text.count(len(document.heads), "head")
        case SelectionDoc():
            return "active learning", f"{document.n_selected} of {document.n_candidates} selected"
        case BenchmarkDoc():
            return "benchmarks", text.count(document.n_items, "calculation")
        case _:
            return "", ""
