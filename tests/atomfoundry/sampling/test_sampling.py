from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.data import chemical_symbols

from atomfoundry.datasets import attach_labels, frame_id, labels_of, split
from atomfoundry.errors import StructureError
from atomfoundry.sampling import (
    deform,
    dimers,
    green_lagrange_deformation,
    isolated_atoms,
    rattle_structures,
    strain_and_rattle,
    strain_structures,
    supercell,
)


def silicon() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.info.update(group_id="silicon", source="silicon.cif")
    return atoms


def test_hydrostatic_grid() -> None:
    frames = strain_structures(silicon(), hydrostatic=(-0.1, 0.1, 5))
    factors = [atoms.cell.lengths()[0] / silicon().cell.lengths()[0] for atoms in frames]
    assert factors == pytest.approx([0.9, 0.95, 1.0, 1.05, 1.1])
    for atoms in frames:
        assert np.allclose(atoms.get_scaled_positions(), silicon().get_scaled_positions())
    assert [atoms.info["group_id"] for atoms in frames] == [
        "silicon:hydrostatic-0.1000",
        "silicon:hydrostatic-0.0500",
        "silicon:undeformed",
        "silicon:hydrostatic+0.0500",
        "silicon:hydrostatic+0.1000",
    ]
    assert frames[0].info["deformation"] == {"kind": "hydrostatic", "strain": -0.1}
    assert {atoms.info["sampling"] for atoms in frames} == {"strain"}
    assert {atoms.info["source"] for atoms in frames} == {"silicon.cif"}
    assert all(atoms.info["frame_id"] == frame_id(atoms) for atoms in frames)
    assert frame_id(frames[2]) == frame_id(silicon())


def test_values_are_values() -> None:
    assert len(strain_structures(silicon(), hydrostatic=[-0.1, 0.1, 0.05])) == 3
    assert len(strain_structures(silicon(), hydrostatic=[-0.02, 0.02])) == 2
    assert len(strain_structures(silicon(), hydrostatic=[0.0], shear=[0.0], uniaxial=[0.0])) == 1
    assert strain_structures(silicon()) == []


def test_uniaxial() -> None:
    frames = strain_structures(silicon(), uniaxial=[0.02], uniaxial_axes=["z"])
    assert np.allclose(frames[0].cell.array, silicon().cell.array * [1, 1, 1.02])
    assert frames[0].info["group_id"] == "silicon:uniaxial_z+0.0200"
    assert len(strain_structures(silicon(), uniaxial=[-0.01, 0.01])) == 6


def test_shear_is_the_tensor_element_of_the_green_lagrange_strain() -> None:
    frames = strain_structures(silicon(), shear=[0.06])
    assert [atoms.info["deformation"]["plane"] for atoms in frames] == ["yz", "xz", "xy"]
    for atoms, (i, j) in zip(frames, ((1, 2), (0, 2), (0, 1)), strict=True):
        gradient = np.linalg.solve(silicon().cell.array, atoms.cell.array).T
        strain = (gradient.T @ gradient - np.eye(3)) / 2
        expected = np.zeros((3, 3))
        expected[i, j] = expected[j, i] = 0.06
        assert np.allclose(strain, expected, atol=1e-12)
        assert np.allclose(gradient, np.triu(gradient))


def test_deformation_gives_the_stress_of_its_calculator() -> None:
    """The sign and the Voigt order: sigma = dE/de / V for the strain we apply."""
    atoms = bulk("Ar", cubic=True, a=5.4)
    step = 1e-5
    for voigt, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = deform(
                deform(atoms, np.diag([1.01, 0.99, 1.0]) + 0.01 * np.eye(3, k=1)), np.eye(3) + strain
            )
            moved.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=9.0, smooth=True)
            energies.append(moved.get_potential_energy())
        moved = deform(atoms, np.diag([1.01, 0.99, 1.0]) + 0.01 * np.eye(3, k=1))
        moved.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=9.0, smooth=True)
        numeric = (energies[0] - energies[1]) / (2 * step) / moved.get_volume()
        assert moved.get_stress()[voigt] == pytest.approx(numeric, abs=1e-8)


def test_strain_refusals() -> None:
    with pytest.raises(StructureError, match="not periodic"):
        strain_structures(molecule("H2O"), hydrostatic=[0.1])
    with pytest.raises(StructureError, match=r"10 % is 0\.1"):
        strain_structures(silicon(), hydrostatic=[10.0])
    with pytest.raises(StructureError, match="'zx'"):
        strain_structures(silicon(), shear=[0.1], shear_planes=["zx"])
    with pytest.raises(StructureError, match="too large"):
        green_lagrange_deformation(np.full((3, 3), 0.6) - 0.6 * np.eye(3))


def test_labels_do_not_survive_sampling() -> None:
    labelled = attach_labels(silicon(), -1.0, np.zeros((8, 3)))
    for atoms in (
        *strain_structures(labelled, hydrostatic=[0.0]),
        *rattle_structures(labelled, stdev=0.0, n=1, seed=0),
        supercell(labelled, 1),
    ):
        assert labels_of(atoms) == (None, None, None)


def test_rattle_is_seeded_and_independent_of_what_else_is_sampled() -> None:
    first = rattle_structures(silicon(), stdev=0.05, n=3, seed=1)
    again = rattle_structures([bulk("Ge"), silicon()], stdev=0.05, n=5, seed=1)
    assert [frame_id(atoms) for atoms in first] == [frame_id(atoms) for atoms in again[5:8]]
    other = rattle_structures(silicon(), stdev=0.05, n=3, seed=2)
    assert not {frame_id(atoms) for atoms in first} & {frame_id(atoms) for atoms in other}
    assert len({frame_id(atoms) for atoms in first}) == 3


