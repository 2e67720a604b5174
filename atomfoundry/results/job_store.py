"""A jobflow store that remembers what each job read, so that provenance knows its inputs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import bson
from jobflow import CURRENT_JOB, Job, JobStore
from jobflow.core.reference import OnMissing
from monty.json import jsanitize

from atomfoundry.documents import JobReference
from atomfoundry.documents.decoding import check_document

logger = logging.getLogger(__name__)


class _Reads:
    """What the running job has read; one job runs at a time in a process."""

    def __init__(self) -> None:
        self.job: weakref.ReferenceType[Job] | None = None
        self.seen: dict[tuple[str, int], None] = {}

    def of(self, job: Job) -> dict[tuple[str, int], None]:
        if self.job is None or self.job() is not job:
            self.job = weakref.ref(job)
            self.seen = {}
        return self.seen


_READS = _Reads()

_LOOKED_AT: ContextVar[str | None] = ContextVar("looked_at", default=None)
"""uuid of the output that is read while no job runs."""


def recorded_inputs(job: Job) -> list[JobReference] | None:
    """Return the outputs that the running job has read.

    Parameters
    ----------
    job
        The job that runs now, ``CURRENT_JOB.job``.

    Returns
    -------
    list[JobReference] or None
        In order of reading; None if no ``FoundryJobStore`` served this job, so that nothing is known.
    """
    if _READS.job is None or _READS.job() is not job:
        return None
    return [JobReference(uuid=uuid, index=index) for uuid, index in _READS.seen]


def with_inputs(docs: Any) -> Any:
    """Add what the running job has read to its document.

    Parameters
    ----------
    docs
        One or more jobflow documents.

    Returns
    -------
    Any
        The same, or a list of dictionaries where a job runs.
    """
    job = CURRENT_JOB.job
    inputs = None if job is None else recorded_inputs(job)
    if inputs is None:
        return docs
    made = []
    for doc in docs if isinstance(docs, list) else [docs]:
        content = jsanitize(doc, strict=True, allow_bson=True)
        if (content.get("uuid"), content.get("index")) == (job.uuid, job.index):
            content["inputs"] = [reference.model_dump() for reference in inputs]
        made.append(content)
    return made


def with_marks(store: JobStore, docs: Any) -> Any:
    """Add the marks of withdrawn labels that documents have by what their jobs read.

    Parameters
    ----------
    store
        Where the documents go.
    docs
        One or more jobflow documents.

    Returns
    -------
    Any
        The same; documents with marks as dictionaries with a field ``stale``.
    """
    from atomfoundry.errors import AtomfoundryError
    from atomfoundry.results.project import current_project
    from atomfoundry.results.stale import inherited_marks

    try:
        project = current_project()
    except AtomfoundryError:
        return docs  # jobs outside of a project have no table of labels
    given = docs if isinstance(docs, list) else [docs]
    made = []
    for doc in given:
        marks = []
        if isinstance(doc, dict) and "inputs" in doc:
            try:
                marks = inherited_marks(project, store.docs_store, doc)
            except AtomfoundryError as error:
                # never at the price of a result
                logger.warning("The marks of '%s' are not known: %s", doc.get("name"), error)
        made.append({**doc, "stale": marks} if marks else doc)
    return docs if all(new is old for new, old in zip(made, given, strict=True)) else made


class FoundryJobStore(JobStore):
    """JobStore that records each (uuid, index) read while a job runs, and writes blobs before documents.

    Works with any ``docs_store``; the parameters are those of jobflow's ``JobStore``.
    """

    def get_output(
        self,
        uuid: str,
        which: str | int = "last",
        load: Any = False,
        cache: dict[str, Any] | None = None,
        on_missing: OnMissing = OnMissing.ERROR,
    ) -> Any:
        """Return the output of a job, and note that the running job read it.

        Parameters
        ----------
        uuid
            A job's uuid.
        which
            ``"last"``, ``"first"``, ``"all"`` or an index.
        load
            What to load from additional stores.
        cache
            Outputs resolved already.
        on_missing
            What to do about references inside the output that cannot be resolved.

        Raises
        ------
        ValueError
            If the job has no output.
        UntrustedDocumentError
            If no job runs, and the output, or one that it refers to, names a class that is not trusted: looking at
            results imports nothing. A job decodes what it reads, as it is code itself.
        """
        job = CURRENT_JOB.job
        if job is None:
            if which == "all":
                check_document(list(self.query({"uuid": uuid}, ["output"])), where=f"The output of job {uuid}")
            token = _LOOKED_AT.set(uuid)
            try:
                return super().get_output(uuid, which, load, cache, on_missing)
            finally:
                _LOOKED_AT.reset(token)
        if which == "all":
            indices = [doc["index"] for doc in self.query({"uuid": uuid}, ["index"], sort={"index": 1})]
        elif isinstance(which, int):
            indices = [which]
        else:
            found = self.query_one({"uuid": uuid}, ["index"], sort={"index": -1 if which == "last" else 1})
            indices = [] if found is None else [found["index"]]
            which = indices[0] if indices else which
        reads = _READS.of(job)
        position = dict.fromkeys((uuid, index) for index in indices)
        output = super().get_output(uuid, which, load, cache, on_missing)
        reads.update(position)
        return output

    def query_one(
        self,
        criteria: dict | None = None,
        properties: dict | list | None = None,
        sort: dict | None = None,
        load: Any = None,
    ) -> dict | None:
        """Find one document.

        Parameters
        ----------
        criteria, properties, sort, load
            As in ``query``.
        """
        # jobflow looks a reference up before reading it: from then on this job is known to be served by us.
        if CURRENT_JOB.job is not None:
            _READS.of(CURRENT_JOB.job)
        found = super().query_one(criteria, properties, sort, load)
        # jobflow decodes an output that holds references to others as soon as it has them
        if _LOOKED_AT.get() is not None:
            check_document(found, where=f"The output of job {_LOOKED_AT.get()}")
        return found

    def update(self, docs: Any, key: list | str | None = None, save: Any = None) -> None:
        """Insert or replace documents; large objects first, so that no document points at a missing blob.

        The running job's document gets a field ``inputs``: the (uuid, index) of what it read.

        Parameters
        ----------
        docs
            One or more jobflow documents.
        key
            Fields that name a document, default uuid and index.
        save
            What goes to the additional stores.
        """
        docs = with_marks(self, with_inputs(docs))
        if not (save or self.save):
            if _are_plain(docs):
                # jobflow would walk through every value of them, only to leave them as they are.
                self.docs_store.update(docs, key=key or ["uuid", "index"])
            else:
                super().update(docs, key, save)
            return
        with _documents_last(self) as documents_last:
            JobStore.update(documents_last, docs, key, save)


def _are_plain(docs: Any) -> bool:
    """Return whether documents hold nothing but values that a database knows."""
    try:
        for doc in docs if isinstance(docs, list) else [docs]:
            bson.encode(doc)
    except (bson.errors.BSONError, TypeError, OverflowError):
        return False
    return True


class _Held:
    """Stands in for the documents' store while blobs are written."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[dict], list | str | None]] = []

    def update(self, docs: list[dict], key: list | str | None = None) -> None:
        self.calls.append((docs, key))


@contextmanager
def _documents_last(store: FoundryJobStore) -> Iterator[FoundryJobStore]:
    held = _Held()
    twin = object.__new__(type(store))
    twin.__dict__.update(store.__dict__, docs_store=held)
    yield twin
    for docs, key in held.calls:
        store.docs_store.update(docs, key=key)
