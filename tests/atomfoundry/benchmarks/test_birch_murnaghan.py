from __future__ import annotations

import numpy as np
import pytest

from atomfoundry.benchmarks.birch_murnaghan import (
    birch_murnaghan_energy,
    birch_murnaghan_pressure,
    fit_birch_murnaghan,
)
from atomfoundry.errors import LabelError


@pytest.mark.parametrize("b0_prime", [2.5, 4.0, 6.1])
@pytest.mark.parametrize("spread", [(0.85, 1.15), (0.97, 1.3), (0.7, 0.98)])
def test_synthetic_parameters_come_back(b0_prime, spread):
    volumes = 20.3 * np.linspace(*spread, 9)
    energies = birch_murnaghan_energy(volumes, v0=20.3, e0=-5.4, b0=0.61, b0_prime=b0_prime)
    fit = fit_birch_murnaghan(volumes, energies)
    assert fit.v0 == pytest.approx(20.3, rel=1e-9)
    assert fit.e0 == pytest.approx(-5.4, rel=1e-10)
    assert fit.b0 == pytest.approx(0.61, rel=1e-7)
    assert fit.b0_prime == pytest.approx(b0_prime, rel=1e-6)
    assert fit.rmse < 1e-12
    assert fit.r2 == pytest.approx(1)


def test_pressure_is_the_derivative_and_bulk_modulus_the_curvature():
    parameters = {"v0": 11.0, "b0": 0.9, "b0_prime": 4.7}
    h = 1e-4
    for volume in (9.0, 11.0, 13.0):
        around = birch_murnaghan_energy(np.array([volume - h, volume, volume + h]), e0=1.0, **parameters)
        slope = (around[2] - around[0]) / (2 * h)
        assert birch_murnaghan_pressure(np.array(volume), **parameters) == pytest.approx(-slope, abs=1e-8)
    around = birch_murnaghan_energy(np.array([11 - h, 11, 11 + h]), e0=0.0, **parameters)
    assert 11 * (around[0] - 2 * around[1] + around[2]) / h**2 == pytest.approx(0.9, rel=1e-5)


def test_fit_is_the_least_squares_solution():
    rng = np.random.default_rng(3)
    volumes = np.linspace(15, 25, 11)
    energies = birch_murnaghan_energy(volumes, v0=20, e0=0, b0=0.5, b0_prime=4.5) + 1e-3 * rng.normal(size=11)
    fit = fit_birch_murnaghan(volumes, energies)
    best = ((fit.energy(volumes) - energies) ** 2).sum()
    assert fit.rmse == pytest.approx(np.sqrt(best / 11), rel=1e-6)
    for change in ({"v0": 1.001}, {"b0": 1.001}, {"b0_prime": 1.001}):
        parameters = {key: getattr(fit, key) * change.get(key, 1) for key in ("v0", "e0", "b0", "b0_prime")}
        assert ((birch_murnaghan_energy(volumes, **parameters) - energies) ** 2).sum() > best


def test_refusals():
    with pytest.raises(LabelError) as caught:
        fit_birch_murnaghan(np.array([1.0, 2.0, 3.0]), np.zeros(3))
    assert caught.value.reason == "too_few_points"
    volumes = np.linspace(10, 20, 7)
    for energies in (volumes, -volumes, np.zeros(7)):
        with pytest.raises(LabelError) as caught:
            fit_birch_murnaghan(volumes, energies)
        assert caught.value.reason == "no_minimum"
