"""One attempt at a job on a cluster: run it, write what it came to, deliver that, and only then report."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid as uuid_module
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks.core.firework import Firework, FWAction, Workflow
from jobflow import CURRENT_JOB, Job
from monty.json import MontyDecoder, jsanitize

from atomfoundry.checkpoint.files import write_atomically
from atomfoundry.deadline import NoTimeLeftError, working_time
from atomfoundry.errors import RunError
from atomfoundry.results.progress import CHECKPOINT_FOLDER, set_progress_sink
from atomfoundry.results.project import Project, current_project, use_project
from atomfoundry.running.cluster.access import store_of
from atomfoundry.running.cluster.conversion import Converter
from atomfoundry.running.cluster.gates import gate
from atomfoundry.running.cluster.patience import patiently
from atomfoundry.running.cluster.result_file import RESULT_FILE, JobResult, MadeJobs, read_result, write_result
from atomfoundry.running.execution import (
    HoldingStore,
    inside,
    job_folder,
    name_children,
    prepare_folder,
    seed_global_generators,
    tidy_folder,
)
from atomfoundry.running.processes import host_name, process_start
from atomfoundry.running.queue import Claim

if TYPE_CHECKING:
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

logger = logging.getLogger(__name__)

ATTEMPT_FILE = "attempt.json"
PROGRESS_FILE = "progress.json"
PROGRESS_EVERY_S = 5.0
MAX_IDLE_CONTINUATIONS = 3
"""A job that goes on in another allocation so often without a new checkpoint is failed."""
QUEUE_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "JOB_ID", "LSB_JOBID")


class BlockedError(RunError):
    """A job could not run because one before it has failed."""


class TakenOverError(RunError):
    """Another process has taken this job over; what this one computed is not used."""


def queue_job() -> str | None:
    """Return the id of the batch job that this process belongs to, or None."""
    return next((os.environ[name] for name in QUEUE_JOB_VARIABLES if os.environ.get(name)), None)


def run_attempt(task: dict[str, Any], spec: dict[str, Any], *, lpad: FoundryLaunchPad, fw_id: int) -> FWAction:
    """Run a job, or take the result of an attempt that ended before it could report; store, enter and report it.

    Parameters
    ----------
    task
        Fields of the ``FoundryTask``.
    spec
        The firework's spec.
    lpad
        The LaunchPad.
    fw_id
        The firework.

    Returns
    -------
    FWAction
        Without new jobs: these are in the LaunchPad already.

    Raises
    ------
    RunError
        If the job cannot be run here.
    """
    mark = spec["foundry"]
    project = current_project()
    _check_project(project, mark)
    claim = Claim(fw_id, mark["run_id"], mark["uuid"], mark["index"], mark["name"], mark["stage"], 1, task["job"])
    folder = job_folder(project, claim.uuid, claim.index)
    with use_project(project):
        result = _unreported_result(lpad, claim, folder)
        began = time.monotonic()
        token = None
        try:
            if result is None:
                token = _begin(folder, fw_id)
                logger.info("begun  %s (%s)", claim.name, claim.uuid[:8])
                try:
                    result = _perform(claim, task, project)
                except NoTimeLeftError as error:
                    return _go_on_later(lpad, fw_id, folder, error)
                _check_token(folder, token)
                write_result(folder, result)
            else:
                logger.warning("The result of %s is on disk: it is delivered, not computed again.", claim.name)
            _deliver(lpad, claim, task, result, project, mark)
        finally:
            if token is not None:
                _end(folder, token)
        logger.info("done   %s (%s), %.1f s", claim.name, claim.uuid[:8], time.monotonic() - began)
    lpad.when_completed.append(lambda: tidy(folder))
    return FWAction(
        stored_data={} if result.stored_data is None else {"stored_data": result.stored_data},
        defuse_children=result.stop_children,
        defuse_workflow=result.stop_flow,
    )


def _unreported_result(lpad: FoundryLaunchPad, claim: Claim, folder: Path) -> JobResult | None:
    """Return a result that an earlier attempt left, unless it was reported: then the job is wanted again."""
    result = read_result(folder, claim.uuid, claim.index)
    if result is not None and lpad.launches.find_one({"fw_id": claim.id, "state": "COMPLETED"}, ["launch_id"]):
        (folder / RESULT_FILE).unlink()
        return None
    return result


def tidy(folder: Path) -> None:
    """Remove what a completed job's folder held for the case of a failure.

    Parameters
    ----------
    folder
        The job's folder.
    """
    for name in (RESULT_FILE, ATTEMPT_FILE, PROGRESS_FILE):
        (folder / name).unlink(missing_ok=True)
    tidy_folder(folder)


def _check_project(project: Project, mark: dict[str, Any]) -> None:
    own = project.project_id
    if own != mark.get("project_id"):
        raise RunError(
            f"Job '{mark.get('name')}' belongs to another project than {project.path}.",
            remedy="Set ATOMFOUNDRY_PROJECT in the worker's environment to the folder it was submitted from.",
        )


def read_attempt(folder: Path) -> dict[str, Any]:
    """Return who runs, or last ran, the job of a folder; empty if nobody has.

    Parameters
    ----------
    folder
        The job's folder.
    """
    try:
        content = json.loads((folder / ATTEMPT_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_alive(attempt: dict[str, Any]) -> bool | None:
    """Tell whether the process of an attempt lives; None where that cannot be known from here.

    Parameters
    ----------
    attempt
        From ``read_attempt``.
    """
    if not attempt or attempt.get("host") != host_name():
        return None
    start = process_start(attempt["pid"])
    return start != 0.0 and abs(start - attempt["process_start"]) < 2.0


def _begin(folder: Path, fw_id: int) -> str:
    """Enter this process as the one that runs the job."""
    other = read_attempt(folder)
    if other.get("pid") != os.getpid() and not other.get("ended") and is_alive(other):
        raise RunError(
            f"Process {other['pid']} on {other['host']} still runs this job (in {folder}).",
            remedy="Wait for it or end it, then retry.",
        )
    prepare_folder(folder)
    token = uuid_module.uuid4().hex
    content = {
        "token": token,
        "host": host_name(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "fw_id": fw_id,
        "queue_job": queue_job(),
        "started": time.time(),
    }
    write_atomically(folder / ATTEMPT_FILE, json.dumps(content).encode())
    return token


def _end(folder: Path, token: str) -> None:
    """Note that this process has done with the job; it lives on, and another one may be given the job."""
    attempt = read_attempt(folder)
    if attempt.get("token") == token:
        with contextlib.suppress(OSError):  # a full disk must not hide what ended the job
            write_atomically(folder / ATTEMPT_FILE, json.dumps({**attempt, "ended": time.time()}).encode())


def _check_token(folder: Path, token: str) -> None:
    now = read_attempt(folder).get("token")
    if now is not None and now != token:
        raise TakenOverError(
            f"Another process has taken over the job in {folder}.", remedy="Nothing to do: that one delivers it."
        )


def _perform(claim: Claim, task: dict[str, Any], project: Project) -> JobResult:
    folder = job_folder(project, claim.uuid, claim.index)
    store = HoldingStore(store_of(project))
    seed_global_generators(claim)
    set_progress_sink(_progress_writer(folder))
    try:
        with inside(folder, capture=True):
            # a job is code: who may write it may run anything here, unlike a result (documents.decoding)
            job: Job = MontyDecoder().process_decoded(json.loads(claim.payload))
            if not job.config.response_manager_config:
                # jobflow would put it over whatever the new jobs say themselves; ours is merged under it
                job.config.manager_config = {}
            response = job.run(store=store)
    except (Exception, SystemExit) as error:
        CURRENT_JOB.reset()  # jobflow forgets this where a job raises
        if not isinstance(error, NoTimeLeftError):
            logger.warning("failed %s (%s): %s", claim.name, claim.uuid[:8], error)
            _explain_missing(store, task, error)
        raise
    finally:
        set_progress_sink(None)
    names, groups = name_children(claim, job, response)
    data = response.stored_data
    return JobResult(
        uuid=claim.uuid,
        index=claim.index,
        documents=[
            (docs if isinstance(docs, list) else [docs], key if key is None or isinstance(key, list) else [key], save)
            for docs, key, save in store.renamed(names)
        ],
        made=[MadeJobs(group.entries, group.waited_for) for group in groups],
        stop_children=bool(response.stop_children),
        stop_flow=bool(response.stop_jobflow),
        stored_data=None if data is None else jsanitize(data, strict=True, enum_values=True),
    )


def _explain_missing(store: HoldingStore, task: dict[str, Any], error: BaseException) -> None:
    """Say so where a job failed because the output of one before it is missing."""
    if task.get("on_missing", "error") != "error" or not isinstance(error, ValueError | KeyError):
        return
    wanted = task.get("parents") or []
    there = {found["uuid"] for found in store.query({"uuid": {"$in": wanted}}, ["uuid"])}
    missing = [uuid for uuid in wanted if uuid not in there]
    if missing:
        raise BlockedError(
            f"It waits for the output of job {missing[0]}, which has none.",
            remedy="Retry the job that failed; this one then runs again.",
        ) from error


def _progress_writer(folder: Path) -> Any:
    written = [-PROGRESS_EVERY_S]

    def write(message: str, fraction: float | None) -> None:
        now = time.monotonic()
        if now - written[0] >= PROGRESS_EVERY_S:
            written[0] = now
            write_atomically(
                folder / PROGRESS_FILE,
                json.dumps({"message": message, "fraction": fraction, "time": time.time()}).encode(),
            )

    return write


def _deliver(
    lpad: FoundryLaunchPad,
    claim: Claim,
    task: dict[str, Any],
    result: JobResult,
    project: Project,
    mark: dict[str, Any],
) -> None:
    """Store the outputs, then enter the new jobs; each step may be repeated."""
    store = store_of(project)
    for docs, key, save in result.documents:
        patiently(partial(store.update, docs, key, save), f"storing {claim.name}")
    if result.made:
        patiently(lambda: _enter(lpad, claim, task, result, project, mark), f"entering the jobs of {claim.name}")
    if result.stop_flow:
        from atomfoundry.running.cluster.control import defuse_run

        patiently(
            lambda: defuse_run(lpad, claim.run_id, mark.get("project_id"), but=claim.id),
            f"stopping the run of {claim.name}",
        )


def _enter(
    lpad: FoundryLaunchPad,
    claim: Claim,
    task: dict[str, Any],
    result: JobResult,
    project: Project,
    mark: dict[str, Any],
) -> None:
    workflow = lpad.workflows.find_one({"nodes": claim.id}, ["nodes", "name", "metadata"])
    metadata = {key: value for key, value in workflow["metadata"].items() if key != "foundry"}
    converter = Converter.of_project(
        project,
        run_id=claim.run_id,
        run_name=workflow["name"],
        inherited=task.get("manager_config") or {},
        metadata=metadata,
    )
    n_present = len(workflow["nodes"])
    for number, made in enumerate(result.made):
        name = f"{converter.lasting_name}/{claim.uuid}:{claim.index}:{number}"
        if made.waited_for and n_present + len(made.entries) <= 2 * converter.size:
            lpad.attach(claim.id, converter.connected(made.entries), name, detour=True)
            n_present += len(made.entries)
            continue
        parts = converter.workflows(made.entries, name, always_end=made.waited_for)
        for new, part in parts:
            lpad.add_part(new, part)
        if made.waited_for:
            light = converter.spec("gate", "light")
            waiting = gate([part for _, part in parts], light)
            lpad.attach(claim.id, Workflow([waiting], name=workflow["name"]), name, detour=True)


def _go_on_later(lpad: FoundryLaunchPad, fw_id: int, folder: Path, error: NoTimeLeftError) -> FWAction:
    """Put the same job behind this one: it goes on from its checkpoint in another allocation."""
    stored = lpad.fireworks.find_one({"fw_id": fw_id})
    spec = {key: value for key, value in stored["spec"].items() if key not in ("_tasks", "_recovery")}
    mark = dict(spec["foundry"])
    checkpoint = folder / CHECKPOINT_FOLDER
    newest = max((path.stat().st_mtime_ns for path in checkpoint.rglob("*")), default=0) if checkpoint.is_dir() else 0
    idle = mark.get("idle", 0) + 1 if newest == mark.get("checkpoint", 0) else 0
    if idle >= MAX_IDLE_CONTINUATIONS:
        left = working_time()
        raise RunError(
            f"In {idle} allocations it found no time to get on ({error}).",
            remedy="Give its profile a longer wall time in cluster/profiles.yaml, then retry."
            + ("" if left is None else f" Now {left:.0f} s were left."),
        ) from error
    logger.warning("%s goes on in another allocation: %s", mark["name"], error)
    spec["foundry"] = {
        **{key: value for key, value in mark.items() if key != "attached"},
        "continuation": mark.get("continuation", 0) + 1,
        "idle": idle,
        "checkpoint": newest,
    }
    from atomfoundry.running.cluster.task import FoundryTask

    task = {key: value for key, value in stored["spec"]["_tasks"][0].items() if key != "_fw_name"}
    again = Firework([FoundryTask(task)], spec=spec, name=stored["name"])
    key = f"{mark.get('project_id')}/{mark['run_id']}/{mark['uuid']}:{mark['index']}:again:{fw_id}"
    patiently(lambda: lpad.attach(fw_id, Workflow([again]), key, detour=True), f"continuing {mark['name']}")
    return FWAction()
