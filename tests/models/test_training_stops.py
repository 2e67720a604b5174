"""A training whose process must end stops between two steps, and goes on in the next as if it had not."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from argon import config, crystals, equal, losses, settings, weights

from atomfoundry.deadline import forget_stop, stop_signals
from atomfoundry.models.training.checkpoint import load_checkpoint
from atomfoundry.models.training.trainer import _Trainer, train


@pytest.fixture(autouse=True)
def forget_afterwards():
    yield
    forget_stop()


@pytest.fixture
def whole():
    return train(config(), crystals(), crystals(2, seed=9), settings=settings())


@pytest.fixture
def interrupt(monkeypatch):
    """Do something in the middle of the fifth step of the first training (the second epoch, three steps each)."""

    def at_fifth_step(act):
        step, calls = _Trainer._step, []

        def counted(self, *arguments):
            calls.append(1)
            if len(calls) == 5:
                act()
            step(self, *arguments)

        monkeypatch.setattr(_Trainer, "_step", counted)

    return at_fifth_step


def training(folder, **changes):
    return train(config(), crystals(), crystals(2, seed=9), settings=settings(**changes), directory=folder)


def same(first, second):
    return losses(first) == losses(second) and equal(weights(first.model), weights(second.model))


def test_a_signal_stops_after_the_step_and_nothing_is_lost(tmp_path, whole, interrupt):
    interrupt(lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with stop_signals():
        stopped = training(tmp_path)
    assert (stopped.stop_reason, stopped.interrupted, stopped.n_epochs) == ("signal", True, 1)
    assert load_checkpoint(tmp_path / "checkpoint").state["progress"]["step"] == 2
    again = training(tmp_path)
    assert (again.stop_reason, again.n_epochs) == ("signal", 1), "the request holds for the whole process"
    forget_stop()
    continued = training(tmp_path)
    assert (continued.stop_reason, continued.interrupted) == ("max_epochs", False)
    assert same(continued, whole)


def test_the_end_of_the_batch_job_stops_in_time(tmp_path, whole, interrupt, monkeypatch):
    interrupt(lambda: monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 29)))
    stopped = training(tmp_path)
    assert (stopped.stop_reason, stopped.interrupted, stopped.n_epochs) == ("wall_time", True, 1)
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert same(training(tmp_path), whole)


def test_an_end_far_away_stops_nothing(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 3600))
    assert same(training(tmp_path), whole)


def test_a_limit_of_its_own_is_no_interruption(tmp_path, whole):
    stopped = training(tmp_path, max_wall_time_s=1e-6)
    assert (stopped.stop_reason, stopped.interrupted, stopped.n_epochs) == ("wall_time", False, 0)
    assert training(tmp_path, max_wall_time_s=1e-6).stop_reason == "wall_time"
    assert same(training(tmp_path), whole)
