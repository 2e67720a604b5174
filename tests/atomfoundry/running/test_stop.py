"""Asked to stop, or at the end of its batch job, a run leaves the rest to the next one."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from jobflow import Flow

from atomfoundry.deadline import forget_stop
from atomfoundry.running import run, supervisor


@pytest.fixture(autouse=True)
def _no_limits(monkeypatch):
    for name in ("ATOMFOUNDRY_DEADLINE", "ATOMFOUNDRY_DEADLINE_MARGIN", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    yield
    forget_stop()


def signal_after(calls, lines: int, number: signal.Signals) -> None:
    def wait() -> None:
        end = time.monotonic() + 120
        while len(calls()) < lines and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_begun_after_the_deadline(jobs, project, calls, monkeypatch, workers):
    flow = Flow([jobs.add(1, 1), jobs.add(2, 2)])
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 10))
    result = run(flow, project=project, workers=workers, progress=False)
    assert (result.left, result.total, result.completed, result.ok) == (2, 2, 0, False)
    assert not calls()
    monkeypatch.delenv("ATOMFOUNDRY_DEADLINE")
    if workers == 0:
        again = run(flow, project=project, workers=0, progress=False)
        assert (again.left, again.completed, again.ok) == (0, 2, True)


def test_a_signal_lets_running_jobs_end_and_begins_no_others(jobs, project, calls):
    flow = Flow([jobs.add(i, 1, pause=0.5) for i in range(4)])
    signal_after(calls, 1, signal.SIGUSR2)
    result = run(flow, project=project, workers=1, progress=False)
    assert (result.completed, result.left, result.failed) == (1, 3, 0)
    assert len(calls()) == 1
    # The request holds: a script's next run begins nothing either.
    assert run(flow, project=project, workers=0, progress=False).left == 3
    forget_stop()
    assert run(flow, project=project, workers=0, progress=False).ok
    assert len(calls()) == 4


def test_sigterm_waits_only_so_long(jobs, project, calls, monkeypatch):
    monkeypatch.setattr(supervisor, "TERM_GRACE_S", 0.3)
    flow = Flow([jobs.add(1, 1, pause=60)])
    signal_after(calls, 1, signal.SIGTERM)
    start = time.monotonic()
    result = run(flow, project=project, workers=1, progress=False)
    assert time.monotonic() - start < 55
    assert (result.completed, result.left, result.failed) == (0, 1, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_job_without_time_is_ready_again(jobs, project, tmp_path, workers):
    allowed = tmp_path / "allowed"
    flow = Flow([jobs.needs_time(str(allowed))])
    result = run(flow, project=project, workers=workers, progress=False)
    assert (result.left, result.failed, result.ok) == (1, 0, False)
    allowed.touch()
    assert run(flow, project=project, workers=0, progress=False).ok
