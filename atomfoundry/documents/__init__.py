"""Pydantic documents that are stored in the results database."""

from atomfoundry.documents.base import (
    SCHEMA_VERSION,
    Artifact,
    FoundryDocument,
    JobReference,
    Provenance,
)
from atomfoundry.documents.benchmark import BenchmarkDoc, ReportDoc
from atomfoundry.documents.calculator import CalculatorSpec
from atomfoundry.documents.data import (
    AlignmentDoc,
    AlignmentStep,
    CoverageDoc,
    DatasetDoc,
    EnergyMetrics,
    LabelDoc,
    LabelFailure,
    LabelSetDoc,
    StructureSetDoc,
)
from atomfoundry.documents.harvest import HarvestDoc
from atomfoundry.documents.level import LevelOfTheory
from atomfoundry.documents.model import (
    ElementMetrics,
    EpochRecord,
    ErrorMetrics,
    ForgettingDoc,
    ForgettingRecord,
    HeadDoc,
    ModelDoc,
    SelectionDoc,
    TrajectoryRecord,
    UncertaintyDoc,
)

__all__ = [
    "SCHEMA_VERSION",
    "AlignmentDoc",
    "AlignmentStep",
    "Artifact",
    "BenchmarkDoc",
    "CalculatorSpec",
    "CoverageDoc",
    "DatasetDoc",
    "ElementMetrics",
    "EnergyMetrics",
    "EpochRecord",
    "ErrorMetrics",
    "ForgettingDoc",
    "ForgettingRecord",
    "FoundryDocument",
    "HarvestDoc",
    "HeadDoc",
    "JobReference",
    "LabelDoc",
    "LabelFailure",
    "LabelSetDoc",
    "LevelOfTheory",
    "ModelDoc",
    "Provenance",
    "ReportDoc",
    "SelectionDoc",
    "StructureSetDoc",
    "TrajectoryRecord",
    "UncertaintyDoc",
]
