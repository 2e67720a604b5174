"""A maggma store on one SQLite file: several processes, safe against kills, no server."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby as group_sorted
from pathlib import Path
from typing import Any

import bson
from maggma.core import Store, StoreError
from pydash import get, has, set_

from atomfoundry.results.mongo_filter import matcher
from atomfoundry.results.mongo_language import count_values, distinct_values, project, sort_documents
from atomfoundry.results.sqlite_columns import Condition, decode, translate
from atomfoundry.results.sqlite_file import SQLiteFile
from atomfoundry.results.sqlite_layout import Layout
from atomfoundry.results.stored_document import prepare

CHUNK = 200
"""Documents decoded at a time, so that a query over a big collection needs little memory."""

_NAME = re.compile(r"[A-Za-z0-9_\-]+")


class SQLiteStore(Store):
    """Documents in one table of a SQLite file, queried with MongoDB's filters.

    A row holds one BSON document and a copy of its indexed fields. Conditions on indexed fields (equality,
    ``$in``, ``$ne``, ranges, the beginning of a text), sorting and counting by them are done by SQL without
    looking at a document; whatever else a filter says is decided by mongomock's filter, so that answers agree
    with MongoDB's. Documents carry no ``_id``. Single node, local disk only. A file that was made with fewer
    indexed fields is brought up to date by ``connect``.

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
        More fields (dotted paths) that are looked up fast; a group of them makes a combined index, for
        questions for the first and sorting by the next.
    member_fields
        Fields of the members of lists, such as ``"inputs.uuid"``, that are looked up fast by equality.
    counted_fields
        Indexed fields with few different values, whose combinations are counted as they are written.
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
        index_fields: Sequence[str | Sequence[str]] = ("name", "output.@class"),
        member_fields: Sequence[str] = (),
        counted_fields: Sequence[str] = (),
        busy_timeout_s: float | None = None,
        **kwargs: Any,
    ) -> None:
        if not _NAME.fullmatch(collection_name):
            raise StoreError(f"Collection name {collection_name!r}: use letters, digits, '_' and '-' only.")
        self.path = str(path)
        self.collection_name = collection_name
        self.unique_fields = tuple(unique_fields)
        self.index_fields = tuple(field if isinstance(field, str) else list(field) for field in index_fields)
        self.member_fields = tuple(member_fields)
        self.counted_fields = tuple(counted_fields)
        self.busy_timeout_s = busy_timeout_s
        self.kwargs = kwargs
        self._file: SQLiteFile | None = None
        groups = [[field] if isinstance(field, str) else field for field in self.index_fields]
        self._layout = Layout(collection_name, self.unique_fields, groups, self.member_fields, self.counted_fields)
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
        layout, file = self._layout, self._file
        layout.refresh(file.connection())
        if not layout.columns or not layout.is_complete(file.connection()):
            file.retry(lambda: layout.make(file))

    def close(self) -> None:
        """Close this process's connections."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # -- reading ---------------------------------------------------------------------------------------------

    def _ready(self) -> sqlite3.Connection:
        """Return this thread's connection, with all columns of all rows filled."""
        file = self._collection
        while file.retry(lambda: self._layout.fill(file)):
            pass
        return file.connection()

    def _condition(self, criteria: dict | None) -> Condition:
        """Say a filter in SQL."""
        connection = self._ready()
        layout = self._layout
        found = translate(
            criteria, layout.columns, layout.members, member_table=layout.member_table, odd=layout.odd(connection)
        )
        if found.sql:
            found.sql = f" WHERE {found.sql}"
        return found

    def _order(self, sort: dict | None) -> str | None:
        """Say an order in SQL; None where columns do not tell it."""
        terms = []
        odd = self._layout.odd(self._collection.connection()) if sort else {}
        for field, direction in (sort or {}).items():
            if field not in self._layout.columns or field in odd:
                return None
            terms.append(f'"{field}" {"DESC" if getattr(direction, "value", direction) < 0 else "ASC"}')
        return f" ORDER BY {', '.join([*terms, 'id'])}"

    def _rows(
        self,
        criteria: dict | None,
        *,
        order: str = " ORDER BY id",
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[int, dict]]:
        applies = matcher(criteria)
        condition = self._condition(criteria)
        window = ""
        if condition.exact and (skip or limit):
            window = f" LIMIT {limit or -1} OFFSET {skip}"
            skip, limit = 0, 0
        seen = 0
        for row_id, blob in self._blobs(condition, f"{order}{window}"):
            document = bson.decode(blob)
            if not condition.exact and not applies(document):
                continue
            seen += 1
            if seen > skip:
                yield row_id, document
            if limit and seen == skip + limit:
                return

    def _blobs(self, condition: Condition, tail: str) -> Iterator[tuple[int, bytes]]:
        # First the row numbers, then documents a few at a time: no cursor stays open while the caller
        # works, so a query that is abandoned halfway, or whose reader writes to the store, disturbs nobody.
        ids = [row[0] for row in self._fetch(f"SELECT id FROM {self._table}{condition.sql}{tail}", condition.values)]
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            marks = ", ".join("?" * len(part))
            found = dict(self._fetch(f"SELECT id, doc FROM {self._table} WHERE id IN ({marks})", part))
            # A document that was removed in the meantime is left out.
            yield from ((row_id, found[row_id]) for row_id in part if row_id in found)

    def _fetch(self, sql: str, values: list) -> list:
        file = self._collection
        return file.retry(lambda: file.connection().execute(sql, values).fetchall())

    def count(self, criteria: dict | None = None) -> int:
        """Count documents.

        Parameters
        ----------
        criteria
            MongoDB filter.
        """
        condition = self._condition(criteria)
        if condition.exact and self._is_counted(condition):
            sql = f'SELECT TOTAL("~n") FROM {self._layout.count_table}{condition.sql}'
            return int(self._fetch(sql, condition.values)[0][0])
        if condition.exact:
            return self._fetch(f"SELECT COUNT(*) FROM {self._table}{condition.sql}", condition.values)[0][0]
        return sum(1 for _ in self._rows(criteria))

    def _is_counted(self, condition: Condition, fields: Sequence[str] = ()) -> bool:
        """Return whether the table of counts knows the answer."""
        counted = set(self._layout.counted)
        return bool(counted) and condition.columns | set(fields) <= counted

    def count_by(self, fields: Sequence[str], criteria: dict | None = None) -> dict[tuple, int]:
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
        condition = self._condition(criteria)
        connection = self._collection.connection()
        known = set(self._layout.columns)
        if condition.exact and set(fields) <= known and not set(fields) & set(self._layout.odd(connection)):
            names = ", ".join(f'"{field}"' for field in fields)
            number, table = "COUNT(*)", self._table
            if self._is_counted(condition, fields):
                number, table = 'SUM("~n")', self._layout.count_table
            sql = f"SELECT {names}, {number} FROM {table}{condition.sql} GROUP BY {names} HAVING {number} > 0"
            rows = self._fetch(sql, condition.values)
            return {tuple(decode(value) for value in row[:-1]): row[-1] for row in rows}
        return count_values((document for _, document in self._rows(criteria)), fields)

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
        self._ready()
        order = self._order(sort)
        if order is None and sort:
            found = sort_documents([document for _, document in self._rows(criteria)], sort)
            yield from (project(d, properties) for d in found[skip : skip + limit if limit else None])
            return
        keys = self._keys_alone(properties)
        condition = self._condition(criteria) if keys else Condition(exact=False)
        if keys and condition.exact:
            window = f" LIMIT {limit or -1} OFFSET {skip}" if skip or limit else ""
            names = ", ".join(f'"{field}"' for field in keys)
            for row in self._fetch(
                f"SELECT {names} FROM {self._table}{condition.sql}{order}{window}", condition.values
            ):
                document: dict = {}
                for field, value in zip(keys, row, strict=True):
                    set_(document, field, decode(value))
                yield document
            return
        for _, document in self._rows(criteria, order=order or "", skip=skip, limit=limit):
            yield project(document, properties)

    def _keys_alone(self, properties: dict | list | None) -> list[str]:
        """Return the fields asked for where they are unique fields, which need no document."""
        flags = dict(properties) if isinstance(properties, dict) else dict.fromkeys(properties or [], 1)
        flags.pop("_id", None)
        return list(flags) if flags and all(flags.values()) and set(flags) <= set(self.unique_fields) else []

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
        condition = self._condition(criteria)
        odd = self._layout.odd(self._collection.connection())
        if condition.exact and field in self._layout.columns and field not in odd:
            sql = f'SELECT "{field}" FROM {self._table}{condition.sql} GROUP BY "{field}" ORDER BY MIN(id)'
            values = [decode(row[0]) for row in self._fetch(sql, condition.values)]
            # An empty column may be a field that is there and empty, or none: the documents know.
            if None not in values:
                return values
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
        plain, blob = prepare(document, unique_fields=self.unique_fields, store=self.name)
        if self.validator and not self.validator.is_valid(plain):
            message = f"{self.name}: {self.validator.validation_errors(plain)}"
            if self.validator.strict:
                raise ValueError(message)
            self.logger.error(message)
            return None
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
        layout = self._layout
        values = layout.values(document)
        values.append(blob)
        members = layout.members_of(document)
        if members and replace:
            # Looking first is faster than an upsert that returns its row's number.
            found = connection.execute(layout.find, values[: len(self.unique_fields)]).fetchone()
            row_id = found and found[0]
        if row_id is not None:
            connection.execute(layout.replace, [*values, row_id])
        else:
            row_id = connection.execute(layout.upsert if replace else layout.insert, values).lastrowid
        if members and row_id is not None:
            layout.write_members(connection, row_id, members)

    def remove_docs(self, criteria: dict) -> None:
        """Remove documents.

        Parameters
        ----------
        criteria
            MongoDB filter; an empty one removes all.
        """
        self._ready()

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
        if key not in self._layout.columns:

            def add() -> None:
                with self._collection.transaction() as connection:
                    self._layout.add_column(connection, key)

            self._collection.retry(add)
            self._layout.make(self._collection)
        return True

    def __eq__(self, other: object) -> bool:
        """Two stores are equal if they show the same collection."""
        if not isinstance(other, SQLiteStore):
            return NotImplemented
        return (self.path, self.collection_name) == (other.path, other.collection_name)

    def __hash__(self) -> int:
        """Hash of file and collection."""
        return hash((self.path, self.collection_name))
