"""Typed questions to the results of a project."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from pydantic import ValidationError

import atomfoundry.documents as documents
from atomfoundry.documents import (
    SCHEMA_VERSION,
    AlignmentDoc,
    BenchmarkDoc,
    CoverageDoc,
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
from atomfoundry.errors import InputError, ProjectError
from atomfoundry.results.mongo_filter import check_filter
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


JOB_FIELDS = ("uuid", "index", "completed_at", "hosts", "metadata", "inputs", "stale", "output")
"""Fields of the stored job that no document has: in a filter they mean the job's own."""


def on_output(field: str) -> str:
    """Return where a document's field is stored; ``job.X`` means the job's own field X.

    Parameters
    ----------
    field
        Dotted path, such as ``"n_parameters"``, ``"job.name"`` or ``"completed_at"``.
    """
    if field.startswith("job."):
        return field.removeprefix("job.")
    return field if field.split(".")[0] in JOB_FIELDS else f"output.{field}"


def _filter_on_output(where: dict) -> dict:
    translated: dict = {}
    for key, value in where.items():
        if key.startswith("$"):
            translated[key] = [_filter_on_output(part) for part in value]
        else:
            translated[on_output(key)] = value
    return translated


class Choice(TypedDict, total=False):
    """Which of the documents that a filter accepts are returned, and in what order."""

    sort: str | None
    """Field to sort by, with '-' in front for the greatest first; default: time, oldest first."""
    newest: bool
    """Newest first."""
    limit: int
    """At most so many; 0 is no limit."""


def _order(choice: Choice, time: str, place: Callable[[str], str]) -> dict[str, int]:
    sort = choice.get("sort")
    if sort and choice.get("newest"):
        raise InputError(f"'newest' and sort={sort!r} say different orders.", remedy="Give one of them.")
    if not sort:
        return {time: -1 if choice.get("newest") else 1}
    return {place(sort.removeprefix("-")): -1 if sort.startswith("-") else 1}


class ResultsDB:
    """Questions to a results database, embedded or MongoDB.

    Filters are MongoDB's, on the document's fields: ``{"n_parameters": {"$lt": 1e5}}``. A key ``job.name`` or
    ``job.metadata.stage`` means the job instead; ``uuid``, ``completed_at``, ``metadata`` and the like, which no
    document has, mean the job without that. Answers are the same on every kind of database. Each question takes
    ``sort``, ``newest`` and ``limit``, see ``Choice``.

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

    def find(self, kind: type[D], where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[D]]:
        """Find documents of one class, oldest first.

        Parameters
        ----------
        kind
            A document class, such as ``ModelDoc``.
        where
            Filter.
        **choice
            ``sort``, ``newest``, ``limit``.

        Raises
        ------
        InputError
            If the filter has an unknown operator.
        ProjectError
            If a document found is of a newer schema.
        """
        order = _order(choice, "completed_at", on_output)
        found = self.store.query(_of_kind(kind, where), sort=order, limit=choice.get("limit", 0), load=True)
        return [
            Result(
                uuid=job["uuid"],
                index=job["index"],
                name=job.get("name") or "",
                completed_at=job.get("completed_at") or "",
                document=parse(job["output"], f"job {job['uuid']}"),
                stale=job.get("stale") or [],
            )
            for job in found
        ]

    def count(self, kind: type[FoundryDocument], where: dict | None = None) -> int:
        """Count documents of one class without reading them.

        Parameters
        ----------
        kind
            A document class; ``LabelDoc`` for single labels.
        where
            Filter.

        Raises
        ------
        InputError
            If the filter has an unknown operator.
        """
        if kind is LabelDoc:
            check_filter(where or {})
            return 0 if self._labels is None else self._labels.count(where)
        return self.store.count(_of_kind(kind, where))

    def structures(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[StructureSetDoc]]:
        """Find structure sets.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(StructureSetDoc, where, **choice)

    def label_sets(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[LabelSetDoc]]:
        """Find sets of labels.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(LabelSetDoc, where, **choice)

    def harvests(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[HarvestDoc]]:
        """Find what finished calculations gave.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(HarvestDoc, where, **choice)

    def datasets(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[DatasetDoc]]:
        """Find datasets.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(DatasetDoc, where, **choice)

    def alignments(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[AlignmentDoc]]:
        """Find Total Energy Alignments.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(AlignmentDoc, where, **choice)

    def models(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[ModelDoc]]:
        """Find models.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(ModelDoc, where, **choice)

    def forgetting(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[ForgettingDoc]]:
        """Find comparisons of naive and replay fine-tuning.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(ForgettingDoc, where, **choice)

    def uncertainties(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[UncertaintyDoc]]:
        """Find uncertainties.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(UncertaintyDoc, where, **choice)

    def selections(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[SelectionDoc]]:
        """Find what active learning selected.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(SelectionDoc, where, **choice)

    def benchmarks(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[BenchmarkDoc]]:
        """Find benchmarks.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(BenchmarkDoc, where, **choice)

    def coverage(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[CoverageDoc]]:
        """Find what datasets cover.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(CoverageDoc, where, **choice)

    def reports(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[ReportDoc]]:
        """Find reports.

        Parameters
        ----------
        where, **choice
            As in ``find``.
        """
        return self.find(ReportDoc, where, **choice)

    def labels(self, where: dict | None = None, **choice: Unpack[Choice]) -> list[Result[LabelDoc]]:
        """Find single labels, failed ones included.

        Parameters
        ----------
        where
            Filter on the fields of ``LabelDoc``.
        **choice
            As in ``find``; ``newest`` and the order mean ``computed_at``.

        Raises
        ------
        InputError
            If the filter has an unknown operator.
        """
        check_filter(where or {})
        # Without a wish the order of the database, which is free.
        order = _order(choice, "computed_at", str) if choice.get("sort") or choice.get("newest") else None
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
            for label in self._labels.query(where, sort=order, limit=choice.get("limit", 0))
        ]

    def count_labels(self, *fields: str, where: dict | None = None) -> dict[tuple, int]:
        """Count labels by the values of fields, such as ``count_labels("status", "reason")``.

        Parameters
        ----------
        *fields
            Fields of ``LabelDoc``.
        where
            Filter on them.

        Returns
        -------
        dict[tuple, int]
            Values -> number of labels, the most frequent first.
        """
        check_filter(where or {})
        found = {} if self._labels is None else self._labels.count_by(*fields, where=where)
        return dict(sorted(found.items(), key=lambda item: (-item[1], str(item[0]))))

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


def _of_kind(kind: type[FoundryDocument], where: dict | None) -> dict:
    criteria: dict = {"output.@class": kind.__name__}
    if not where:
        return criteria
    check_filter(where)
    return {"$and": [criteria, _filter_on_output(where)]}


def to_pandas(results: Iterable[Result]) -> pandas.DataFrame:
    """Put results into a table: one row a document, one column a single value (nested ones as ``a.b``).

    Lists, such as forces or the points of a curve, have no column; ``stale`` counts withdrawn labels.

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
            "stale": len(result.stale),
        }
        row.update(_leaves(result.document.model_dump(mode="json")))
        rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["uuid", "index", "job", "completed_at", "stale"])


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
        If the folder is no project, or its MongoDB does not answer.
    """
    if not isinstance(source, str | Path | Project):
        return ResultsDB(source)
    project = source if isinstance(source, Project) else Project.open(source)
    if project.database == "mongodb":
        project.mongodb().check()
    return ResultsDB(project.job_store(), project.labels())
