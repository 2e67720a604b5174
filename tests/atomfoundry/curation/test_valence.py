from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import molecule

from atomfoundry.curation import valence_problem

WHOLE = [
    "H2O", "CH4", "C2H4", "C2H2", "C6H6", "CH3CH2OH", "CO", "CO2", "HCN", "N2", "NH3", "H2CO", "HCOOH", "CH3NO2",
    "C5H5N", "O3", "N2O", "SO2", "N2H4", "CH3SiH3", "Si2H6", "C4H4S", "ClF3", "PH3", "SiF4", "BF3",
]  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_whole_molecules_have_a_lewis_structure(name):
    assert valence_problem(molecule(name)) is None


@pytest.mark.parametrize("name", ["CH4", "C2H4", "C6H6", "CH3CH2OH", "NH3", "CH3NO2", "C5H5N", "Si2H6", "HCOOH"])
def test_a_missing_hydrogen_is_found(name):
    whole = molecule(name)
    for index in [i for i, symbol in enumerate(whole.symbols) if symbol == "H"]:
        broken = whole.copy()
        del broken[index]
        assert valence_problem(broken) is not None


def test_rattled_molecules_stay_whole():
    for seed in range(10):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.06, seed=seed)
        assert valence_problem(atoms) is None


def test_an_atom_far_away_is_named():
    atoms = molecule("CH4")
    atoms.positions[1] *= 4
    assert valence_problem(atoms) == "H1 has no neighbour"


def test_what_cannot_be_judged():
    radical = molecule("CH3")
    assert valence_problem(radical) is not None
    radical.info["spin_multiplicity"] = 2
    assert valence_problem(radical) is None
    ion = molecule("CH3")
    ion.info["charge"] = 1
    assert valence_problem(ion) is None
    assert valence_problem(Atoms("LiF", [[0, 0, 0], [0, 0, 1.6]])) is None
    assert valence_problem(Atoms("H")) is None
    assert valence_problem(Atoms("CH", [[0, 0, 0], [0, 0, 1.1]], cell=[5] * 3, pbc=True)) is None
