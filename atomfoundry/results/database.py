"""Typed questions to the results of a project."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

import atomfoundry.documents as documents
from atomfoundry.documents import (
    SCHEMA_VERSION,
    AlignmentDoc,
    BenchmarkDoc,
    DatasetDoc,
    ForgettingDoc,
    FoundryDocument,
    HarvestDoc,
    LabelDoc,
    LabelSetDoc,
    ModelDoc,
    ReportDoc,
    SelectionDoc,
    StructureSetDoc,
    UncertaintyDoc,
)
from atomfoundry.errors import ProjectError
from atomfoundry.results.project import Project

if TYPE_CHECKING:
    import pandas
    from jobflow import JobStore

    from atomfoundry.results.labels import LabelStore

D = TypeVar("D", bound=FoundryDocument)

DOCUMENT_CLASSES: dict[str, type[FoundryDocument]] = {
    name: member
    for name in documents.__all__
    if isinstance(member := getattr(documents, name), type) and issubclass(member, FoundryDocument)
}
"""Class name, as stored in ``output.@class`` -> class."""


@dataclass(frozen=True)
class Result(Generic[D]):
    """A document and the job output that holds it."""

    uuid: str
    index: int
    name: str
    """The job's name."""
    completed_at: str
    document: D
    stale: list[dict[str, Any]] = field(default_factory=list)
    """Withdrawn labels that it holds or was made from, see ``atomfoundry.results.stale.StaleMark``."""


