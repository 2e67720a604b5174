"""Exploration and the fits of uncertainties go on bit for bit where they were interrupted."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from argon import config, crystals

from atomfoundry.checkpoint import Checkpoints
from atomfoundry.deadline import NoTimeLeftError, _Request, forget_stop
from atomfoundry.models import Allegro, FoundryCalculator
from atomfoundry.models.exploration import explore
from atomfoundry.models.uncertainty import llpr
from atomfoundry.models.uncertainty.committee import CommitteeUncertainty, NoUncertainty
from atomfoundry.models.uncertainty.llpr import fit_uncertainty
from atomfoundry.models.watch import Watch


@pytest.fixture(autouse=True)
def forget_afterwards():
    yield
    forget_stop()


@pytest.fixture(scope="module")
def model():
    return Allegro(config()).eval()


@pytest.fixture(scope="module")
def uncertainty(model):
    return fit_uncertainty(model, {"pt": crystals(8)}, {"pt": crystals(12, seed=3)})


def pieces(monkeypatch, owner, name, every, run):
    """Run until the end, asked to stop at every so many calls of a function; return the outcome and the number."""
    original, calls = getattr(owner, name), []

    def counted(*arguments, **keywords):
        calls.append(1)
        if len(calls) % every == 0:
            _Request.signal = "SIGTERM"
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counted)
    stops = 0
    while True:
        try:
            found = run()
        except NoTimeLeftError:
            forget_stop()
            stops += 1
            assert stops < 100
        else:
            monkeypatch.setattr(owner, name, original)
            return found, stops, len(calls)


def start():
    return crystals(1, seed=7)[0]


@pytest.mark.parametrize("kind", ["llpr", "none"])
def test_an_exploration_goes_on(tmp_path, monkeypatch, uncertainty, kind):
    watched = uncertainty if kind == "llpr" else NoUncertainty(FoundryCalculator(uncertainty.model))
    settings = {"temperature": 150.0, "n_steps": 17, "timestep": 2.0, "interval": 3, "seed": 4}
    settings["thresholds"] = {"low": -1.0, "high": 1e9}
    whole = explore(start(), watched, **settings)
    assert len(whole.record.times) == 7 and whole.record.n_flagged == 7

    def run():
        return explore(start(), watched, **settings, checkpoints=Checkpoints(tmp_path))

    found, stops, glances = pieces(monkeypatch, Watch, "glance", 4, run)
    assert (stops, glances) == (4, 17)
    assert found.record == whole.record
    for mine, other in zip([*found.flagged, found.last_good], [*whole.flagged, whole.last_good], strict=True):
        assert mine.positions.tobytes() == other.positions.tobytes()
        assert mine.info == other.info
        assert set(mine.arrays) == set(other.arrays)
        assert np.array_equal(mine.cell.array, other.cell.array)


def test_a_finished_exploration_is_not_repeated(tmp_path, monkeypatch, uncertainty):
    settings = {"temperature": 150.0, "n_steps": 9, "interval": 3, "thresholds": {"low": -2.0, "high": -1.0}}
    checkpoints = Checkpoints(tmp_path, interval=0)
    first = explore(start(), uncertainty, **settings, checkpoints=checkpoints)
    checkpoints.flush()
    assert first.record.stop_reason == "uncertain"
    monkeypatch.setattr(uncertainty, "calculator", lambda head: pytest.fail("no forces are needed"))
    again = explore(start(), uncertainty, **settings, checkpoints=Checkpoints(tmp_path))
    assert again.record == first.record
    assert again.last_good is None


def test_a_fit_goes_on(tmp_path, monkeypatch, model):
    training, calibration = {"pt": crystals(9)}, {"pt": crystals(12, seed=3)}
    whole = fit_uncertainty(model, training, calibration, batch_size=2)

    def run():
        return fit_uncertainty(model, training, calibration, batch_size=2, checkpoints=Checkpoints(tmp_path))

    gathered, stops, _ = pieces(monkeypatch, llpr.FeatureHessian, "add", 2, run)
    assert stops == 2
    calibrated, stops, _ = pieces(
        monkeypatch,
        llpr.LLPRUncertainty,
        "sigma_forces",
        5,
        lambda: fit_uncertainty(model, training, calibration, batch_size=2, checkpoints=Checkpoints(tmp_path / "2")),
    )
    assert stops == 2
    for found in (gathered, calibrated):
        assert found.summary() == whole.summary()
        assert torch.equal(found.heads["pt"].posterior.cholesky, whole.heads["pt"].posterior.cholesky)
        assert torch.equal(found.heads["pt"].posterior.scale, whole.heads["pt"].posterior.scale)


def test_a_committee_goes_on(tmp_path, monkeypatch, model):
    torch.manual_seed(0)
    other = Allegro(config()).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    frames = crystals(8)

    def committee():
        return CommitteeUncertainty([FoundryCalculator(model), FoundryCalculator(other)])

    whole = committee()
    whole.calibrate(frames)

    def run():
        found = committee()
        found.calibrate(frames, checkpoints=Checkpoints(tmp_path))
        return found

    found, stops, computed = pieces(monkeypatch, CommitteeUncertainty, "forces", 3, run)
    assert (stops, computed) == (2, 8)
    assert (found.quantile, found.n_calibration, found.thresholds()) == (
        whole.quantile,
        whole.n_calibration,
        whole.thresholds(),
    )
