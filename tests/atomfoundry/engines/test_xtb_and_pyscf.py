from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.stress import voigt_6_to_full_3x3_stress

from atomfoundry.engines import get_engine
from atomfoundry.engines.xtb import repetitions
from atomfoundry.errors import ConfigurationError, LabelError


def force_by_differences(engine, atoms, atom, axis, step=1e-3):
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[atom, axis] += sign * step
        energies.append(engine.single_point(moved).energy)
    return -(energies[0] - energies[1]) / (2 * step)


def stress_by_differences(engine, atoms, i, j, step=1e-3):
    energies = []
    for sign in (1, -1):
        strain = np.zeros((3, 3))
        strain[i, j] += sign * step / 2
        strain[j, i] += sign * step / 2
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        energies.append(engine.single_point(strained).energy)
    return (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()


def strained_silicon() -> Atoms:
    atoms = bulk("Si", a=5.43)
    strain = np.array([[0.02, 0.03, 0], [0.03, -0.01, 0.01], [0, 0.01, 0.03]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def distorted_water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.slow
def test_xtb_forces_and_stress_of_a_repeated_cell():
    engine, atoms = get_engine("xtb"), strained_silicon()
    assert repetitions(atoms, min_height=5.0) == (2, 2, 2)
    result = engine.single_point(atoms)
    assert result.forces.shape == (2, 3)
    # One atom of every repeated cell moves: the energy of one cell changes by the force on its atom.
    assert result.forces[0, 1] == pytest.approx(force_by_differences(engine, atoms, 0, 1), abs=2e-4)
    stress = voigt_6_to_full_3x3_stress(result.stress)
    assert stress[1, 1] == pytest.approx(stress_by_differences(engine, atoms, 1, 1), abs=5e-5)
    assert stress[0, 1] == pytest.approx(stress_by_differences(engine, atoms, 0, 1), abs=5e-5)


def test_xtb_repeated_cell_is_the_supercell():
    engine, atoms = get_engine("xtb"), strained_silicon()
    small, large = engine.single_point(atoms), engine.single_point(atoms.repeat(2))
    assert large.energy == pytest.approx(8 * small.energy, abs=1e-5)
    assert large.forces[:2] == pytest.approx(small.forces, abs=1e-5)
    assert large.stress == pytest.approx(small.stress, abs=1e-7)


def test_xtb_molecule_and_atoms():
    engine = get_engine("xtb")
    water = distorted_water()
    result = engine.single_point(water)
    assert result.stress is None
    assert result.forces[1, 2] == pytest.approx(force_by_differences(engine, water, 1, 2), abs=2e-4)
    triplet = engine.single_point(Atoms("Si")).energy
    singlet = Atoms("Si")
    singlet.info["spin_multiplicity"] = 1
    assert triplet < engine.single_point(singlet).energy
    crystal = engine.single_point(bulk("Si", a=5.43)).energy / 2
    assert 3 < triplet - crystal < 6


def test_xtb_refuses_slabs_and_unknown_methods():
    slab = bulk("Si", cubic=True)
    slab.pbc = (True, True, False)
    with pytest.raises(LabelError) as caught:
        get_engine("xtb").compute(slab)
    assert caught.value.reason == "unsupported"
    with pytest.raises(ConfigurationError, match="GFN1-xTB"):
        get_engine("xtb", method="GFN3")
    with pytest.raises(ConfigurationError, match="gbsa"):
        get_engine("xtb", solvation_model="pcm")
    with pytest.raises(ConfigurationError, match="accuracy"):
        get_engine("xtb", accuracy=0.0)


def test_xtb_ipea1_is_another_level():
    water = distorted_water()
    gfn1, ipea1 = get_engine("xtb"), get_engine("xtb", method="IPEA1-xTB")
    assert ipea1.level.id != gfn1.level.id
    result = ipea1.single_point(water)
    assert abs(result.energy - gfn1.single_point(water).energy) > 0.5
    assert result.forces[1, 2] == pytest.approx(force_by_differences(ipea1, water, 1, 2), abs=2e-4)


def test_xtb_solvent_has_its_forces_and_molecules_only():
    water = distorted_water()
    engine = get_engine("xtb", solvent="water")
    engine.check_available()
    assert engine.level.id not in {get_engine("xtb").level.id, get_engine("xtb", solvent="ethanol").level.id}
    result = engine.single_point(water)
    assert result.energy < get_engine("xtb").single_point(water).energy - 0.1
    assert result.forces[1, 2] == pytest.approx(force_by_differences(engine, water, 1, 2), abs=2e-4)
    with pytest.raises(LabelError, match="implicit solvent") as caught:
        engine.compute(bulk("Si"))
    assert caught.value.reason == "unsupported"
    with pytest.raises(ConfigurationError, match="no solvent 'brine'"):
        get_engine("xtb", solvent="brine").check_available()


@pytest.mark.slow
def test_xtb_spin_of_a_repeated_cell_is_that_of_the_supercell():
    cell = bulk("Fe", a=2.9)
    cell.info["spin_multiplicity"] = 3
    large = cell.repeat(2)
    large.info["spin_multiplicity"] = 2 * 8 + 1
    repeated = get_engine("xtb", min_height=3.0)
    assert repetitions(cell, min_height=3.0) == (2, 2, 2)
    assert repeated.single_point(cell).energy * 8 == pytest.approx(repeated.single_point(large).energy, abs=1e-4)


@pytest.mark.parametrize(("multiplicity", "charge"), [(2, 0), (1, 1), (40, 0), (None, 20)])
@pytest.mark.parametrize("engine", ["xtb", "pyscf"])
def test_impossible_spin_and_charge_are_refused(engine, multiplicity, charge):
    atoms = molecule("H2O")
    atoms.info.update(spin_multiplicity=multiplicity, charge=charge)
    with pytest.raises(LabelError, match="Correct info") as caught:
        get_engine(engine).compute(atoms)
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("functional", [pytest.param("wb97m-d3bj", marks=pytest.mark.slow), "pbe"])
def test_pyscf_forces(functional):
    engine = get_engine("pyscf", functional=functional, basis="6-31g")
    water = distorted_water()
    result = engine.single_point(water)
    assert result.stress is None
    assert result.forces[1, 1] == pytest.approx(force_by_differences(engine, water, 1, 1), abs=1e-4)
    assert np.abs(result.forces.sum(axis=0)).max() < 1e-6


def test_pyscf_dispersion_counts_once_in_energy_and_gradient():
    """Two argon atoms: with and without the correction they differ by what the D3 code gives alone."""
    from pyscf import gto
    from pyscf.dispersion import dftd3

    from atomfoundry.units import HARTREE, HARTREE_PER_BOHR

    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 4.0]])
    with_d3 = get_engine("pyscf", functional="pbe-d3bj", basis="sto-3g").single_point(atoms)
    without = get_engine("pyscf", functional="pbe", basis="sto-3g").single_point(atoms)
    mol = gto.M(atom=[("Ar", (0, 0, 0)), ("Ar", (0, 0, 4.0))], basis="sto-3g", verbose=0)
    alone = dftd3.DFTD3Dispersion(mol, xc="pbe", version="d3bj").get_dispersion(grad=True)
    assert with_d3.energy - without.energy == pytest.approx(alone["energy"] * HARTREE, abs=1e-7)
    difference = with_d3.forces - without.forces
    assert difference == pytest.approx(-alone["gradient"] * HARTREE_PER_BOHR, abs=1e-6)


