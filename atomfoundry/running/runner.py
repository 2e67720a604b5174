"""Run a flow on this machine: worker processes over the project's queue, resumable after any kill."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

from jobflow import Flow, Job

from atomfoundry.deadline import stop_signals
from atomfoundry.errors import InputError, ProjectError, RunError, StorageError
from atomfoundry.results.project import Project
from atomfoundry.running.identity import PreparedFlow, prepare
from atomfoundry.running.outcome import RunResult
from atomfoundry.running.processes import ProjectLock, host_name, kill_left_over
from atomfoundry.running.progress import watching
from atomfoundry.running.queue import BLOCKED, CANCELLED, COMPLETED, FAILED, OPEN, STOPPED, Queue
from atomfoundry.running.status import failures
from atomfoundry.running.supervisor import Supervisor
from atomfoundry.running.trouble import storage_errors
from atomfoundry.running.worker import work
from atomfoundry.settings import settings

LEASE_S = 30.0
"""A worker of another host counts as dead when its heartbeat has been watched for so long without a change."""


def run(
    flow: Flow | Job | list,
    *,
    project: Project | str | Path | None,
    workers: int | None = None,
    threads: int = 1,
    progress: bool = True,
    retry_failed: bool = False,
    ensure_success: bool = False,
) -> RunResult:
    """Run a flow here, or go on where an earlier call of the same flow was interrupted.

    The flow's content decides its identity: the same flow in the same project is found again, finished jobs
    are not run a second time, and all uuids are the same in every run. A job runs in
    ``PROJECT/work/UUID_INDEX``.

    Near the end of the batch job that this process belongs to (see ``atomfoundry.deadline``), and after SIGUSR1,
    SIGUSR2 or SIGTERM, no new job is begun; jobs that run are waited for, after SIGTERM for 20 s. The result
    counts what is left, and another call goes on with it.

    Parameters
    ----------
    flow
        Flow, job or list of them; not changed.
    project
        Project folder, made if missing. None, to try something out: a temporary one, see ``Project.temporary``;
        outputs can be read as long as the result is there, and nothing can be resumed.
    workers
        Worker processes; default from the settings, else the number of cores. 0 runs the jobs one by one in
        this process, the default where ``project`` is None.
    threads
        Threads of numerical libraries in each worker.
    progress
        Show progress: live on a terminal, as log lines (``atomfoundry.running``) elsewhere.
    retry_failed
        Try jobs again that failed in an earlier call.
    ensure_success
        Raise if anything failed.

    Returns
    -------
    RunResult
        Counts, failures, and where outputs are.

    Raises
    ------
    ProjectError
        If the folder is no project, or another run is at work in it.
    InputError
        If the flow cannot be run.
    RunError
        If workers cannot be started, or with ``ensure_success`` if anything failed.
    StorageError
        If the disk is full or the database cannot be used. What was finished is kept; another call goes on.
    """
    started = time.perf_counter()
    if workers is None:
        workers = 0 if project is None else settings().workers or len(os.sched_getaffinity(0))
    try:
        prepared = prepare(flow)
    except ValueError as error:
        raise InputError(f"The flow cannot be run: {error}") from error
    if workers > 0:
        _refuse_main(prepared)
    if project is None:
        opened = Project.temporary()
    else:
        opened = project if isinstance(project, Project) else Project.open_or_create(project)
    with storage_errors(opened.path), ProjectLock(opened):
        opened.job_store().close()
        queue = Queue(opened.queue_path)
        _recover(queue)
        queue.add_run(prepared)
        if retry_failed:
            queue.retry_failed(prepared.run_id)
        result = _finish(
            opened, queue, prepared.run_id, prepared.name, prepared.names, workers, threads, progress, started
        )
        queue.close()
    if ensure_success and not result.ok:
        first = f" First: {result.failures[0]}." if result.failures else ""
        raise RunError(f"{result}{first}", remedy="See the job's folder, then run again with retry.")
    return result


def resume(
    project: Project | str | Path,
    *,
    run_id: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    progress: bool = True,
    retry_failed: bool = False,
) -> RunResult:
    """Go on with a flow that is in a project already, without making it again.

    Parameters
    ----------
    project
        The project.
    run_id
        Which run; default the newest.
    workers, threads, progress
        As in `run`.
    retry_failed
        Set failed, blocked and cancelled jobs back first.

    Returns
    -------
    RunResult
        Counts and failures of that run.

    Raises
    ------
    ProjectError
        If there is no project, no such run, or another runner is at work.
    StorageError
        If the disk is full or the database cannot be used.
    """
    started = time.perf_counter()
    if workers is None:
        workers = settings().workers or len(os.sched_getaffinity(0))
    opened = project if isinstance(project, Project) else Project.open(project)
    with storage_errors(opened.path), ProjectLock(opened):
        queue = Queue(opened.queue_path)
        rows = queue.rows(
            "SELECT run_id, name FROM runs WHERE run_id = ? OR ? IS NULL ORDER BY created DESC LIMIT 1",
            (run_id, run_id),
        )
        if not rows:
            raise ProjectError(
                f"{opened.path} holds no run {run_id or ''}.".replace(" .", "."),
                remedy="'atomfoundry status' lists the runs.",
            )
        _recover(queue)
        chosen, name = rows[0]
        if retry_failed:
            queue.retry_failed(chosen)
        result = _finish(opened, queue, chosen, name, {}, workers, threads, progress, started)
        queue.close()
    return result


def _finish(
    project: Project,
    queue: Queue,
    run_id: str,
    name: str,
    names: dict[str, str],
    workers: int,
    threads: int,
    progress: bool,
    started: float,
) -> RunResult:
    """Work until no job of a run is open, and say what came of it."""
    reused = queue.counts(run_id).get(COMPLETED, 0)
    if not queue.is_finished(run_id):
        with stop_signals(), watching(queue, run_id, name, progress=progress) as watcher:
            if workers == 0:
                _work_here(project, queue, run_id)
            else:
                Supervisor(project, queue, run_id, workers, threads, watcher).supervise()
        if queue.is_finished(run_id):
            queue.mark_finished(run_id)
    counts = queue.counts(run_id)
    return RunResult(
        run_id=run_id,
        name=name,
        project=project,
        total=sum(counts.values()),
        completed=counts.get(COMPLETED, 0),
        reused=reused,
        failed=counts.get(FAILED, 0),
        blocked=counts.get(BLOCKED, 0),
        stopped=counts.get(STOPPED, 0) + counts.get(CANCELLED, 0),
        wall_time_s=time.perf_counter() - started,
        left=sum(counts.get(state, 0) for state in OPEN),
        failures=failures(queue, project, run_id),
        uuids=names,
    )


def _refuse_main(prepared: PreparedFlow) -> None:
    for entry in prepared.entries:
        if '"@module": "__main__"' in entry.payload:
            raise InputError(
                f"Job '{entry.name}' uses a function or class of the script itself, which worker processes "
                "cannot import.",
                remedy="Move it into a module beside the script, or run with workers=0.",
            )


def _recover(queue: Queue) -> None:
    """Take the jobs back that an earlier runner's workers held; we hold the lock, so that runner is gone."""
    here = host_name()
    registered = queue.workers()
    # A dead worker's programs may outlive it, so this does not ask first whether the worker itself lives.
    kill_left_over(worker for worker, host, *_ in registered if host == here)
    _refuse_living(queue, [worker for worker, host, *_ in registered if host != here])
    for worker, *_ in registered:
        queue.give_back(worker)
    for worker in queue.orphans():
        queue.give_back(worker)


def _refuse_living(queue: Queue, foreign: list[str]) -> None:
    """Watch workers that other hosts have left: one whose heartbeat changes lives, and the lock is not seen there.

    The times themselves say nothing, since no two hosts' clocks need agree, nor one with itself after a correction.
    """
    beats = _beats(queue, foreign)
    end = time.monotonic() + LEASE_S
    while foreign and time.monotonic() < end:
        now = _beats(queue, foreign)
        for worker, (host, beat) in now.items():
            if beats.get(worker, (host, beat))[1] != beat:
                raise ProjectError(
                    f"A worker on {host} is at work in this project.",
                    remedy="A project of the local runner belongs to one host at a time: end the run there.",
                )
        time.sleep(min(0.5, LEASE_S / 4))


def _beats(queue: Queue, wanted: list[str]) -> dict[str, tuple[str, float]]:
    return {worker: (host, beat) for worker, host, _, _, beat in queue.workers() if worker in wanted}


def _work_here(project: Project, queue: Queue, run_id: str) -> None:
    worker = uuid.uuid4().hex
    try:
        work(project, run_id, worker, alone=True)
    finally:
        with contextlib.suppress(StorageError):  # the next run takes it back
            queue.give_back(worker)
