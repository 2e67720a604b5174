"""Sampling by molecular dynamics goes on bit for bit after a stop or a kill at any step."""

from __future__ import annotations

import contextlib
import os
import signal

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

from atomfoundry.checkpoint import Checkpoints, keeper
from atomfoundry.deadline import NoTimeLeftError, _Request, forget_stop
from atomfoundry.errors import StructureError
from atomfoundry.sampling import md_snapshots
from atomfoundry.sampling.vibrations import normal_modes


@pytest.fixture(autouse=True)
def forget_afterwards():
    yield
    forget_stop()


class Acting(EMT):
    """Does something at one of its calculations."""

    def __init__(self, at=-1, act=None):
        super().__init__()
        self.at, self.act, self.calls = at, act, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        self.calls += 1
        if self.calls == self.at:
            self.act()
        super().calculate(atoms, properties, system_changes)


def stop():
    _Request.signal = "SIGUSR1"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def sample(calculator, folder=None, **changes):
    values = {"temperature": 1500.0, "n": 3, "interval": 4, "seed": 5, "timestep": 4.0, "equilibration": 5}
    checkpoints = None if folder is None else Checkpoints(folder, interval=0)
    return md_snapshots(bulk("Cu", cubic=True), calculator, checkpoints=checkpoints, **(values | changes))


def same(first, second):
    return len(first) == len(second) and all(
        a.positions.tobytes() == b.positions.tobytes()
        and a.cell.array.tobytes() == b.cell.array.tobytes()
        and a.info == b.info
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_stopped_at_every_step(tmp_path, ensemble):
    whole = sample(Acting(), ensemble=ensemble)
    assert len(whole) == 3
    stops = 0
    while True:
        # the first calculation of a process only makes the neighbour list where it was, the second the forces
        calculator = Acting(3, stop)
        try:
            found = sample(calculator, tmp_path, ensemble=ensemble)
        except NoTimeLeftError as error:
            assert "MD of Cu4 at 1500 K, step" in str(error) and "of 17: interrupted" in str(error)
            forget_stop()
            stops += 1
            assert stops < 40
        else:
            break
    assert stops >= 14
    assert same(found, whole)
    known = Acting()
    assert same(sample(known, tmp_path, ensemble=ensemble), whole)
    assert known.calls == 0, "a finished run is not done again"


@pytest.mark.parametrize("at", [1, 2, 7, 13])
def test_killed_at_any_step(tmp_path, monkeypatch, at):
    monkeypatch.setattr(keeper, "SHARE", 1e9)
    whole = sample(Acting())
    child = os.fork()
    if not child:
        try:
            sample(Acting(at, die), tmp_path)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    calculator = Acting()
    assert same(sample(calculator, tmp_path), whole)
    expected = 18 if at == 1 else 18 - (at - 2) + 1
    assert calculator.calls <= expected, "no step but the last is done twice"


def test_other_runs_in_the_same_folder_are_others(tmp_path):
    runs = {seed: sample(EMT(), tmp_path, seed=seed) for seed in (1, 2)}
    assert not same(runs[1], runs[2])
    assert same(runs[1], sample(EMT(), seed=1))
    assert same(sample(EMT(), tmp_path, temperature=300.0), sample(EMT(), temperature=300.0))


def test_an_exploded_run_explodes_again(tmp_path):
    for _ in range(2):
        with pytest.raises(StructureError, match="exploded before step"):
            sample(EMT(), tmp_path, timestep=80.0, ensemble="nve")


def test_normal_modes_go_on(tmp_path):
    atoms = bulk("Cu", cubic=True)
    whole = normal_modes(atoms, EMT())
    counts = []
    for at in (7, 9, -1):
        forget_stop()
        calculator = Acting(at, stop)
        with contextlib.suppress(NoTimeLeftError):
            found = normal_modes(atoms, calculator, checkpoints=Checkpoints(tmp_path))
        counts.append(calculator.calls)
    assert counts == [8, 10, 6], "a row of two is finished, none is done twice"
    assert found.frequencies.tobytes() == whole.frequencies.tobytes()
    assert found.displacements.tobytes() == whole.displacements.tobytes()


def test_progress_tells_step_temperature_and_time(tmp_path):
    heard = []
    checkpoints = Checkpoints(tmp_path, report=lambda message, fraction: heard.append((message, fraction)))
    md_snapshots(
        bulk("Cu", cubic=True), EMT(), temperature=300.0, n=1, interval=5, seed=1, timestep=2.0, checkpoints=checkpoints
    )
    message, fraction = heard[0]
    assert message.startswith("MD of Cu4 at 300 K: step 0/5, ") and message.endswith(" K, 0 ps")
    assert fraction == 0.0
    assert np.isfinite(float(message.split(", ")[1].split()[0]))
