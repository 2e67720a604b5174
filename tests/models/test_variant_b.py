"""Everything around the model works with variant B: training, files, heads, uncertainty, descriptors, calculator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.models import (
    Allegro,
    AllegroConfig,
    FoundryCalculator,
    HeadConfig,
    build_graph,
    load_model,
    save_model,
)
from atomfoundry.models.allegro.readout import Readouts
from atomfoundry.models.descriptors import structure_descriptors
from atomfoundry.models.evaluation import evaluate
from atomfoundry.models.finetuning import finetune_replay, with_fine_head
from atomfoundry.models.graph import collate
from atomfoundry.models.training.settings import LossSettings, TrainingSettings
from atomfoundry.models.training.trainer import train
from atomfoundry.models.uncertainty.llpr import feature_forces, fit_uncertainty, load_uncertainty, save_uncertainty

SETTINGS = TrainingSettings(
    max_epochs=12,
    batch_size=4,
    lr=0.01,
    loss=LossSettings(normalise_by_force_rms=True, stress_weight=0.0),
)


def frames(n, seed, *, sigma=2.6):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        atoms = bulk("Ar", "fcc", a=4.1 * rng.uniform(0.97, 1.05)) * (2, 1, 1)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.calc = LennardJones(sigma=sigma, epsilon=0.3, rc=6.0, smooth=True)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        made.append(atoms)
    return made


def config(**changes) -> AllegroConfig:
    settings = {
        "variant": "B",
        "type_names": ["Ar"],
        "cutoff": 4.5,
        "num_channels": 4,
        "l_max": 1,
        "two_body_dims": [8, 8],
        "latent_dims": [8, 8],
        "edge_energy_dims": [6],
        "avg_num_neighbors": 16.0,
        "heads": [HeadConfig(isolated_energies={"Ar": 0.0}, scale=0.5)],
    }
    return AllegroConfig(**(settings | changes))


@pytest.fixture(scope="module")
def trained() -> Allegro:
    return train(config(), frames(16, 0), settings=SETTINGS).model


def test_training_lowers_the_errors(trained):
    before, _ = evaluate(Allegro(config()), frames(8, 1))
    after, _ = evaluate(trained, frames(8, 1))
    assert after.forces_rmse < 0.7 * before.forces_rmse


def test_frozen_descriptor_and_freezing_of_the_embedding():
    for part, held in (
        ("descriptor", ("embedding.", "two_body.", "track.", "latents.")),
        ("two_body", ("embedding.",)),
    ):
        model = Allegro(config())
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        settings = SETTINGS.model_copy(update={"max_epochs": 1, "freeze": part, "ema_decay": 0.0})
        after = dict(train(model, frames(4, 0), settings=settings).model.named_parameters())
        for name, value in before.items():
            if name.startswith(held):
                assert torch.equal(after[name], value)
        assert any(not torch.equal(after[name], value) for name, value in before.items() if "readouts" in name)


def test_saved_and_loaded(trained, tmp_path):
    loaded = load_model(save_model(trained, tmp_path / "model", metadata={}))
    assert loaded.config == trained.config
    atoms = frames(1, 2)[0]
    energies = []
    for model in (trained, loaded):
        atoms.calc = FoundryCalculator(model)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1]


def test_fine_tuning_with_replay(trained):
    short = SETTINGS.model_copy(update={"max_epochs": 2})
    tuned = finetune_replay(trained, frames(2, 3, sigma=2.7), frames(8, 0), n_replay=6, settings=short)
    atoms = frames(1, 4)[0]
    energies = {}
    for head in ("pt", "ft"):
        atoms.calc = FoundryCalculator(tuned.model, head=head)
        energies[head] = atoms.get_potential_energy()
    assert energies["pt"] != energies["ft"]


def test_uncertainty_of_each_head(trained, tmp_path):
    """The features of a head are its own: they must be linear in its energy, and give its forces."""
    model = with_fine_head(trained, isolated_energies={"Ar": 1.0})
    with torch.no_grad():
        for weight in model.readouts.heads[1]:
            weight.mul_(1.5)
    batches = [build_graph(frames(1, 5)[0], cutoff=4.5, type_names=["Ar"], head=head) for head in (0, 1)]
    features = [model(batch)["features"] for batch in batches]
    assert not torch.allclose(features[0], features[1])
    for head, batch in enumerate(batches):
        forces = feature_forces(model, batch, model.readout_weights(head).detach()[None])[0]
        expected = model(batch)["forces"].detach()
        assert torch.allclose(forces, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    data = {"pt": frames(20, 6), "ft": frames(20, 7, sigma=2.7)}
    uncertainty = fit_uncertainty(model, data, {"pt": frames(12, 8), "ft": frames(12, 9, sigma=2.7)})
    structures = [*frames(2, 10), bulk("Ar", "fcc", a=3.4) * (2, 1, 1)]
    for head in ("pt", "ft"):
        sigma = uncertainty.sigma_energy(structures, head=head)
        assert (sigma > 0).all()
        assert sigma[2] > 3 * sigma[:2].max()  # squeezed far beyond the training set
    again = load_uncertainty(save_uncertainty(uncertainty, tmp_path / "llpr"), model)
    assert np.allclose(again.sigma_energy(structures, head="ft"), uncertainty.sigma_energy(structures, head="ft"))


def test_descriptors_are_those_of_all_layers_and_of_no_head(trained):
    model = with_fine_head(trained)
    with torch.no_grad():
        for weight in model.readouts.heads[1]:
            weight.mul_(2.0)
    rows = structure_descriptors(model, frames(3, 0))
    assert rows.shape == (3, 3 * 8)
    assert np.array_equal(rows, structure_descriptors(trained, frames(3, 0)))
    turned = frames(3, 0)
    for atoms in turned:
        atoms.rotate(35, (1, 2, 3), rotate_cell=True)
    assert np.allclose(rows, structure_descriptors(model, turned), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads_of_frames", [[1, 1], [0, 2], [2, 0, 1]])
def test_heads_that_no_frame_uses_are_left_out_with_the_same_bits(heads_of_frames, monkeypatch):
    heads = [HeadConfig(name=name, isolated_energies={"Ar": 0.0}, scale=0.5) for name in ("pt", "ft", "more")]
    model = Allegro(config(heads=heads, edge_energy_dims=[6, 5]))
    graphs = [
        build_graph(atoms, cutoff=4.5, type_names=["Ar"], head=head)
        for atoms, head in zip(frames(len(heads_of_frames), 3), heads_of_frames, strict=True)
    ]
    rows: dict[int, int] = {}
    hidden = Readouts._hidden

    def counted(self, latents, head):
        rows[head] = rows.get(head, 0) + len(latents)
        return hidden(self, latents, head)

    monkeypatch.setattr(Readouts, "_hidden", counted)

    def evaluated():
        out = model(collate(graphs), create_graph=True)
        loss = out["energy"].square().sum() + out["forces"].square().sum() + out["stress"].square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=False)
        return [out[name].detach() for name in ("energy", "forces", "stress", "edge_gradients")], gradients

    ours, gradients = evaluated()
    assert {head for head, number in rows.items() if number} == set(heads_of_frames)
    whole = Readouts._hidden_of_heads
    monkeypatch.setattr(Readouts, "_hidden_of_heads", lambda self, x, places, used: whole(self, x, places, []))
    theirs, of_all = evaluated()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    # zero and not None, where no frame is: the optimiser's momentum goes on as before
    for a, b in zip(gradients, of_all, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    assert model(collate(graphs))["features"].shape == (len(graphs), 5)
