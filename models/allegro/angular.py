"""Spherical harmonics and Wigner 3j symbols of degree up to three, in e3nn's basis and sign conventions.

Closed forms, because importing e3nn costs seconds in every worker process; the tests compare them with e3nn.
The polar axis is y; components run m = -l..l; 'component' normalisation: sum_m Y_lm^2 = 2 l + 1.
"""

from __future__ import annotations

from functools import lru_cache
from math import factorial, sqrt

import numpy as np

L_MAX = 3
"""Highest degree provided."""


def harmonic_slices(l_max: int) -> list[slice]:
    """Return where each degree lies among the (l_max + 1)^2 components."""
    return [slice(degree**2, (degree + 1) ** 2) for degree in range(l_max + 1)]


@lru_cache
def harmonic_coefficients(l_max: int) -> np.ndarray:
    """Return the matrix from monomials of the unit vector to harmonics.

    Parameters
    ----------
    l_max
        0 to 3.

    Returns
    -------
    np.ndarray
        (1 + 3 + ... + 3^l_max, (l_max + 1)^2). The monomials of degree l are the flattened l-fold outer
        product of (x, y, z), so harmonics of degree l are the product of that row vector with a block of
        this matrix.
    """
    matrix = np.zeros((sum(3**degree for degree in range(l_max + 1)), (l_max + 1) ** 2))
    first_monomial, first_harmonic = 0, 0
    for degree in range(l_max + 1):
        for column, polynomial in enumerate(_POLYNOMIALS[degree]):
            for axes, factor in polynomial.items():
                row = 0
                for axis in axes:
                    row = 3 * row + "xyz".index(axis)
                matrix[first_monomial + row, first_harmonic + column] += factor
        first_monomial += 3**degree
        first_harmonic += 2 * degree + 1
    return matrix


_POLYNOMIALS: list[list[dict[str, float]]] = [
    [{"": 1.0}],
    [{axis: sqrt(3)} for axis in "xyz"],
    [
        {"xz": sqrt(15)},
        {"xy": sqrt(15)},
        {"yy": sqrt(5), "xx": -sqrt(5) / 2, "zz": -sqrt(5) / 2},
        {"yz": sqrt(15)},
        {"zz": sqrt(15) / 2, "xx": -sqrt(15) / 2},
    ],
    [
        {"zzx": 3 * sqrt(70) / 4, "xxx": -sqrt(70) / 4},
        {"xyz": sqrt(105)},
        {"yyx": sqrt(42), "xxx": -sqrt(42) / 4, "zzx": -sqrt(42) / 4},
        {"yyy": sqrt(7), "xxy": -3 * sqrt(7) / 2, "zzy": -3 * sqrt(7) / 2},
        {"yyz": sqrt(42), "xxz": -sqrt(42) / 4, "zzz": -sqrt(42) / 4},
        {"zzy": sqrt(105) / 2, "xxy": -sqrt(105) / 2},
        {"zzz": sqrt(70) / 4, "xxz": -3 * sqrt(70) / 4},
    ],
]


def harmonic_polynomials(degree: int) -> list[dict[str, float]]:
    """Return each harmonic of a degree as monomial (letters x, y, z) -> factor."""
    return _POLYNOMIALS[degree]


def _clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j3: int) -> float:
    """Return <j1 m1 j2 m2 | j3 m1+m2> by Racah's sum (Condon-Shortley phases)."""
    m3 = m1 + m2
    if abs(m3) > j3:
        return 0.0
    f = factorial
    front = sqrt((2 * j3 + 1) * f(j3 + j1 - j2) * f(j3 - j1 + j2) * f(j1 + j2 - j3) / f(j1 + j2 + j3 + 1))
    front *= sqrt(f(j3 + m3) * f(j3 - m3) * f(j1 - m1) * f(j1 + m1) * f(j2 - m2) * f(j2 + m2))
    total = 0.0
    for k in range(j1 + j2 - j3 + 1):
        below = (k, j1 + j2 - j3 - k, j1 - m1 - k, j2 + m2 - k, j3 - j2 + m1 + k, j3 - j1 - m2 + k)
        if min(below) >= 0:
            total += (-1) ** k / np.prod([float(f(n)) for n in below])
    return front * total


def _complex_from_real(degree: int) -> np.ndarray:
    """Return the unitary matrix [complex m, real m] of one degree; its phase (-i)^l makes 3j real."""
    matrix = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    matrix[degree, degree] = 1.0
    for m in range(1, degree + 1):
        matrix[degree - m, degree + m] = 1 / sqrt(2)
        matrix[degree - m, degree - m] = -1j / sqrt(2)
        matrix[degree + m, degree + m] = (-1) ** m / sqrt(2)
        matrix[degree + m, degree - m] = 1j * (-1) ** m / sqrt(2)
    return (-1j) ** degree * matrix


@lru_cache
def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """Return the real 3j tensor (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), Frobenius norm 1."""
    coupling = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                coupling[l1 + m1, l2 + m2, l3 + m1 + m2] = _clebsch_gordan(l1, m1, l2, m2, l3)
    bases = [_complex_from_real(degree) for degree in (l1, l2, l3)]
    real = np.einsum("abc,ai,bj,ck->ijk", coupling, bases[0], bases[1], bases[2].conj()).real
    return real / np.linalg.norm(real)


def parallel_coupling(l1: int, l2: int, l3: int) -> float:
    """Return kappa of sum_{m1 m2} w3j Y_l1 Y_l2 = kappa Y_l3 for harmonics of one and the same direction.

    Zero where l1 + l2 + l3 is odd.
    """
    polar = wigner_3j(l1, l2, l3)[l1, l2, l3]
    return float(polar * sqrt((2 * l1 + 1) * (2 * l2 + 1) / (2 * l3 + 1)))
