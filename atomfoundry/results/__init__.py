"""Results: the project folder, stores, artifacts, labels, queries and lineage."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.results.artifacts import ArtifactStore
    from atomfoundry.results.database import Result, ResultsDB, open_results
    from atomfoundry.results.job_store import FoundryJobStore
    from atomfoundry.results.labels import LabelStore
    from atomfoundry.results.lineage_graph import LineageGraph
    from atomfoundry.results.mongo_store import FoundryMongoStore
    from atomfoundry.results.mongodb import MongoConnection
    from atomfoundry.results.progress import checkpoint_directory, report_progress
    from atomfoundry.results.project import (
        Project,
        current_artifacts,
        current_labels,
        current_project,
        use_project,
    )
    from atomfoundry.results.sqlite_store import SQLiteStore

_HOMES = {
    "ArtifactStore": "artifacts",
    "FoundryJobStore": "job_store",
    "FoundryMongoStore": "mongo_store",
    "LabelStore": "labels",
    "LineageGraph": "lineage_graph",
    "MongoConnection": "mongodb",
    "Project": "project",
    "Result": "database",
    "ResultsDB": "database",
    "SQLiteStore": "sqlite_store",
    "checkpoint_directory": "progress",
    "current_artifacts": "project",
    "current_labels": "project",
    "current_project": "project",
    "open_results": "database",
    "report_progress": "progress",
    "use_project": "project",
}

__all__ = [
    "ArtifactStore",
    "FoundryJobStore",
    "FoundryMongoStore",
    "LabelStore",
    "LineageGraph",
    "MongoConnection",
    "Project",
    "Result",
    "ResultsDB",
    "SQLiteStore",
    "checkpoint_directory",
    "current_artifacts",
    "current_labels",
    "current_project",
    "open_results",
    "report_progress",
    "use_project",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
