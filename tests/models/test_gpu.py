"""A GPU gives the processor's numbers: energies, forces, stresses, and the gradients of a training step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from ase.build import bulk

sys.path.insert(0, str(Path(__file__).parent))
import contract

from atomfoundry.models import Allegro, AllegroConfig, FoundryCalculator, HeadConfig
from atomfoundry.models.training.gradient import Gradient
from atomfoundry.models.training.loss import Loss
from atomfoundry.models.training.processes import Processes
from atomfoundry.models.training.settings import TrainingSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = "cuda"
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}
"""Of the largest number. Sums have another order there; float32 gradients of weights add up many terms."""
VARIANTS = [
    {"variant": "A", "zbl": True, "n_layers": 2},
    {"variant": "A", "n_layers": 3, "parity": "so3", "radial_transform": "agnesi"},
    {"variant": "B", "n_layers": 2},
]


def two_models(dtype, **changes):
    """One model twice: on the processor and on the GPU."""
    settings = {
        "type_names": contract.ELEMENTS,
        "cutoff": contract.CUTOFF,
        "num_channels": 4,
        "two_body_dims": [8, 12],
        "latent_dims": [12, 12],
        "edge_energy_dims": [6],
        "avg_num_neighbors": 10.0,
        "heads": [HeadConfig(name=name, isolated_energies=contract.ISOLATED, scale=1.7) for name in ("pt", "ft")],
        "seed": 3,
    }
    config = AllegroConfig(**(settings | changes | {"dtype": dtype}))
    return Allegro(config), Allegro(config).to(DEVICE)


def labelled_batch(model):
    """Crystals and a molecule, of both heads; the molecule has no stress."""
    batch = contract.batch_of(model, contract.silica(), contract.ethanol(), contract.silica(2))
    generator = torch.Generator().manual_seed(0)
    for name in ("energy", "forces", "stress"):
        values = getattr(batch, name)
        values.copy_(torch.randn(values.shape, generator=generator, dtype=values.dtype))
    batch.stress[1] = torch.nan
    return batch


def agree(there, here, tolerance):
    there, here = there.detach().cpu().double(), here.detach().double()
    assert torch.equal(there.isnan(), here.isnan())
    there, here = there.nan_to_num(), here.nan_to_num()
    assert float(here.abs().max()) > 0
    assert float((there - here).abs().max()) < tolerance * float(here.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("changes", VARIANTS, ids=["A", "A3", "B"])
def test_predictions(dtype, changes):
    here, there = two_models(dtype, **changes)
    batch = labelled_batch(here)
    expected, found = here(batch), there(batch.to(DEVICE))
    for key in ("energy", "atomic_energy", "forces", "stress", "features"):
        assert found[key].device.type == DEVICE
        agree(found[key], expected[key], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("changes", VARIANTS, ids=["A", "A3", "B"])
def test_gradients_of_a_training_step(dtype, changes):
    losses, gradients = [], []
    for model in two_models(dtype, **changes):
        batch = labelled_batch(model).to(next(model.parameters()).device)
        loss = Loss(TrainingSettings().loss, force_rms={0: 0.9, 1: 1.3})
        whole = Gradient(model, list(model.parameters()), Processes()).at_once([batch], loss)
        losses.append(whole)
        gradients.append([weight.grad for weight in model.parameters()])
    assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE[dtype])
    for here, there in zip(*gradients, strict=True):
        agree(there, here, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_calculator(dtype):
    here, there = two_models(dtype, variant="A")
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    results = []
    for calculator in (FoundryCalculator(here, head="ft"), FoundryCalculator(there, head="ft")):
        calculator.calculate(atoms)
        results.append(calculator.results)
    expected, found = results
    for key in ("energy", "energies", "forces", "stress"):
        agree(torch.as_tensor(found[key]), torch.as_tensor(expected[key]), TOLERANCE[dtype])
    # a model elsewhere is copied there
    moved = FoundryCalculator(here, head="ft", device=DEVICE)
    agree(torch.as_tensor(moved.get_forces(atoms)), torch.as_tensor(expected["forces"]), TOLERANCE[dtype])


def test_nothing_by_the_weights_is_made_for_forces_alone(monkeypatch):
    """PyTorch differentiates in a thread of its own on a GPU; what is asked for must be known there."""
    from atomfoundry.models.allegro import derivatives

    asked = []
    couple = derivatives.couple

    def watched(*arguments):
        asked.append(getattr(derivatives._asked, "geometry_only", False))
        return couple(*arguments)

    _, model = two_models("float64", variant="A", n_layers=2)
    batch = labelled_batch(model).to(DEVICE)
    monkeypatch.setattr(derivatives, "couple", watched)
    model.forward_edges(batch)
    assert asked and all(asked)
