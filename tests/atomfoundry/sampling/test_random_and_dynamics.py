from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from atomfoundry.datasets import frame_id, labels_of
from atomfoundry.errors import StructureError
from atomfoundry.sampling import (
    md_snapshots,
    monte_carlo_rattle,
    normal_mode_structures,
    normal_modes,
    random_structures,
    rattle_structures,
    strain_grid,
    strain_structures,
)
from atomfoundry.sampling.space_groups import centring, fillable, multiplicities, operations, random_cell, random_orbit
from atomfoundry.units import KB


class Spring(Calculator):
    """Atoms bound to their places, and weakly to each other, by springs: exactly harmonic."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, places: np.ndarray, stiffness: float = 2.0) -> None:
        super().__init__()
        self.places, self.stiffness = places, stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        moved = self.atoms.positions - self.places
        moved = moved - moved.mean(axis=0)
        self.results = {"energy": 0.5 * self.stiffness * (moved**2).sum(), "forces": -self.stiffness * moved}


def test_strain_grid() -> None:
    assert strain_grid(-0.02, 0.02, 0.01) == [-0.02, -0.01, 0.0, 0.01, 0.02]
    assert strain_grid(0.0, 0.05, 0.02) == [0.0, 0.02, 0.04]
    assert strain_grid(0.1, 0.1, 0.5) == [0.1]
    grid = {"start": -0.02, "stop": 0.02, "step": 0.02}
    assert len(strain_structures(bulk("Si"), hydrostatic=grid)) == 3
    with pytest.raises(StructureError, match="start, stop, step"):
        strain_structures(bulk("Si"), hydrostatic={"start": 0.0, "stop": 0.1})
    for wrong in ((0.0, 0.1, 0.0), (0.1, 0.0, 0.01), (0.0, 0.1, -0.01)):
        with pytest.raises(StructureError, match="no strain grid"):
            strain_grid(*wrong)


def test_triaxial_is_every_combination_and_the_parent_comes_once() -> None:
    parent = bulk("Si", cubic=True)
    values = [-0.01, 0.0, 0.02]
    frames = strain_structures(parent, triaxial=values, hydrostatic=[0.0, 0.02], uniaxial=[0.02])
    seen = {tuple(np.round(atoms.cell.lengths() / parent.cell.lengths() - 1, 9).tolist()) for atoms in frames}
    assert seen == set(product(values, repeat=3))
    assert len(frames) == 27
    undeformed = [atoms for atoms in frames if atoms.info["group_id"].endswith(":undeformed")]
    assert [frame_id(atoms) for atoms in undeformed] == [frame_id(parent)]
    sheared = strain_structures(parent, triaxial=[0.01, -0.01])
    assert len({atoms.info["group_id"] for atoms in sheared}) == 8
    (copy,) = rattle_structures(sheared[0], stdev=0.01, n=1, seed=0)
    assert copy.info["sampling"] == "strain+rattle"


def test_monte_carlo_rattle_goes_far_and_keeps_atoms_apart() -> None:
    parent = bulk("Si", cubic=True)
    parent.info["group_id"] = "silicon"
    frames = monte_carlo_rattle(parent, step=0.1, n_sweeps=20, n=3, seed=1, min_distance_factor=0.85, width=0.05)
    again = monte_carlo_rattle(
        [bulk("Ge"), parent], step=0.1, n_sweeps=20, n=2, seed=1, min_distance_factor=0.85, width=0.05
    )
    assert [frame_id(atoms) for atoms in again[2:]] == [frame_id(atoms) for atoms in frames[:2]]
    for atoms in frames:
        nearest = neighbor_list("d", atoms, 4.0).min() / (2 * covalent_radii[14])
        assert nearest > 0.75 - 0.02  # the last move may bring the second atom of a pair no nearer than d_min - 2 w
        assert atoms.info["group_id"] == "silicon"
        assert atoms.info["sampling"] == "mc_rattle"
        record = atoms.info["deformation"]
        assert record["mc_rattle"] == pytest.approx(np.sqrt(((atoms.positions - parent.positions) ** 2).mean()))
        assert 0.2 < record["acceptance"] < 1.0
        assert record["mc_rattle"] > 0.1
        assert (atoms.positions - parent.positions).mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-12)
    still = monte_carlo_rattle(parent, step=0.1, n_sweeps=0, n=2, seed=1)
    assert [frame_id(atoms) for atoms in still] == [frame_id(parent)]


def test_monte_carlo_rattle_without_neighbours_is_a_random_walk() -> None:
    far = Atoms("Ar50", positions=[[30.0 * i, 0, 0] for i in range(50)])
    (atoms,) = monte_carlo_rattle(far, step=0.1, n_sweeps=25, n=1, seed=0)
    assert atoms.info["deformation"]["acceptance"] == 1.0
    assert atoms.info["deformation"]["mc_rattle"] == pytest.approx(0.1 * np.sqrt(25), rel=0.15)


def test_monte_carlo_rattle_refusals() -> None:
    with pytest.raises(StructureError, match="before any move"):
        monte_carlo_rattle(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.2]]), step=0.1, n_sweeps=1, n=1, seed=0)
    with pytest.raises(StructureError, match="not possible"):
        monte_carlo_rattle(molecule("H2O"), step=0.1, n_sweeps=1, n=1, seed=0, width=0.0)


def test_frequency_of_a_dimer_is_that_of_its_spring() -> None:
    rho, depth, length = 4.0, 3.0, 1.5
    stiffness = 2 * depth * (rho / length) ** 2
    atoms = Atoms("CO", positions=[[0, 0, 0], [0.3, 0.4, np.sqrt(length**2 - 0.25)]])
    modes = normal_modes(
        atoms, MorsePotential(epsilon=depth, r0=length, rho0=rho, rcut1=8.0, rcut2=9.0), displacement=1e-3
    )
    mass = np.prod(atoms.get_masses()) / atoms.get_masses().sum()
    expected = np.sqrt(stiffness / mass) / (2 * np.pi * units._c * 100 / units.s)
    assert modes.frequencies == pytest.approx([expected], rel=1e-4)  # three translations and two rotations left out
    assert np.einsum("mij,i->mj", modes.displacements, atoms.get_masses()) == pytest.approx(np.zeros((1, 3)), abs=1e-9)


@pytest.mark.parametrize("quantum", [False, True])
def test_normal_mode_structures_have_the_energy_of_their_temperature(quantum: bool) -> None:
    parent = bulk("Si", cubic=True)
    calculator = Spring(parent.positions.copy())
    frames = normal_mode_structures(parent, calculator, temperature=300.0, n=120, seed=0, quantum=quantum)
    energies = []
    for atoms in frames:
        assert labels_of(atoms) == (None, None, None)
        copy = atoms.copy()
        copy.calc = calculator
        energies.append(copy.get_potential_energy())
    heat = KB * 300.0
    per_mode = 0.5 * heat
    if quantum:
        quantum_energy = units._hbar * units.J * units.s * np.sqrt(2.0 / parent.get_masses()[0])
        per_mode = 0.25 * quantum_energy / np.tanh(quantum_energy / (2 * heat))
    assert np.mean(energies) == pytest.approx(21 * per_mode, rel=0.1)  # 24 - 3 modes; 120 draws scatter by 3 %
    assert {atoms.info["sampling"] for atoms in frames} == {"normal_modes"}
    fewer = normal_mode_structures(parent, calculator, temperature=300.0, n=2, seed=0, quantum=quantum)
    assert [frame_id(atoms) for atoms in fewer] == [frame_id(atoms) for atoms in frames[:2]]


def test_soft_modes_are_bounded_and_counted() -> None:
    # a stretched chain buckles: imaginary modes
    atoms = Atoms("Cu3", positions=[[0, 0, 0], [2.0, 0, 0], [4.0, 0, 0]])
    modes = normal_modes(atoms, EMT())
    assert modes.frequencies.min() < 0
    (frame,) = normal_mode_structures(atoms, EMT(), temperature=50.0, n=1, seed=0)
    assert frame.info["deformation"]["n_soft"] >= 1
    assert np.abs(frame.positions - atoms.positions).max() < 1.0


def test_md_snapshots_are_seeded_and_warm() -> None:
    parent = bulk("Cu", cubic=True)
    parent.info["group_id"] = "copper"
    run: dict[str, Any] = {
        "temperature": 600.0,
        "n": 8,
        "interval": 10,
        "timestep": 4.0,
        "equilibration": 20,
        "friction": 0.05,
    }
    frames = md_snapshots(parent, EMT(), seed=1, **run)
    again = md_snapshots(parent, EMT(), seed=1, **{**run, "n": 3})
    other = md_snapshots(parent, EMT(), seed=2, **{**run, "n": 1})
    assert len(frames) == 8
    assert [frame_id(atoms) for atoms in again] == [frame_id(atoms) for atoms in frames[:3]]
    assert frame_id(other[0]) != frame_id(frames[0])
    assert {atoms.info["group_id"] for atoms in frames} == {"copper:md-600K-1"}
    assert [atoms.info["deformation"]["step"] for atoms in frames] == list(range(30, 101, 10))
    assert 200 < np.mean([atoms.info["deformation"]["instantaneous_temperature"] for atoms in frames]) < 1200
    assert all(labels_of(atoms) == (None, None, None) for atoms in frames)


def test_nve_keeps_its_energy() -> None:
    parent = bulk("Cu", cubic=True)
    frames = md_snapshots(parent, EMT(), temperature=300.0, n=4, interval=10, seed=0, timestep=2.0, ensemble="nve")
    reference = parent.copy()
    reference.calc = EMT()
    totals = []
    for atoms in frames:
        copy = atoms.copy()
        copy.calc = EMT()
        kinetic = 1.5 * len(copy) * KB * atoms.info["deformation"]["instantaneous_temperature"]
        totals.append(copy.get_potential_energy() + kinetic)
    assert np.ptp(totals) < 2e-3 * np.ptp([reference.get_potential_energy(), totals[0]]) + 2e-3


class VolumeSpring(Calculator):
    """An ideal gas in a box with a spring on its volume: pressure and volume follow from each other exactly."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]
    stiffness, volume = 5.0, 100.0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        strain = self.atoms.get_volume() / self.volume - 1
        slope = self.stiffness * strain / self.volume
        self.results = {
            "energy": 0.5 * self.stiffness * strain**2,
            "forces": np.zeros((len(self.atoms), 3)),
            "stress": np.array([slope] * 3 + [0.0] * 3),
        }


