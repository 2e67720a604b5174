from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.data import atomic_numbers, covalent_radii

from atomfoundry.models.zbl import ZBL

PAIRS = [("H", "H"), ("Si", "O"), ("Au", "C")]


def pair_energy(elements, r):
    """Both directed edges of a pair."""
    names = sorted(set(elements))
    zbl = ZBL(names, cutoff=6.0)
    i, j = (torch.tensor([names.index(element)]) for element in elements)
    distance = torch.tensor([r], dtype=torch.float64)
    return float(zbl(distance, i, j) + zbl(distance, j, i))


def by_hand(elements, r, *, a, factors, decays, coulomb):
    z = [atomic_numbers[element] for element in elements]
    x = r / a(*z)
    r_max = sum(covalent_radii[each] for each in z)
    t = r / r_max
    envelope = 1 - 28 * t**6 + 48 * t**7 - 21 * t**8 if t < 1 else 0.0
    return coulomb * z[0] * z[1] / r * sum(c * np.exp(-d * x) for c, d in zip(factors, decays, strict=True)) * envelope


@pytest.mark.parametrize("elements", PAIRS)
def test_table(elements):
    """The formula written out with plain numbers."""
    for r in (0.05, 0.2, 0.5):
        expected = by_hand(
            elements,
            r,
            a=lambda z1, z2: 0.529 * 0.4543 / (z1**0.3 + z2**0.3),
            factors=(0.1818, 0.5099, 0.2802, 0.02817),
            decays=(3.2, 0.9423, 0.4028, 0.2016),
            coulomb=14.3996,
        )
        assert pair_energy(elements, r) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("elements", PAIRS)
def test_near_the_universal_potential(elements):
    """Other published constants (0.46850 A, exponent 0.23): the same repulsion where nuclei dominate."""
    universal = by_hand(
        elements,
        0.02,
        a=lambda z1, z2: 0.46850 / (z1**0.23 + z2**0.23),
        factors=(0.02817, 0.28022, 0.50986, 0.18175),
        decays=(0.20162, 0.40290, 0.94229, 3.19980),
        coulomb=14.399645,
    )
    assert pair_energy(elements, 0.02) == pytest.approx(universal, rel=0.35)
    assert pair_energy(elements, 1e-5) > 1e5


def test_ends_smoothly_at_the_covalent_radii():
    r_max = covalent_radii[14] + covalent_radii[8]
    energies = [pair_energy(("Si", "O"), r) for r in np.linspace(0.05, r_max, 50)]
    assert np.all(np.diff(energies) < 0)
    assert pair_energy(("Si", "O"), r_max) == 0.0
    assert pair_energy(("Si", "O"), r_max + 0.3) == 0.0
    assert pair_energy(("Si", "O"), r_max - 1e-3) < 1e-6


def test_never_cut_by_the_models_cutoff():
    zero = torch.tensor([0])
    zbl = ZBL(["Cs"], cutoff=3.0)
    inside, outside = (zbl(torch.tensor([r], dtype=torch.float64), zero, zero) for r in (2.9999, 3.0))
    assert 0 < float(inside) < 1e-9
    assert float(outside) == 0.0
