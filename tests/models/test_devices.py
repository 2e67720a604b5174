"""Devices by name, and models that are on another device than the structures they are asked about."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from argon import Killed, config, crystals, losses, settings
from pretended_gpu import OnGPU, pretended_gpu

from atomfoundry.errors import ConfigurationError
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.descriptors import structure_descriptors
from atomfoundry.models.devices import find_device
from atomfoundry.models.evaluation import evaluate
from atomfoundry.models.finetuning import finetune_naive, finetune_replay
from atomfoundry.models.io import load_model, save_model
from atomfoundry.models.similarity import training_similarity
from atomfoundry.models.training.trainer import train
from atomfoundry.models.uncertainty.llpr import fit_uncertainty, load_uncertainty, save_uncertainty

REAL = pytest.param(
    "real",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto", where="x") == find_device("cpu", where="x") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "cuda:3"):
        with pytest.raises(ConfigurationError, match=rf"^x: there is no GPU for device '{name}'.*sees none.*'auto'"):
            find_device(name, where="x")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto", where="x") == find_device("cuda", where="x") == torch.device("cuda")
    assert find_device("cuda:1", where="x") == torch.device("cuda:1")
    assert find_device("cpu", where="x") == torch.device("cpu")
    with pytest.raises(ConfigurationError, match=r"'cuda:2': torch .* sees 2"):
        find_device("cuda:2", where="x")
    for name in ("gpu", "CUDA", "cuda:", "cuda:-1", "mps", "", " cpu", None):
        with pytest.raises(ConfigurationError, match=r"train: there is no device .*Valid: 'auto', 'cpu', 'cuda'"):
            find_device(name, where="train")


def test_the_pretence_refuses_what_a_gpu_refuses() -> None:
    with pretended_gpu():
        there = torch.ones(3).to("cuda")
        assert there.device == torch.zeros(2, device="cuda").device == torch.device("cuda:0")
        for wrong in (
            lambda: there + torch.ones(3),
            lambda: torch.ones(3)[there > 0],
            lambda: torch.cat([there, there[:1].cpu()]),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert float((there * 2 + torch.tensor(1.0))[torch.tensor([0])].cpu().numpy()[0]) == 3.0
    assert isinstance(there, OnGPU)
    assert not torch.cuda.is_available()


@pytest.fixture(params=["pretended", REAL])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """A GPU, pretended or real, and how far its numbers may be off those of a CPU (PyTorch's on both)."""
    monkeypatch.setattr("atomfoundry.models.allegro.model.find_kernel", lambda model: None)
    if request.param == "real":
        yield 1e-6
    else:
        with pretended_gpu():
            yield 0.0


def models(**changes) -> tuple[Allegro, Allegro]:
    """Return the same model on the CPU and on the GPU."""
    return Allegro(config(dtype="float64", **changes)), Allegro(config(dtype="float64", **changes)).to("cuda")


def close(there, here, off: float) -> None:
    assert np.allclose(np.asarray(there, dtype=float), np.asarray(here, dtype=float), rtol=off, atol=off)


def test_errors_descriptors_and_similarity(gpu: float) -> None:
    frames = crystals(3)
    found = []
    for model in models():
        metrics, predictions = evaluate(model, frames)
        found.append(
            [
                [value for value in metrics.model_dump().values() if isinstance(value, float)],
                predictions.energy_pred,
                np.concatenate(predictions.forces_pred),
                np.array(predictions.stress_pred),
                structure_descriptors(model, frames),
                training_similarity(model, frames[0], frames[1:])[0].score,
            ]
        )
    for here, there in zip(*found, strict=True):
        close(there, here, gpu)


@pytest.mark.slow
def test_uncertainty(gpu: float, tmp_path: Path) -> None:
    frames, found = crystals(2), []
    for model in models():
        fitted = fit_uncertainty(
            model, {"pt": crystals(3, seed=3)}, {"pt": crystals(3, seed=4)}, coverage=0.5, n_samples=2
        )
        fitted = load_uncertainty(save_uncertainty(fitted, tmp_path), model)
        found.append(
            [
                fitted.heads["pt"].posterior.alpha,
                *fitted.heads["pt"].quantiles.values(),
                *fitted.thresholds().values(),
                fitted.sigma_energy(frames),
                fitted.sigma_energy_difference(*frames),
                fitted.sigma_forces(frames[0], n_samples=2),
            ]
        )
    for here, there in zip(*found, strict=True):
        # the inverse of a matrix that a ridge of 1e-8 made one
        close(there, here, 1e3 * gpu)


@pytest.mark.parametrize(
    "changes",
    [
        {"sam_rho": 0.01, "clip_norm": 1.0, "batches_per_step": 2},
        pytest.param({"judge": "mae", "schedule": "plateau"}, marks=pytest.mark.slow),
    ],
)
def test_training_that_goes_on_on_another_device(gpu: float, tmp_path: Path, changes: dict) -> None:
    asked, runs = settings(max_epochs=2, checkpoint_epochs=1, **changes), []
    frames, unseen = crystals(4), crystals(1, seed=9)

    def kill(record):
        if record.epoch == 2:
            raise Killed

    for begun, ended, kind in zip(models(), reversed(models()), ("cuda", "cpu"), strict=True):
        with pytest.raises(Killed):
            train(begun, frames, unseen, settings=asked, directory=tmp_path / kind, callback=kill)
        runs.append(train(ended, frames, unseen, settings=asked, directory=tmp_path / kind))
        assert next(runs[-1].model.parameters()).device.type == kind
    close(losses(runs[1]), losses(runs[0]), 100 * gpu)
    saved = load_model(save_model(runs[0].model, tmp_path / "model", metadata={}))
    close(evaluate(saved, frames)[1].energy_pred, evaluate(runs[0].model, frames)[1].energy_pred, gpu)


@pytest.mark.parametrize("pseudo_labels", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fine_tuning(gpu: float, tmp_path: Path, pseudo_labels: bool) -> None:
    asked, found = settings(max_epochs=1), []
    for model in models():
        tuned = finetune_replay(
            model,
            crystals(2),
            crystals(3, seed=3),
            crystals(1, seed=4),
            crystals(1, seed=5),
            settings=asked,
            n_replay=2,
            pseudo_labels=pseudo_labels,
        )
        naive = finetune_naive(model, crystals(2), crystals(1, seed=4), settings=asked)
        found.append(
            [
                tuned.selection.indices,
                losses(naive.training)[0],
                evaluate(naive.model, crystals(1), head="ft")[1].energy_pred,
                *([] if pseudo_labels else [losses(tuned.training)[0]]),
            ]
        )
    for here, there in zip(*found, strict=True):
        close(there, here, 100 * gpu)
