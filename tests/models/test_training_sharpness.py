"""Sharpness-aware minimisation: exact on a quadratic, nothing at rho = 0; the sharpness of a quadratic."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from argon import config, crystals, equal, losses, settings, weights

from atomfoundry.errors import TrainingError
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.training.loader import prepare_graphs
from atomfoundry.models.training.sharpness import ascended, measure_sharpness
from atomfoundry.models.training.trainer import train


def quadratic():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    theta = torch.randn(6, generator=generator, dtype=torch.float64)
    return root @ root.T, theta


def gradient(parts, matrix):
    theta = torch.cat(parts)
    for part in parts:
        part.grad = None
    (0.5 * theta @ matrix @ theta).backward()
    return torch.cat([part.grad for part in parts])


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_gradient_uphill_of_a_quadratic_is_exact(adaptive):
    matrix, theta = quadratic()
    parts = [theta[:2].clone().requires_grad_(), theta[2:].clone().requires_grad_()]
    untouched = torch.ones(1, dtype=torch.float64, requires_grad=True)
    rho = 0.3
    g = gradient(parts, matrix)
    with ascended([*parts, untouched], rho=rho, adaptive=adaptive):
        uphill = gradient(parts, matrix)
        assert untouched.item() == 1.0
    eps = rho * theta**2 * g / (theta.abs() * g).norm() if adaptive else rho * g / g.norm()
    torch.testing.assert_close(uphill, matrix @ (theta + eps), rtol=1e-11, atol=1e-11)
    assert torch.equal(torch.cat(parts), theta)


def test_weights_come_back_after_an_error():
    matrix, theta = quadratic()
    part = theta.clone().requires_grad_()
    gradient([part], matrix)
    with pytest.raises(RuntimeError), ascended([part], rho=1.0):
        raise RuntimeError
    assert torch.equal(part.detach(), theta)


def test_a_training_without_rho_is_the_plain_one_and_with_it_another():
    plain = train(config(), crystals(4), settings=settings(max_epochs=2))
    none = train(config(), crystals(4), settings=settings(max_epochs=2, sam_rho=0.0, sam_adaptive=True))
    some = train(config(), crystals(4), settings=settings(max_epochs=2, sam_rho=0.05))
    assert equal(weights(plain.model), weights(none.model))
    assert losses(plain) == losses(none)
    assert not equal(weights(plain.model), weights(some.model))
    assert some.history[0].train_loss == pytest.approx(plain.history[0].train_loss, rel=0.5)


def test_one_step_by_hand():
    """theta <- Adam(theta, grad L(theta + eps)); the first step of Adam is lr g / (|g| + 1e-8)."""
    asked = settings(max_epochs=1, batch_size=4, ema_decay=None, sam_rho=0.1, schedule="constant", warmup_fraction=0)
    frames = crystals(4)
    result = train(config(dtype="float64"), frames, settings=asked)
    model = Allegro(config(dtype="float64"))
    from atomfoundry.models.graph import collate
    from atomfoundry.models.training.loader import graph_force_rms
    from atomfoundry.models.training.loss import Loss

    graphs = prepare_graphs(model, frames)
    loss = Loss(asked.loss, force_rms={0: graph_force_rms(graphs)})
    batch = collate(graphs)

    def slope():
        model.zero_grad()
        loss(model(batch, create_graph=True), batch).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    first, start = slope(), weights(model)
    norm = torch.sqrt(sum((g**2).sum() for g in first.values()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += asked.sam_rho * first[name] / norm
    for name, g in slope().items():
        expected = start[name] - asked.lr * g / (g.abs() + 1e-8)
        # a gradient of nearly zero has the sign of its rounding
        clear = g.abs() > 1e-7
        torch.testing.assert_close(weights(result.model)[name][clear], expected[clear], rtol=1e-7, atol=1e-9)


def test_sharpness_of_a_flat_and_of_a_steep_loss():
    model, frames = Allegro(config()), crystals(3)
    before = weights(model)
    asked = settings().loss
    small = measure_sharpness(model, frames, loss=asked, n_draws=8, scale=1e-3)
    large = measure_sharpness(model, frames, loss=asked, n_draws=8, scale=0.2)
    assert equal(before, weights(model))
    assert (small.n_draws, small.scale) == (8, 1e-3)
    assert small.loss == large.loss
    assert abs(small.rise) + small.uncertainty < 0.1 * (abs(large.rise) + large.uncertainty)
    assert small == measure_sharpness(model, frames, loss=asked, n_draws=8, scale=1e-3)
    assert small != measure_sharpness(model, frames, loss=asked, n_draws=8, scale=1e-3, seed=1)


def test_sharpness_needs_draws_and_frames():
    model = Allegro(config())
    with pytest.raises(TrainingError, match="1 draws"):
        measure_sharpness(model, crystals(1), loss=settings().loss, n_draws=1)
    with pytest.raises(TrainingError, match="no frame"):
        measure_sharpness(model, [], loss=settings().loss)
