from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from atomfoundry.deadline import (
    end_time,
    forget_stop,
    must_stop,
    seconds_left,
    stop_requested,
    stop_signals,
    working_time,
)
from atomfoundry.errors import ConfigurationError


@pytest.fixture(autouse=True)
def no_limits(monkeypatch):
    names = ("ATOMFOUNDRY_DEADLINE", "ATOMFOUNDRY_DEADLINE_MARGIN", "SLURM_JOB_END_TIME", "PBS_WALLTIME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    yield
    forget_stop()


def test_nothing_limits_a_process_without_a_queue():
    assert end_time() is None
    assert seconds_left() is None


def test_the_earliest_end_counts(monkeypatch):
    now = time.time()
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(now + 500))
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(now + 100))
    assert end_time() == pytest.approx(now + 100)
    assert 99 < seconds_left() <= 100


def test_a_wrong_time_is_named(monkeypatch):
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", "soon")
    with pytest.raises(ConfigurationError, match="ATOMFOUNDRY_DEADLINE is 'soon'"):
        end_time()


def test_work_ends_a_margin_before_the_end(monkeypatch):
    assert working_time() is None
    assert not must_stop()
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 100))
    assert 65 < working_time() <= 70
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE_MARGIN", "90")
    assert 5 < working_time() <= 10
    assert not must_stop()
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE_MARGIN", "110")
    assert working_time() == 0
    assert must_stop()
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE_MARGIN", "long")
    with pytest.raises(ConfigurationError, match="ATOMFOUNDRY_DEADLINE_MARGIN is 'long'"):
        working_time()


PBS_SCRIPT = """
import os, subprocess, sys, time
time.sleep(1.2)
child = "from atomfoundry.deadline import end_time; print(end_time())"
print(time.time())
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_torques_walltime_counts_from_the_start_of_the_job():
    environment = {**os.environ, "PBS_JOBID": "12.server", "PBS_WALLTIME": "3600"}
    before = time.time()
    done = subprocess.run(
        [sys.executable, "-c", PBS_SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    late, end = map(float, done.stdout.split())
    # The kernel counts starts in ticks after a boot time that is rounded.
    assert before - 1.0 < end - 3600 < late - 0.2


def test_a_walltime_without_a_job_limits_nothing(monkeypatch):
    monkeypatch.setenv("PBS_WALLTIME", "3600")
    assert end_time() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_asks_to_stop_and_the_second_acts_as_before(number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append("old handler"))
    try:
        with stop_signals():
            assert stop_requested() is None
            os.kill(os.getpid(), number)
            assert stop_requested() == number.name
            assert must_stop()
            assert not heard
            os.kill(os.getpid(), number)
            assert heard == ["old handler"]
        os.kill(os.getpid(), number)
        assert len(heard) == 2
        assert stop_requested() == number.name
    finally:
        signal.signal(number, before)


def test_signals_are_left_alone_in_other_threads():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def look():
        with stop_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