def test_rattle_statistics_and_metadata() -> None:
    big = bulk("Si", cubic=True).repeat(3)
    big.info["group_id"] = "big"
    frames = rattle_structures(big, stdev=[0.02, 0.08], n=4, seed=0)
    assert len(frames) == 8
    for atoms in frames:
        displacements = atoms.positions - big.positions
        assert np.allclose(displacements.mean(axis=0), 0, atol=1e-12)
        assert displacements.std() == pytest.approx(atoms.info["deformation"]["rattle"], rel=0.1)
        assert atoms.info["group_id"] == "big"
        assert atoms.info["sampling"] == "rattle"
        assert atoms.info["deformation"]["seed"] == 0
    assert (big.positions == bulk("Si", cubic=True).repeat(3).positions).all()


def test_rattle_keeps_atoms_apart() -> None:
    frames = rattle_structures(molecule("H2"), stdev=0.25, n=40, seed=0, min_distance_factor=0.7)
    distances = np.array([atoms.get_distance(0, 1) for atoms in frames])
    assert distances.min() > 0.7 * 2 * 0.31
    free = rattle_structures(molecule("H2"), stdev=0.25, n=40, seed=0, min_distance_factor=0)
    assert min(atoms.get_distance(0, 1) for atoms in free) < 0.7 * 2 * 0.31
    with pytest.raises(StructureError, match="100 draws"):
        rattle_structures(molecule("C6H6"), stdev=0.0, n=1, seed=0, min_distance_factor=1.0)
    with pytest.raises(StructureError, match="not possible"):
        rattle_structures(silicon(), stdev=-1.0, n=1, seed=0)


def test_strain_and_rattle_share_groups() -> None:
    options: dict[str, Any] = {
        "hydrostatic": [-0.05, 0.0, 0.05],
        "shear": [0.03],
        "stdev": 0.05,
        "n": 2,
        "seed": 4,
    }
    frames = strain_and_rattle(silicon(), **options)
    assert len(frames) == (3 + 3) * 3
    groups = [atoms.info["group_id"] for atoms in frames]
    assert len(set(groups)) == 6
    assert all(groups.count(group) == 3 for group in groups)
    samplings = [atoms.info["sampling"] for atoms in frames]
    assert samplings.count("strain") == 6
    assert samplings.count("rattle") == 2
    assert samplings.count("strain+rattle") == 10
    record = frames[1].info["deformation"]
    assert record == {"kind": "hydrostatic", "strain": -0.05, "rattle": 0.05, "seed": 4, "copy": 0}
    parts = split(groups, seed=0)
    assert all(
        len({groups[i] for i in part} & {groups[j] for j in parts["test"]}) == 0 for part in [parts["train"]]
    )
    assert len(strain_and_rattle(silicon(), **options, keep_unrattled=False)) == 12


@pytest.mark.parametrize(
    ("symbol", "multiplicity"),
    [
        ("H", 2),
        ("He", 1),
        ("C", 3),
        ("N", 4),
        ("O", 3),
        ("Si", 3),
        ("Cr", 7),
        ("Mn", 6),
        ("Fe", 5),
        ("Eu", 8),
    ],
)
def test_atoms_have_hunds_spin(symbol: str, multiplicity: int) -> None:
    (atoms,) = isolated_atoms([symbol])
    assert atoms.info["spin_multiplicity"] == multiplicity
    assert atoms.info["sampling"] == "isolated_atom"
    assert not atoms.pbc.any()


def test_every_spin_fits_its_number_of_electrons() -> None:
    for atoms in isolated_atoms(chemical_symbols[1:103]):
        assert (atoms.info["spin_multiplicity"] - 1 - atoms.numbers[0]) % 2 == 0


def test_isolated_atoms_of_structures_and_boxes() -> None:
    frames = isolated_atoms([*molecule("SiH4").symbols, "Si"])
    assert [atoms.get_chemical_formula() for atoms in frames] == ["H", "Si"]
    assert [atoms.info["group_id"] for atoms in frames] == ["isolated:H", "isolated:Si"]
    (boxed,) = isolated_atoms(["O"], box=(10, 11, 12))
    assert boxed.pbc.all()
    assert boxed.cell.lengths().tolist() == [10, 11, 12]
    assert boxed.positions.tolist() == [[5, 5.5, 6]]
    with pytest.raises(StructureError, match="'Xx'"):
        isolated_atoms(["Xx"])


def test_supercell() -> None:
    large = supercell(silicon(), (2, 1, 1))
    assert len(large) == 16
    assert large.info["group_id"] == "silicon"
    assert large.info["frame_id"] == frame_id(large)
    assert large.info["repeats"] == [2, 1, 1]
    with pytest.raises(StructureError):
        supercell(silicon(), 0)


def test_dimers() -> None:
    frames = dimers(["Si", "H"], distances=[1.0, 2.0])
    assert [atoms.get_chemical_formula() for atoms in frames] == ["H2", "H2", "HSi", "HSi", "Si2", "Si2"]
    assert frames[1].get_distance(0, 1) == 2.0
    assert len({atoms.info["group_id"] for atoms in frames}) == 3
    assert len(dimers(["Si", "H"], pairs="equal")) == 24
    with pytest.raises(StructureError):
        dimers(["H"], distances=[0.0])
    with pytest.raises(StructureError):
        dimers(["H"], pairs="some")
