"""The SQLite file of a project: whole, not growing without end, and its jobs held by living processes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

LARGE_LOG = 2**30
PATIENCE_S = 6.0
"""A check of all pages is given up after this time."""
SILENT_S = 600.0
"""A worker on another machine that has not been heard of for so long is dead."""


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a SQLite file so that nothing in it can change.

    Parameters
    ----------
    path
        The file.
    """
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=3.0)


def _database(world: World) -> Path | None:
    """Return the project's SQLite file, None where results are elsewhere or nothing was run yet."""
    path = world.folder / "foundry.sqlite"
    return None if world.on_mongodb and not path.exists() else path


@check("sqlite", "project")
def sqlite(world: World) -> Iterator[Finding]:
    """Check that the SQLite file is whole."""
    path = _database(world)
    if path is None:
        yield skipped("The results are in MongoDB")
        return
    if not path.is_file():
        yield skipped(f"No {path.name} yet: nothing was run here")
        return
    size = path.stat().st_size
    recover = (
        f'sqlite3 {path} ".recover" | sqlite3 {path.with_name("recovered.sqlite")}, or restore a copy of the project'
    )
    deadline = time.monotonic() + PATIENCE_S
    try:
        with closing(open_read_only(path)) as connection:
            connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 100_000)
            words = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
            connection.set_progress_handler(None, 0)
            journal = connection.execute("PRAGMA journal_mode").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            yield skipped(
                f"{path} ({size / 2**30:.1f} GiB) is too large to be checked in {PATIENCE_S:g} s",
                f'sqlite3 {path} "PRAGMA quick_check"',
            )
        elif "locked" in str(error):
            yield skipped(f"{path} is locked by another process", "atomfoundry doctor --only sqlite, when less is run")
        else:
            yield problem(f"{path} cannot be opened: {error}.", f"ls -l {path}*; chmod u+rw {path}*")
        return
    except sqlite3.DatabaseError as error:
        yield problem(f"{path} is damaged: {error}.", recover)
        return
    if words != ["ok"]:
        yield problem(f"{path} is damaged: {'; '.join(words)}.", recover, words=words)
        return
    log = path.with_name(f"{path.name}-wal")
    log_size = log.stat().st_size if log.exists() else 0
    details = {"size": size, "wal_size": log_size, "journal_mode": journal}
    if log_size > LARGE_LOG:
        yield warning(
            f"{log} has grown to {log_size / 2**30:.1f} GiB: a process that reads without end keeps it from being "
            "emptied.",
            f"fuser -v {path}; when nothing runs: sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'",
            **details,
        )
        return
    yield ok(f"{path.name} is whole ({size / 2**20:.1f} MiB, journal {journal})", **details)


@check("running-jobs", "project")
def running_jobs(world: World) -> Iterator[Finding]:
    """Check that living workers are behind the local runner's running jobs, and that none have failed."""
    from atomfoundry.running.processes import host_name, process_start

    path = _database(world)
    if path is None or not path.is_file():
        yield skipped("No jobs of the local runner")
        return
    sql = (
        "SELECT jobs.uuid, jobs.name, jobs.worker, workers.host, workers.pid, workers.process_start, workers.heartbeat "
        "FROM jobs LEFT JOIN workers ON workers.worker = jobs.worker WHERE jobs.state = 'RUNNING'"
    )
    counts: dict[str, int] = {}
    try:
        with closing(open_read_only(path)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            rows = []
            if {"jobs", "workers"} <= tables:
                rows = connection.execute(sql).fetchall()
                counts = dict(connection.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())
    except sqlite3.DatabaseError as error:
        yield skipped(f"The queue cannot be read: {error}")
        return
    lost = []
    for uuid, name, worker, host, pid, born, heartbeat in rows:
        if worker is None or pid is None:
            alive = False
        elif host == host_name():
            alive = born is not None and abs(process_start(pid) - born) < 1.0
        else:
            alive = heartbeat is not None and time.time() - heartbeat < SILENT_S
        if not alive:
            lost.append({"uuid": uuid, "name": name, "host": host})
    if lost:
        yield warning(
            f"{len(lost)} jobs are marked running, but their workers are dead, '{lost[0]['name']}' for one: the run "
            "was killed.",
            f"atomfoundry retry --project {world.folder} (or the same 'atomfoundry run' again)",
            jobs=lost[:50],
            states=counts,
        )
    elif counts.get("FAILED"):
        yield warning(
            f"Failed jobs: {counts['FAILED']}.",
            f"atomfoundry status --project {world.folder}, then atomfoundry retry --project {world.folder}",
            states=counts,
        )
    else:
        text = ", ".join(f"{count} {state.lower()}" for state, count in counts.items()) or "none yet"
        yield ok(f"Jobs: {text}", states=counts)
