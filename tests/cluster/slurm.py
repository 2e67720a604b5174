"""Slurm for tests: munged, slurmctld and slurmd on this machine, in a temporary folder, and no trace afterwards.

Everything is started by a guard, a process of its own whose standard input is a pipe from the tests. When the
pipe closes, by ``close`` or because the tests were killed, the guard ends jobs and daemons and removes the folder.
What a killed guard leaves behind is ended at the next start. Processes are known as ours by their environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

MARK = "ATOMFOUNDRY_TEST_SLURM"
PREFIX = "foundry-slurm-"
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
START_TIMEOUT_S = 30.0

CONFIGURATION = """\
ClusterName=foundry
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/ended.txt
InactiveLimit=0
OverTimeLimit=0
KillWait=5
MinJobAge=300
PrologFlags=NoHold
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} Boards=1 SocketsPerBoard=1 CoresPerSocket={cores} ThreadsPerCore=1 \
RealMemory=100000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} Default=NO MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return why no Slurm can be started here, or None."""
    if not sys.platform.startswith("linux"):
        return "Slurm runs on Linux"
    if os.getuid() != 0:
        return "Slurm's daemons are started as root only"
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)" if absent else None


class SlurmError(Exception):
    """Slurm could not be started, or a command of its failed."""


class Slurm:
    """A running Slurm of one node with the partitions ``cpu`` (the default) and ``gpu``.

    Parameters
    ----------
    cores
        Cores that Slurm gives out, whatever the machine has.
    gpus
        Devices of the generic resource ``gpu``: files that stand for them.
    """

    def __init__(self, *, cores: int = 4, gpus: int = 2) -> None:
        end_left_overs()
        # /tmp whatever TMPDIR says: the name of a socket has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        self.folder.chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))},
            "PATH": PATH,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            MARK: str(self.folder),
        }
        note_owner(self.folder)
        self._guard = subprocess.Popen(
            [sys.executable, "-P", __file__, str(self.folder), str(cores), str(gpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            cwd="/",
            start_new_session=True,
            text=True,
        )
        assert self._guard.stdout is not None
        answer = self._guard.stdout.readline().strip()
        if answer != "ready":
            self.close()
            raise SlurmError(f"Slurm did not start: {answer or 'the guard died'}")

    def close(self) -> None:
        """End jobs and daemons, remove the folder."""
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        self._guard.wait(timeout=60)
        assert self._guard.stdout is not None
        self._guard.stdout.close()

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def guard_pid(self) -> int:
        """Process number of the guard."""
        return self._guard.pid

    def run(self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run a command that talks to this Slurm; return what it wrote.

        Parameters
        ----------
        command
            Program and arguments.
        cwd
            Where.
        env
            More variables.
        """
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**self.environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise SlurmError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def submit(self, script: str, *options: str, cwd: Path) -> str:
        """Submit a bash script; return the job's id.

        Parameters
        ----------
        script
            The lines after ``#!/bin/bash``.
        options
            Of sbatch.
        cwd
            Where the job runs and its output goes.
        """
        file = cwd / "job.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        return self.run("sbatch", "--parsable", *options, str(file), cwd=cwd).strip().partition(";")[0]

    def jobs(self) -> dict[str, str]:
        """Return the state of every job that has not ended, by id."""
        return dict(line.split() for line in self.run("squeue", "-h", "-o", "%i %T").splitlines())

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until no job is left.

        Parameters
        ----------
        seconds
            How long.
        """
        end = time.monotonic() + seconds
        while jobs := self.jobs():
            if time.monotonic() > end:
                raise SlurmError(f"After {seconds:g} s there still are {jobs}\n{self.log()}")
            time.sleep(0.2)

    def wait_for(self, job: str, *states: str, seconds: float = 30.0) -> None:
        """Wait until a job is in one of some states.

        Parameters
        ----------
        job
            Its id.
        states
            Names of states, e.g. ``"RUNNING"``.
        seconds
            How long.
        """
        end = time.monotonic() + seconds
        while (state := self.jobs().get(job)) not in states:
            if time.monotonic() > end:
                raise SlurmError(f"After {seconds:g} s job {job} is {state}, not {states}\n{self.log()}")
            time.sleep(0.1)

    def ended(self) -> list[dict[str, str]]:
        """Return what Slurm noted about every job that has ended (JobId, Partition, JobState, Name, ...)."""
        file = self.folder / "ended.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [dict(part.partition("=")[::2] for part in line.split()) for line in lines]

    def log(self) -> str:
        """Return the ends of the daemons' logs."""
        return _logs(self.folder)


