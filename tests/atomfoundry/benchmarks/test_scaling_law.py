from __future__ import annotations

import numpy as np
import pytest

from atomfoundry.benchmarks.scaling_law import fit_scaling_law
from atomfoundry.errors import InputError

SIZES = np.repeat(2.0 ** np.arange(5, 15), 3)


def noisy(a, b, c, *, noise=0.03, seed=0):
    return (a * SIZES**-b + c) * np.exp(noise * np.random.default_rng(seed).normal(size=len(SIZES)))


@pytest.mark.parametrize("seed", range(3))
def test_exponent_of_a_law_with_a_floor(seed):
    law = fit_scaling_law(SIZES, noisy(2.0, 0.35, 0.05, seed=seed), n_bootstrap=100)
    assert law.b == pytest.approx(0.35, abs=0.03)
    assert law.c == pytest.approx(0.05, abs=0.02)
    assert law.aic < law.aic_power
    assert law.interval[0] < law.b < law.interval[1]
    assert law.extrapolation_error < 0.1


def test_exact_numbers_come_back():
    law = fit_scaling_law(SIZES, 2.0 * SIZES**-0.35 + 0.05, n_bootstrap=0)
    assert (law.a, law.b, law.c) == pytest.approx((2.0, 0.35, 0.05), rel=1e-4)
    np.testing.assert_allclose(law([100.0]), 2.0 * 100.0**-0.35 + 0.05, rtol=1e-5)
    assert law.interval is None


def test_a_pure_power_law_needs_no_floor():
    law = fit_scaling_law(SIZES, noisy(3.0, 0.5, 0.0, seed=4), n_bootstrap=50)
    assert law.c == 0.0
    assert law.b == pytest.approx(0.5, abs=0.02)


def test_the_same_seed_gives_the_same_interval():
    errors = noisy(2.0, 0.35, 0.05)
    one, two = (fit_scaling_law(SIZES, errors, n_bootstrap=20, seed=7) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, 3], [1, 0, 2]), ([1, 2, 3], [1, np.nan, 2])]
)
def test_what_is_no_law(x, y):
    with pytest.raises(InputError):
        fit_scaling_law(x, y)