def test_npt_keeps_its_pressure() -> None:
    atoms = Atoms("Ar4", scaled_positions=np.eye(4, 3) / 2, cell=[4.6] * 3, pbc=True)
    frames = md_snapshots(
        atoms, VolumeSpring(), temperature=300.0, n=150, interval=8, seed=3, timestep=2.0, equilibration=200,
        ensemble="npt", friction=0.02, pressure=0.01, barostat_time=100.0, min_distance_factor=0.0,
    )  # fmt: skip
    volumes = np.array([frame.get_volume() for frame in frames])
    spring = -VolumeSpring.stiffness * (volumes / VolumeSpring.volume - 1) / VolumeSpring.volume
    gas = len(atoms) * KB * 300.0 / volumes
    assert np.std(volumes) > 1.0
    # a cell that is free in all directions has kT / V = 3e-4 more
    assert np.mean(spring + gas) == pytest.approx(0.01, abs=2e-3)


def test_md_refusals() -> None:
    run: dict[str, Any] = {"n": 5, "interval": 20, "seed": 0}
    with pytest.raises(StructureError, match="exploded"):
        md_snapshots(bulk("Cu", cubic=True), EMT(), temperature=300.0, timestep=200.0, **run)
    with pytest.raises(StructureError, match="no ensemble 'nph'"):
        md_snapshots(bulk("Cu"), EMT(), temperature=300.0, ensemble="nph", **run)
    with pytest.raises(StructureError, match="constant pressure"):
        md_snapshots(molecule("H2O"), EMT(), temperature=300.0, ensemble="npt", **run)
    with pytest.raises(StructureError, match="not possible"):
        md_snapshots(bulk("Cu"), EMT(), temperature=0.0, **run)