# -- the guard ---------------------------------------------------------------------------------------------------


def note_owner(folder: Path) -> None:
    """Write down which process started what is in a folder."""
    me = psutil.Process()
    (folder / "owner.json").write_text(json.dumps({"pid": me.pid, "start": me.create_time()}))


def our_processes(folder: Path) -> list[psutil.Process]:
    """Return the processes, but this one, that belong to the Slurm of a folder: daemons, jobs and their children."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # slurmstepd writes its title over its environment, but stays in the folder that slurmd ran in. A job
            # submitted with an environment of its own bears no mark either: it is a child of slurmstepd.
            if process.cwd() == str(folder) or process.environ().get(MARK) == str(folder):
                found |= {process, *process.children(recursive=True)}
    return [process for process in found if process.pid != os.getpid() and process.is_running()]


def end_left_overs() -> None:
    """End what killed tests and their killed guards have left behind."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid() and not _owned(folder):
                end_all(folder)


def _owned(folder: Path) -> bool:
    try:
        owner = json.loads((folder / "owner.json").read_text())
        process = psutil.Process(owner["pid"])
        return process.create_time() == owner["start"] and process.status() != psutil.STATUS_ZOMBIE
    except OSError:  # not yet written
        return time.time() - folder.stat().st_mtime < 5
    except (ValueError, KeyError, psutil.Error):
        return False


def end_all(folder: Path) -> None:
    """Kill what belongs to the Slurm of a folder, remove the folder."""
    end = time.monotonic() + 20
    # Again and again: a daemon may have begun a job between the look and the kill.
    while (found := our_processes(folder)) and time.monotonic() < end:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=5)
    shutil.rmtree(folder, ignore_errors=True)


def _logs(folder: Path) -> str:
    texts = {file.name: file.read_text(errors="replace")[-1500:] for file in sorted(folder.glob("*.log"))}
    return "\n".join(f"--- {name}\n{text}" for name, text in texts.items())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _daemon(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / f"{command[0]}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            preexec_fn=_die_with_parent,
        )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _until(condition: Callable[[], bool], what: str, daemons: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not condition():
        dead = [daemon.args[0] for daemon in daemons if daemon.poll() is not None]  # type: ignore[index]
        if dead or time.monotonic() > end:
            raise SlurmError(
                f"{', '.join(dead) + ' ended' if dead else 'too long'} waiting for {what}\n{_logs(folder)}"
            )
        time.sleep(0.05)


def _start(folder: Path, *, cores: int, gpus: int) -> list[subprocess.Popen[bytes]]:
    host = socket.gethostname().partition(".")[0]
    ports = _free_ports(2)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=host, folder=folder, controller_port=ports[0], node_port=ports[1], cores=cores, gpus=gpus
        )
    )
    for number in range(gpus):
        os.mknod(folder / f"device{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # another /dev/null
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/device[0-{gpus - 1}]\n")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    subprocess.run(["mungekey", "--create", f"--keyfile={folder}/munge.key"], check=True)
    daemons = [
        _daemon(
            folder,
            "munged",
            "--foreground",
            f"--key-file={folder}/munge.key",
            f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid",
            f"--seed-file={folder}/munged.seed",
            "--num-threads=2",
        )
    ]
    _until((folder / "munge.socket").exists, "munged", daemons, folder)
    daemons += [_daemon(folder, "slurmctld", "-D"), _daemon(folder, "slurmd", "-D")]

    def idle() -> bool:
        answer = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        return answer.returncode == 0 and set(answer.stdout.split()) == {"idle"}

    _until(idle, "an idle node", daemons, folder)
    return daemons


def guard(folder: Path, *, cores: int, gpus: int) -> None:
    """Start Slurm, say so, wait until standard input closes, end everything."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    note_owner(folder)
    try:
        try:
            _start(folder, cores=cores, gpus=gpus)
            answer = "ready"
        except (SlurmError, OSError, subprocess.SubprocessError) as error:
            answer = str(error).replace("\n", " | ")
        with contextlib.suppress(OSError):
            sys.stdout.write(f"{answer}\n")
            sys.stdout.flush()
        sys.stdin.read()
    finally:
        end_all(folder)


if __name__ == "__main__":
    guard(Path(sys.argv[1]), cores=int(sys.argv[2]), gpus=int(sys.argv[3]))
