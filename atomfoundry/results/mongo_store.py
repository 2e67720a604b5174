"""A maggma store on a project's MongoDB: no credential in what it writes, patient, safe over a fork."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from maggma.core import StoreError
from maggma.stores import MongoStore
from pydash import get, has

from atomfoundry.results.indexes import LABELS, OUTPUTS, Indexes
from atomfoundry.results.mongo_language import plain_key
from atomfoundry.results.mongodb import MongoConnection
from atomfoundry.results.ownership import claim_results
from atomfoundry.results.stored_document import prepare

T = TypeVar("T")

INDEXES = {"outputs": OUTPUTS, "labels": LABELS}

_BATCH_BYTES = 32_000_000
_ENSURED: set[tuple[int, str, str, str | None]] = set()


class FoundryMongoStore(MongoStore):
    """Documents in one collection of the database that FireWorks uses.

    What ``as_dict`` gives holds the path of FireWorks' file, never what is in it. Documents carry no ``_id``,
    as in ``SQLiteStore``. Operations wait for a database that is away and are repeated after a lost
    connection; an ``update`` of many documents is not one transaction, but can be repeated as it is.

    Parameters
    ----------
    launchpad_file
        FireWorks' ``my_launchpad.yaml``; read by ``connect``.
    collection_name
        'outputs' and 'labels' have their indexes made before the first document is written.
    key
        maggma's main key, used by ``update`` when none is given.
    unique_fields
        Fields that together name one document; default: those of the collection's indexes.
    owner
        Id of the project whose results these are: the first write fails where the database holds another's.
    **kwargs
        ``last_updated_field``, ``last_updated_type``, ``validator`` of maggma's ``Store``.
    """

    def __init__(
        self,
        launchpad_file: str | Path,
        collection_name: str = "outputs",
        *,
        key: str = "uuid",
        unique_fields: tuple[str, ...] | list[str] | None = None,
        owner: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.launchpad_file = str(launchpad_file)
        self.owner = owner
        self._connection: MongoConnection | None = None
        super().__init__(database="", collection_name=collection_name, key=key, **kwargs)
        self.kwargs = kwargs
        known = INDEXES.get(collection_name)
        self.unique_fields = tuple(unique_fields or (known.unique if known else (key,)))

    # -- connection ------------------------------------------------------------------------------------------

    @property
    def connection(self) -> MongoConnection:
        """Where the database is; read on first use."""
        if self._connection is None:
            self._connection = MongoConnection.load(self.launchpad_file)
        return self._connection

    @property
    def name(self) -> str:
        """A text that names this store, without who asks."""
        where = self._connection.label if self._connection else self.launchpad_file
        return f"{where}#{self.collection_name}"

    def connect(self, force_reset: bool = False) -> None:
        """Read the connection's file; the server is asked by the first question.

        Parameters
        ----------
        force_reset
            Read it again.
        """
        if force_reset:
            self._connection = None
        self.database = self.connection.name
        self._coll = self.collection_name

    def close(self) -> None:
        """Forget the collection; the process's client serves other stores and stays."""
        self._coll = None

    @property
    def _collection(self) -> Any:
        if self._coll is None:
            raise StoreError(f"{self.name} is not connected. Call connect() first.")
        # Looked up each time: a child of a fork gets a client of its own.
        return self.connection.database()[self.collection_name]

    def _patiently(self, action: Callable[[], T]) -> T:
        """Repeat an action that can be repeated while the database is away."""
        from pymongo.errors import AutoReconnect, OperationFailure

        deadline = time.monotonic() + self.connection.wait_s
        pause = 0.1
        while True:
            try:
                return action()
            except AutoReconnect as error:
                if time.monotonic() + pause > deadline:
                    raise StoreError(
                        f"{self.name}: the database was away for {self.connection.wait_s:g} s "
                        f"({self.connection._scrubbed(error)[:200]})."
                    ) from error
            except OperationFailure as error:
                if error.code in {13, 18}:
                    raise StoreError(
                        f"{self.name}: user {self.connection.username!r} may not do this ({error.details}). "
                        "Check username, password and rights."
                    ) from error
                raise
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    # -- reading ---------------------------------------------------------------------------------------------

    def count(self, criteria: dict | None = None, hint: dict | None = None) -> int:
        """Count documents.

        Parameters
        ----------
        criteria
            MongoDB filter.
        hint
            Index to use.
        """
        return self._patiently(lambda: MongoStore.count(self, criteria, hint))

    def query(
        self,
        criteria: dict | None = None,
        properties: dict | list | None = None,
        sort: dict | None = None,
        hint: dict | None = None,
        skip: int = 0,
        limit: int = 0,
        **kwargs: Any,
    ) -> Iterator[dict]:
        """Find documents; in no certain order unless sorted.

        Parameters
        ----------
        criteria
            MongoDB filter.
        properties
            Fields to return.
        sort
            Field -> 1 or -1.
        hint
            Index to use.
        skip, limit
            Leave out the first, return at most so many; 0 is no limit.
        **kwargs
            More arguments of pymongo's ``find``.

        Yields
        ------
        dict
            Documents.
        """
        wanted = dict(properties) if isinstance(properties, dict) else dict.fromkeys(properties or [], 1)
        wanted["_id"] = 0

        def begin() -> tuple[Iterator[dict], list[dict]]:
            cursor = MongoStore.query(self, criteria, wanted, sort, hint, skip, limit, **kwargs)
            return cursor, [document for _, document in zip(range(1), cursor, strict=False)]

        cursor, first = self._patiently(begin)
        yield from first
        yield from cursor

    def distinct(self, field: str, criteria: dict | None = None, all_exist: bool = False) -> list:
        """Collect the different values of a field.

        Parameters
        ----------
        field
            Dotted path.
        criteria
            MongoDB filter.
        all_exist
            Unused; part of maggma's interface.
        """
        return self._patiently(lambda: MongoStore.distinct(self, field, criteria, all_exist))

    def count_by(self, fields: list[str], criteria: dict | None = None) -> dict[tuple, int]:
        """Count documents by the values of fields, as they are (lists are not opened).

        Parameters
        ----------
        fields
            Dotted paths.
        criteria
            MongoDB filter.

        Returns
        -------
        dict[tuple, int]
            Values -> number of documents; None for a field that is absent.
        """
        group: dict[str, Any] = {"_id": {f"k{i}": f"${field}" for i, field in enumerate(fields)}, "n": {"$sum": 1}}
        pipeline = [{"$match": criteria or {}}, {"$group": group}]
        rows = self._patiently(lambda: list(self._collection.aggregate(pipeline, allowDiskUse=True)))
        found: dict[tuple, int] = {}
        for row in rows:
            # An absent field and one that is None are groups of their own.
            key = tuple(plain_key(row["_id"].get(f"k{i}")) for i in range(len(fields)))
            found[key] = found.get(key, 0) + row["n"]
        return found

    # -- writing ---------------------------------------------------------------------------------------------

    def update(self, docs: list[dict] | dict, key: list | str | None = None) -> None:
        """Insert documents, or replace those with the same key.

        Nothing is written if one of them cannot be; a database that fails halfway may have some of them.

        Parameters
        ----------
        docs
            One or more documents.
        key
            Fields that say which document is replaced; default ``self.key``.

        Raises
        ------
        StoreError
            If a document lacks a key field, is over 16 MB, or would be a second one with the same unique
            fields.
        ProjectError
            If the database holds the results of another project than ``owner``.
        """
        from pymongo import ReplaceOne

        fields = [key] if isinstance(key, str) else list(key or [self.key])
        requests = []
        sizes = []
        for document in docs if isinstance(docs, list) else [docs]:
            plain, blob = prepare(document, unique_fields=self.unique_fields, store=self.name)
            if self.validator and not self.validator.is_valid(plain):
                message = f"{self.name}: {self.validator.validation_errors(plain)}"
                if self.validator.strict:
                    raise ValueError(message)
                self.logger.error(message)
                continue
            missing = [field for field in fields if not has(plain, field)]
            if missing:
                raise StoreError(f"{self.name}: a document lacks the key field '{missing[0]}'.")
            requests.append(ReplaceOne({field: get(plain, field) for field in fields}, plain, upsert=True))
            sizes.append(len(blob))
        if requests:
            self._ensure_once()
        start = 0
        while start < len(requests):
            stop, size = start + 1, sizes[start]
            while stop < len(requests) and size + sizes[stop] < _BATCH_BYTES:
                size += sizes[stop]
                stop += 1
            self._write(requests[start:stop])
            start = stop

    def _write(self, requests: list) -> None:
        from pymongo.errors import BulkWriteError, DuplicateKeyError

        def write() -> None:
            if _is_mock(self._collection):
                for request in requests:
                    self._collection.replace_one(request._filter, dict(request._doc), upsert=True)
            else:
                self._collection.bulk_write(requests, ordered=True)

        for last in (False, True):
            try:
                self._patiently(write)
                return
            except (BulkWriteError, DuplicateKeyError) as error:
                # Two processes that insert the same document at once: the second attempt replaces it.
                if last or not _is_duplicate(error):
                    raise StoreError(
                        f"{self.name}: a document with the same {', '.join(self.unique_fields)} exists "
                        f"({_first_message(error)})."
                        if _is_duplicate(error)
                        else f"{self.name}: {_first_message(error)}."
                    ) from error

    def remove_docs(self, criteria: dict) -> None:
        """Remove documents.

        Parameters
        ----------
        criteria
            MongoDB filter; an empty one removes all.
        """
        self._patiently(lambda: self._collection.delete_many(criteria))

    # -- indexes ---------------------------------------------------------------------------------------------

    def ensure_index(self, key: str, unique: bool | None = False) -> bool:
        """Make a field fast to look up.

        Parameters
        ----------
        key
            Dotted path.
        unique
            Whether no two documents may have the same value.

        Returns
        -------
        bool
            Whether there is such an index now.
        """
        return self._patiently(lambda: MongoStore.ensure_index(self, key, unique))

    def ensure_indexes(self) -> list[str]:
        """Make the indexes of this collection where they are missing.

        Returns
        -------
        list[str]
            Their names.

        Raises
        ------
        StoreError
            If documents with the same unique fields are there already, or the user may not make indexes.
        ProjectError
            If the database holds the results of another project than ``owner``.
        """
        from pymongo.errors import DuplicateKeyError, OperationFailure

        if self.owner is not None:
            owner = self.owner
            self._patiently(lambda: claim_results(self._collection.database, owner, self.connection.label))
        known = INDEXES.get(self.collection_name) or Indexes(self.unique_fields, ())
        wanted: list[tuple[list[tuple[str, int]], bool]] = [([(field, 1) for field in known.unique], True)]
        wanted += [([(field, 1) for field in fields], False) for fields in known.combined]
        wanted += [([(field, 1)], False) for field in known.members]
        names = []
        for fields, unique in wanted:
            try:
                names.append(
                    self._patiently(lambda f=fields, u=unique: self._collection.create_index(f, unique=u))  # type: ignore[misc]
                )
            except (DuplicateKeyError, OperationFailure) as error:
                raise StoreError(
                    f"{self.name}: the index of {', '.join(field for field, _ in fields)} cannot be made "
                    f"({error}). Remove documents that are there twice, or give the user the role readWrite."
                ) from error
        _ENSURED.add(self._ensured_key())
        return names

    def _ensured_key(self) -> tuple[int, str, str, str | None]:
        database = self._collection.database
        # mongomock's content can be another after the same address.
        where = f"{self.connection.label}{id(database) if _is_mock(database) else ''}"
        return os.getpid(), where, self.collection_name, self.owner

    def _ensure_once(self) -> None:
        if self._ensured_key() not in _ENSURED:
            self.ensure_indexes()

    # -- identity --------------------------------------------------------------------------------------------

    def as_dict(self) -> dict:
        """Return what makes this store again: the path of the connection's file, no credential."""
        record = {
            "@module": type(self).__module__,
            "@class": type(self).__name__,
            "launchpad_file": self.launchpad_file,
            "collection_name": self.collection_name,
            "key": self.key,
            "unique_fields": list(self.unique_fields),
            **({"owner": self.owner} if self.owner else {}),
        }
        return {**record, **self.kwargs}

    @classmethod
    def from_dict(cls, d: dict) -> FoundryMongoStore:
        """Make a store from what ``as_dict`` returned.

        Parameters
        ----------
        d
            That dictionary.
        """
        return cls(**{name: value for name, value in d.items() if not name.startswith("@")})

    def __getstate__(self) -> dict:
        return self.as_dict()

    def __setstate__(self, state: dict) -> None:
        self.__init__(**{name: value for name, value in state.items() if not name.startswith("@")})  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        """Two stores are equal if they show the same collection."""
        if not isinstance(other, FoundryMongoStore):
            return NotImplemented
        return (self.launchpad_file, self.collection_name) == (other.launchpad_file, other.collection_name)

    def __hash__(self) -> int:
        """Hash of file and collection."""
        return hash((self.launchpad_file, self.collection_name))


def _is_mock(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] == "mongomock"


def _is_duplicate(error: Any) -> bool:
    if getattr(error, "code", None) == 11000 or type(error).__name__ == "DuplicateKeyError":
        return True
    problems = (error.details or {}).get("writeErrors") or []
    return bool(problems) and all(problem.get("code") == 11000 for problem in problems)


def _first_message(error: Any) -> str:
    problems = (getattr(error, "details", None) or {}).get("writeErrors") or []
    return str(problems[0].get("errmsg") if problems else error)[:300]
