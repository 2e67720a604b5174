"""The queue: jobs, what they wait for, and who runs them, in one SQLite file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atomfoundry.results.sqlite_file import SQLiteFile
from atomfoundry.running.identity import Entry, PreparedFlow

WAITING, READY, RUNNING = "WAITING", "READY", "RUNNING"
COMPLETED, FAILED, BLOCKED = "COMPLETED", "FAILED", "BLOCKED"
STOPPED, CANCELLED = "STOPPED", "CANCELLED"

OPEN = (WAITING, READY, RUNNING)
STATES = (COMPLETED, RUNNING, READY, WAITING, FAILED, BLOCKED, STOPPED, CANCELLED)
RETRIED = (FAILED, BLOCKED, CANCELLED)

MAX_CRASHES = 3
"""A job whose worker died so often is failed."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, name TEXT, created REAL, finished REAL, stopped INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY, run_id TEXT, uuid TEXT, idx INTEGER, name TEXT, stage TEXT, state TEXT,
    on_missing TEXT, priority INTEGER, n_waiting INTEGER DEFAULT 0, attempts INTEGER DEFAULT 0,
    crashes INTEGER DEFAULT 0, worker TEXT, started REAL, finished REAL, stop_children INTEGER DEFAULT 0,
    spawned_by INTEGER, error TEXT, stored_data TEXT, UNIQUE (uuid, idx));
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (run_id, state, priority DESC, id);
CREATE TABLE IF NOT EXISTS payloads (id INTEGER PRIMARY KEY, job TEXT);
CREATE TABLE IF NOT EXISTS waits (
    child INTEGER, parent INTEGER, reads INTEGER, PRIMARY KEY (child, parent)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waits_by_parent ON waits (parent);
CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, message TEXT, fraction REAL);
CREATE TABLE IF NOT EXISTS workers (
    worker TEXT PRIMARY KEY, run_id TEXT, host TEXT, pid INTEGER, process_start REAL, heartbeat REAL);
"""

# runs.stopped: 0 no, 1 by a job's stop_jobflow (for good), 2 by the user's cancel (undone by retry).

_OPEN = "('WAITING', 'READY', 'RUNNING')"


@dataclass(frozen=True)
class Claim:
    """A job that a worker has taken."""

    id: int
    run_id: str
    uuid: str
    index: int
    name: str
    stage: str
    attempts: int
    payload: str


@dataclass(frozen=True)
class Children:
    """Jobs that a finished job made."""

    entries: list[Entry]
    waited_for: bool
    """Whether the finished job's children wait for them: replacements and detours, not additions."""


