from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.spacegroup import crystal

from atomfoundry.datasets import frame_id
from atomfoundry.errors import StructureError
from atomfoundry.sampling import (
    ALUMINA_GRID,
    alumina_defects,
    alumina_strains,
    interstitials,
    random_defects,
    slabs,
    strain_structures,
    substitutions,
    supercell,
    vacancies,
    vacancy_pairs,
)
from atomfoundry.sampling.holes import holes
from atomfoundry.sampling.symmetry import inequivalent_pairs
from atomfoundry.sources import repeated_cell


def corundum() -> Atoms:
    atoms = crystal(
        ["Al", "O"],
        [(0, 0, 0.35216), (0.30624, 0, 0.25)],
        spacegroup=167,
        cellpar=[4.7602, 4.7602, 12.9933, 90, 90, 120],
        primitive_cell=True,
    )
    atoms = atoms[np.argsort(atoms.numbers)[::-1]]
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    bare.info.update(group_id="corundum", source="corundum")
    return bare


def test_the_alumina_study_has_2001_strains_of_each_of_four_structures() -> None:
    strains = alumina_strains()
    assert ALUMINA_GRID == (-0.1, 0.1, 0.0001)
    assert len(strains) == len(set(strains)) == 2001
    assert (strains[0], strains[1000], strains[-1]) == (-0.1, 0.0, 0.1)
    assert np.diff(strains) == pytest.approx(np.full(2000, 1e-4), abs=1e-12)
    parents = alumina_defects(corundum())
    assert [atoms.get_chemical_formula() for atoms in parents] == ["Al4O6", "Al3O6", "Al4O5", "Al3O5"]
    frames = strain_structures(parents[0], hydrostatic=strains)
    assert len({atoms.info["frame_id"] for atoms in frames}) == 2001
    assert len({atoms.info["group_id"] for atoms in frames}) == 2001


def test_alumina_supercell_has_one_class_of_each_vacancy() -> None:
    large = supercell(corundum(), 2)
    assert Counter(large.get_chemical_symbols()) == {"Al": 32, "O": 48}  # the 80 atoms of the study
    assert {atoms.get_chemical_formula() for atoms in vacancies(large)} == {"Al31O48", "Al32O47"}
    assert len(vacancies(large)) == 2
    pairs = vacancy_pairs(large, pairs=[("O", "Al")], max_distance=2.1)
    # The octahedron around Al has three short and three long bonds.
    assert [atoms.info["deformation"]["distance"] for atoms in pairs] == pytest.approx([1.855, 1.972], abs=5e-3)
    assert {atoms.get_chemical_formula() for atoms in pairs} == {"Al31O47"}
    (nearest,) = vacancy_pairs(large, pairs=[("Al", "O")], max_pairs=1)
    assert nearest.info["frame_id"] == pairs[0].info["frame_id"]


def test_vacancies_name_their_site() -> None:
    found = vacancies(corundum(), symbols=["O"])
    (atoms,) = found
    site = atoms.info["deformation"]["sites"][0]
    expected = corundum()
    del expected[site]
    assert frame_id(atoms) == frame_id(expected) == atoms.info["frame_id"]
    assert atoms.info["sampling"] == "vacancy"
    assert atoms.info["group_id"] == f"corundum:vacancy_O_{site}"
    assert atoms.info["source"] == "corundum"


def test_molecules_have_no_equivalent_atoms() -> None:
    assert len(vacancies(molecule("H2O"))) == 3
    assert len(vacancy_pairs(molecule("H2O"), pairs=[("H", "O")])) == 2


def test_pairs_of_fcc_are_its_neighbour_shells() -> None:
    cell = supercell(bulk("Cu", cubic=True, a=4.0), 2)
    pairs = inequivalent_pairs(cell)
    lengths = sorted(round(float(cell.get_distance(i, j, mic=True) / 4.0), 4) for i, j in pairs)
    assert lengths == [0.7071, 1.0, 1.2247, 1.4142, 1.7321]


def test_the_shape_of_a_supercell_makes_no_new_defects() -> None:
    skew = repeated_cell(corundum(), [[2, 0, 0], [0, 1, 0], [1, 0, 1]])
    assert len(skew) == 20
    assert len(vacancies(skew)) == 2
    long = supercell(bulk("Cu", cubic=True, a=4.0), (3, 2, 2))
    shells = [round(float(long.get_distance(i, j, mic=True)) / 4.0, 4) for i, j in inequivalent_pairs(long)]
    assert sorted(shells)[:4] == [0.7071, 1.0, 1.2247, 1.4142]
    rattled = corundum()
    rattled.rattle(0.05, seed=0)
    assert len(vacancies(rattled)) == 10