def test_pyscf_wb97m_d3bj_has_no_vv10():
    field = get_engine("pyscf")._mean_field(distorted_water())
    assert not field.do_nlc()
    assert get_engine("pyscf", functional="wb97m-v")._mean_field(distorted_water()).do_nlc()


def test_pyscf_atoms_are_ground_states():
    engine = get_engine("pyscf", functional="pbe")
    triplet, quintet = Atoms("Si"), Atoms("Si")
    quintet.info["spin_multiplicity"] = 5
    assert engine.single_point(triplet).energy < engine.single_point(quintet).energy - 0.3
    hydrogen = engine.single_point(Atoms("H"))
    assert hydrogen.energy == pytest.approx(-13.57, abs=0.05)
    assert np.array_equal(hydrogen.forces, np.zeros((1, 3)))


def test_pyscf_refuses_what_it_cannot():
    for atoms, spin, charge in ((bulk("Si"), None, 0), (molecule("H2O"), 2, 0), (molecule("H2O"), 1, 1)):
        atoms.info.update(spin_multiplicity=spin, charge=charge)
        with pytest.raises(LabelError) as caught:
            get_engine("pyscf").compute(atoms)
        assert caught.value.reason == "unsupported"


def test_pyscf_unconverged_is_an_error():
    with pytest.raises(LabelError) as caught:
        get_engine("pyscf", functional="pbe", basis="sto-3g", max_steps=1).compute(distorted_water())
    assert caught.value.reason == "unconverged"
