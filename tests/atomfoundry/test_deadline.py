from __future__ import annotations

import time

import pytest

from atomfoundry.deadline import end_time, seconds_left
from atomfoundry.errors import ConfigurationError


@pytest.fixture(autouse=True)
def no_limits(monkeypatch):
    for name in ("ATOMFOUNDRY_DEADLINE", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)


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
