"""Uncertainty of foreign calculators: the disagreement of a committee, or none."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from atomfoundry.datasets import attach_labels, with_metadata
from atomfoundry.errors import ModelError
from atomfoundry.models.exploration import explore, select_frames
from atomfoundry.models.foreign_descriptors import (
    calculator_atom_descriptors,
    foreign_structure_descriptors,
    has_descriptors,
    radial_atom_descriptors,
)
from atomfoundry.models.uncertainty.committee import CommitteeUncertainty, NoUncertainty


def lennard_jones(epsilon):
    return LennardJones(sigma=2.6, epsilon=epsilon, rc=6.0, smooth=True)


def crystal(seed):
    atoms = bulk("Ar", "fcc", a=4.1) * (2, 1, 1)
    atoms.rattle(0.1, seed=seed)
    return atoms


def labelled(n):
    frames = []
    for seed in range(n):
        atoms = crystal(seed)
        atoms.calc = lennard_jones(0.36)
        labels = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        frames.append(attach_labels(with_metadata(atoms), *labels))
    return frames


@pytest.fixture
def committee():
    return CommitteeUncertainty([lennard_jones(e) for e in (0.30, 0.31, 0.33)], names=["a", "b", "c"])


def test_sigma_is_the_unbiased_spread(committee):
    """Forces are proportional to epsilon, so the spread is known."""
    atoms = crystal(7)
    atoms.calc = lennard_jones(1.0)
    unit = np.linalg.norm(atoms.get_forces(), axis=1)
    expected = np.std([0.30, 0.31, 0.33], ddof=1) * unit
    np.testing.assert_allclose(committee.sigma_forces(atoms), expected, rtol=1e-9)


def test_calibration_covers_the_errors(committee):
    """The truth is 0.36: all members are wrong by more than they differ, by one factor."""
    committee.calibrate(labelled(12))
    factor = (0.36 - 0.30) / np.std([0.30, 0.31, 0.33], ddof=1)
    assert committee.quantile == pytest.approx(factor, rel=1e-6)
    assert committee.n_calibration == 12
    atoms = crystal(99)
    atoms.calc = lennard_jones(0.36 - 0.30)
    error = np.linalg.norm(atoms.get_forces(), axis=1)
    np.testing.assert_allclose(committee.sigma_forces(atoms), error, rtol=1e-6)
    largest = [committee.sigma_forces(frame).max() for frame in labelled(12)]
    limits = committee.thresholds()
    assert limits["low"] == pytest.approx(np.percentile(largest, 95))
    assert limits["high"] == max(5 * limits["low"], 1.0)


def test_what_cannot_be_a_committee_is_refused(committee):
    one = lennard_jones(0.3)
    for members in ([], [one], [one, one]):
        with pytest.raises(ModelError, match="nothing to disagree on"):
            CommitteeUncertainty(members)
    with pytest.raises(ModelError, match="no thresholds"):
        committee.thresholds()
    with pytest.raises(ModelError, match="no labelled frame"):
        committee.calibrate([with_metadata(crystal(1))])
    with pytest.raises(ModelError, match="agree on every force"):
        CommitteeUncertainty([lennard_jones(0.3), lennard_jones(0.3)]).calibrate(labelled(3))
    with pytest.raises(ModelError, match="coverage of 99%"):
        CommitteeUncertainty([lennard_jones(0.3), lennard_jones(0.4)], coverage=0.99).calibrate(labelled(3))


def test_a_member_that_fails_ends_a_run_honestly(committee):
    class Broken(LennardJones):
        def calculate(self, *args, **kwargs):
            raise RuntimeError("no")

    broken = CommitteeUncertainty([lennard_jones(0.3), Broken()])
    found = explore(crystal(1), broken, temperature=50.0, n_steps=5, thresholds={"low": 0.0, "high": 1.0})
    assert found.record.stop_reason == "nan"


def test_exploration_with_a_committee_flags_the_hot(committee):
    committee.calibrate(labelled(8))
    found = explore(crystal(3), committee, temperature=3000.0, n_steps=60, timestep=2.0, interval=5, seed=1)
    assert len(found.record.sigma_max) == len(found.record.times) > 1
    low, high = committee.thresholds().values()
    assert found.flagged
    assert all(low < frame.info["sigma_forces_max"] <= high for frame in found.flagged)


def test_without_uncertainty_distance_alone_decides():
    found = explore(crystal(3), NoUncertainty(lennard_jones(0.3)), temperature=100.0, n_steps=20, interval=5, seed=1)
    assert found.record.stop_reason == "finished"
    assert len(found.flagged) == 5
    selection = select_frames(
        found.flagged,
        2,
        sigmas=[0.0] * 5,
        descriptors=np.array([[1, 0], [1, 0.5], [1, 1], [1, 2], [1, 9]], dtype=float),
        training_descriptors=np.array([[1.0, 0.0]]),
        thresholds=NoUncertainty(lennard_jones(0.3)).thresholds(),
        exponent=0.0,
    )
    assert selection.indices == [4, 3]


def test_radial_descriptors_are_invariant_and_tell_structures_apart():
    rng = np.random.default_rng(0)
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(0.2, seed=2)
    turned = atoms[rng.permutation(len(atoms))]
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    turned.positions += 0.7
    supercell = atoms * (1, 2, 1)
    first, second, third, other = foreign_structure_descriptors(
        LennardJones(), [atoms, turned, supercell, bulk("Na")], elements=["Na", "Cl"]
    )
    np.testing.assert_allclose(first, second, atol=1e-9)
    np.testing.assert_allclose(first, third, atol=1e-9)
    assert np.linalg.norm(first - other) > 0.1
    with pytest.raises(ModelError, match="Cl"):
        radial_atom_descriptors(atoms, ["Na"])


def test_a_calculator_s_own_descriptors_come_first():
    class Described(LennardJones):
        def get_descriptors(self, atoms):
            return np.arange(2.0 * len(atoms)).reshape(-1, 2)

    atoms = crystal(1)
    assert has_descriptors(Described())
    assert not has_descriptors(LennardJones())
    np.testing.assert_array_equal(foreign_structure_descriptors(Described(), [atoms], elements=[]), [[1.0, 2.0]])
    with pytest.raises(ModelError, match="LennardJones has no descriptors"):
        calculator_atom_descriptors(LennardJones(), atoms)
    Described.get_descriptors = lambda self, atoms: np.zeros(3)
    with pytest.raises(ModelError, match=r"shape \(3,\)"):
        calculator_atom_descriptors(Described(), atoms)
