from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from atomfoundry.benchmarks.labelling import relax, single_point, stress_of
from atomfoundry.errors import LabelError


class Smeared(Calculator):
    """Electronic free energy besides the extrapolated one, and a full stress tensor."""

    implemented_properties = ("energy", "free_energy", "forces")

    def calculate(self, atoms=None, properties=None, system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": -1.0, "free_energy": -1.5, "forces": np.zeros((len(self.atoms), 3))}


def test_the_energy_is_the_one_the_forces_belong_to():
    frame = single_point(bulk("Cu"), Smeared())
    assert frame.get_potential_energy() == -1.5


def test_missing_stress_stays_absent():
    assert "stress" not in single_point(bulk("Cu"), Smeared()).calc.results
    assert "stress" not in single_point(molecule("N2"), EMT()).calc.results
    assert stress_of(single_point(bulk("Cu"), EMT())).shape == (6,)
    assert stress_of(bulk("Cu")) is None


def test_full_stress_tensors_are_read():
    frame = single_point(bulk("Cu"), EMT())
    frame.calc.results["stress"] = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    assert stress_of(frame).tolist() == [1, 2, 3, 4, 5, 6]


def test_relaxation():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    before = atoms.positions.copy()
    frame, steps = relax(atoms, EMT(), fmax=0.01)
    assert steps > 0
    assert np.linalg.norm(frame.get_forces(), axis=1).max() < 0.01
    assert np.array_equal(atoms.positions, before)
    with pytest.raises(LabelError) as caught:
        relax(atoms, EMT(), fmax=1e-6, max_steps=2)
    assert caught.value.reason == "unconverged"
