"""The tests' own Slurm: it starts, keeps partitions and time limits, and leaves no trace however the tests end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from slurm import Slurm, SlurmError, end_left_overs, missing, our_processes

from atomfoundry.running.cluster.scheduler import job_states

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=str(missing()))]

HERE = Path(__file__).parent
OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from slurm import Slurm
slurm = Slurm()
job = slurm.submit("sleep 600", "--export=NONE", cwd=Path(sys.argv[2]))
slurm.wait_for(job, "RUNNING")
print(slurm.folder, slurm.guard_pid, flush=True)
time.sleep(600)
"""


def names(folder):
    found = set()
    for process in our_processes(folder):
        with suppress(psutil.Error):
            found.add(process.name())
    return found


def test_partitions_and_devices(slurm, tmp_path):
    say = 'echo "$SLURM_JOB_PARTITION $SLURM_JOB_ID ${CUDA_VISIBLE_DEVICES-none}"'
    jobs = [slurm.submit(say, "--time=2", *more, cwd=tmp_path) for more in ((), ("-p", "gpu", "--gres=gpu:1"))]
    slurm.wait()
    said = [(tmp_path / f"slurm-{job}.out").read_text().split() for job in jobs]
    assert said == [["cpu", jobs[0], "none"], ["gpu", jobs[1], "0"]]
    ended = {job["JobId"]: job for job in slurm.ended()}
    assert [(ended[job]["Partition"], ended[job]["JobState"]) for job in jobs] == [
        ("cpu", "COMPLETED"),
        ("gpu", "COMPLETED"),
    ]


def test_two_jobs_at_once(slurm, tmp_path):
    """Though the machine may have a single core."""
    meet = (
        "touch here-$SLURM_JOB_ID; for i in $(seq 200); do ls here-* | wc -l | grep 2 && exit; sleep 0.05; done; false"
    )
    jobs = [slurm.submit(meet, cwd=tmp_path) for _ in range(2)]
    slurm.wait()
    assert {job["JobState"] for job in slurm.ended() if job["JobId"] in jobs} == {"COMPLETED"}


def test_job_states(slurm_environment, tmp_path):
    slurm = slurm_environment
    array = slurm.submit("sleep 600", "--array=0-2%1", "--partition=gpu", cwd=tmp_path)
    held = slurm.submit("true", "--hold", cwd=tmp_path)
    ended = slurm.submit("true", cwd=tmp_path)
    slurm.wait_for(f"{array}_0", "RUNNING")
    while ended in slurm.jobs():
        time.sleep(0.1)
    own = slurm.run("squeue", "-h", "-j", f"{array}_0", "-o", "%A").strip()
    assert job_states([array, own, f"{array}_0", f"{array}_2", f"{array}_7", held, ended, "9999"], "slurm") == {
        array: "running",
        own: "running",
        f"{array}_0": "running",
        f"{array}_2": "pending",
        f"{array}_7": "gone",
        held: "pending",
        ended: "gone",
        "9999": "gone",
    }
    assert job_states(["9999"], "slurm") == {"9999": "gone"}
    assert job_states([ended], "slurm") == {ended: "gone"}
    slurm.run("scancel", array, held)
    slurm.wait()
    assert job_states([array, held], "slurm") == {array: "gone", held: "gone"}


def test_job_states_without_a_controller(tmp_path, monkeypatch):
    with Slurm() as slurm:
        for name in ("PATH", "SLURM_CONF"):
            monkeypatch.setenv(name, slurm.environment[name])
        job = slurm.submit("sleep 600", cwd=tmp_path)
        slurm.wait_for(job, "RUNNING")
        controller = next(process for process in our_processes(slurm.folder) if process.name() == "slurmctld")
        controller.suspend()
        assert job_states([job], "slurm", timeout=2) == {job: "unknown"}
        controller.kill()
        assert job_states([job, "9999"], "slurm", timeout=60) == {job: "unknown", "9999": "unknown"}
        folder = slurm.folder
    assert not folder.exists()
    assert not our_processes(folder)


def test_failures_are_told(slurm, tmp_path):
    with pytest.raises(SlurmError, match="invalid partition"):
        slurm.submit("true", "--partition=none", cwd=tmp_path)
    job = slurm.submit("true", "--hold", cwd=tmp_path)
    with pytest.raises(SlurmError, match=f"{job}.*PENDING"):
        slurm.wait(0.3)
    slurm.run("scancel", job)


def is_there(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


@pytest.mark.parametrize("guard_too", [False, True])
def test_killed_tests_leave_nothing(guard_too, tmp_path):
    command = [sys.executable, "-c", OWNER, str(HERE), str(tmp_path)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        folder, guard = owner.stdout.readline().split()
        end = time.monotonic() + 10
        while not {"munged", "slurmctld", "slurmd", "slurmstepd", "sleep"} <= names(Path(folder)):
            assert time.monotonic() < end
            time.sleep(0.1)
        processes = our_processes(Path(folder))
        if guard_too:
            os.kill(int(guard), signal.SIGKILL)
    finally:
        owner.kill()
        owner.communicate()
    if guard_too:
        # a killed process is there until the kernel has taken it apart
        end = time.monotonic() + 10
        while is_there(int(guard)) and time.monotonic() < end:
            time.sleep(0.05)
        end_left_overs()
    psutil.wait_procs(processes, timeout=20)
    assert not [process for process in processes if process.is_running()]
    deadline = time.monotonic() + 10
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(folder).exists()


def test_others_are_left_alone(slurm):
    end_left_overs()
    assert slurm.jobs() == {}
    assert slurm.folder.exists()
