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

T = TypeVar("T")

BUSY_TIMEOUT_S = 60.0
"""How long a statement waits for another process's write transaction."""


def is_busy(error: sqlite3.OperationalError) -> bool:
    """Return whether an error only says that another process holds the lock.

    Parameters
    ----------
    error
        What SQLite raised.
    """
    text = str(error)
    return "locked" in text or "busy" in text


CACHE_KIB = 32 * 1024
"""Pages of the file that a connection keeps; SQLite takes no more than the file has."""


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
        How long a statement waits for another process's lock.
    """

    def __init__(self, path: str | Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = Path(path)
        self.busy_timeout_s = busy_timeout_s
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
        """
        deadline = time.monotonic() + self.busy_timeout_s
        pause = 0.002
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 0.1)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a write transaction: all of its statements, or none.

        Yields
        ------
        sqlite3.Connection
            This thread's connection, inside ``BEGIN IMMEDIATE``.
        """
        connection = self.connection()
        # IMMEDIATE takes the write lock at once; a deferred transaction that upgrades later can fail halfway.
        self.retry(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.retry(lambda: connection.execute("COMMIT"))

    def close(self) -> None:
        """Close the connections that this process opened."""
        pid = os.getpid()
        for key in [key for key in self._connections if key[0] == pid]:
            self._connections.pop(key).close()
