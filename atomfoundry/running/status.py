"""What runs, what is done, and what failed and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobflow import Flow, Job

from atomfoundry.results.project import Project
from atomfoundry.running.execution import job_folder
from atomfoundry.running.identity import prepare
from atomfoundry.running.outcome import JobFailure
from atomfoundry.running.queue import BLOCKED, COMPLETED, FAILED, OPEN, RUNNING, Queue


@dataclass(frozen=True)
class StageStatus:
    """Jobs of one stage, counted."""

    name: str
    total: int
    completed: int
    running: int
    failed: int
    blocked: int
    open: int
    """Jobs still to end, the running ones included."""
    started: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class RunningJob:
    """A job that runs now."""

    uuid: str
    index: int
    name: str
    stage: str
    started: float
    """s since 1970"""
    message: str = ""
    fraction: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """One run."""

    run_id: str
    name: str
    created: str
    finished: str | None
    states: dict[str, int]
    stages: list[StageStatus]
    running: list[RunningJob] = field(default_factory=list)
    failures: list[JobFailure] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Number of jobs."""
        return sum(self.states.values())

    @property
    def completed(self) -> int:
        """Number of completed jobs."""
        return self.states.get(COMPLETED, 0)


@dataclass(frozen=True)
class StatusReport:
    """All runs of a project, latest first."""

    project: str
    runs: list[RunStatus]

    def as_dict(self) -> dict:
        """Return the report as plain JSON content."""
        content = asdict(self)
        for run in content["runs"]:
            for failure in run["failures"]:
                failure["folder"] = str(failure["folder"])
        return content


def stages(queue: Queue, run_id: str) -> list[StageStatus]:
    """Count a run's jobs by stage, in order of first appearance.

    Parameters
    ----------
    queue
        The queue.
    run_id
        The run.
    """
    found: dict[str, dict[str, int]] = {}
    times: dict[str, list[tuple[float | None, float | None]]] = {}
    for name, state, count, started, finished in queue.rows(
        "SELECT stage, state, COUNT(*), MIN(started), MAX(finished) FROM jobs WHERE run_id = ? "
        "GROUP BY stage, state ORDER BY MIN(id)",
        (run_id,),
    ):
        found.setdefault(name, {})[state] = count
        times.setdefault(name, []).append((started, finished))
    made = []
    for name, states in found.items():
        starts = [start for start, _ in times[name] if start is not None]
        ends = [end for _, end in times[name] if end is not None]
        made.append(
            StageStatus(
                name=name,
                total=sum(states.values()),
                completed=states.get(COMPLETED, 0),
                running=states.get(RUNNING, 0),
                failed=states.get(FAILED, 0),
                blocked=states.get(BLOCKED, 0),
                open=sum(states.get(state, 0) for state in OPEN),
                started=min(starts, default=None),
                finished=max(ends, default=None),
            )
        )
    return made


def running_jobs(queue: Queue, run_id: str) -> list[RunningJob]:
    """Return the jobs that run now, with their messages.

    Parameters
    ----------
    queue
        The queue.
    run_id
        The run.
    """
    rows = queue.rows(
        "SELECT uuid, idx, name, stage, started, COALESCE(message, ''), fraction "
        "FROM jobs LEFT JOIN messages USING (id) WHERE run_id = ? AND state = 'RUNNING' ORDER BY id",
        (run_id,),
    )
    return [RunningJob(*row) for row in rows]


def failures(queue: Queue, project: Project, run_id: str) -> list[JobFailure]:
    """Return a run's failed jobs.

    Parameters
    ----------
    queue, project
        Queue and project.
    run_id
        The run.
    """
    rows = queue.rows(
        "SELECT uuid, idx, name, stage, error FROM jobs WHERE run_id = ? AND state = 'FAILED' ORDER BY id",
        (run_id,),
    )
    return [
        JobFailure(
            uuid=uuid,
            index=index,
            name=name,
            stage=stage,
            message=(error or "").strip().split("\n")[-1],
            traceback=error or "",
            folder=job_folder(project, uuid, index),
        )
        for uuid, index, name, stage, error in rows
    ]


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def status(project: Project | str | Path) -> StatusReport:
    """Report on all runs of a project, those in its LaunchPad included; works while they run.

    Parameters
    ----------
    project
        A project or its folder.

    Raises
    ------
    ProjectError
        If it is no project, or the database of its LaunchPad does not answer within 10 s.
    """
    opened = project if isinstance(project, Project) else Project.open(project)
    runs = _local_runs(opened)
    if has_launchpad(opened):
        from atomfoundry.running.cluster.launchpad import open_launchpad
        from atomfoundry.running.cluster.status import cluster_runs

        there = cluster_runs(open_launchpad(opened, patient=False), opened)
        runs = sorted([*there, *runs], key=lambda run: run.created, reverse=True)
    return StatusReport(project=str(opened.path), runs=runs)


