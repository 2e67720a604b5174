"""LLPR's linear algebra against Bayesian linear regression, and conformal coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from atomfoundry.errors import ModelError
from atomfoundry.models.uncertainty.conformal import conformal_quantile, conformal_scores, coverage
from atomfoundry.models.uncertainty.posterior import FeatureHessian, ReadoutPosterior, calibrate


def features(n=60, d=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-3, 3, d, dtype=torch.float64)
    return torch.randn(n, d, dtype=torch.float64, generator=generator) * scales


def posterior_of(rows, *, ridge=None, alpha=1.0, weights=None):
    hessian = FeatureHessian(rows.shape[1])
    hessian.add(rows, torch.ones(len(rows)), weights=weights)
    posterior = ReadoutPosterior.from_hessian(hessian, ridge=ridge)
    posterior.alpha = alpha
    return posterior


def test_equals_bayesian_linear_regression():
    rows, new = features(), features(9, seed=1)
    noise, prior = 0.3, 2.0
    posterior = posterior_of(rows, ridge=noise**2 / prior**2, alpha=noise)
    covariance = torch.linalg.inv(rows.T @ rows / noise**2 + torch.eye(7, dtype=torch.float64) / prior**2)
    expected = torch.einsum("bi,ij,bj->b", new, covariance, new)
    assert torch.allclose(posterior.sigma(new) ** 2, expected, rtol=1e-8, atol=0)


def test_batches_and_weights_add_up():
    rows = features(20)
    n_atoms = torch.arange(1, 21)
    whole, parts = FeatureHessian(7), FeatureHessian(7)
    whole.add(rows, n_atoms)
    parts.add(rows[:5], n_atoms[:5])
    parts.add(rows[5:], n_atoms[5:])
    assert torch.allclose(whole.matrix, parts.matrix, rtol=1e-12)
    twice, weighted = FeatureHessian(7), FeatureHessian(7)
    twice.add(rows[:1], n_atoms[:1])
    twice.add(rows[:1], n_atoms[:1])
    weighted.add(rows[:1], n_atoms[:1], weights=torch.tensor([2.0]))
    assert torch.allclose(twice.matrix, weighted.matrix, rtol=1e-12)


def test_zero_features_have_no_uncertainty():
    assert posterior_of(features()).sigma(torch.zeros(1, 7)).item() == 0.0


@pytest.mark.parametrize("ridge", [None, 1e-3])
def test_a_copy_of_a_training_point_never_raises_a_sigma(ridge):
    rows, new = features(), features(50, seed=2)
    before = posterior_of(rows, ridge=ridge).sigma(new)
    after = posterior_of(torch.cat([rows, rows[:1]]), ridge=ridge).sigma(new)
    assert bool((after <= before * (1 + 1e-12)).all())


def test_samples_reproduce_the_exact_sigma():
    posterior = posterior_of(features(), alpha=0.7)
    new = features(40, seed=3)
    draws = posterior.sample_directions(64, seed=5)
    sampled = torch.sqrt(((new @ draws.T) ** 2).mean(dim=1))
    exact = posterior.sigma(new)
    assert bool(((sampled / exact - 1).abs() < 3 / math.sqrt(2 * 64)).all())
    rows = posterior.directions()
    assert torch.allclose(torch.sqrt(((new @ rows.T) ** 2).sum(dim=1)), exact, rtol=1e-10)


def test_fewer_structures_than_features_are_held_by_the_ridge():
    posterior = posterior_of(features(4, 30))
    assert posterior.ridge > 0
    assert bool(torch.isfinite(posterior.sigma(features(3, 30, seed=8))).all())


def test_a_feature_never_seen_is_uncertain():
    rows = features()
    rows[:, 3] = 0.0
    posterior = posterior_of(rows)
    probe = torch.zeros(2, 7, dtype=torch.float64)
    probe[0, 2], probe[1, 3] = 1.0, 1.0
    usual, unseen = posterior.sigma(probe).tolist()
    assert unseen > 100 * usual


def test_sigma_grows_away_from_the_data():
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    powers = torch.arange(6, dtype=torch.float64)
    posterior = posterior_of(x[:, None] ** powers, ridge=1e-6)
    far = torch.linspace(1, 3, 20, dtype=torch.float64)
    sigma = posterior.sigma(far[:, None] ** powers)
    assert bool((sigma.diff() > 0).all())


def test_three_calibrations_agree_on_gaussian_errors():
    rng = np.random.default_rng(0)
    sigma = torch.tensor(rng.uniform(0.1, 3.0, 20_000))
    errors = torch.tensor(rng.normal(size=20_000)) * sigma * 1.7
    for method in ("absolute", "squared", "crps"):
        assert calibrate(errors, sigma, method=method) == pytest.approx(1.7, rel=0.02)
    values = [calibrate(errors, sigma, method=m) for m in ("absolute", "squared", "crps")]
    assert max(values) / min(values) < 1.01


def test_calibration_refuses_what_cannot_be_calibrated():
    with pytest.raises(ModelError, match="no calibration"):
        calibrate(torch.empty(0), torch.empty(0))
    with pytest.raises(ModelError, match="positive"):
        calibrate(torch.ones(2), torch.tensor([1.0, 0.0]))


def test_empty_and_broken_features_are_refused():
    with pytest.raises(ModelError, match="no training"):
        ReadoutPosterior.from_hessian(FeatureHessian(3))
    with pytest.raises(ModelError, match="finite"):
        posterior_of(torch.full((2, 3), float("nan"), dtype=torch.float64))
    with pytest.raises(ModelError, match="zero"):
        posterior_of(torch.zeros(2, 3, dtype=torch.float64))


def test_conformal_index():
    assert conformal_quantile(np.arange(1.0, 10.0), alpha=0.1) == 9.0
    assert conformal_quantile(np.arange(1.0, 9.0), alpha=0.1) == math.inf
    assert conformal_quantile(np.arange(1.0, 100.0), alpha=0.1) == 90.0
    with pytest.raises(ModelError):
        conformal_quantile(np.array([1.0]), alpha=1.5)
    with pytest.raises(ModelError, match="NaN"):
        conformal_quantile(np.array([1.0, np.nan]))


def test_conformal_coverage():
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(400):
        sigma = rng.uniform(0.5, 2.0, 299)
        errors = rng.standard_t(5, 299) * sigma
        quantile = conformal_quantile(conformal_scores(errors[:99], sigma[:99]), alpha=0.1)
        hits.append(coverage(errors[99:], sigma[99:], quantile=quantile))
    assert np.mean(hits) == pytest.approx(0.9, abs=0.006)


def test_scores_without_sigma():
    assert conformal_scores(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.0, 4.0])).tolist() == [
        0.0,
        np.inf,
        0.5,
    ]
