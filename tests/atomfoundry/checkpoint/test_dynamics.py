"""A run goes on bit for bit from any step, with new objects, as a new process has them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from atomfoundry.checkpoint import read_saved, write_saved
from atomfoundry.checkpoint.dynamics import (
    dynamics_state,
    restore_dynamics,
    steps_of,
    structure_identity,
)
from atomfoundry.errors import CheckpointError

STEPS = 10


def lennard_jones():
    return LennardJones(sigma=2.3, epsilon=0.2, rc=4.0, smooth=True)


CALCULATORS = {
    "emt": EMT,
    "lj": lennard_jones,
    "sum": lambda: SumCalculator([EMT(), lennard_jones()]),
}

INTEGRATORS = {
    "nve": lambda atoms, rng: VelocityVerlet(atoms, 5 * units.fs),
    "nvt": lambda atoms, rng: Langevin(
        atoms, 5 * units.fs, temperature_K=2000, friction=0.02 / units.fs, rng=rng, fixcm=False
    ),
    "baoab": lambda atoms, rng: LangevinBAOAB(atoms, 5 * units.fs, temperature_K=2000, T_tau=50 * units.fs, rng=rng),
    "npt": lambda atoms, rng: LangevinBAOAB(
        atoms,
        5 * units.fs,
        temperature_K=2000,
        externalstress=-0.01,
        T_tau=50 * units.fs,
        P_tau=500 * units.fs,
        P_mass=1e4,
        rng=rng,
    ),
}


def new(integrator, calculator, seed):
    """Hot copper: within a few steps atoms leave the skin and lists are made anew."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.calc = CALCULATORS[calculator]()
    rng = np.random.default_rng(seed)
    thermalize_momenta(atoms, 6000, rng=rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return INTEGRATORS[integrator](atoms, rng)


def bits(dynamics):
    atoms = dynamics.atoms
    rng = getattr(dynamics, "rng", None)
    return (
        *(array.tobytes() for array in (atoms.positions, atoms.get_momenta(), atoms.cell.array, atoms.get_forces())),
        dynamics.nsteps,
        None if rng is None else rng.bit_generator.state,
    )


@pytest.mark.parametrize(
    ("integrator", "calculator"), [*((name, "emt") for name in INTEGRATORS), ("nvt", "lj"), ("nve", "sum")]
)
def test_from_any_step_bit_for_bit(tmp_path, integrator, calculator):
    whole = new(integrator, calculator, 1)
    states, expected = [], []
    for _ in steps_of(whole, STEPS):
        states.append(dynamics_state(whole))
        expected.append(bits(whole))
    assert len(states) == STEPS + 1
    for step, saved in enumerate(states[:-1]):
        write_saved(tmp_path / "x.npz", saved)
        # other velocities and another seed: all must come from the file
        continued = new(integrator, calculator, 2)
        restore_dynamics(continued, read_saved(tmp_path / "x.npz"))
        assert bits(continued) == expected[step]
        assert list(steps_of(continued, STEPS, continued=True)) == list(range(step + 1, STEPS + 1))
        assert bits(continued) == expected[-1]


def test_without_its_neighbour_list_the_last_bits_differ():
    whole = new("nve", "emt", 1)
    differ = 0
    for _ in steps_of(whole, STEPS):
        saved = dynamics_state(whole)
        for name in [name for name in saved.arrays if name.startswith("list/")]:
            del saved.arrays[name]
        continued = new("nve", "emt", 1)
        restore_dynamics(continued, saved)
        differ += bits(continued) != bits(whole)
    assert differ > 0, "this structure and calculator prove nothing about lists"


def test_a_state_is_a_copy():
    dynamics = new("npt", "emt", 1)
    saved = dynamics_state(dynamics)
    before = {name: array.copy() for name, array in saved.arrays.items()}
    for _ in steps_of(dynamics, 2):
        pass
    assert all(np.array_equal(saved.arrays[name], before[name]) for name in before)


def test_what_cannot_go_on_is_refused():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
    with pytest.raises(CheckpointError, match="Bussi"):
        dynamics_state(Bussi(atoms, 1.0, temperature_K=300, taut=10.0, rng=np.random.default_rng(0)))
    legacy = Langevin(atoms, 1.0, temperature_K=300, friction=0.1, fixcm=False, rng=np.random.RandomState(0))
    with pytest.raises(CheckpointError, match="default_rng"):
        dynamics_state(legacy)
    with pytest.raises(CheckpointError, match="not of a VelocityVerlet run of Cu4"):
        restore_dynamics(VelocityVerlet(atoms, 1.0), dynamics_state(new("nve", "emt", 1)))
    with pytest.raises(CheckpointError, match="not of a LangevinBAOAB run"):
        restore_dynamics(new("npt", "emt", 1), dynamics_state(new("nvt", "emt", 1)))


def test_the_identity_tells_structures_apart():
    atoms = bulk("Cu", cubic=True)
    others = [atoms.copy() for _ in range(4)]
    others[0].positions[0, 0] = np.nextafter(0.0, 1.0)
    others[1].set_masses([60.0] * 4)
    others[2].pbc = (True, True, False)
    others[3].set_momenta(np.ones((4, 3)))
    mine = structure_identity(atoms)
    for other in others:
        assert any(not np.array_equal(mine[name], value) for name, value in structure_identity(other).items())
