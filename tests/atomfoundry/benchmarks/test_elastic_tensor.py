from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from atomfoundry.benchmarks.crystal_symmetry import crystal_symmetry
from atomfoundry.benchmarks.elastic_tensor import (
    cubic_constants,
    deformation_gradient,
    fit_tensor,
    green_lagrange,
    invariant_tensors,
    is_determined,
    moduli,
    necessary_modes,
    rotate_tensor,
)


def cubic(c11: float, c12: float, c44: float) -> np.ndarray:
    tensor = np.diag([c11] * 3 + [c44] * 3).astype(float)
    tensor[:3, :3] += c12 * (1 - np.eye(3))
    return tensor


def random_symmetric(seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).normal(size=(6, 6))
    return matrix + matrix.T


def random_rotation(seed: int = 0) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


@pytest.mark.parametrize("mode", range(6))
@pytest.mark.parametrize("amplitude", [-0.06, 0.01])
def test_deformation_is_upper_triangular_and_has_the_strain(mode, amplitude):
    strain = green_lagrange(mode, amplitude)
    f = deformation_gradient(strain)
    assert np.allclose(f, np.triu(f))
    assert np.allclose((f.T @ f - np.eye(3)) / 2, strain, atol=1e-15)


def test_rotation_of_a_quarter_turn_swaps_axes():
    tensor = random_symmetric()
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = rotate_tensor(tensor, quarter)
    assert turned[0, 0] == pytest.approx(tensor[1, 1])
    assert turned[0, 1] == pytest.approx(tensor[1, 0])
    assert turned[3, 3] == pytest.approx(tensor[4, 4])
    assert turned[3, 4] == pytest.approx(-tensor[4, 3])
    back = rotate_tensor(rotate_tensor(tensor, random_rotation()), random_rotation().T)
    assert np.allclose(back, tensor)


def test_isotropic_tensor_has_no_direction():
    tensor = cubic(3.0, 1.0, 1.0)
    assert np.allclose(rotate_tensor(tensor, random_rotation(4)), tensor)


@pytest.mark.parametrize(
    ("atoms", "system", "number"),
    [
        (bulk("Cu"), "cubic", 3),
        (bulk("Si", "diamond", a=5.43), "cubic", 3),
        (bulk("Mg"), "hexagonal", 5),
        (bulk("In", "bct", a=3.25, c=4.95), "tetragonal", 6),
    ],
)
def test_number_of_independent_constants(atoms, system, number):
    symmetry = crystal_symmetry(atoms)
    assert symmetry.system == system
    basis = invariant_tensors(symmetry.rotations)
    assert len(basis) == number
    for tensor in basis:
        for rotation in symmetry.rotations:
            assert np.allclose(rotate_tensor(tensor, rotation), tensor, atol=1e-10)
    assert is_determined(basis, necessary_modes(basis))


def test_a_rattled_cell_has_all_constants():
    atoms = bulk("Si", "diamond", a=5.43, cubic=True)
    atoms.rattle(0.1, seed=1)
    assert len(invariant_tensors(crystal_symmetry(atoms).rotations)) == 21


def test_necessary_modes_of_cubic_and_hexagonal_crystals():
    assert necessary_modes(invariant_tensors(crystal_symmetry(bulk("Cu")).rotations)) == (0, 3)
    hexagonal = necessary_modes(invariant_tensors(crystal_symmetry(bulk("Mg")).rotations))
    assert 2 in hexagonal and len(hexagonal) <= 4
    assert necessary_modes(invariant_tensors()) == (0, 1, 2, 3, 4, 5)


def test_without_symmetry_the_fit_symmetrises():
    measured = np.random.default_rng(5).normal(size=(6, 6))
    tensor = fit_tensor({mode: measured[:, mode] for mode in range(6)}, invariant_tensors())
    assert np.allclose(tensor, (measured + measured.T) / 2, atol=1e-12)


def test_two_columns_give_a_turned_cubic_tensor():
    atoms = bulk("Cu")
    atoms.rotate(50, (1, 3, 2), rotate_cell=True)
    symmetry = crystal_symmetry(atoms)
    tensor = rotate_tensor(cubic(170.0, 120.0, 75.0), symmetry.to_standard.T)
    basis = invariant_tensors(symmetry.rotations)
    modes = necessary_modes(basis)
    fitted = fit_tensor({mode: tensor[:, mode] for mode in modes}, basis)
    assert np.allclose(fitted, tensor, atol=1e-9)
    constants = cubic_constants(rotate_tensor(fitted, symmetry.to_standard))
    assert constants["C11"] == pytest.approx(170)
    assert constants["C12"] == pytest.approx(120)
    assert constants["C44"] == pytest.approx(75)
    assert constants["zener_anisotropy"] == pytest.approx(3)


def test_moduli_of_an_isotropic_solid():
    k, g = 100.0, 40.0
    values = moduli(cubic(k + 4 * g / 3, k - 2 * g / 3, g))
    for key in ("K_V", "K_R", "K_VRH"):
        assert values[key] == pytest.approx(k)
    for key in ("G_V", "G_R", "G_VRH"):
        assert values[key] == pytest.approx(g)
    assert values["E"] == pytest.approx(9 * k * g / (3 * k + g))
    assert values["nu"] == pytest.approx((3 * k - 2 * g) / (2 * (3 * k + g)))
    assert values["universal_anisotropy"] == pytest.approx(0, abs=1e-12)
    assert values["stable"] is True
    assert values["min_eigenvalue"] == pytest.approx(2 * g)


def test_moduli_of_lennard_jones():
    values = moduli(cubic(105.19, 60.19, 60.19))
    assert values["K_VRH"] == pytest.approx(75.19, rel=1e-3)
    assert values["G_VRH"] == pytest.approx(40.58, rel=1e-3)


def test_unstable_and_singular_tensors():
    unstable = cubic(100.0, 120.0, 50.0)
    values = moduli(unstable)
    assert values["stable"] is False
    assert values["min_eigenvalue"] == pytest.approx(-20)
    turned = moduli(rotate_tensor(unstable, random_rotation(2)))
    assert turned["min_eigenvalue"] == pytest.approx(-20)
    singular = moduli(cubic(100.0, 100.0, 50.0))
    assert singular["K_V"] == pytest.approx(100)
    assert singular["G_R"] is None
    assert moduli(np.zeros((6, 6)))["E"] is None