class Queue:
    """The queue of a project.

    A job waits for the jobs whose outputs it reads, and for whatever these put in their place. Everything
    that changes the state of several jobs is one transaction.

    Parameters
    ----------
    path
        The SQLite file.
    """

    def __init__(self, path: str | Path) -> None:
        self.file = SQLiteFile(path)
        present = {row[0] for row in self.rows("SELECT name FROM sqlite_master")}
        if not {"runs", "jobs", "workers", "messages", "waits_by_parent"} <= present:
            with self.file.transaction() as connection:
                for statement in _SCHEMA.split(";")[:-1]:
                    connection.execute(statement)

    def rows(self, sql: str, values: Sequence = ()) -> list[tuple]:
        """Return the rows of a reading statement.

        Parameters
        ----------
        sql, values
            The statement and its values.
        """
        return self.file.retry(lambda: self.file.connection().execute(sql, values).fetchall())

    def _write(self, sql: str, values: Sequence = ()) -> None:
        self.file.retry(lambda: self.file.connection().execute(sql, values))

    def close(self) -> None:
        """Close this process's connections."""
        self.file.close()

    # -- runs ---------------------------------------------------------------------------------------

    def add_run(self, prepared: PreparedFlow) -> bool:
        """Enter a flow, unless it is there.

        Parameters
        ----------
        prepared
            The flow with its identity.

        Returns
        -------
        bool
            Whether it is new.
        """
        with self.file.transaction() as connection:
            known = connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (prepared.run_id,)).fetchone()
            if known:
                return False
            connection.execute(
                "INSERT INTO runs (run_id, name, created) VALUES (?, ?, ?)",
                (prepared.run_id, prepared.name, time.time()),
            )
            _insert(connection, prepared.run_id, prepared.entries, spawned_by=None)
        return True

    def is_finished(self, run_id: str) -> bool:
        """Return whether no job of a run is open.

        Parameters
        ----------
        run_id
            The run.
        """
        sql = f"SELECT 1 FROM jobs WHERE run_id = ? AND state IN {_OPEN} LIMIT 1"
        return not self.rows(sql, (run_id,))

    def mark_finished(self, run_id: str) -> None:
        """Note when a run ended.

        Parameters
        ----------
        run_id
            The run.
        """
        self._write("UPDATE runs SET finished = ? WHERE run_id = ?", (time.time(), run_id))

    def counts(self, run_id: str) -> dict[str, int]:
        """Count a run's jobs by state.

        Parameters
        ----------
        run_id
            The run.
        """
        sql = "SELECT state, COUNT(*) FROM jobs WHERE run_id = ? GROUP BY state"
        return dict(self.rows(sql, (run_id,)))

    def block_deadlocked(self, run_id: str) -> int:
        """Block jobs that wait for each other; call when nothing is ready or running.

        Parameters
        ----------
        run_id
            The run.

        Returns
        -------
        int
            How many there were.
        """
        with self.file.transaction() as connection:
            busy = "SELECT 1 FROM jobs WHERE run_id = ? AND state IN ('READY', 'RUNNING') LIMIT 1"
            if connection.execute(busy, (run_id,)).fetchone():
                return 0
            return connection.execute(
                "UPDATE jobs SET state = 'BLOCKED', error = 'It waits for a job that waits for it.' "
                "WHERE run_id = ? AND state = 'WAITING'",
                (run_id,),
            ).rowcount

    def retry_failed(self, run_id: str | None = None) -> int:
        """Set failed, blocked and cancelled jobs back, so that the next run tries them again.

        Parameters
        ----------
        run_id
            The run; default all.

        Returns
        -------
        int
            How many jobs were set back.
        """
        where, values = ("AND run_id = ?", (run_id,)) if run_id else ("", ())
        with self.file.transaction() as connection:
            connection.execute(f"UPDATE runs SET stopped = 0 WHERE stopped = 2 {where}", values)
            changed = connection.execute(
                f"UPDATE jobs SET state = 'WAITING', error = NULL, crashes = 0, worker = NULL "
                f"WHERE state IN ('FAILED', 'BLOCKED', 'CANCELLED') {where}",
                values,
            ).rowcount
            connection.execute(
                "UPDATE jobs SET n_waiting = (SELECT COUNT(*) FROM waits JOIN jobs AS parent "
                f"ON parent.id = waits.parent WHERE waits.child = jobs.id AND parent.state IN {_OPEN}) "
                f"WHERE state = 'WAITING' {where}",
                values,
            )
            free = connection.execute(
                f"SELECT id FROM jobs WHERE state = 'WAITING' AND n_waiting = 0 {where}", values
            ).fetchall()
            _decide(connection, [row[0] for row in free])
        return changed

    def cancel(self, run_id: str | None = None) -> int:
        """Cancel what has not started; running jobs end.

        Parameters
        ----------
        run_id
            The run; default all.

        Returns
        -------
        int
            How many jobs were cancelled.
        """
        where, values = ("AND run_id = ?", (run_id,)) if run_id else ("", ())
        with self.file.transaction() as connection:
            connection.execute(f"UPDATE runs SET stopped = 2 WHERE stopped = 0 AND finished IS NULL {where}", values)
            return connection.execute(
                f"UPDATE jobs SET state = 'CANCELLED' WHERE state IN ('WAITING', 'READY') {where}", values
            ).rowcount

    # -- claims -------------------------------------------------------------------------------------

    def data_version(self) -> int:
        """Return a number that changes when another process has written; costs next to nothing."""
        return self.rows("PRAGMA data_version")[0][0]

    def claim(self, run_id: str, worker: str) -> Claim | None:
        """Take the next ready job.

        Parameters
        ----------
        run_id
            The run.
        worker
            Who takes it.

        Returns
        -------
        Claim or None
            None if nothing is ready.
        """
        first = "SELECT id FROM jobs WHERE run_id = ? AND state = 'READY' ORDER BY priority DESC, id LIMIT 1"
        if not self.rows(first, (run_id,)):
            return None
        taken = self.rows(
            f"UPDATE jobs SET state = 'RUNNING', worker = ?, attempts = attempts + 1, started = ?, "
            f"finished = NULL WHERE id = ({first}) RETURNING id, run_id, uuid, idx, name, stage, attempts",
            (worker, time.time(), run_id),
        )
        if not taken:
            return None
        job_id, run, uuid, index, name, stage, attempts = taken[0]
        payload = self.rows("SELECT job FROM payloads WHERE id = ?", (job_id,))[0][0]
        return Claim(job_id, run, uuid, index, name, stage, attempts, payload)

    def complete(
        self,
        claim: Claim,
        worker: str,
        *,
        children: Iterable[Children] = (),
        stop_children: bool = False,
        stop_flow: bool = False,
        stored_data: str | None = None,
    ) -> bool:
        """Enter a job's children and mark it completed, in one transaction.

        Parameters
        ----------
        claim
            The job; its output is stored already.
        worker
            Who ran it.
        children
            What it put in its place or added.
        stop_children
            Its children are not to run.
        stop_flow
            Nothing more of this run is to start.
        stored_data
            JSON that the job wanted kept beside its output.

        Returns
        -------
        bool
            False if the job had been taken away from this worker; then nothing has happened.
        """
        with self.file.transaction() as connection:
            held = connection.execute(
                "SELECT 1 FROM jobs WHERE id = ? AND state = 'RUNNING' AND worker = ?", (claim.id, worker)
            ).fetchone()
            if not held:
                return False
            if stop_flow:
                connection.execute("UPDATE runs SET stopped = 1 WHERE run_id = ?", (claim.run_id,))
                connection.execute(
                    "UPDATE jobs SET state = 'STOPPED' WHERE run_id = ? AND state IN ('WAITING', 'READY')",
                    (claim.run_id,),
                )
            else:
                # While this job still counts as running: what is inserted may wait for it, and its own end
                # below then releases old and new children alike.
                for group in children:
                    made = _insert(connection, claim.run_id, group.entries, spawned_by=claim.id)
                    if group.waited_for:
                        _wait_for(connection, claim.id, made)
            _end(connection, claim, worker, COMPLETED)
            connection.execute(
                "UPDATE jobs SET stop_children = ?, stored_data = ? WHERE id = ?",
                (int(stop_children), stored_data, claim.id),
            )
            _release(connection, [claim.id])
        return True

    def fail(self, claim: Claim, worker: str, error: str) -> bool:
        """Mark a job failed and settle its children.

        Parameters
        ----------
        claim
            The job.
        worker
            Who ran it.
        error
            Traceback; its last line is what people see first.

        Returns
        -------
        bool
            False if the job had been taken away from this worker.
        """
        with self.file.transaction() as connection:
            if not _end(connection, claim, worker, FAILED):
                return False
            connection.execute("UPDATE jobs SET error = ? WHERE id = ?", (error, claim.id))
            _release(connection, [claim.id])
        return True

    def give_back(self, worker: str, *, crash: str | None = None) -> int:
        """Make a dead worker's jobs ready again.

        Parameters
        ----------
        worker
            The worker.
        crash
            How it died, if the job may be what killed it: such a job fails at the third time.

        Returns
        -------
        int
            How many jobs it had.
        """
        with self.file.transaction() as connection:
            held = connection.execute(
                "SELECT id, crashes FROM jobs WHERE worker = ? AND state = 'RUNNING'", (worker,)
            ).fetchall()
            for job_id, crashes in held:
                crashes += crash is not None
                if crashes >= MAX_CRASHES:
                    connection.execute(
                        "UPDATE jobs SET state = 'FAILED', crashes = ?, finished = ?, error = ? WHERE id = ?",
                        (crashes, time.time(), f"Its worker died {crashes} times: {str(crash).rstrip('.')}.", job_id),
                    )
                    _release(connection, [job_id])
                else:
                    connection.execute(
                        "UPDATE jobs SET state = 'READY', worker = NULL, crashes = ? WHERE id = ?",
                        (crashes, job_id),
                    )
            connection.execute("DELETE FROM workers WHERE worker = ?", (worker,))
        return len(held)

    # -- workers ------------------------------------------------------------------------------------

    def register(self, worker: str, run_id: str, host: str, pid: int, process_start: float) -> None:
        """Enter a worker.

        Parameters
        ----------
        worker
            Its id.
        run_id
            The run it works for.
        host, pid, process_start
            Where it is; the start time (s since 1970) tells it from a later process of the same number.
        """
        self._write(
            "INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?)",
            (worker, run_id, host, pid, process_start, time.time()),
        )

    def beat(self, worker: str) -> None:
        """Note that a worker lives.

        Parameters
        ----------
        worker
            Its id.
        """
        self._write("UPDATE workers SET heartbeat = ? WHERE worker = ?", (time.time(), worker))

    def workers(self) -> list[tuple[str, str, int, float, float]]:
        """Return worker, host, pid, process start and last heartbeat of all registered workers."""
        return self.rows("SELECT worker, host, pid, process_start, heartbeat FROM workers")

    def orphans(self) -> list[str]:
        """Return the workers that hold jobs without being registered."""
        return [
            row[0]
            for row in self.rows(
                "SELECT DISTINCT worker FROM jobs WHERE state = 'RUNNING' "
                "AND worker NOT IN (SELECT worker FROM workers)"
            )
        ]

    def set_message(self, job_id: int, message: str, fraction: float | None) -> None:
        """Show a text beside a running job.

        Parameters
        ----------
        job_id
            The job.
        message, fraction
            What it says, and how much is done (0 to 1).
        """
        self._write("INSERT OR REPLACE INTO messages VALUES (?, ?, ?)", (job_id, message, fraction))


