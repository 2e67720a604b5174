"""What a report is made from: documents, job records and a few arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atomfoundry.documents import (
    AlignmentDoc,
    Artifact,
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
from atomfoundry.results.report.arrays import DatasetArrays, Predictions

MODEL_KINDS = ("base", "naive", "replay", "active_learning")
"""Model kinds in the order in which a report shows them."""


class JobRow(BaseModel):
    """One job of the pipeline."""

    model_config = ConfigDict(extra="forbid")

    uuid: str
    name: str
    stage: str = Field(default="", description="Stage of the pipeline, e.g. 'labels', 'training'")
    state: str = Field(default="completed", description="'completed', 'failed', 'running', 'waiting', ...")
    start: str | None = Field(default=None, description="UTC, ISO 8601")
    wall_time_s: float | None = None
    parents: list[str] = Field(default_factory=list, description="uuids of the jobs whose output was read")
    counts: str = Field(default="", description="What came out, e.g. '46 labels, 2 reused, 1 failed'")
    peak_memory_mb: float | None = None
    n_labels: int | None = Field(default=None, description="Labels that came out; summed over like jobs")
    n_reused: int | None = None
    n_failed: int | None = None


class TargetRow(BaseModel):
    """One number that the run should reach."""

    model_config = ConfigDict(extra="forbid")

    name: str
    value: float | None
    target: float
    unit: str = ""
    passed: bool | None = None
    direction: Literal["below", "above"] = "below"


class ArtifactRow(BaseModel):
    """One artifact of the run."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: str
    size: int
    sha256: str
    uri: str = ""
    job_uuid: str = ""


class ReportInputs(BaseModel):
    """Everything that a report shows. Only the title is needed; a section without documents is left out."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    title: str
    subtitle: str = ""
    created_at: str = Field(default="", description="UTC, ISO 8601; empty: not shown")
    jobs: list[JobRow] = Field(default_factory=list)
    structure_sets: list[StructureSetDoc] = Field(default_factory=list)
    label_sets: list[LabelSetDoc] = Field(default_factory=list)
    datasets: list[DatasetDoc] = Field(default_factory=list)
    dataset_arrays: list[DatasetArrays] = Field(default_factory=list, description="For the histograms")
    alignments: list[AlignmentDoc] = Field(default_factory=list)
    models: list[ModelDoc] = Field(default_factory=list)
    predictions: dict[str, Predictions] = Field(
        default_factory=dict, description="Model's artifact sha256 -> its predictions"
    )
    forgetting: list[ForgettingDoc] = Field(default_factory=list)
    uncertainties: list[UncertaintyDoc] = Field(default_factory=list)
    selections: list[SelectionDoc] = Field(default_factory=list)
    benchmarks: list[BenchmarkDoc] = Field(default_factory=list)
    targets: list[TargetRow] = Field(default_factory=list)
    artifacts: list[ArtifactRow] = Field(
        default_factory=list, description="Beside those of the documents, which are found by themselves"
    )
    environment: dict[str, str] = Field(default_factory=dict, description="Shown under provenance")

    def documents(self) -> Iterator[FoundryDocument]:
        """Yield every document in the order of the pipeline."""
        yield from self.structure_sets
        yield from self.label_sets
        yield from self.datasets
        yield from self.alignments
        yield from self.models
        yield from self.forgetting
        yield from self.uncertainties
        yield from self.selections
        yield from self.benchmarks

    def ordered_models(self) -> list[ModelDoc]:
        """Return the models, base first."""
        order = {kind: place for place, kind in enumerate(MODEL_KINDS)}
        return sorted(self.models, key=lambda model: order.get(model.kind, len(order)))

    def main_model(self) -> ModelDoc | None:
        """Return the model the run is about: of active learning if there is one, else the base model."""
        for kind in ("active_learning", "base"):
            found = [model for model in self.models if model.kind == kind]
            if found:
                return found[-1]
        return self.models[-1] if self.models else None

    def artifact_rows(self) -> list[ArtifactRow]:
        """Return the artifacts of all documents and the given ones, each content once a name."""
        rows: dict[tuple[str, str], ArtifactRow] = {}
        for document in self.documents():
            job = document.provenance.job_uuid if document.provenance else ""
            for field in type(document).model_fields:
                value = getattr(document, field)
                if isinstance(value, Artifact):
                    name = _name_of(document)
                    row = ArtifactRow(
                        name=name,
                        kind=field.replace("_", " "),
                        size=value.size,
                        sha256=value.sha256,
                        uri=value.uri,
                        job_uuid=job,
                    )
                    rows.setdefault((value.sha256, name), row)
        for row in self.artifacts:
            rows.setdefault((row.sha256, row.name), row)
        return list(rows.values())


def _name_of(document: FoundryDocument) -> str:
    """Return what a document calls itself."""
    match document:
        case AlignmentDoc():
            return f"{document.source_level.method} to {document.target_level.method}"
        case UncertaintyDoc():
            return f"{document.kind.upper()} uncertainty"
        case SelectionDoc():
            return f"Selection, round {document.round}"
        case _:
            return str(getattr(document, "name", "")) or type(document).__name__.removesuffix("Doc")
