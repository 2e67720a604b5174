"""Tables, columns and indexes of a collection in a SQLite file; older files are brought up to date."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence

import bson
from maggma.core import StoreError

from atomfoundry.results.sqlite_columns import NO_VALUE, OTHER, collect_members, column_value
from atomfoundry.results.sqlite_file import SQLiteFile

FILL = 2000
"""Documents whose columns are filled in one transaction."""

_OWN = {"id", "doc", "~layout"}
_MEMBER_FIELDS = '"member fields"'
_ODD = {NO_VALUE: "?", OTHER: "!"}
_ENCODING = 2
"""Number of the way values are put into columns; rows of another are filled again."""


class Layout:
    """Columns of one collection.

    Each row says in ``~layout`` which columns its writer filled, and how: a number, or that number with the
    columns that hold something odd. One small index of the rows without the plain number finds the odd ones, and
    those of a writer that knew fewer columns, which the next reader fills again.

    Parameters
    ----------
    collection
        Name of the collection.
    unique
        Fields that name a document.
    indexes
        Fields, or groups of fields, to index.
    members
        Fields inside lists. One table holds the values of all of them, with the rows that have them.
    counted
        Indexed fields with few different values. A small table, kept by triggers, holds how many rows have each
        combination of them.
    """

    def __init__(
        self,
        collection: str,
        unique: Sequence[str],
        indexes: Sequence[Sequence[str]],
        members: Sequence[str],
        counted: Sequence[str] = (),
    ) -> None:
        self.collection = collection
        self.unique = tuple(unique)
        self.indexes = [tuple(index) for index in indexes]
        self.wanted_members = tuple(members)
        self.wanted_counted = tuple(counted)
        self.counted: tuple[str, ...] = ()
        self.count_table = f'"counts:{collection}"'
        self.table = f'"docs:{collection}"'
        self.member_table = f'"members:{collection}"'
        self._note = f"INSERT OR IGNORE INTO {self.member_table} VALUES (?, ?)"
        self.columns: tuple[str, ...] = ()
        self.members: tuple[str, ...] = ()
        self.version = 0
        self._paths: list[tuple[str, ...]] = []
        self._member_paths: list[tuple[str, ...]] = []
        self.find = ""
        """The number of the row with these unique fields."""
        self.insert = ""
        """Insert the columns, ``~layout`` and the document."""
        self.upsert = ""
        """The same, in place of a row with the same unique fields."""
        self.replace = ""
        """The same, in place of the row whose number comes last."""
        self._seen_schema = -1
        for name in [*self.unique, *members, *(field for index in self.indexes for field in index)]:
            _check_name(name)

    # -- what is there ---------------------------------------------------------------------------------------

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Look again where another process has changed the tables.

        Parameters
        ----------
        connection
            This thread's connection.
        """
        schema = connection.execute("PRAGMA schema_version").fetchone()[0]
        if schema == self._seen_schema:
            return
        rows = connection.execute(f"PRAGMA table_info({self.table})").fetchall()
        others = (row[1] for row in rows if row[1] not in _OWN and row[1] not in self.unique)
        self.columns = (*self.unique, *others) if rows else ()
        self._paths = [tuple(column.split(".")) for column in self.columns]
        self.members = self._read_members(connection)
        counts = connection.execute(f"PRAGMA table_info({self.count_table})").fetchall()
        self.counted = tuple(row[1] for row in counts if row[1] != "~n")
        self._member_paths = [tuple(field.split(".")) for field in self.members]
        described = f"{_ENCODING}|{'|'.join(sorted(self.columns))}|{'|'.join(self.members)}"
        self.version = zlib.crc32(described.encode())
        names = ", ".join([*(f'"{column}"' for column in self.columns), '"~layout"', "doc"])
        marks = ", ".join("?" * (len(self.columns) + 2))
        unique = ", ".join(f'"{field}"' for field in self.unique)
        replaced = ", ".join(f"{name} = excluded.{name}" for name in names.split(", "))
        same = " AND ".join(f'"{field}" = ?' for field in self.unique)
        self.find = f"SELECT id FROM {self.table} WHERE {same}"
        self.insert = f"INSERT INTO {self.table} ({names}) VALUES ({marks})"
        self.upsert = f"{self.insert} ON CONFLICT ({unique}) DO UPDATE SET {replaced}"
        self.replace = f"UPDATE {self.table} SET ({names}) = ({marks}) WHERE id = ?"
        self._seen_schema = schema

    def is_complete(self, connection: sqlite3.Connection) -> bool:
        """Return whether tables and indexes are as wanted.

        Parameters
        ----------
        connection
            This thread's connection.
        """
        if not set(self.wanted_members) <= set(self.members) or (self.wanted_counted and not self.counted):
            return False
        return self._wanted_indexes() <= self._present_indexes(connection)

    def _read_members(self, connection: sqlite3.Connection) -> tuple[str, ...]:
        try:
            rows = connection.execute(f"SELECT field FROM {_MEMBER_FIELDS} WHERE collection = ?", [self.collection])
            return tuple(sorted(row[0] for row in rows))
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return ()
            raise

    def _present_indexes(self, connection: sqlite3.Connection) -> set[str]:
        sql = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND name NOT LIKE 'sqlite_%'"
        return {row[0] for row in connection.execute(sql, [self.table.strip('"')])}

    def _wanted_indexes(self) -> set[str]:
        """Return names of indexes: of fields, and of rows that are odd or of another layout."""
        return {f"{self.collection}:{','.join(index)}" for index in self.indexes} | {self._layout_index}

    @property
    def _layout_index(self) -> str:
        return f"{self.collection}:~layout:{self.version}"

    # -- making it so ----------------------------------------------------------------------------------------

    def make(self, file: SQLiteFile) -> None:
        """Make tables, columns and indexes, and fill what is new from the documents.

        Parameters
        ----------
        file
            The open file.
        """
        try:
            with file.transaction() as connection:
                self._make_columns(connection)
            while self.fill(file):
                pass
            with file.transaction() as connection:
                self.refresh(connection)
                self._make_indexes(connection)
                if self.wanted_counted and not self.counted:
                    self._make_counts(connection)
        finally:
            # What was seen inside of a transaction may not have come to be.
            self._seen_schema = -1
        self.refresh(file.connection())

    def _make_columns(self, connection: sqlite3.Connection) -> None:
        unique = ", ".join(f'"{field}"' for field in self.unique)
        needed = dict.fromkeys(field for index in self.indexes for field in index if field not in self.unique)
        keys = [f'"{field}" NOT NULL' for field in self.unique]
        columns = ", ".join([*keys, *(f'"{field}"' for field in needed)])
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self.table} "
            f'(id INTEGER PRIMARY KEY, "~layout" INTEGER, {columns}, doc BLOB NOT NULL, UNIQUE ({unique}))'
        )
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({self.table})")}
        for field in ("~layout", *needed):
            if field not in present:
                connection.execute(f'ALTER TABLE {self.table} ADD COLUMN "{field}"')
        if self.wanted_members:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self.member_table} "
                "(value, id INTEGER, PRIMARY KEY (value, id)) WITHOUT ROWID"
            )
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {_MEMBER_FIELDS} "
                "(collection TEXT, field TEXT, PRIMARY KEY (collection, field)) WITHOUT ROWID"
            )
            connection.executemany(
                f"INSERT OR IGNORE INTO {_MEMBER_FIELDS} VALUES (?, ?)",
                [(self.collection, field) for field in self.wanted_members],
            )
        self._seen_schema = -1
        self.refresh(connection)
        for name in self._present_indexes(connection):
            if name.startswith(f"{self.collection}:~layout:") and name != self._layout_index:
                connection.execute(f'DROP INDEX "{name}"')
        connection.execute(
            f'CREATE INDEX IF NOT EXISTS "{self._layout_index}" ON {self.table} ("~layout") '
            f'WHERE "~layout" IS NOT {self.version}'
        )

    def _make_indexes(self, connection: sqlite3.Connection) -> None:
        present = self._present_indexes(connection)
        for index in self.indexes:
            name = f"{self.collection}:{','.join(index)}"
            if name not in present:
                fields = ", ".join(f'"{field}"' for field in index)
                connection.execute(f'CREATE INDEX "{name}" ON {self.table} ({fields})')
        # A longer index, or that of the unique fields, does the work of one for its first field.
        served = {index[0] for index in self.indexes if len(index) > 1} | set(self.unique)
        for field in served:
            if (field,) not in self.indexes and f"{self.collection}:{field}" in present:
                connection.execute(f'DROP INDEX "{self.collection}:{field}"')

    def _make_counts(self, connection: sqlite3.Connection) -> None:
        """Count once, and let triggers keep the counts, whoever writes."""
        names = [f'"{field}"' for field in self.wanted_counted]
        listed = ", ".join(names)
        connection.execute(f'CREATE TABLE {self.count_table} ({listed}, "~n" INTEGER NOT NULL)')
        connection.execute(f'CREATE INDEX "{self.collection}:~counts" ON {self.count_table} ({listed})')
        connection.execute(
            f"INSERT INTO {self.count_table} SELECT {listed}, COUNT(*) FROM {self.table} GROUP BY {listed}"
        )

        def change(row: str, by: int) -> str:
            same = " AND ".join(f"{name} IS {row}.{name}" for name in names)
            values = ", ".join(f"{row}.{name}" for name in names)
            update = f'UPDATE {self.count_table} SET "~n" = "~n" + {by} WHERE {same};'
            # The first of its kind.
            return update + f" INSERT INTO {self.count_table} SELECT {values}, {by} WHERE changes() = 0;"

        differ = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in names)
        for event, when, action in (
            ("INSERT", "", change("NEW", 1)),
            ("DELETE", "", change("OLD", -1)),
            (f"UPDATE OF {listed}", f"WHEN {differ}", f"{change('OLD', -1)} {change('NEW', 1)}"),
        ):
            connection.execute(
                f'CREATE TRIGGER "{self.collection}:count {event.split()[0]}" AFTER {event} ON {self.table} {when} '
                f"BEGIN {action} END"
            )

    def fill(self, file: SQLiteFile) -> int:
        """Fill the columns of some rows that were written with another layout.

        Parameters
        ----------
        file
            The open file.

        Returns
        -------
        int
            How many were filled; 0 if all are as they should be.
        """
        connection = file.connection()
        self.refresh(connection)
        if not self.stale(connection):
            return 0
        if connection.in_transaction:
            return self._fill(connection)
        with file.transaction() as connection:
            self.refresh(connection)
            return self._fill(connection)

    def _kinds(self, connection: sqlite3.Connection) -> list:
        sql = f'SELECT DISTINCT "~layout" FROM {self.table} WHERE "~layout" IS NOT {self.version}'
        return [row[0] for row in connection.execute(sql)]

    def stale(self, connection: sqlite3.Connection) -> list:
        """Return what rows of other layouts hold in ``~layout``.

        Parameters
        ----------
        connection
            This thread's connection.
        """
        own = f"{self.version}:"
        return [kind for kind in self._kinds(connection) if not (isinstance(kind, str) and kind.startswith(own))]

    def _fill(self, connection: sqlite3.Connection) -> int:
        ids: list[int] = []
        for kind in self.stale(connection):
            sql = (
                f'SELECT id FROM {self.table} WHERE "~layout" IS NOT {self.version} AND "~layout" IS ? '
                f"LIMIT {FILL - len(ids)}"
            )
            ids += [row[0] for row in connection.execute(sql, [kind])]
        for row_id in ids:
            (blob,) = connection.execute(f"SELECT doc FROM {self.table} WHERE id = ?", [row_id]).fetchone()
            document = bson.decode(blob)
            connection.execute(self.replace, [*self.values(document), blob, row_id])
            self.write_members(connection, row_id, self.members_of(document))
        return len(ids)

    def add_column(self, connection: sqlite3.Connection, field: str) -> None:
        """Give a field a column and an index of its own; rows are filled by the next reader.

        Parameters
        ----------
        connection
            Inside a write transaction.
        field
            Dotted path.
        """
        _check_name(field)
        self.indexes.append((field,))
        self._make_columns(connection)

    # -- rows ------------------------------------------------------------------------------------------------

    def values(self, document: dict) -> list:
        """Return the content of a document's columns, and of ``~layout``.

        Parameters
        ----------
        document
            A plain document.
        """
        values = [column_value(document, path) for path in self._paths]
        kind: int | str = self.version
        if NO_VALUE in values or OTHER in values:
            odd = [f"{_ODD[v]}{c}" for c, v in zip(self.columns, values, strict=True) if v in (NO_VALUE, OTHER)]
            kind = f"{self.version}:{':'.join(odd)}"
        values.append(kind)
        return values

    def members_of(self, document: dict) -> set:
        """Return the texts and numbers that a document holds under the member fields.

        Parameters
        ----------
        document
            A plain document.
        """
        found: set = set()
        for path in self._member_paths:
            if document.get(path[0]):
                collect_members(document, path, found)
        return found

    def write_members(self, connection: sqlite3.Connection, row_id: int, members: set) -> None:
        """Note what a document holds in lists; what it held before may stay, the documents decide.

        Parameters
        ----------
        connection
            Inside a write transaction.
        row_id
            Its row.
        members
            What ``members_of`` returned.
        """
        for value in members:
            connection.execute(self._note, (value, row_id))

    def odd(self, connection: sqlite3.Connection) -> dict[str, bytes]:
        """Return the columns in which some row holds ``NO_VALUE`` or ``OTHER``, and the greater of them.

        Parameters
        ----------
        connection
            This thread's connection; no row is of another layout.
        """
        found: dict[str, bytes] = {}
        for kind in self._kinds(connection):
            for part in str(kind).split(":")[1:]:
                found[part[1:]] = max(OTHER if part[0] == "!" else NO_VALUE, found.get(part[1:], b""))
        return found


def _check_name(field: str) -> None:
    if '"' in field or ":" in field or "," in field:
        raise StoreError(f"""Field {field!r} holds a '"', ':' or ',' and cannot be indexed.""")