def _insert(connection: sqlite3.Connection, run_id: str, entries: list[Entry], *, spawned_by: int | None) -> list[int]:
    """Insert jobs, and let them wait for their parents."""
    stopped = connection.execute("SELECT stopped FROM runs WHERE run_id = ?", (run_id,)).fetchone()[0]
    made: list[int] = []
    for entry in entries:
        cursor = connection.execute(
            "INSERT INTO jobs (run_id, uuid, idx, name, stage, state, on_missing, priority, spawned_by) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run_id,
                entry.uuid,
                entry.index,
                entry.name,
                entry.stage,
                (WAITING, STOPPED, CANCELLED)[stopped],
                entry.on_missing,
                entry.priority,
                spawned_by,
            ),
        )
        job_id = cursor.lastrowid
        assert job_id is not None
        made.append(job_id)
        connection.execute("INSERT INTO payloads VALUES (?, ?)", (job_id, entry.payload))
    for job_id, entry in zip(made, entries, strict=True):
        for parent in entry.parents:
            connection.execute(
                "INSERT OR IGNORE INTO waits SELECT ?, id, 1 FROM jobs WHERE uuid = ? AND id != ?",
                (job_id, parent, job_id),
            )
    for job_id in made:
        connection.execute(
            "UPDATE jobs SET n_waiting = (SELECT COUNT(*) FROM waits JOIN jobs AS parent "
            f"ON parent.id = waits.parent WHERE waits.child = ? AND parent.state IN {_OPEN}) WHERE id = ?",
            (job_id, job_id),
        )
    free = [
        job_id
        for job_id in made
        if connection.execute(
            "SELECT 1 FROM jobs WHERE id = ? AND n_waiting = 0 AND state = 'WAITING'", (job_id,)
        ).fetchone()
    ]
    _decide(connection, free)
    return made


