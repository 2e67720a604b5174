from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from pyscf import gto
from pyscf.dispersion.dftd3 import DFTD3Dispersion
from pyscf.pbc import gto as periodic

from atomfoundry.errors import ConfigurationError, ModelError
from atomfoundry.models import Allegro, AllegroConfig, FoundryCalculator
from atomfoundry.models.dispersion import RANGE, SMOOTHING, D3Dispersion


def by_the_library(atoms, functional, *, three_body=False, smoothing=SMOOTHING):
    described = [(s, p) for s, p in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)]
    if atoms.pbc.any():
        cell = periodic.Cell()
        cell.build(
            atom=described, a=atoms.cell.array, unit="Angstrom", basis=[], pseudo={}, verbose=0, dump_input=False
        )
    else:
        cell = gto.M(atom=described, verbose=0, basis={}, spin=None)
    library = DFTD3Dispersion(cell, functional, atm=three_body)
    library.set_realspace_cutoff(*RANGE.values(), width2=smoothing, width3=smoothing)
    found = library.get_dispersion(grad=True)
    return (
        float(found["energy"]) * units.Hartree,
        -found["gradient"] * units.Hartree / units.Bohr,
        found["virial"] * units.Hartree,
    )


def rattled(atoms: Atoms) -> Atoms:
    atoms.rattle(0.05, seed=0)
    return atoms


@pytest.mark.parametrize("three_body", [False, True])
def test_molecule(three_body):
    atoms = rattled(molecule("CH3CH2OH"))
    found = D3Dispersion("wb97m", three_body=three_body).evaluate(atoms)
    energy, forces, _ = by_the_library(atoms, "wb97m", three_body=three_body)
    # PySCF's and ASE's Bohr differ by 1e-9
    assert found["energy"] == pytest.approx(energy, rel=1e-7)
    assert np.allclose(found["forces"], forces, atol=1e-8)
    assert "stress" not in found
    assert abs(found["energy"]) > 0.05


def test_crystal():
    atoms = rattled(bulk("Si", cubic=True))
    found = D3Dispersion("pbe").evaluate(atoms)
    energy, forces, virial = by_the_library(atoms, "pbe")
    assert found["energy"] == pytest.approx(energy, rel=1e-6)
    assert np.allclose(found["forces"], forces, atol=1e-6)
    stress = virial / atoms.get_volume()
    assert np.allclose(found["stress"], [stress[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])
    sharp, _, _ = by_the_library(atoms, "pbe", smoothing=0.0)
    assert found["energy"] == pytest.approx(sharp, rel=3e-4)


def test_stress_is_the_derivative_of_the_energy():
    """To the tail of the coordination numbers, which the method itself does not end smoothly."""
    atoms, dispersion = rattled(bulk("Si", cubic=True)), D3Dispersion("pbe")
    stress = dispersion.evaluate(atoms)["stress"]
    for voigt, (a, b) in ((0, (0, 0)), (3, (1, 2))):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * 5e-4
            strain[b, a] += sign * 5e-4
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(dispersion.evaluate(moved)["energy"])
        slope = (energies[0] - energies[1]) / 2e-3 / atoms.get_volume()
        assert slope == pytest.approx(stress[voigt], rel=3e-4, abs=3e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("n_periodic", [1, 2])
def test_slabs_and_wires_in_any_orientation(axis, n_periodic):
    """Against the same in three dimensions with a wide vacuum; atoms far out of the cell."""
    slab = fcc111("Al", (1, 1, 2), vacuum=3.0) if n_periodic == 2 else Atoms("C2", [[0, 0.2, 0], [1.3, 0, 0.1]])
    if n_periodic == 1:
        slab.cell = [2.6, 0, 0]
    slab.pbc = (True, n_periodic == 2, False)
    wide = slab.copy()
    wide.cell = np.where(slab.pbc[:, None], slab.cell.array, 60.0 * np.eye(3))
    wide.pbc = True
    dispersion = D3Dispersion("pbe")
    expected = dispersion.evaluate(wide)
    turned = slab.copy()
    turned.cell = np.roll(slab.cell.array, axis, axis=0)
    turned.pbc = np.roll(slab.pbc, axis)
    turned.translate([0.0, 0.0, -50.0])
    found = dispersion.evaluate(turned)
    assert found["energy"] == pytest.approx(expected["energy"], rel=1e-9)
    assert np.allclose(found["forces"], expected["forces"], atol=1e-9)
    assert "stress" not in found


def test_calculator_adds_it():
    config = AllegroConfig(
        type_names=["H", "C", "O"], num_channels=2, two_body_dims=[8, 8], latent_dims=[8], avg_num_neighbors=8.0
    )
    model = Allegro(config.model_copy(update={"dtype": "float64"}))
    for atoms in (rattled(molecule("CH3OH")), rattled(bulk("C", cubic=True))):
        results = []
        for dispersion in (None, "pbe", D3Dispersion("pbe")):
            atoms.calc = FoundryCalculator(model, dispersion=dispersion)
            atoms.get_potential_energy()
            results.append(atoms.calc.results)
        added = D3Dispersion("pbe").evaluate(atoms)
        for after in results[1:]:
            for key in {"energy", "forces"} | ({"stress"} if atoms.pbc.all() else set()):
                assert np.allclose(after[key] - results[0][key], added[key], rtol=1e-9, atol=1e-12)
            assert after["free_energy"] == after["energy"]
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_potential_energies()
    atoms = rattled(molecule("CH3OH"))
    atoms.calc = FoundryCalculator(model, dispersion="pbe")
    assert np.abs(atoms.get_forces() - calculate_numerical_forces(atoms, eps=1e-4)).max() < 1e-6


def test_what_the_library_does_not_know():
    with pytest.raises(ConfigurationError, match="'nonsense'"):
        D3Dispersion("nonsense")
    for symbol in ("Og", "Rf", "X"):
        with pytest.raises(ModelError, match=f"no reference values for {symbol}"):
            D3Dispersion("pbe").evaluate(Atoms([symbol, "C"], positions=[[0, 0, 0], [0, 0, 3]]))
    assert D3Dispersion("pbe").evaluate(Atoms("Lr2", positions=[[0, 0, 0], [0, 0, 3]]))["energy"] < -0.01