def test_substitutions() -> None:
    found = substitutions(corundum(), replacements={"Al": ["Ti", "Cr"], "O": "Al"})
    assert [atoms.get_chemical_formula() for atoms in found] == ["Al3O6Ti", "Al3CrO6", "Al5O5"]
    assert found[0].info["group_id"] == "corundum:Ti_on_Al_0"
    with pytest.raises(StructureError, match="has no Fe"):
        substitutions(corundum(), replacements={"Fe": "Al"})
    with pytest.raises(StructureError, match="no element 'Xx'"):
        substitutions(corundum(), replacements={"Al": "Xx"})


def test_random_defects_are_seeded_and_counted() -> None:
    large = supercell(corundum(), 2)
    found = random_defects(large, n=4, seed=3, remove={"O": 3}, replace={"Al": {"Ti": 2, "Cr": 1}})
    again = random_defects(large, n=2, seed=3, remove={"O": 3}, replace={"Al": {"Cr": 1, "Ti": 2}})
    other = random_defects(large, n=2, seed=4, remove={"O": 3}, replace={"Al": {"Ti": 2, "Cr": 1}})
    assert [frame_id(atoms) for atoms in again] == [frame_id(atoms) for atoms in found[:2]]
    assert not {frame_id(atoms) for atoms in other} & {frame_id(atoms) for atoms in found}
    for atoms in found:
        assert Counter(atoms.get_chemical_symbols()) == {"Al": 29, "O": 45, "Ti": 2, "Cr": 1}
    # Repetitions are one structure: all single vacancies of two sites are two.
    assert len(random_defects(bulk("Si"), n=20, seed=0, remove={"Si": 1})) == 2
    with pytest.raises(StructureError, match="has 2 Si atoms, not the 3"):
        random_defects(bulk("Si"), n=1, seed=0, remove={"Si": 3})
    with pytest.raises(StructureError, match="not possible"):
        random_defects(bulk("Si"), n=1, seed=0)


def test_a_cell_of_one_atom_has_no_vacancy() -> None:
    with pytest.raises(StructureError, match="no atom left"):
        vacancies(bulk("Cu"))


def test_holes_of_fcc_and_diamond() -> None:
    found = holes(bulk("Cu", cubic=True, a=4.0))
    # octahedral, then tetrahedral
    assert [radius for _, radius in found] == pytest.approx([2.0, np.sqrt(3)], abs=1e-6)
    # Diamond: the tetrahedral hole is as wide as a bond is long, and as the hexagonal one is narrower.
    widest, radius = holes(bulk("Si", cubic=True, a=5.43))[0]
    assert radius == pytest.approx(5.43 * np.sqrt(3) / 4, abs=1e-6)
    (grown, *_) = interstitials(bulk("Si", cubic=True, a=5.43), symbols=["Li"])
    assert grown.positions[-1] == pytest.approx(widest)
    assert grown.get_chemical_formula() == "LiSi8"
    assert grown.info["sampling"] == "interstitial"


def test_interstitials_keep_their_distance() -> None:
    sites = interstitials(bulk("Cu", cubic=True), symbols=["H"])
    assert len(sites) == 2
    assert len(interstitials(bulk("Cu", cubic=True), symbols=["H"], max_sites=1)) == 1
    with pytest.raises(StructureError, match="no hole for Cs"):
        interstitials(bulk("Cu", cubic=True), symbols=["Cs"])
    with pytest.raises(StructureError, match="not periodic"):
        interstitials(molecule("H2O"), symbols=["H"])


def test_slabs_of_fcc() -> None:
    parent = bulk("Al", a=4.05)
    found = slabs(parent, max_index=1, thickness=8.0, vacuum=12.0)
    assert sorted(tuple(atoms.info["deformation"]["miller_index"]) for atoms in found) == [
        (1, 0, 0),
        (1, 1, 0),
        (1, 1, 1),
    ]
    for atoms in found:
        assert atoms.pbc.all()
        assert atoms.cell.array[2, :2] == pytest.approx([0, 0], abs=1e-6)
        heights = np.sort(atoms.positions @ np.array([0, 0, 1.0]))
        assert atoms.cell.array[2, 2] - (heights[-1] - heights[0]) > 12.0
        area = atoms.get_volume() / atoms.cell.array[2, 2]
        assert len(atoms) * 4.05**3 / 4 / area >= 8.0 - 1e-6
    assert found[0].info["sampling"] == "slab"
    with pytest.raises(StructureError, match="at most 1 atoms"):
        slabs(parent, miller_indices=[(1, 1, 1)], max_atoms=1)
    with pytest.raises(StructureError, match="not periodic"):
        slabs(molecule("H2O"))


def test_terminations() -> None:
    salt = bulk("NaCl", "zincblende", a=5.6)
    both = slabs(salt, miller_indices=[(1, 1, 1)], thickness=6.0, vacuum=10.0)
    first = slabs(salt, miller_indices=[(1, 1, 1)], thickness=6.0, vacuum=10.0, terminations=False)
    assert len(both) > len(first) == 1