def _wait_for(connection: sqlite3.Connection, job_id: int, made: list[int]) -> None:
    """Let the children of a job wait for what it put in its place."""
    inside = set(made)
    for (child,) in connection.execute("SELECT child FROM waits WHERE parent = ?", (job_id,)).fetchall():
        if child in inside:
            continue
        for new in made:
            added = connection.execute("INSERT OR IGNORE INTO waits VALUES (?, ?, 0)", (child, new)).rowcount
            connection.execute(
                f"UPDATE jobs SET n_waiting = n_waiting + ? WHERE id = ? "
                f"AND (SELECT state FROM jobs WHERE id = ?) IN {_OPEN}",
                (added, child, new),
            )


def _end(connection: sqlite3.Connection, claim: Claim, worker: str, state: str) -> bool:
    changed = connection.execute(
        "UPDATE jobs SET state = ?, finished = ?, worker = NULL WHERE id = ? AND state = 'RUNNING' AND worker = ?",
        (state, time.time(), claim.id, worker),
    ).rowcount
    connection.execute("DELETE FROM messages WHERE id = ?", (claim.id,))
    return changed == 1


def _release(connection: sqlite3.Connection, ended: list[int]) -> None:
    """Let the children of ended jobs wait for one job less each, and decide about those that wait no more."""
    for job_id in ended:
        children = "SELECT child FROM waits WHERE parent = ?"
        connection.execute(f"UPDATE jobs SET n_waiting = n_waiting - 1 WHERE id IN ({children})", (job_id,))
        free = connection.execute(
            f"SELECT id FROM jobs WHERE id IN ({children}) AND n_waiting <= 0 AND state = 'WAITING'",
            (job_id,),
        ).fetchall()
        _decide(connection, [row[0] for row in free])


