"""What of a project is in the LaunchPad: waiting, running, done, failed and why."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.results.project import Project
from atomfoundry.running.cluster.attempt import PROGRESS_FILE, read_attempt
from atomfoundry.running.execution import LOG_FILE, job_folder
from atomfoundry.running.outcome import JobFailure
from atomfoundry.running.queue import BLOCKED, CANCELLED, COMPLETED, FAILED, OPEN, READY, RUNNING, STOPPED, WAITING
from atomfoundry.running.status import RunningJob, RunStatus, StageStatus

if TYPE_CHECKING:
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

LAST_LINES = 5
MAX_FAILURES = 50
"""So many failures are shown with their traceback; all are counted."""

_STATES = {
    "COMPLETED": COMPLETED,
    "FIZZLED": FAILED,
    "RUNNING": RUNNING,
    "RESERVED": READY,
    "READY": READY,
    "WAITING": WAITING,
    "PAUSED": WAITING,
    "DEFUSED": STOPPED,
    "ARCHIVED": STOPPED,
}


@dataclass
class ClusterJob:
    """A job in the LaunchPad."""

    fw_id: int
    uuid: str
    index: int
    name: str
    stage: str
    state: str
    """As the local runner calls it."""
    created: float
    updated: float


def _seconds(time: Any) -> float:
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    if not isinstance(time, datetime):
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def jobs_of(lpad: FoundryLaunchPad, run_id: str, project_id: str | None) -> list[ClusterJob]:
    """Return the jobs of a run; one that went on in another allocation counts once, by its last firework.

    Parameters
    ----------
    lpad
        The LaunchPad.
    run_id, project_id
        The run; other projects of the database may run the same flow.
    """
    mine = {"metadata.foundry.run_id": run_id, "metadata.foundry.project_id": project_id}
    workflows = list(lpad.workflows.find(mine, ["nodes", "links", "metadata"]))
    cancelled = any(workflow["metadata"]["foundry"].get("cancelled") for workflow in workflows)
    fields = ["fw_id", "state", "name", "spec.foundry", "spec._allow_fizzled_parents", "created_on", "updated_on"]
    ours = {"spec.foundry.run_id": run_id, "spec.foundry.project_id": project_id}
    found = {fw["fw_id"]: fw for fw in lpad.fireworks.find(ours, fields, sort=[("fw_id", 1)])}
    blocked = _blocked(workflows, found)
    jobs: dict[tuple[str, int], ClusterJob] = {}
    for fw_id, fw in found.items():
        mark = fw["spec"]["foundry"]
        if mark.get("kind") != "job":
            continue
        state = _STATES[fw["state"]]
        if fw_id in blocked:
            state = BLOCKED
        elif state == STOPPED and cancelled:
            state = CANCELLED
        jobs[mark["uuid"], mark["index"]] = ClusterJob(
            fw_id,
            mark["uuid"],
            mark["index"],
            fw["name"],
            mark["stage"],
            state,
            _seconds(fw.get("created_on")),
            _seconds(fw.get("updated_on")),
        )
    return list(jobs.values())


def _blocked(workflows: Iterable[dict], found: dict[int, dict]) -> set[int]:
    """Find jobs that wait for one that has failed, directly or behind others."""
    blocked: set[int] = set()
    for workflow in workflows:
        links = {int(parent): children for parent, children in workflow["links"].items()}
        stack = [fw_id for fw_id in workflow["nodes"] if fw_id in found and found[fw_id]["state"] == "FIZZLED"]
        while stack:
            for child in links.get(stack.pop(), []):
                fw = found.get(child)
                waits = fw is not None and fw["state"] == "WAITING" and not fw["spec"].get("_allow_fizzled_parents")
                if waits and child not in blocked:
                    blocked.add(child)
                    stack.append(child)
    return blocked


def failures_of(lpad: FoundryLaunchPad, project: Project, jobs: Iterable[ClusterJob]) -> list[JobFailure]:
    """Describe failed jobs: error, host, folder and the last lines of their logs.

    Parameters
    ----------
    lpad, project
        LaunchPad and project.
    jobs
        Failed jobs.
    """
    made = []
    for job in jobs:
        launch = lpad.launches.find_one({"fw_id": job.fw_id}, ["host", "action", "launch_id"], sort=[("launch_id", -1)])
        launch = launch or {}
        stored = ((launch.get("action") or {}).get("stored_data")) or {}
        text = (stored.get("_exception") or {}).get("_stacktrace") or stored.get("_message") or ""
        if not text:
            fw = lpad.fireworks.find_one({"fw_id": job.fw_id}, ["spec._exception_details"]) or {}
            text = ((fw.get("spec") or {}).get("_exception_details") or {}).get("_stacktrace", "")
        folder = job_folder(project, job.uuid, job.index)
        lines = text.strip().splitlines()
        made.append(
            JobFailure(
                uuid=job.uuid,
                index=job.index,
                name=job.name,
                stage=job.stage,
                message=lines[-1] if lines else "Its worker was lost and has left no error.",
                traceback=text,
                folder=folder,
                host=read_attempt(folder).get("host") or launch.get("host") or "",
                log=_last_lines(folder / LOG_FILE),
            )
        )
    return made


def _last_lines(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4000))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])


def _running(project: Project, jobs: Iterable[ClusterJob]) -> list[RunningJob]:
    made = []
    for job in jobs:
        folder = job_folder(project, job.uuid, job.index)
        try:
            progress = json.loads((folder / PROGRESS_FILE).read_text())
        except (OSError, ValueError):
            progress = {}
        started = read_attempt(folder).get("started") or job.updated
        made.append(
            RunningJob(
                job.uuid,
                job.index,
                job.name,
                job.stage,
                started,
                progress.get("message") or "",
                progress.get("fraction"),
            )
        )
    return made


def _stages(jobs: Iterable[ClusterJob]) -> list[StageStatus]:
    by_stage: dict[str, list[ClusterJob]] = defaultdict(list)
    for job in jobs:
        by_stage[job.stage].append(job)
    made = []
    for name, members in by_stage.items():
        states = Counter(job.state for job in members)
        ended = [job.updated for job in members if job.state == COMPLETED]
        made.append(
            StageStatus(
                name=name,
                total=len(members),
                completed=states[COMPLETED],
                running=states[RUNNING],
                failed=states[FAILED],
                blocked=states[BLOCKED],
                open=sum(states[state] for state in OPEN),
                started=min(job.created for job in members),
                finished=max(ended, default=None),
            )
        )
    return made


def cluster_runs(lpad: FoundryLaunchPad, project: Project) -> list[RunStatus]:
    """Report on the runs of a project in a LaunchPad, latest first.

    Parameters
    ----------
    lpad, project
        LaunchPad and project.
    """
    criteria = {"metadata.foundry.project_id": project.project_id}
    runs: dict[str, dict[str, Any]] = {}
    for workflow in lpad.workflows.find(criteria, ["name", "metadata", "created_on"]):
        run_id = workflow["metadata"]["foundry"]["run_id"]
        known = runs.setdefault(run_id, {"name": workflow["name"], "created": _seconds(workflow["created_on"])})
        known["created"] = min(known["created"], _seconds(workflow["created_on"]))
    made = []
    for run_id, known in sorted(runs.items(), key=lambda item: -item[1]["created"]):
        jobs = jobs_of(lpad, run_id, project.project_id)
        failed = [job for job in jobs if job.state == FAILED]
        described = failures_of(lpad, project, failed[:MAX_FAILURES])
        waiting = {f.uuid for f in described if "BlockedError" in f.message}
        for job in failed:
            if job.uuid in waiting:
                job.state = BLOCKED
        states = Counter(job.state for job in jobs)
        # no jobs: its submission was killed before it came to them
        is_open = not jobs or any(states[state] for state in OPEN)
        made.append(
            RunStatus(
                run_id=run_id,
                name=known["name"],
                created=datetime.fromtimestamp(known["created"], UTC).isoformat(timespec="seconds"),
                finished=None
                if is_open
                else datetime.fromtimestamp(max(job.updated for job in jobs), UTC).isoformat(timespec="seconds"),
                states=dict(states),
                stages=_stages(jobs),
                running=_running(project, (job for job in jobs if job.state == RUNNING)),
                failures=[failure for failure in described if failure.uuid not in waiting],
            )
        )
    return made