@pytest.mark.parametrize("number", [1, 2, 14, 62, 88, 148, 166, 167, 194, 216, 225, 227, 230])
def test_space_groups_make_groups_and_cells(number: int) -> None:
    rotations, translations = operations(number)
    images = {(tuple(r.ravel()), tuple((t % 1).round(6) % 1)) for r, t in zip(rotations, translations, strict=True)}
    first = (
        rotations[-1] @ rotations[1 % len(rotations)],
        rotations[-1] @ translations[1 % len(rotations)] + translations[-1],
    )
    assert (tuple(first[0].ravel() + 0.0), tuple((first[1] % 1).round(6) % 1)) in images
    cell = random_cell((rotations, translations), 123.0, np.random.default_rng(0))
    assert abs(np.linalg.det(cell)) == pytest.approx(123.0)
    metric = cell @ cell.T
    for rotation in rotations:
        assert rotation.T @ metric @ rotation == pytest.approx(metric, abs=1e-9)
    assert centring((rotations, translations)) == {88: 2, 148: 3, 166: 3, 167: 3, 216: 4, 225: 4, 227: 4, 230: 2}.get(
        number, 1
    )


def test_random_structures_keep_their_promises() -> None:
    frames = random_structures(
        "Al2O3", n=6, seed=5, formula_units=[1, 2], volume_per_atom=(9.0, 14.0), min_distances={"O-Al": 1.6}
    )
    assert len(frames) == 6
    for atoms in frames:
        counts = Counter(atoms.get_chemical_symbols())
        assert counts["Al"] * 3 == counts["O"] * 2
        assert len(atoms) in (5, 10)
        assert 9.0 <= atoms.get_volume() / len(atoms) <= 14.0
        symbols = atoms.get_chemical_symbols()
        for i, j, length in zip(*neighbor_list("ijd", atoms, 3.0), strict=True):
            mixed = {symbols[i], symbols[j]} == {"Al", "O"}
            assert length >= (1.6 if mixed else 0.8 * covalent_radii[atoms.numbers[[i, j]]].sum()) - 1e-9
    again = random_structures(
        "Al2O3", n=3, seed=5, formula_units=[1, 2], volume_per_atom=(9.0, 14.0), min_distances={"Al-O": 1.6}
    )
    assert [frame_id(atoms) for atoms in again] == [frame_id(atoms) for atoms in frames[:3]]
    assert len({atoms.info["group_id"] for atoms in frames}) == 6


