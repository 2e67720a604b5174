"""One SQLite file in WAL mode, used by several processes at once."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from atomfoundry.errors import StorageError
from atomfoundry.settings import settings

T = TypeVar("T")

_REMEDIES = {
    sqlite3.SQLITE_FULL: "Make space on the disk, then run again: nothing is lost.",
    sqlite3.SQLITE_IOERR: "Make space on the disk or mend it, then run again: nothing is lost.",
    sqlite3.SQLITE_READONLY: "Make the file and its folder writable, then run again: nothing is lost.",
    sqlite3.SQLITE_CANTOPEN: "Make the folder readable and writable, then run again.",
    sqlite3.SQLITE_CORRUPT: "Restore the file from a copy of the project.",
    sqlite3.SQLITE_NOTADB: "Restore the file from a copy of the project.",
}

CACHE_KIB = 32 * 1024
"""Pages of the file that a connection keeps; SQLite takes no more than the file has."""


def is_busy(error: sqlite3.OperationalError) -> bool:
    """Return whether an error only says that another process holds the lock.

    Parameters
    ----------
    error
        What SQLite raised.
    """
    text = str(error)
    return "locked" in text or "busy" in text


def storage_error(path: Path, error: sqlite3.Error, *, waited_s: float) -> StorageError | None:
    """Return what the user is told where not the statement is wrong but the file, the disk or another process.

    Parameters
    ----------
    path
        The database.
    error
        What SQLite raised.
    waited_s
        How long another process's lock was waited for.
    """
    if isinstance(error, sqlite3.OperationalError) and is_busy(error):
        return StorageError(
            f"{path} has been locked by another process for {waited_s:g} s.",
            remedy=f"Find it ('fuser {path}'), end what it does, then run again: nothing is lost.",
        )
    # an extended code holds the primary one in its low byte
    remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    return None if remedy is None else StorageError(f"{path} cannot be used: {error}.", remedy=remedy)


class SQLiteFile:
    """Connections to one SQLite file: one per process and thread, never shared over a fork.

    WAL with ``synchronous=NORMAL``: a killed process loses nothing that was acknowledged and never corrupts
    the file. A power failure may lose the last transactions, always from the end. Local disks only: WAL
    needs shared memory, which NFS and Lustre do not give.

    Parameters
    ----------
    path
        The file; made on first use, its folder must exist.
    busy_timeout_s
        How long a statement waits for another process's lock; default from the settings.
    """

    def __init__(self, path: str | Path, *, busy_timeout_s: float | None = None) -> None:
        self.path = Path(path)
        self.busy_timeout_s = settings().database_timeout if busy_timeout_s is None else busy_timeout_s
        # Keyed by process as well as thread: a child of a fork finds no key of its own and opens a new
        # connection. The parent's stay in the dictionary untouched, because even closing them here would be
        # use over a fork.
        self._connections: dict[tuple[int, int], sqlite3.Connection] = {}

    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection, opened on first use."""
        key = (os.getpid(), threading.get_ident())
        connection = self._connections.get(key)
        if connection is None:
            connection = self.retry(self._open)
            self._connections[key] = connection
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self.busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def retry(self, action: Callable[[], T]) -> T:
        """Call ``action`` again while another process holds the lock.

        SQLite's own busy handler covers most waits; changing the journal mode and recovering a WAL file
        after a crash return at once instead of waiting.

        Parameters
        ----------
        action
            Called without arguments; must be safe to repeat.

        Raises
        ------
        StorageError
            If the lock is held too long, the disk is full or the file cannot be used.
        """
        deadline = time.monotonic() + self.busy_timeout_s
        pause = 0.002
        while True:
            try:
                return action()
            except sqlite3.DatabaseError as error:
                busy = isinstance(error, sqlite3.OperationalError) and is_busy(error)
                if not busy or time.monotonic() > deadline:
                    self._explain(error)
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 0.1)

    def _explain(self, error: sqlite3.Error) -> None:
        found = storage_error(self.path, error, waited_s=self.busy_timeout_s)
        if found is not None:
            raise found from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a write transaction: all of its statements, or none.

        Yields
        ------
        sqlite3.Connection
            This thread's connection, inside ``BEGIN IMMEDIATE``.

        Raises
        ------
        StorageError
            If the lock is held too long, the disk is full or the file cannot be used; nothing has been written.
        """
        connection = self.connection()
        # IMMEDIATE takes the write lock at once; a deferred transaction that upgrades later can fail halfway.
        self.retry(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            yield connection
            self.retry(lambda: connection.execute("COMMIT"))
        except BaseException as error:
            # a COMMIT for which there was no space leaves the transaction open as well
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.DatabaseError):
                self._explain(error)
            raise

    def close(self) -> None:
        """Close the connections that this process opened."""
        pid = os.getpid()
        for key in [key for key in self._connections if key[0] == pid]:
            self._connections.pop(key).close()
