"""LLPR on a model: sigma of energies and forces, calibration, thresholds, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.errors import ModelError
from atomfoundry.models.allegro.config import AllegroConfig, HeadConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.graph import build_graph, collate
from atomfoundry.models.uncertainty.llpr import (
    LLPRUncertainty,
    feature_forces,
    fit_uncertainty,
    load_uncertainty,
    save_uncertainty,
)

CUTOFF = 4.5


def labelled(atoms):
    atoms = atoms.copy()
    atoms.calc = LennardJones(sigma=2.6, epsilon=0.3, rc=6.0, smooth=True)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def crystals(n, seed, rattle=0.08):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Ar", "fcc", a=4.1 * rng.uniform(0.97, 1.06)) * (2, 1, 1)
        atoms.positions += rng.normal(0, rattle, atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


@pytest.fixture(scope="module")
def model():
    heads = [HeadConfig(name=n, isolated_energies={"Ar": 0.0}, scale=s) for n, s in (("pt", 0.5), ("ft", 0.7))]
    return Allegro(
        AllegroConfig(
            type_names=["Ar"],
            cutoff=CUTOFF,
            num_channels=4,
            l_max=1,
            n_layers=1,
            two_body_dims=[8, 8],
            latent_dims=[8, 8],
            edge_energy_dims=[8],
            avg_num_neighbors=16.0,
            heads=heads,
            dtype="float64",
        )
    )


@pytest.fixture(scope="module")
def uncertainty(model) -> LLPRUncertainty:
    return fit_uncertainty(model, {"pt": crystals(20, 0)}, {"pt": crystals(12, 1)})


def test_feature_forces_of_the_readout_are_the_forces(model):
    graphs = [build_graph(f, cutoff=CUTOFF, type_names=["Ar"]) for f in crystals(2, 3)]
    batch = collate(graphs)
    readout = model.readout_weights("pt").detach()
    forces = feature_forces(model, batch, torch.stack([readout, -2 * readout]))
    expected = model(batch)["forces"].detach()
    assert torch.allclose(forces[0], expected, atol=1e-10)
    assert torch.allclose(forces[1], -2 * expected, atol=1e-10)
    chunked = feature_forces(model, batch, torch.randn(5, 8, dtype=torch.float64), chunk=2)
    assert chunked.shape == (5, batch.types.shape[0], 3)


def test_force_sigma_is_that_of_the_energy_by_finite_differences(model, uncertainty):
    """The exact variance of F_a is that of the difference of two energies, over the step squared."""
    atoms, step = crystals(1, 4)[0], 1e-4
    exact = uncertainty.sigma_forces(atoms, n_samples=None, conformal=False)
    for i in range(len(atoms)):
        variance = 0.0
        for axis in range(3):
            pair = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, axis] += sign * step
                pair.append(moved)
            difference = uncertainty.sigma_energy_difference(*pair)
            variance += (difference / (2 * step)) ** 2
        assert np.sqrt(variance) == pytest.approx(exact[i], rel=1e-5)


def test_sampled_force_sigma_agrees_with_the_exact_one(uncertainty):
    frames = crystals(4, 5)
    exact = uncertainty.sigma_forces(frames, n_samples=None)
    sampled = uncertainty.sigma_forces(frames, n_samples=256)
    assert np.abs(sampled / exact - 1).max() < 3 / np.sqrt(2 * 256)
    assert np.array_equal(sampled, uncertainty.sigma_forces(frames, n_samples=256))


def test_atoms_batches_and_lists_are_alike(model, uncertainty):
    frames = crystals(3, 6)
    batch = collate([build_graph(f, cutoff=CUTOFF, type_names=["Ar"]) for f in frames])
    energies = uncertainty.sigma_energy(frames)
    assert energies.shape == (3,)
    assert np.allclose(energies, uncertainty.sigma_energy(batch), rtol=1e-10)
    assert np.allclose(energies[1], uncertainty.sigma_energy(frames[1])[0], rtol=1e-10)
    forces = uncertainty.sigma_forces(frames)
    assert forces.shape == (6,)
    assert np.allclose(forces, uncertainty.sigma_forces(batch), rtol=1e-10)


def test_an_isolated_atom_is_certain(uncertainty):
    atom = Atoms("Ar")
    assert uncertainty.sigma_energy(atom).tolist() == [0.0]
    assert uncertainty.sigma_forces(atom).tolist() == [0.0]


def test_a_doubled_cell_has_twice_the_energy_sigma(uncertainty):
    atoms = crystals(1, 7)[0]
    single, double = uncertainty.sigma_energy(atoms), uncertainty.sigma_energy(atoms * (1, 2, 1))
    assert double == pytest.approx(2 * single, rel=1e-9)


def test_conformal_sigmas_cover_the_calibration_errors(model, uncertainty):
    frames = crystals(12, 1)
    sigma = uncertainty.sigma_energy(frames)
    batch = collate([build_graph(f, cutoff=CUTOFF, type_names=["Ar"]) for f in frames])
    errors = (model(batch)["energy"].detach() - batch.energy).abs().numpy()
    assert (errors <= sigma * (1 + 1e-9)).mean() >= 0.9


def test_far_from_the_training_set_it_is_less_sure(uncertainty):
    near = uncertainty.sigma_forces(crystals(6, 8)).max()
    far = uncertainty.sigma_forces(crystals(6, 8, rattle=0.4)).max()
    assert far > 2 * near


def test_thresholds_and_summary(uncertainty):
    limits = uncertainty.thresholds()
    assert limits["high"] == max(5 * limits["low"], 1.0)
    summary = uncertainty.summary()
    assert summary["heads"] == ["pt"]
    assert set(summary["quantiles"]) == {"pt/energy", "pt/forces"}
    assert (summary["n_training"], summary["n_calibration"]) == (20, 12)
    assert len(summary["points"]) == 12
    assert {"head", "frame_id", "error", "sigma"} == set(summary["points"][0])


def test_a_lower_percentile_flags_more(model, uncertainty):
    middle = fit_uncertainty(model, {"pt": crystals(20, 0)}, {"pt": crystals(12, 1)}, low_percentile=50.0)
    assert middle.thresholds()["low"] < uncertainty.thresholds()["low"]


def test_heads_have_their_own_posterior(model):
    both = fit_uncertainty(model, {"pt": crystals(10, 0), "ft": crystals(10, 2)})
    atoms = crystals(1, 3)[0]
    assert both.sigma_energy(atoms, head="pt") != both.sigma_energy(atoms, head="ft")
    with pytest.raises(ModelError, match="thresholds"):
        both.thresholds("ft")


def test_saved_and_loaded_it_says_the_same(model, uncertainty, tmp_path):
    folder = save_uncertainty(uncertainty, tmp_path / "llpr")
    assert sorted(p.name for p in folder.iterdir()) == ["llpr.json", "llpr.safetensors"]
    loaded = load_uncertainty(folder, model)
    frames = crystals(2, 3)
    assert np.array_equal(loaded.sigma_energy(frames), uncertainty.sigma_energy(frames))
    assert np.array_equal(loaded.sigma_forces(frames), uncertainty.sigma_forces(frames))
    assert loaded.summary() == uncertainty.summary()


def test_another_model_is_refused(model, uncertainty, tmp_path):
    folder = save_uncertainty(uncertainty, tmp_path)
    other = Allegro(model.config.model_copy(update={"seed": 5}))
    with pytest.raises(ModelError, match="other weights"):
        load_uncertainty(folder, other)
    with pytest.raises(ModelError, match="no uncertainty"):
        load_uncertainty(tmp_path / "absent", model)


def test_what_cannot_be_done_is_said(model, uncertainty):
    with pytest.raises(ModelError, match="no training structure"):
        fit_uncertainty(model, {"pt": [Atoms("Ar")]})
    with pytest.raises(ModelError, match="without training"):
        fit_uncertainty(model, {"pt": crystals(3, 0)}, {"ft": crystals(3, 0)})
    with pytest.raises(ModelError, match="at least"):
        fit_uncertainty(model, {"pt": crystals(3, 0)}, {"pt": crystals(3, 1)})
    with pytest.raises(ModelError, match="head 'ft'"):
        uncertainty.sigma_energy(crystals(1, 0), head="ft")