def _decide(connection: sqlite3.Connection, free: list[int]) -> None:
    """Make jobs whose parents have all ended ready, blocked or stopped."""
    stack = list(free)
    while stack:
        job_id = stack.pop()
        # A parent that was replaced counts by its highest index; a stop by any of them holds.
        stops, losses = connection.execute(
            "SELECT TOTAL(job.stop_children OR job.state = 'STOPPED'), "
            "TOTAL(job.state IN ('FAILED', 'BLOCKED', 'CANCELLED') AND job.idx = "
            "      (SELECT MAX(idx) FROM jobs AS other WHERE other.uuid = job.uuid)) "
            "FROM waits JOIN jobs AS parent ON parent.id = waits.parent "
            "JOIN jobs AS job ON job.uuid = parent.uuid WHERE waits.child = ? AND waits.reads = 1",
            (job_id,),
        ).fetchone()
        state = READY
        if stops:
            state = STOPPED
        elif losses:
            on_missing = connection.execute("SELECT on_missing FROM jobs WHERE id = ?", (job_id,)).fetchone()[0]
            state = BLOCKED if on_missing == "error" else READY
        connection.execute("UPDATE jobs SET state = ? WHERE id = ?", (state, job_id))
        if state != READY:
            children = "SELECT child FROM waits WHERE parent = ?"
            connection.execute(f"UPDATE jobs SET n_waiting = n_waiting - 1 WHERE id IN ({children})", (job_id,))
            stack += [
                row[0]
                for row in connection.execute(
                    f"SELECT id FROM jobs WHERE id IN ({children}) AND n_waiting <= 0 AND state = 'WAITING'",
                    (job_id,),
                )
            ]
