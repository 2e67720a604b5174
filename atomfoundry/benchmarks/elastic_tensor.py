"""Elastic tensors in Voigt notation: deformations, symmetry, least squares, moduli."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Voigt index -> tensor indices, in ASE's order xx yy zz yz xz xy."""

_ROWS = np.array([pair[0] for pair in VOIGT])
_COLUMNS = np.array([pair[1] for pair in VOIGT])
_MANDEL = np.sqrt([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])

WELL_DETERMINED = 0.1
"""Smallest singular value of a design matrix (orthonormal tensors) that counts as well determined."""


def green_lagrange(mode: int, amplitude: float) -> np.ndarray:
    """Return a Green-Lagrange strain with one independent component.

    Parameters
    ----------
    mode
        Voigt index, 0 to 5.
    amplitude
        The tensor component; shear modes have it on both sides of the diagonal, so the Voigt strain is
        twice that.

    Returns
    -------
    ndarray of shape (3, 3)
        The strain.
    """
    strain = np.zeros((3, 3))
    i, j = VOIGT[mode]
    strain[i, j] = strain[j, i] = amplitude
    return strain


def deformation_gradient(strain: np.ndarray) -> np.ndarray:
    """Return the upper triangular F with ``F^T F = 1 + 2 E``.

    Parameters
    ----------
    strain
        Green-Lagrange strain E, (3, 3).

    Returns
    -------
    ndarray of shape (3, 3)
        Vectors deform as ``r' = F r``; a cell with lattice vectors as rows as ``cell @ F.T``.
    """
    return np.linalg.cholesky(np.eye(3) + 2 * strain).T


