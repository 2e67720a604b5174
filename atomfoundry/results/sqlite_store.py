"""A maggma store on one SQLite file: several processes, safe against kills, no server."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby as group_sorted
from pathlib import Path
from typing import Any

import bson
from maggma.core import Store, StoreError
from monty.json import jsanitize
from pydash import get, has, set_

from atomfoundry.results.mongo_language import (
    distinct_values,
    equality_conditions,
    is_scalar,
    lookup,
    project,
    sort_documents,
)
from atomfoundry.results.sqlite_file import SQLiteFile

CHUNK = 200
"""Documents decoded at a time, so that a query over a big collection needs little memory."""

_MAX_SQL_VALUES = 500
_NAME = re.compile(r"[A-Za-z0-9_\-]+")


class SQLiteStore(Store):
    """Documents in one table of a SQLite file, queried with MongoDB's filters.

    A row holds one BSON document and a copy of its indexed fields. Equality and ``$in`` on indexed fields
    are looked up by SQL; whatever else a filter says is decided by mongomock's filter, so that answers
    agree with maggma's MemoryStore. Documents carry no ``_id``. Single node, local disk only.

    Parameters
    ----------
    path
        The SQLite file; made by ``connect``, its folder must exist.
    collection_name
        Letters, digits, ``_`` and ``-``; several collections share a file.
    key
        maggma's main key, used by ``update`` when none is given.
    unique_fields
        Fields that together name one document; each document must have all of them as a string or number.
    index_fields
        More fields (dotted paths) that are looked up fast.
    busy_timeout_s
        How long to wait for another process's write, in seconds; default from the settings.
    **kwargs
        ``last_updated_field``, ``last_updated_type``, ``validator`` of maggma's ``Store``.

    Raises
    ------
    StoreError
        For an impossible collection name.
    """

    def __init__(
        self,
        path: str | Path,
        collection_name: str = "outputs",
        *,
        key: str = "uuid",
        unique_fields: Sequence[str] = ("uuid", "index"),
        index_fields: Sequence[str] = ("name", "output.@class"),
        busy_timeout_s: float | None = None,
        **kwargs: Any,
    ) -> None:
        if not _NAME.fullmatch(collection_name):
            raise StoreError(f"Collection name {collection_name!r}: use letters, digits, '_' and '-' only.")
        self.path = str(path)
        self.collection_name = collection_name
        self.unique_fields = tuple(unique_fields)
        self.index_fields = tuple(index_fields)
        self.busy_timeout_s = busy_timeout_s
        self.kwargs = kwargs
        self._file: SQLiteFile | None = None
        self._columns: tuple[str, ...] = ()
        super().__init__(key=key, **kwargs)

    # -- connection ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """A text that names this store."""
        return f"sqlite://{self.path}#{self.collection_name}"

    @property
    def _table(self) -> str:
        return f'"docs:{self.collection_name}"'

    @property
    def _collection(self) -> SQLiteFile:
        """The open file."""
        if self._file is None:
            raise StoreError(f"{self.name} is not connected. Call connect() first.")
        return self._file

    def connect(self, force_reset: bool = False) -> None:
        """Open the file and make the table where it is missing.

        Parameters
        ----------
        force_reset
            Close and open again.
        """
        if self._file is not None:
            if not force_reset:
                return
            self._file.close()
        if not Path(self.path).parent.is_dir():
            raise StoreError(f"Folder of {self.path} does not exist. Create it first.")
        self._file = SQLiteFile(self.path, busy_timeout_s=self.busy_timeout_s)
        wanted = (*self.unique_fields, *(f for f in self.index_fields if f not in self.unique_fields))
        present = self._read_columns()
        if not set(wanted) <= set(present):
            self._file.retry(lambda: self._make_table(wanted))
            present = self._read_columns()
        self._columns = present

    def close(self) -> None:
        """Close this process's connections."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_columns(self) -> tuple[str, ...]:
        rows = self._collection.connection().execute(f"PRAGMA table_info({self._table})").fetchall()
        return tuple(row[1] for row in rows if row[1] not in {"id", "doc"})

    def _make_table(self, wanted: Sequence[str]) -> None:
        unique = ", ".join(f'"{field}"' for field in self.unique_fields)
        columns = ", ".join(f'"{field}" NOT NULL' for field in self.unique_fields)
        with self._collection.transaction() as connection:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} "
                f"(id INTEGER PRIMARY KEY, {columns}, doc BLOB NOT NULL, UNIQUE ({unique}))"
            )
            for field in wanted:
                self._add_column(connection, field)

    def _add_column(self, connection: sqlite3.Connection, field: str) -> None:
        if field in self._read_columns():
            return
        if '"' in field:
            raise StoreError(f"Field {field!r} holds a '\"' and cannot be indexed.")
        connection.execute(f'ALTER TABLE {self._table} ADD COLUMN "{field}"')
        for row_id, blob in connection.execute(f"SELECT id, doc FROM {self._table}").fetchall():
            value = _column_value(bson.decode(blob), field)
            connection.execute(f'UPDATE {self._table} SET "{field}" = ? WHERE id = ?', (value, row_id))
        connection.execute(f'CREATE INDEX IF NOT EXISTS "{self.collection_name}:{field}" ON {self._table} ("{field}")')

    # -- reading ---------------------------------------------------------------------------------------------

    def _where(self, criteria: dict | None) -> tuple[str, list, bool]:
        """Translate what can be translated: SQL condition, its values, whether it names few documents."""
        parts: list[str] = []
        values: list = []
        exact: set[str] = set()
        for field, allowed in equality_conditions(criteria, self._columns):
            if len(allowed) > _MAX_SQL_VALUES:
                continue
            marks = ", ".join("?" * len(allowed))
            condition = f'"{field}" IN ({marks})'
            if field not in self.unique_fields:
                # NULL stands for "a list, or written by a process that did not know this column".
                condition = f'({condition} OR "{field}" IS NULL)'
            parts.append(condition)
            values += allowed
            exact.add(field)
        sql = f" WHERE {' AND '.join(parts)}" if parts else ""
        return sql, values, bool(self.unique_fields) and self.unique_fields[0] in exact

    def _decided_by_sql(self, criteria: dict | None) -> bool:
        """Tell whether the SQL condition says all that a filter says: texts in unique fields, which hold one value."""
        for field, condition in (criteria or {}).items():
            if field not in self.unique_fields:
                return False
            allowed = [condition]
            if isinstance(condition, dict):
                allowed = condition["$in"] if list(condition) == ["$in"] else []
                if not isinstance(allowed, list | tuple) or not 0 < len(allowed) <= _MAX_SQL_VALUES:
                    return False
            if not all(isinstance(value, str) for value in allowed):
                return False
        return True

    def _rows(self, criteria: dict | None) -> Iterator[tuple[int, dict]]:
        from mongomock_ng.filtering import filter_applies

        file = self._collection
        sql, values, few = self._where(criteria)
        decided = self._decided_by_sql(criteria)
        if few:
            sql = f"SELECT id, doc FROM {self._table}{sql} ORDER BY id"
            rows = file.retry(partial(self._fetch, sql, values))
            chunks: Iterable[list] = [rows]
        else:
            chunks = self._chunks(sql, values)
        for chunk in chunks:
            for row_id, blob in chunk:
                document = bson.decode(blob)
                if decided or filter_applies(criteria, document):
                    yield row_id, document

    def _chunks(self, sql: str, values: list) -> Iterator[list]:
        # First the row numbers, then documents a few at a time: no cursor stays open while the caller
        # works, so a query that is abandoned halfway, or whose reader writes to the store, disturbs nobody.
        file = self._collection
        ids = file.retry(partial(self._fetch, f"SELECT id FROM {self._table}{sql} ORDER BY id", values))
        for start in range(0, len(ids), CHUNK):
            part = [row[0] for row in ids[start : start + CHUNK]]
            marks = ", ".join("?" * len(part))
            sql = f"SELECT id, doc FROM {self._table} WHERE id IN ({marks}) ORDER BY id"
            yield file.retry(partial(self._fetch, sql, part))

    def _fetch(self, sql: str, values: list) -> list:
        return self._collection.connection().execute(sql, values).fetchall()

    def count(self, criteria: dict | None = None) -> int:
        """Count documents.

        Parameters
        ----------
        criteria
            MongoDB filter.
        """
        if not criteria:
            file = self._collection
            return file.connection().execute(f"SELECT COUNT(*) FROM {self._table}").fetchone()[0]
        return sum(1 for _ in self._rows(criteria))

    def query(
        self,
        criteria: dict | None = None,
        properties: dict | list | None = None,
        sort: dict | None = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[dict]:
        """Find documents, in order of insertion unless sorted.

        Parameters
        ----------
        criteria
            MongoDB filter.
        properties
            Fields to return.
        sort
            Field -> 1 or -1.
        skip, limit
            Leave out the first, return at most so many; 0 is no limit.

        Yields
        ------
        dict
            Documents.
        """
        found: Iterable[dict] = (document for _, document in self._rows(criteria))
        if sort:
            found = sort_documents(list(found), sort)
        for position, document in enumerate(found):
            if limit and position >= skip + limit:
                return
            if position >= skip:
                yield project(document, properties)
                if limit and position + 1 >= skip + limit:
                    return

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
        return distinct_values((document for _, document in self._rows(criteria)), field)

    def groupby(
        self,
        keys: list[str] | str,
        criteria: dict | None = None,
        properties: dict | list | None = None,
        sort: dict | None = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[dict, list[dict]]]:
        """Group documents that have all of the keys.

        Parameters
        ----------
        keys
            Fields to group by.
        criteria, properties, sort, skip, limit
            As in ``query``, before grouping.

        Yields
        ------
        tuple[dict, list[dict]]
            The group's values and its documents.
        """
        fields = [keys] if isinstance(keys, str) else list(keys)
        wanted = [*properties, *fields] if properties else None
        documents = [
            document
            for document in self.query(criteria, wanted, sort, skip, limit)
            if all(has(document, field) for field in fields)
        ]

        def values_of(document: dict) -> tuple:
            return tuple(get(document, field) for field in fields)

        for values, group in group_sorted(sorted(documents, key=values_of), key=values_of):
            head: dict = {}
            for field, value in zip(fields, values, strict=True):
                set_(head, field, value)
            yield head, list(group)

    # -- writing ---------------------------------------------------------------------------------------------

    def update(self, docs: list[dict] | dict, key: list | str | None = None) -> None:
        """Insert documents, or replace those with the same key; all of them or none.

        Parameters
        ----------
        docs
            One or more documents.
        key
            Fields that say which document is replaced; default ``self.key``.

        Raises
        ------
        StoreError
            If a document lacks a unique field, or would be a second one with the same unique fields.
        """
        fields = [key] if isinstance(key, str) else list(key or [self.key])
        rows = [self._prepare(document) for document in (docs if isinstance(docs, list) else [docs])]
        accepted = [row for row in rows if row is not None]
        if not accepted:
            return
        by_unique = set(fields) == set(self.unique_fields)

        def write() -> None:
            with self._collection.transaction() as connection:
                for document, blob in accepted:
                    row_id = None if by_unique else self._find_row(document, fields)
                    self._write(connection, document, blob, row_id, replace=by_unique)

        try:
            self._collection.retry(write)
        except sqlite3.IntegrityError as error:
            raise StoreError(
                f"{self.name}: a document with the same {', '.join(self.unique_fields)} exists ({error})."
            ) from error

    def _prepare(self, document: dict) -> tuple[dict, bytes] | None:
        plain = {name: value for name, value in document.items() if name != "_id"}
        try:
            blob = bson.encode(plain)
        except (bson.errors.InvalidDocument, OverflowError):
            # numpy values, enumerations, MSONable objects: rare, and sanitising every document costs more.
            plain = jsanitize(plain, allow_bson=True, recursive_msonable=True)
            blob = bson.encode(plain)
        if self.validator and not self.validator.is_valid(plain):
            message = f"{self.name}: {self.validator.validation_errors(plain)}"
            if self.validator.strict:
                raise ValueError(message)
            self.logger.error(message)
            return None
        for field in self.unique_fields:
            if not is_scalar(lookup(plain, field)):
                raise StoreError(f"{self.name}: a document has no text or number in its key field '{field}'.")
        return plain, blob

    def _find_row(self, document: dict, fields: list[str]) -> int | None:
        missing = [field for field in fields if not has(document, field)]
        if missing:
            raise StoreError(f"{self.name}: a document lacks the key field '{missing[0]}'.")
        criteria = {field: get(document, field) for field in fields}
        return next((row_id for row_id, _ in self._rows(criteria)), None)

    def _write(
        self,
        connection: sqlite3.Connection,
        document: dict,
        blob: bytes,
        row_id: int | None,
        *,
        replace: bool,
    ) -> None:
        values = [_column_value(document, field) for field in self._columns]
        names = ", ".join(f'"{field}"' for field in self._columns)
        if row_id is not None:
            marks = ", ".join("?" * len(values))
            connection.execute(
                f"UPDATE {self._table} SET ({names}, doc) = ({marks}, ?) WHERE id = ?",
                [*values, blob, row_id],
            )
            return
        marks = ", ".join("?" * (len(values) + 1))
        sql = f"INSERT INTO {self._table} ({names}, doc) VALUES ({marks})"
        if replace:
            unique = ", ".join(f'"{field}"' for field in self.unique_fields)
            replaced = ", ".join(f'"{field}" = excluded."{field}"' for field in (*self._columns, "doc"))
            sql += f" ON CONFLICT ({unique}) DO UPDATE SET {replaced}"
        connection.execute(sql, [*values, blob])

    def remove_docs(self, criteria: dict) -> None:
        """Remove documents.

        Parameters
        ----------
        criteria
            MongoDB filter; an empty one removes all.
        """

        def remove() -> None:
            with self._collection.transaction() as connection:
                ids = [(row_id,) for row_id, _ in self._rows(criteria)]
                connection.executemany(f"DELETE FROM {self._table} WHERE id = ?", ids)

        self._collection.retry(remove)

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Make a field fast to look up.

        Parameters
        ----------
        key
            Dotted path.
        unique
            Ask whether the field alone is unique: true only where it is the one unique field.

        Returns
        -------
        bool
            Whether there is such an index now.
        """
        if unique and self.unique_fields != (key,):
            return False
        if key not in self._columns:

            def add() -> None:
                with self._collection.transaction() as connection:
                    self._add_column(connection, key)

            self._collection.retry(add)
            self._columns = self._read_columns()
        return True

    def __eq__(self, other: object) -> bool:
        """Two stores are equal if they show the same collection."""
        if not isinstance(other, SQLiteStore):
            return NotImplemented
        return (self.path, self.collection_name) == (other.path, other.collection_name)

    def __hash__(self) -> int:
        """Hash of file and collection."""
        return hash((self.path, self.collection_name))


def _column_value(document: dict, field: str) -> Any:
    value = lookup(document, field)
    return value if is_scalar(value) else None