def has_launchpad(project: Project) -> bool:
    """Tell whether a project belongs to a LaunchPad.

    Parameters
    ----------
    project
        The project.
    """
    return project.launchpad_path.is_file()


def _local_runs(project: Project) -> list[RunStatus]:
    if project.database != "sqlite":
        return []
    queue = Queue(project.queue_path)
    try:
        return [
            RunStatus(
                run_id=run_id,
                name=name,
                created=_time(created) or "",
                finished=_time(finished) if queue.is_finished(run_id) else None,
                states=queue.counts(run_id),
                stages=stages(queue, run_id),
                running=running_jobs(queue, run_id),
                failures=failures(queue, project, run_id),
            )
            for run_id, name, created, finished in queue.rows(
                "SELECT run_id, name, created, finished FROM runs ORDER BY created DESC"
            )
        ]
    finally:
        queue.close()


def _on_queue(project: Project, action: Callable[[Queue], int]) -> int:
    if project.database != "sqlite":
        return 0
    queue = Queue(project.queue_path)
    try:
        return action(queue)
    finally:
        queue.close()


def _on_launchpad(project: Project, run_id: str | None, action: Callable[[Any, str, str | None], int]) -> int:
    if not has_launchpad(project):
        return 0
    from atomfoundry.running.cluster.launchpad import open_launchpad

    lpad = open_launchpad(project, patient=False)
    criteria = {"metadata.foundry.project_id": project.project_id}
    known = sorted({found["metadata"]["foundry"]["run_id"] for found in lpad.workflows.find(criteria, ["metadata"])})
    return sum(action(lpad, found, project.project_id) for found in known if run_id in (None, found))


def retry(project: Project | str | Path, run_id: str | None = None) -> int:
    """Set failed, blocked and cancelled jobs back.

    Here the next ``run`` of the same flow tries them again; on a cluster the workers do. Jobs that were completed in
    spite of a failed parent (``OnMissing.NONE``) stay as they are here; FireWorks runs them again.

    Parameters
    ----------
    project
        A project or its folder.
    run_id
        The run; default all.

    Returns
    -------
    int
        How many jobs were set back.

    Raises
    ------
    ProjectError
        If it is no project, or the database of its LaunchPad does not answer within 10 s.
    """
    from atomfoundry.running.cluster.control import retry_run

    opened = project if isinstance(project, Project) else Project.open(project)
    here = _on_queue(opened, lambda queue: queue.retry_failed(run_id))
    return here + _on_launchpad(opened, run_id, retry_run)


def cancel(project: Project | str | Path, run_id: str | None = None) -> int:
    """Cancel what has not started; running jobs end first. ``retry`` undoes it.

    Parameters
    ----------
    project
        A project or its folder.
    run_id
        The run; default all.

    Returns
    -------
    int
        How many jobs were cancelled.

    Raises
    ------
    ProjectError
        If it is no project, or the database of its LaunchPad does not answer within 10 s.
    """
    from atomfoundry.running.cluster.control import cancel_run

    opened = project if isinstance(project, Project) else Project.open(project)
    here = _on_queue(opened, lambda queue: queue.cancel(run_id))
    return here + _on_launchpad(opened, run_id, cancel_run)


def is_finished(flow: Flow | Job | list, project: Project | str | Path) -> bool:
    """Tell whether every job of a flow has ended well in a project, so that running it again would do nothing.

    Parameters
    ----------
    flow
        Flow, job or list of them; not changed.
    project
        The project's folder; it need not exist.

    Raises
    ------
    ProjectError
        If the folder is no project.
    ValueError
        If the flow cannot be run.
    """
    if not isinstance(project, Project):
        if not (Path(project) / "project.json").is_file():
            return False
        project = Project.open(project)
    queue = Queue(project.queue_path)
    try:
        counts = queue.counts(prepare(flow).run_id)
    finally:
        queue.close()
    return set(counts) == {COMPLETED}
