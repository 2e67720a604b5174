from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.curation import equal_structures
from atomfoundry.curation.duplicate_structures import molecule_rmsd, same_structure


def turned(atoms, seed):
    """The same molecule turned, moved and with its atoms in another order."""
    rng = np.random.default_rng(seed)
    copy = atoms[rng.permutation(len(atoms))]
    copy.rotate(rng.uniform(0, 360), rng.normal(size=3))
    copy.translate(rng.normal(size=3))
    return copy


def labelled(atoms, energy, net=0.0):
    atoms = atoms.copy()
    forces = np.zeros((len(atoms), 3))
    forces[0, 0] = net
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


@pytest.mark.parametrize("name", ["H2O", "CH3CH2OH", "C6H6", "CH4", "CO2", "N2", "SiF4", "C5H5N", "C60"])
def test_turned_molecules_are_the_same(name):
    for seed in range(3):
        assert molecule_rmsd(molecule(name), turned(molecule(name), seed)) < 1e-5


def test_distorted_molecules_are_not():
    atoms = molecule("CH3CH2OH")
    moved = atoms.copy()
    moved.positions[3] += [0.03, 0.0, 0.0]
    distance = molecule_rmsd(atoms, turned(moved, 0))
    assert 1e-3 < distance < 0.03 / np.sqrt(len(atoms)) + 1e-6


def test_mirror_images_are_two_molecules():
    chiral = Atoms("CHFClBr", [[0, 0, 0], [0.63, 0.63, 0.63], [-0.8, -0.8, 0.8], [-1, 1, -1], [1.1, -1.1, -1.1]])
    mirrored = chiral.copy()
    mirrored.positions[:, 0] *= -1
    assert molecule_rmsd(chiral, turned(chiral, 1)) < 1e-5
    assert molecule_rmsd(chiral, mirrored) > 0.1


def test_crystals_in_other_cells_are_the_same():
    primitive = bulk("Si")
    skewed = make_supercell(primitive, [[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    assert same_structure(primitive, bulk("Si", cubic=True))
    assert same_structure(primitive, skewed)
    assert not same_structure(primitive, bulk("Si", a=5.45))


def test_rattled_cells_are_not_the_perfect_one():
    perfect = bulk("Si", cubic=True)
    one, two = perfect.copy(), perfect.copy()
    one.rattle(0.05, seed=1)
    two.rattle(0.05, seed=2)
    assert not same_structure(perfect, one)
    assert not same_structure(one, two)
    again = one[np.random.default_rng(0).permutation(8)]
    again.positions += [0.3, 0.1, 5.0]
    again.wrap()
    assert same_structure(one, again)


def test_groups_keep_the_quietest_label_and_doubt_contradictions():
    water, ethanol, crystal = molecule("H2O"), molecule("CH3CH2OH"), bulk("Si", cubic=True)
    stretched = water.copy()
    stretched.positions[1] *= 1.05
    frames = [
        labelled(water, -14.0, net=0.02),
        labelled(ethanol, -46.0),
        labelled(turned(water, 1), -14.0, net=0.001),
        labelled(crystal, -43.0),
        labelled(bulk("Si"), -10.75),
        labelled(turned(ethanol, 2), -46.5),
        labelled(stretched, -13.9),
        labelled(turned(water, 5), -14.0, net=0.02),
    ]
    groups = equal_structures(frames)
    assert [group.members for group in groups] == [(0, 2, 7), (1, 5), (3, 4)]
    assert [group.keep for group in groups] == [2, None, 3]
    assert groups[1].energy_spread == pytest.approx(0.5 / 9)


def test_other_levels_and_charges_are_no_duplicates():
    one, two, three = (labelled(molecule("H2O"), -14.0) for _ in range(3))
    two.info["level"] = "other"
    three.info["charge"] = 1
    assert equal_structures([one, two, three]) == []
