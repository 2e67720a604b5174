"""Processes: who is alive, who is left over, and how a worker is started and ended."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from atomfoundry.errors import ProjectError
from atomfoundry.results.project import PROJECT_VARIABLE, Project

WORKER_VARIABLE = "ATOMFOUNDRY_WORKER"
"""Set in a worker's environment and so in all that it starts; how left-over processes are known."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def host_name() -> str:
    """Return this machine's name."""
    return platform.node()


def process_start(pid: int) -> float:
    """Return when a process started, in s since 1970; 0 if there is none.

    Parameters
    ----------
    pid
        Process number.
    """
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def kill_left_over(workers: Iterable[str]) -> int:
    """Kill processes that dead runners' workers, or the programs these started, have left behind.

    Parameters
    ----------
    workers
        Ids of workers of this project whose runner is gone.

    Returns
    -------
    int
        How many were killed.
    """
    wanted = set(workers)
    killed = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if wanted and process.pid != os.getpid() and process.environ().get(WORKER_VARIABLE) in wanted:
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=5)
    return len(killed)


def _own_import_paths() -> list[str]:
    """Return where the runner finds modules beyond those of its Python; job functions may live there."""
    ours = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    paths = [Path(entry).resolve() for entry in sys.path]
    # Installed packages stay where the worker's own start-up puts them: given first, they would hide
    # editable ones.
    found = [
        str(path)
        for path in paths
        if not ours & {path, *path.parents} and path.name not in {"site-packages", "dist-packages"}
    ]
    given = os.environ.get("PYTHONPATH", "")
    return list(dict.fromkeys([*found, *filter(None, given.split(os.pathsep))]))


class WorkerProcess:
    """A worker that this runner has started.

    Parameters
    ----------
    worker
        Its id.
    project
        The project.
    run_id
        The run it works for.
    pipe
        Read end of a pipe whose write end only the runner holds: the worker ends when it closes.
    threads
        Threads of numerical libraries in each job.
    """

    def __init__(self, worker: str, project: Project, run_id: str, *, pipe: int, threads: int = 1) -> None:
        self.worker = worker
        self.log = project.work_dir / f"worker-{worker}.log"
        environment = dict(os.environ)
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        environment[WORKER_VARIABLE] = worker
        environment[PROJECT_VARIABLE] = str(project.path)
        environment["PYTHONPATH"] = os.pathsep.join(_own_import_paths())
        command = [sys.executable, "-m", "atomfoundry.running.worker"]
        command += ["--project", str(project.path), "--run", run_id, "--worker", worker, "--pipe", str(pipe)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=project.work_dir,
                pass_fds=(pipe,),
                # A session of its own: Ctrl-C reaches the runner only, and the whole group can be killed.
                start_new_session=True,
            )

    def ended(self) -> int | None:
        """Return the exit status if the process has ended, its group killed; None while it lives."""
        if self.process.returncode is not None:
            return self.process.returncode
        state = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if state is None:
            return None
        # Not yet reaped, so the number of the group cannot have been given to anybody else.
        self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """Kill the worker and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def tell(self, number: signal.Signals) -> None:
        """Send the worker a signal.

        Parameters
        ----------
        number
            The signal.
        """
        if self.process.returncode is None:
            # Not by Popen, which would reap it if it has ended: see ``ended``.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def last_words(self) -> str:
        """Return the end of what it wrote."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text[-2000:].strip()


class ProjectLock:
    """Holds a project for one runner; released by the system however the runner ends.

    Parameters
    ----------
    project
        The project.
    """

    def __init__(self, project: Project) -> None:
        self.path = project.path / "runner.lock"

    def __enter__(self) -> ProjectLock:
        import fcntl

        self._file = self.path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise ProjectError(
                f"Another run is at work in {self.path.parent} ({holder}).",
                remedy="Wait for it, end it, or use another project folder.",
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {host_name()}")
        self._file.flush()
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