@pytest.mark.parametrize("number", [2, 62, 166, 194, 216, 225, 227])
def test_random_structures_have_the_symmetry_asked_for(number: int) -> None:
    import spglib

    formula = {62: "MgO", 166: "MgO", 194: "MgO2", 225: "MgO", 227: "Si"}.get(number, "MgO")
    units_ = {62: [4], 166: [1, 3], 194: [2], 227: [2]}.get(number, [1, 2])
    for atoms in random_structures(formula, n=3, seed=0, formula_units=units_, space_groups=[number]):
        found = spglib.get_symmetry((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-3)
        asked = operations(number)
        # per primitive cell; chance may give more
        assert len(found["rotations"]) >= len(asked[0]) / centring(asked)
        assert atoms.info["deformation"]["space_group"] == number
        n_units = atoms.info["deformation"]["formula_units"]
        assert len(atoms) == n_units * {"MgO": 2, "MgO2": 3, "Si": 1}[formula]


def test_any_space_group() -> None:
    frames = random_structures("TiO2", n=5, seed=1, space_groups="any")
    assert len({atoms.info["deformation"]["space_group"] for atoms in frames}) > 1


def test_random_refusals() -> None:
    with pytest.raises(StructureError, match="no formula"):
        random_structures("Al2O3)", n=1, seed=0)
    with pytest.raises(StructureError, match="no space group 231"):
        random_structures("Si", n=1, seed=0, space_groups=[231])
    with pytest.raises(StructureError, match="do not fit the elements"):
        random_structures("Si", n=1, seed=0, min_distances={"Si-O": 1.0})
    with pytest.raises(StructureError, match="No random structure of Si"):
        random_structures("Si", n=1, seed=0, volume_per_atom=(3.0, 3.1), formula_units=[2])


@pytest.mark.parametrize(
    ("number", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (62, (4, 8)),
        (167, (6, 12, 18, 36)),
        (194, (2, 4, 6, 12, 24)),
        (225, (4, 8, 24, 32, 48, 96, 192)),
        (227, (8, 16, 32, 48, 96, 192)),
        (230, (16, 24, 32, 48, 96)),
    ],
)
def test_orbits_have_the_multiplicities_of_the_tables(number: int, sizes: tuple[int, ...]) -> None:
    """International Tables for Crystallography, volume A."""
    assert multiplicities(number) == sizes
    rng = np.random.default_rng(0)
    for missing in (sizes[0], sizes[-1]):
        orbit = random_orbit(number, missing, rng)
        assert orbit is not None
        assert len(orbit) <= missing
    assert not fillable(number, sizes[0] - 1) or sizes[0] == 1