def plain(value: Any) -> Any:
    """Remove the keys that say which class a dictionary was.

    Parameters
    ----------
    value
        Stored content.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in ("@module", "@class", "@version")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def parse(output: Any, where: str) -> Any:
    """Turn a stored output into its document; other content is returned as it is.

    Parameters
    ----------
    output
        ``output`` of a stored job document.
    where
        Names it in errors.

    Raises
    ------
    ProjectError
        If a document is of a newer schema, or does not fit its own class.
    """
    cls = DOCUMENT_CLASSES.get(output.get("@class", "")) if isinstance(output, dict) else None
    if cls is None:
        return output
    version = output.get("schema_version", 0)
    if version > SCHEMA_VERSION:
        raise ProjectError(
            f"{cls.__name__} of {where} has schema version {version}; this Atomfoundry knows up to {SCHEMA_VERSION}.",
            remedy="Update Atomfoundry.",
        )
    try:
        return cls.model_validate(plain(output))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ProjectError(
            f"{cls.__name__} of {where} does not fit its schema: '{key}': {first['msg']}.",
            remedy="It was written by another version; run the job that made it again.",
        ) from error


def _on_output(where: dict | None) -> dict:
    """Let a filter's keys mean fields of the document; ``job.X`` means the job's own field X."""
    translated: dict = {}
    for key, value in (where or {}).items():
        if key.startswith("$"):
            parts = value if isinstance(value, list) else [value]
            translated[key] = [_on_output(part) for part in parts]
        elif key.startswith("job."):
            translated[key.removeprefix("job.")] = value
        elif key == "output" or key.startswith("output."):
            translated[key] = value
        else:
            translated[f"output.{key}"] = value
    return translated


class ResultsDB:
    """Questions to a results database, embedded or MongoDB.

    Filters are MongoDB's, on the document's fields: ``{"n_parameters": {"$lt": 1e5}}``. A key ``job.name`` or
    ``job.metadata.stage`` means the job instead.

    Parameters
    ----------
    store
        jobflow's store of outputs, connected here.
    labels
        The table of labels, if there is one.
    """

    def __init__(self, store: JobStore, labels: LabelStore | None = None) -> None:
        self.store = store
        self.store.connect()
        self._labels = labels

    def close(self) -> None:
        """Close the connections."""
        self.store.close()

    def find(self, kind: type[D], where: dict | None = None, *, limit: int = 0) -> list[Result[D]]:
        """Find documents of one class, oldest first.

        Parameters
        ----------
        kind
            A document class, such as ``ModelDoc``.
        where
            Filter.
        limit
            At most so many; 0 is no limit.

        Raises
        ------
        ProjectError
            If a document found is of a newer schema.
        """
        criteria: dict = {"output.@class": kind.__name__}
        if where:
            criteria = {"$and": [criteria, _on_output(where)]}
        return [
            Result(
                uuid=found["uuid"],
                index=found["index"],
                name=found.get("name") or "",
                completed_at=found.get("completed_at") or "",
                document=parse(found["output"], f"job {found['uuid']}"),
                stale=found.get("stale") or [],
            )
            for found in self.store.query(criteria, sort={"completed_at": 1}, limit=limit, load=True)
        ]

    def structures(self, where: dict | None = None) -> list[Result[StructureSetDoc]]:
        """Find structure sets.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(StructureSetDoc, where)

    def label_sets(self, where: dict | None = None) -> list[Result[LabelSetDoc]]:
        """Find sets of labels.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(LabelSetDoc, where)

    def harvests(self, where: dict | None = None) -> list[Result[HarvestDoc]]:
        """Find what finished calculations gave.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(HarvestDoc, where)

    def datasets(self, where: dict | None = None) -> list[Result[DatasetDoc]]:
        """Find datasets.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(DatasetDoc, where)

    def alignments(self, where: dict | None = None) -> list[Result[AlignmentDoc]]:
        """Find Total Energy Alignments.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(AlignmentDoc, where)

    def models(self, where: dict | None = None) -> list[Result[ModelDoc]]:
        """Find models.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(ModelDoc, where)

    def forgetting(self, where: dict | None = None) -> list[Result[ForgettingDoc]]:
        """Find comparisons of naive and replay fine-tuning.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(ForgettingDoc, where)

    def uncertainties(self, where: dict | None = None) -> list[Result[UncertaintyDoc]]:
        """Find uncertainties.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(UncertaintyDoc, where)

    def selections(self, where: dict | None = None) -> list[Result[SelectionDoc]]:
        """Find what active learning selected.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(SelectionDoc, where)

    def benchmarks(self, where: dict | None = None) -> list[Result[BenchmarkDoc]]:
        """Find benchmarks.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(BenchmarkDoc, where)

    def reports(self, where: dict | None = None) -> list[Result[ReportDoc]]:
        """Find reports.

        Parameters
        ----------
        where
            Filter.
        """
        return self.find(ReportDoc, where)

    def labels(self, where: dict | None = None, *, limit: int = 0) -> list[Result[LabelDoc]]:
        """Find single labels, failed ones included.

        Parameters
        ----------
        where
            Filter on the fields of ``LabelDoc``.
        limit
            At most so many; 0 is no limit.
        """
        if self._labels is None:
            return []
        return [
            Result(
                uuid=label.job_uuid or "",
                index=1,
                name=label.engine,
                completed_at=label.computed_at,
                document=label,
            )
            for label in self._labels.query(where, limit=limit)
        ]

    def find_uuid(self, start: str) -> str:
        """Complete the beginning of a uuid.

        Parameters
        ----------
        start
            A whole uuid, or enough of its beginning.

        Raises
        ------
        ProjectError
            If no output, or the outputs of several jobs, begin so.
        """
        import re

        if self.store.query_one({"uuid": start}, ["uuid"]):
            return start
        criteria = {"uuid": {"$regex": f"^{re.escape(start)}"}}
        found = sorted({doc["uuid"] for doc in self.store.query(criteria, ["uuid"])})
        if len(found) == 1:
            return found[0]
        if found:
            raise ProjectError(f"'{start}' is the beginning of {len(found)} uuids.", remedy="Give more digits.")
        raise ProjectError(
            f"There is no output of a job '{start}'.",
            remedy="'atomfoundry results models' lists uuids; a job that failed has no output.",
        )

    def document(self, uuid: str, index: int | None = None) -> Result[Any]:
        """Return the output of one job; where it was put together from other jobs', those are filled in.

        Parameters
        ----------
        uuid
            The job, or the beginning of its uuid.
        index
            Which of its outputs, default the last.

        Raises
        ------
        ProjectError
            If there is none.
        """
        uuid = self.find_uuid(uuid)
        criteria: dict = {"uuid": uuid} if index is None else {"uuid": uuid, "index": index}
        found = self.store.query_one(criteria, ["uuid", "index", "name", "completed_at", "stale"], sort={"index": -1})
        if found is None:
            raise ProjectError(f"Job {uuid} has no output {index}.", remedy="Leave the index out.")
        output = self.store.get_output(uuid, which=found["index"], load=True)
        return Result(
            uuid=uuid,
            index=found["index"],
            name=found.get("name") or "",
            completed_at=found.get("completed_at") or "",
            document=parse(output, f"job {uuid}"),
            stale=found.get("stale") or [],
        )


def to_pandas(results: Iterable[Result]) -> pandas.DataFrame:
    """Put results into a table: one row a document, one column a single value (nested ones as ``a.b``).

    Parameters
    ----------
    results
        What a query returned.
    """
    import pandas as pd

    rows = []
    for result in results:
        row: dict[str, Any] = {
            "uuid": result.uuid,
            "index": result.index,
            "job": result.name,
            "completed_at": result.completed_at,
        }
        row.update(_leaves(result.document.model_dump(mode="json")))
        rows.append(row)
    return pd.DataFrame(rows)


def _leaves(content: dict, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found.update(_leaves(value, f"{prefix}{key}."))
        elif not isinstance(value, list):
            found[f"{prefix}{key}"] = value
    return found


def open_results(source: str | Path | Project | JobStore) -> ResultsDB:
    """Open a project's results.

    Parameters
    ----------
    source
        A project folder, a project, or any jobflow ``JobStore``, such as one on MongoDB.

    Raises
    ------
    ProjectError
        If the folder is no project.
    """
    if not isinstance(source, str | Path | Project):
        return ResultsDB(source)
    project = source if isinstance(source, Project) else Project.open(source)
    return ResultsDB(project.job_store(), project.labels())
