"""A worker: runs jobs of the LaunchPad one after the other, or several at once, until its time or its work ends."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.deadline import must_stop, seconds_left, stop_requested, stop_signals
from atomfoundry.results.project import PROJECT_VARIABLE, Project, use_project
from atomfoundry.running.cluster.layout import jobs_of_project
from atomfoundry.running.processes import THREAD_VARIABLES, host_name

if TYPE_CHECKING:
    from fireworks.core.fworker import FWorker

    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

logger = logging.getLogger(__name__)

SLEEP_S = 1.0
IDLE_S = 20.0
"""A worker without work leaves after so long, unless others of its run may still make some."""
TERM_GRACE_S = 20.0
ONE_FIREWORK_VARIABLE = "ATOMFOUNDRY_FW_ID"


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker works."""

    categories: tuple[str, ...] = ()
    """Categories of jobs that it takes; none: all of the project."""
    name: str = ""
    """FireWorks' name of the worker; default the host's."""
    stay: bool = False
    """Wait for more work for ever."""
    idle_s: float = IDLE_S
    sleep_s: float = SLEEP_S
    max_jobs: int = 0
    """Leave after so many jobs; 0: no limit."""
    fw_id: int | None = None
    """Run this one job only (what a reservation is for)."""


def fworker_of(project: Project, options: WorkerOptions) -> FWorker:
    """Return FireWorks' description of a worker: it takes jobs of its project, others of the database it leaves.

    Parameters
    ----------
    project
        Whose jobs it takes.
    options
        How it works.
    """
    from fireworks.core.fworker import FWorker

    categories = list(options.categories)
    category = categories[0] if len(categories) == 1 else categories
    return FWorker(name=options.name or host_name(), category=category or "", query=jobs_of_project(project.project_id))


def work(
    project: Project, options: WorkerOptions = WorkerOptions(), *, launchpad: FoundryLaunchPad | None = None
) -> int:
    """Run jobs in this process until no work or no time is left.

    Parameters
    ----------
    project
        The project.
    options
        How.
    launchpad
        The LaunchPad; default the project's.

    Returns
    -------
    int
        How many jobs were run, well or not.
    """
    from fireworks.core.rocket_launcher import launch_rocket

    from atomfoundry.running.cluster.launchpad import open_launchpad
    from atomfoundry.running.cluster.patience import patiently

    lpad = launchpad or open_launchpad(project)
    fworker = fworker_of(project, options)
    before = Path.cwd()
    n_run, idle_since = 0, time.monotonic()
    project.work_dir.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="launch-", dir=project.work_dir) as folder, use_project(project):
        os.chdir(folder)
        try:
            while not must_stop():
                if launch_rocket(lpad, fworker, fw_id=options.fw_id, strm_lvl="WARNING"):
                    n_run += 1
                    idle_since = time.monotonic()
                    if options.fw_id is not None or n_run == options.max_jobs:
                        break
                    continue
                if options.fw_id is not None:
                    break
                if not options.stay and time.monotonic() - idle_since >= options.idle_s:
                    break
                if not options.stay and not patiently(lambda: lpad.future_run_exists(fworker), "looking for work"):
                    break
                time.sleep(options.sleep_s)
        finally:
            os.chdir(before)
    return n_run


def work_in_parallel(
    project: Project, n: int, options: WorkerOptions = WorkerOptions(), *, gpus: Sequence[str] = (), threads: int = 1
) -> int:
    """Run several workers at once, each a process of its own; one GPU each where there are GPUs.

    Parameters
    ----------
    project
        The project.
    n
        How many.
    options
        How each works.
    gpus
        GPUs to deal out, as in ``CUDA_VISIBLE_DEVICES``.
    threads
        Threads of numerical libraries in each.

    Returns
    -------
    int
        0, or the exit status of the first that failed.
    """
    processes = [
        subprocess.Popen(
            _command(project, options),
            env=_environment(project, threads, gpus[number % len(gpus)] if gpus else None),
            start_new_session=True,
        )
        for number in range(n)
    ]
    kill_at = float("inf")
    told = False
    with stop_signals():
        try:
            while any(process.poll() is None for process in processes):
                if must_stop() and not told:
                    told = True
                    if stop_requested() == "SIGTERM":
                        kill_at = time.monotonic() + TERM_GRACE_S
                    for process in processes:
                        _signal(process, signal.SIGUSR1)
                left = seconds_left()
                if time.monotonic() > kill_at or (left is not None and left < 2.0):
                    break
                time.sleep(0.1)
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return next((code for process in processes if (code := process.returncode) not in (0, -signal.SIGKILL)), 0)


def _signal(process: subprocess.Popen, number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _command(project: Project, options: WorkerOptions) -> list[str]:
    command = [sys.executable, "-m", "atomfoundry.running.cluster.worker", "--project", str(project.path)]
    for category in options.categories:
        command += ["--category", category]
    command += ["--name", options.name, "--idle", str(options.idle_s), "--sleep", str(options.sleep_s)]
    command += ["--max-jobs", str(options.max_jobs)]
    if options.stay:
        command.append("--stay")
    if options.fw_id is not None:
        command += ["--fw-id", str(options.fw_id)]
    return command


def _environment(project: Project, threads: int, gpu: str | None) -> dict[str, str]:
    environment = dict(os.environ)
    environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    environment[PROJECT_VARIABLE] = str(project.path)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def visible_gpus() -> list[str]:
    """Return the GPUs of this allocation, as ``CUDA_VISIBLE_DEVICES`` or ``nvidia-smi`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [part for part in given.split(",") if part.strip() and part.strip() != "-1"]
    try:
        command = ["nvidia-smi", "-L"]  # as PATH has it; nothing but a list of names is read
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # nosec B607
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU")]


def log_to_console() -> None:
    """Show what begins and ends here, and everybody's warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger("atomfoundry").setLevel(logging.INFO)
    for name in ("launchpad", "rocket.launcher"):
        # FireWorks' loggers have streams of their own, and let everything pass to ours
        logging.getLogger(name).propagate = False


def main(arguments: list[str] | None = None) -> None:
    """Run as ``python -m atomfoundry.running.cluster.worker``: one of several workers of an allocation.

    Parameters
    ----------
    arguments
        Command line; default that of the process.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--category", action="append", default=[])
    parser.add_argument("--name", default="")
    parser.add_argument("--idle", type=float, default=IDLE_S)
    parser.add_argument("--sleep", type=float, default=SLEEP_S)
    parser.add_argument("--max-jobs", type=int, default=0)
    parser.add_argument("--stay", action="store_true")
    parser.add_argument("--fw-id", type=int)
    options = parser.parse_args(arguments)
    log_to_console()
    with stop_signals():
        work(
            Project.open(options.project),
            WorkerOptions(
                categories=tuple(options.category),
                name=options.name,
                stay=options.stay,
                idle_s=options.idle,
                sleep_s=options.sleep,
                max_jobs=options.max_jobs,
                fw_id=options.fw_id,
            ),
        )


if __name__ == "__main__":
    main()