def rotate_tensor(tensor: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return an elastic tensor in rotated axes.

    Parameters
    ----------
    tensor
        Voigt matrix, (6, 6).
    rotation
        Orthogonal matrix from the old axes to the new ones, (3, 3).

    Returns
    -------
    ndarray of shape (6, 6)
        ``C'_ijkl = R_ia R_jb R_kc R_ld C_abcd``.
    """
    bond = _bond_matrices(rotation[None])[0]
    return bond @ tensor @ bond.T


def _bond_matrices(rotations: np.ndarray) -> np.ndarray:
    """Return how Voigt stresses turn, (G, 6, 6): ``sigma'_ij = R_ik R_jl sigma_kl`` (Bond 1943)."""
    left, right = rotations[:, _ROWS], rotations[:, _COLUMNS]
    bond = left[:, :, _ROWS] * right[:, :, _COLUMNS]
    swapped = left[:, :, _COLUMNS] * right[:, :, _ROWS]
    return bond + np.where(_ROWS == _COLUMNS, 0.0, swapped)


def invariant_tensors(rotations: np.ndarray | None = None) -> np.ndarray:
    """Return a basis of the elastic tensors that a point group leaves unchanged.

    Parameters
    ----------
    rotations
        Cartesian point group, (G, 3, 3); None: no symmetry.

    Returns
    -------
    ndarray of shape (n, 6, 6)
        Voigt matrices, orthonormal as fourth-rank tensors; n is 3 for cubic crystals, 21 for triclinic ones.
    """
    if rotations is None:
        rotations = np.eye(3)[None]
    weights = np.outer(_MANDEL, _MANDEL)
    turns = _bond_matrices(rotations) * _MANDEL[:, None] / _MANDEL[None, :]
    averages = []
    for i in range(6):
        for j in range(i, 6):
            unit = np.zeros((6, 6))
            unit[i, j] = unit[j, i] = 1.0 if i == j else np.sqrt(0.5)
            averages.append((turns @ unit @ turns.transpose(0, 2, 1)).mean(axis=0))
    # In Mandel's notation the group average is an orthogonal projection: its singular values are 0 or 1.
    _, values, basis = np.linalg.svd(np.reshape(averages, (21, 36)))
    return basis[: int((values > 0.5).sum())].reshape(-1, 6, 6) / weights


def design_matrix(basis: np.ndarray, modes: Sequence[int]) -> np.ndarray:
    """Return how the columns of C that are measured depend on the invariant coefficients.

    Parameters
    ----------
    basis
        Invariant tensors, (n, 6, 6).
    modes
        Voigt indices of the strains applied.

    Returns
    -------
    ndarray of shape (6 len(modes), n)
        Design matrix of the least squares.
    """
    return np.concatenate([basis[:, :, mode].T for mode in modes]) if modes else np.zeros((0, len(basis)))


def is_determined(basis: np.ndarray, modes: Sequence[int]) -> bool:
    """Tell whether strains of these modes determine the tensor well."""
    return _smallest_singular(basis, modes) > WELL_DETERMINED


def _smallest_singular(basis: np.ndarray, modes: Sequence[int]) -> float:
    matrix = design_matrix(basis, modes)
    if matrix.shape[0] < matrix.shape[1]:
        return 0.0
    return float(np.linalg.svd(matrix, compute_uv=False).min())


def necessary_modes(basis: np.ndarray) -> tuple[int, ...]:
    """Choose few strain modes that determine an elastic tensor: a normal and a shear one, then what lacks.

    Parameters
    ----------
    basis
        Invariant tensors, (n, 6, 6).

    Returns
    -------
    tuple of int
        Voigt indices in ascending order; (0, 3) for a cubic crystal along its axes.
    """

    def quality(modes: Iterable[int]) -> tuple[int, float]:
        modes = list(modes)
        values = np.linalg.svd(design_matrix(basis, modes), compute_uv=False)
        return int((values > 1e-6).sum()), round(_smallest_singular(basis, modes), 9)

    chosen: list[int] = list(max(((n, s) for n in (0, 1, 2) for s in (3, 4, 5)), key=quality))
    while not is_determined(basis, chosen) and len(chosen) < 6:
        chosen.append(max((mode for mode in range(6) if mode not in chosen), key=lambda m: quality([*chosen, m])))
    return tuple(sorted(chosen))


def fit_tensor(columns: Mapping[int, np.ndarray], basis: np.ndarray) -> np.ndarray:
    """Return the invariant tensor closest to measured columns of C.

    With all six columns and no symmetry this is ``(C + C^T)/2``.

    Parameters
    ----------
    columns
        Voigt index b -> ``d sigma_a / d eps_b``, (6,).
    basis
        Invariant tensors, (n, 6, 6).

    Returns
    -------
    ndarray of shape (6, 6)
        Symmetric Voigt matrix in the columns' unit.
    """
    modes = sorted(columns)
    measured = np.concatenate([columns[mode] for mode in modes])
    coefficients = np.linalg.lstsq(design_matrix(basis, modes), measured, rcond=None)[0]
    tensor = np.einsum("n,nij->ij", coefficients, basis)
    return (tensor + tensor.T) / 2


def cubic_constants(tensor: np.ndarray) -> dict[str, float]:
    """Return C11, C12 and C44 as averages over a tensor along the cubic axes.

    Parameters
    ----------
    tensor
        Voigt matrix along the cubic axes, (6, 6).

    Returns
    -------
    dict
        ``C11``, ``C12``, ``C44`` and ``zener_anisotropy`` = 2 C44 / (C11 - C12) (None where that is not
        finite).
    """
    c11 = float(np.diag(tensor)[:3].mean())
    c12 = float((tensor[0, 1] + tensor[0, 2] + tensor[1, 2]) / 3)
    c44 = float(np.diag(tensor)[3:].mean())
    return {
        "C11": c11,
        "C12": c12,
        "C44": c44,
        "zener_anisotropy": 2 * c44 / (c11 - c12) if c11 != c12 else float("nan"),
    }


def moduli(tensor: np.ndarray) -> dict[str, float | bool | None]:
    """Return Voigt, Reuss and Hill averages and what follows from them.

    Hill, Proc. Phys. Soc. A 65, 349 (1952); ALGORITHMS (8.3).

    Parameters
    ----------
    tensor
        Voigt matrix, (6, 6).

    Returns
    -------
    dict
        ``K_V K_R K_VRH G_V G_R G_VRH E`` in the tensor's unit, ``nu``, ``universal_anisotropy``
        (Ranganathan and Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504 (2008)), ``min_eigenvalue`` and
        ``stable`` (all eigenvalues positive, in any axes). Reuss values of a singular tensor, and what
        needs them, are None.
    """
    c = tensor
    k_v = (c[0, 0] + c[1, 1] + c[2, 2] + 2 * (c[0, 1] + c[1, 2] + c[0, 2])) / 9
    g_v = (c[0, 0] + c[1, 1] + c[2, 2] - c[0, 1] - c[1, 2] - c[0, 2] + 3 * (c[3, 3] + c[4, 4] + c[5, 5])) / 15
    # Kelvin's moduli: unlike the Voigt matrix's own eigenvalues they do not depend on the axes.
    eigenvalues = np.linalg.eigvalsh(c * np.outer(_MANDEL, _MANDEL))
    values: dict[str, float | bool | None] = {
        "K_V": float(k_v),
        "G_V": float(g_v),
        "min_eigenvalue": float(eigenvalues.min()),
        "stable": bool(eigenvalues.min() > 0),
    }
    derived = ("K_R", "K_VRH", "G_R", "G_VRH", "E", "nu", "universal_anisotropy")
    if np.abs(eigenvalues).min() <= 1e-12 * np.abs(eigenvalues).max():
        return values | dict.fromkeys(derived)
    s = np.linalg.inv(c)
    k_r = 1 / (s[0, 0] + s[1, 1] + s[2, 2] + 2 * (s[0, 1] + s[1, 2] + s[0, 2]))
    g_r = 15 / (
        4 * (s[0, 0] + s[1, 1] + s[2, 2]) - 4 * (s[0, 1] + s[1, 2] + s[0, 2]) + 3 * (s[3, 3] + s[4, 4] + s[5, 5])
    )
    k, g = (k_v + k_r) / 2, (g_v + g_r) / 2
    numbers = (
        *(k_r, k, g_r, g, 9 * k * g / (3 * k + g)),
        *((3 * k - 2 * g) / (2 * (3 * k + g)), 5 * g_v / g_r + k_v / k_r - 6),
    )
    return values | dict(zip(derived, map(float, numbers), strict=True))
