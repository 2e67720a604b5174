"""Benchmarks that are interrupted go on as if nothing had happened."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.benchmarks import Elasticity, EquationOfState, Parity
from atomfoundry.benchmarks.nve_drift import NVEDrift
from atomfoundry.checkpoint import Checkpoints
from atomfoundry.deadline import NoTimeLeftError, _Request, forget_stop


@pytest.fixture(autouse=True)
def forget_afterwards():
    yield
    forget_stop()


class Interrupting(EMT):
    """Asks the process to stop at some calculations, and dies of it where told to."""

    def __init__(self, at=(), *, dies=False):
        super().__init__()
        self.at, self.dies, self.calls = set(at), dies, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        self.calls += 1
        if self.calls in self.at:
            _Request.signal = "SIGTERM"
            if self.dies:
                raise RuntimeError("terminated")
        super().calculate(atoms, properties, system_changes)


def without_times(document):
    values = document.model_dump(mode="json")
    del values["wall_time_s"]
    return json.dumps(values, sort_keys=True)


def in_pieces(benchmark, atoms, folder, at, **calculator):
    """Return the document of a run that was asked to stop at some of its calculations, and how many each part did."""
    counts, offset = [], 0
    at = sorted(at)
    while True:
        forget_stop()
        emt = Interrupting([call - offset for call in at], **calculator)
        try:
            document = benchmark.run(emt, atoms, checkpoints=Checkpoints(folder))
        except NoTimeLeftError as error:
            assert "SIGTERM asked this process to stop" in str(error)
        else:
            return document, [*counts, emt.calls]
        counts.append(emt.calls)
        offset += emt.calls
        at = [call for call in at if call > offset]


@pytest.mark.parametrize("start", ["double", "langevin"])
def test_drift_is_the_same_to_the_last_bit(tmp_path, start):
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    drift = NVEDrift(temperature=900.0, timestep=4.0, duration=160.0, equilibration=80.0, start=start, max_records=99)
    whole = drift.run(Interrupting(), atoms)
    assert whole.n_failed == 0 and len(whole.records) == 41
    document, counts = in_pieces(drift, atoms, tmp_path, at=(1, 2, 9, 19, 25, 31, 33, 55, 71))
    assert len(counts) > 6
    assert without_times(document) == without_times(whole)
    assert document.wall_time_s > 0


def test_nothing_is_lost_of_a_drift_but_one_evaluation(tmp_path):
    atoms = bulk("Cu", cubic=True)
    drift = NVEDrift(duration=30.0, equilibration=10.0, temperature=300.0)
    _, counts = in_pieces(drift, atoms, tmp_path, at=(5, 25))
    assert counts[:2] == [5, 20]
    assert sum(counts) == 41 + 2 * 2, "forces where it goes on, and where its list was made, are computed again"


def test_a_broken_down_run_breaks_down_again(tmp_path, calculators):
    atoms = bulk("Cu", cubic=True)
    drift = NVEDrift(duration=400.0, equilibration=0.0, temperature=3000.0, timestep=40.0)
    whole = drift.run(Interrupting(), atoms)
    assert whole.n_failed == 1
    document, _ = in_pieces(drift, atoms, tmp_path, at=(2,))
    assert without_times(document) == without_times(whole)


@pytest.mark.parametrize(
    ("relax_cell", "dies"),
    [(False, True), (True, False), *(pytest.param(a, a, marks=pytest.mark.slow) for a in (False, True))],
)
def test_finished_volumes_are_kept(tmp_path, dies, relax_cell):
    atoms = bulk("Cu", cubic=True)
    atoms.positions[0] += 0.1
    curve = EquationOfState(n_points=5, relax_cell=relax_cell)
    undisturbed = Interrupting()
    whole = curve.run(undisturbed, atoms)
    total = undisturbed.calls
    at = (total - 4, total - 2) if relax_cell else (total // 2, total - 50)
    document, counts = in_pieces(curve, atoms, tmp_path, at=at, dies=dies)
    assert without_times(document) == without_times(whole)
    assert len(counts) > 1
    assert max(counts) < total
    assert sum(counts) < 1.5 * total


def test_finished_strains_are_kept(tmp_path):
    atoms = bulk("Cu", cubic=True)
    elasticity = Elasticity()
    undisturbed = Interrupting()
    whole = elasticity.run(undisturbed, atoms)
    document, counts = in_pieces(elasticity, atoms, tmp_path, at=(3, 4, 11))
    assert without_times(document) == without_times(whole)
    assert len(counts) >= 3 and sum(counts) == undisturbed.calls


def test_finished_predictions_and_failures_are_kept(tmp_path):
    frames = []
    for index in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=index)
        atoms.calc = SinglePointCalculator(atoms, energy=0.1 * index, forces=np.full((4, 3), 0.01), stress=np.ones(6))
        frames.append(atoms)
    frames[1].symbols[0] = "Si"
    whole = Parity().run(Interrupting(), frames)
    assert whole.n_failed == 1
    document, counts = in_pieces(Parity(), frames, tmp_path, at=(3, 4), dies=True)
    assert without_times(document) == without_times(whole)
    assert len(counts) == 3 and sum(counts) == 6 + 2


def test_another_structure_or_setting_begins_from_the_start(tmp_path):
    atoms = bulk("Cu", cubic=True)
    with pytest.raises(NoTimeLeftError):
        NVEDrift(duration=20.0).run(Interrupting([10]), atoms, checkpoints=Checkpoints(tmp_path))
    forget_stop()
    other = NVEDrift(duration=21.0)
    emt = Interrupting()
    other.run(emt, atoms, checkpoints=Checkpoints(tmp_path))
    assert emt.calls == 1 + 200 + 21
