from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule

from atomfoundry.benchmarks import NVEDrift
from atomfoundry.benchmarks.md_health import degrees_of_freedom, remove_overall_motion
from atomfoundry.errors import ConfigurationError, StructureError


@pytest.fixture
def crystal():
    return bulk("Si", "diamond", a=5.43, cubic=True)


@pytest.fixture
def spring(calculators):
    return calculators.pair_curve(lambda r: 5 * (r - 2.3) ** 2, lambda r: 10 * (r - 2.3))


@pytest.fixture
def dimer():
    return Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.3]])


def test_harmonic_crystal_does_not_drift(calculators, crystal):
    solid = calculators.harmonic_crystal(crystal, cutoff=2.5, spring=5.0)
    doc = NVEDrift(duration=500).run(solid, crystal)
    assert doc.failures == []
    # what is left is the oscillation of the total energy seen through a finite window
    assert doc.summary["drift"] < doc.summary["fluctuation"] < 0.02
    assert doc.summary["mean_temperature"] == pytest.approx(300, rel=0.1)
    assert doc.summary["simulated_time"] == 0.5
    assert (doc.n_items, doc.n_failed) == (1, 0)
    assert len(doc.records) == 200
    assert doc.records[0]["time"] == 0 and doc.records[-1]["time"] == 0.5
    json.dumps(doc.model_dump(mode="json"), allow_nan=False)


def test_small_steps_conserve_to_machine_level(spring, dimer):
    doc = NVEDrift(timestep=0.02, duration=10, equilibration=0).run(spring, dimer)
    assert doc.summary["fluctuation"] < 1e-4
    assert doc.summary["drift"] < 1e-3
    # the shadow Hamiltonian's error is (omega dt)^2 / 8 of the energy
    omega = np.sqrt(10 / (bulk("Si").get_masses()[0] / 2)) / units.fs**-1
    assert doc.summary["fluctuation"] < 1000 * 300 * units.kB * (omega * 0.02) ** 2


def test_fluctuation_scales_as_the_square_of_the_step(spring, dimer):
    sizes = [
        NVEDrift(timestep=dt, duration=200, equilibration=0).run(spring, dimer).summary["fluctuation"]
        for dt in (0.5, 1.0, 2.0)
    ]
    assert sizes[1] / sizes[0] == pytest.approx(4, rel=0.02)
    assert sizes[2] / sizes[1] == pytest.approx(4, rel=0.02)


def test_a_leaking_calculator_drifts(calculators, crystal):
    class Leaking(calculators.harmonic_crystal):
        """Its forces pump 1e-4 eV/A along the velocities."""

        def calculate(self, atoms=None, properties=None, system_changes=()):
            super().calculate(atoms, properties, system_changes)
            momenta = self.atoms.get_momenta()
            self.results["forces"] = self.results["forces"] + 1e-4 * momenta

    doc = NVEDrift(duration=300).run(Leaking(crystal, cutoff=2.5, spring=5.0), crystal)
    # dE/dt = 1e-4 sum p.v = 2e-4 E_kin (ASE units), per atom 3/2 kB T less the centre of mass
    expected = 2e-4 * 1.5 * units.kB * doc.summary["mean_temperature"] * 21 / 24 * 1e6 * units.fs
    assert doc.summary["signed_drift"] == pytest.approx(expected, rel=0.2)


def test_seed_decides(spring, dimer):
    settings = {"duration": 50, "equilibration": 10, "start": "langevin"}
    runs = [NVEDrift(seed=seed, **settings).run(spring, dimer) for seed in (1, 1, 2)]
    assert runs[0].records == runs[1].records
    assert runs[0].records != runs[2].records
    assert runs[0].settings_hash != runs[2].settings_hash


def test_the_structure_given_is_not_changed(spring, dimer):
    before = dimer.positions.copy()
    NVEDrift(duration=10).run(spring, dimer)
    assert np.array_equal(dimer.positions, before)
    assert dimer.calc is None


def test_supercell(calculators):
    primitive = bulk("Si", "diamond", a=5.43)
    solid = calculators.harmonic_crystal(primitive.repeat((2, 2, 2)), cutoff=2.5, spring=5.0)
    doc = NVEDrift(duration=20, repeat=(2, 2, 2)).run(solid, primitive)
    assert doc.summary["n_atoms"] == 16


def test_crash_in_the_middle_is_counted(calculators, spring, dimer):
    broken = calculators.crashing(spring, when=lambda call, _: call > 30)
    doc = NVEDrift(duration=100, equilibration=0).run(broken, dimer)
    assert (doc.n_items, doc.n_failed) == (1, 1)
    assert doc.summary["failure"] == "crashed"
    assert 0 < doc.summary["t_failure"] < 0.1
    assert doc.failures[0]["reason"] == "crashed"
    assert len(doc.records) > 10


def test_crash_at_once(calculators, spring, dimer):
    doc = NVEDrift().run(calculators.crashing(spring, when=lambda *_: True), dimer)
    assert doc.n_failed == 1 and doc.records == [] and doc.summary["drift"] is None


@pytest.mark.parametrize(
    ("energy", "slope", "reason"),
    [
        (lambda r: -50 / r, lambda r: 50 / r**2, {"min_distance", "temperature"}),
        (lambda r: -300 * (r - 2.3) ** 2, lambda r: -600 * (r - 2.3), {"temperature"}),
        (lambda r: 4 * np.sign(r - 2.3), lambda r: 0.0, {"energy_jump"}),
        (lambda r: np.nan if r != 2.3 else 0.0, lambda r: 0.0, {"nan"}),
    ],
)
def test_breakdowns_are_recognised(calculators, dimer, energy, slope, reason):
    doc = NVEDrift(duration=500, equilibration=0, check_interval=1).run(calculators.pair_curve(energy, slope), dimer)
    assert doc.summary["failure"] in reason
    assert doc.n_failed == 1
    json.dumps(doc.model_dump(mode="json"), allow_nan=False)


def test_degrees_of_freedom():
    assert degrees_of_freedom(bulk("Si", cubic=True)) == 21
    assert degrees_of_freedom(molecule("H2O")) == 3
    assert degrees_of_freedom(molecule("CO2")) == 4
    assert degrees_of_freedom(molecule("N2")) == 1


@pytest.mark.parametrize("name", ["N2", "CO2", "H2O", "SiH4"])
def test_molecules_neither_move_nor_turn(name):
    atoms = molecule(name)
    atoms.set_velocities(np.random.default_rng(0).normal(size=(len(atoms), 3)))
    remove_overall_motion(atoms)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
    assert atoms.get_kinetic_energy() > 0.01


def test_bad_input(spring):
    with pytest.raises(StructureError, match="two atoms"):
        NVEDrift().run(spring, Atoms("Si"))
    with pytest.raises(ConfigurationError, match="start"):
        NVEDrift(start="cold")
    with pytest.raises(ConfigurationError, match="steps"):
        NVEDrift(duration=1.0)
    with pytest.raises(ConfigurationError):
        NVEDrift(timestep=-1.0)
