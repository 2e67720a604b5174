"""Losses: widths, masks, weights, heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from pydantic import ValidationError

from atomfoundry.errors import TrainingError
from atomfoundry.models.graph import build_graph, collate
from atomfoundry.models.training.loss import Loss, LossTerms, conditional_force_delta, huber
from atomfoundry.models.training.settings import LossSettings, TrainingSettings


def crystal(energy=None, forces=None, stress=None, weight=1.0):
    atoms = bulk("Si", cubic=False)
    results = {"energy": energy, "forces": forces, "stress": stress}
    atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
    atoms.info["weight"] = weight
    return atoms


def batch_of(*frames, heads=None):
    heads = heads or [0] * len(frames)
    return collate([build_graph(f, cutoff=3.0, type_names=["Si"], head=h) for f, h in zip(frames, heads, strict=True)])


def outputs_like(batch, energy=0.0, forces=0.0, stress=0.0):
    return {
        "energy": torch.full_like(batch.energy, energy),
        "forces": torch.full_like(batch.forces, forces),
        "stress": torch.full_like(batch.stress, stress),
    }


def test_huber_is_smooth_at_its_width():
    delta = 0.01
    at = torch.tensor([delta - 1e-9, delta + 1e-9], dtype=torch.float64, requires_grad=True)
    values = huber(at, delta)
    (slopes,) = torch.autograd.grad(values.sum(), at)
    assert abs(values[0] - values[1]).item() < 1e-10
    assert slopes.tolist() == pytest.approx([delta, delta], rel=1e-6)
    assert huber(torch.tensor(0.5, dtype=torch.float64), delta).item() == pytest.approx(delta * (0.5 - delta / 2))


def test_force_widths_follow_the_norm_of_the_reference():
    norms = torch.tensor([99.9, 100.0, 199.9, 250.0, 300.0], dtype=torch.float64)
    forces = torch.stack([norms, torch.zeros(5), torch.zeros(5)], dim=1) / 1.0
    assert (conditional_force_delta(forces) / 0.01).tolist() == pytest.approx([1.0, 0.7, 0.7, 0.4, 0.1])


def test_allegro_fm_loss_by_hand():
    frames = [
        crystal(-10.0, np.full((2, 3), 0.5), np.full(6, 0.01)),
        crystal(-8.0, np.full((2, 3), 0.1), np.full(6, 0.02)),
    ]
    batch = batch_of(*frames)
    loss = Loss(LossSettings(stress_unit="eV/A^3"))
    expected = 8 * np.mean([25.0, 16.0]) + np.mean([0.25, 0.01]) + np.mean([1e-4, 4e-4])
    assert loss(outputs_like(batch), batch).item() == pytest.approx(expected, rel=1e-12)
    scaled = Loss(LossSettings(stress_unit="eV/A^3", normalise_by_force_rms=True), force_rms={0: 2.0})
    assert scaled(outputs_like(batch), batch).item() == pytest.approx(expected / 4, rel=1e-12)


def test_stress_units_change_its_share():
    batch = batch_of(crystal(stress=np.array([0.1, 0.1, 0.1, 0.0, 0.0, 0.0])))
    base = 0.01 / 3
    for unit, factor in (
        ("eV/A^3", 1.0),
        ("GPa", 160.21766208**2),
        ("eV/atom", (5.43**3 / 8) ** 2),
    ):
        loss = Loss(LossSettings(stress_unit=unit))
        assert loss(outputs_like(batch), batch).item() == pytest.approx(base * factor, rel=1e-9)


def test_a_stress_weight_needs_its_unit():
    with pytest.raises(ValidationError, match="stress_unit"):
        LossSettings(kind="allegro_fm")
    LossSettings(kind="allegro_fm", stress_weight=0.0)
    with pytest.raises(ValidationError, match="eV/A"):
        LossSettings(kind="mace_universal", stress_unit="GPa")


def test_universal_loss_by_hand():
    batch = batch_of(crystal(-10.0, np.full((2, 3), 0.005), np.full(6, 0.5)))
    loss = Loss(LossSettings(kind="mace_universal"))
    expected = 0.01 * (5.0 - 0.005) + 10 * 0.5 * 0.005**2 + 10 * 0.01 * (0.5 - 0.005)
    assert loss(outputs_like(batch), batch).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["allegro_fm", "mace_universal", "alumina"])
def test_missing_labels_leave_numerator_and_denominator(kind):
    settings = LossSettings(kind=kind, stress_unit="eV/A^3")
    full = crystal(-10.0, np.full((2, 3), 0.5), np.full(6, 0.01))
    bare = crystal()
    alone, mixed = batch_of(full), batch_of(full, bare)
    outputs = outputs_like(mixed, energy=3.0)
    outputs["stress"][1] = torch.nan
    loss = Loss(settings)
    assert loss(outputs, mixed).item() == loss(outputs_like(alone, energy=3.0), alone).item()


def test_weights_multiply_the_terms_of_their_structure():
    pair = batch_of(crystal(-10.0, weight=3.0), crystal(-4.0))
    loss = Loss(LossSettings(stress_unit="eV/A^3"))
    assert loss(outputs_like(pair), pair).item() == pytest.approx(8 * (3 * 25 + 4) / 2)


def test_rmse_form():
    batch = batch_of(crystal(-10.0, np.full((2, 3), 0.5)))
    loss = Loss(LossSettings(form="rmse", stress_unit="GPa"))
    assert loss(outputs_like(batch), batch).item() == pytest.approx(8 * 5 + 0.5)


def test_heads_are_averaged_apart_and_weighted():
    batch = batch_of(crystal(-2.0), crystal(-2.0), crystal(-6.0), heads=[0, 0, 1])
    loss = Loss(LossSettings(stress_unit="GPa"), head_weights={1: 0.5})
    assert loss(outputs_like(batch), batch).item() == pytest.approx(8 * (1.0 + 0.5 * 9.0))


def test_batches_add_up():
    frames = [crystal(-10.0, np.full((2, 3), 0.5)), crystal(-8.0), crystal(-6.0, np.full((2, 3), 1.5))]
    loss = Loss(LossSettings(stress_unit="GPa"))
    whole = batch_of(*frames)
    terms = LossTerms()
    for part in (batch_of(frames[0]), batch_of(*frames[1:])):
        terms.add(loss.terms(outputs_like(part), part))
    assert loss.total(terms).item() == pytest.approx(loss(outputs_like(whole), whole).item(), rel=1e-14)


def test_force_normalisation_without_forces_is_an_error():
    settings = LossSettings(stress_unit="GPa", normalise_by_force_rms=True)
    with pytest.raises(TrainingError, match="force RMS of 0"):
        Loss(settings, force_rms={0: 0.0})
    batch = batch_of(crystal(-1.0))
    with pytest.raises(TrainingError, match="head 0"):
        Loss(settings)(outputs_like(batch), batch)


def test_unknown_settings_are_errors():
    with pytest.raises(ValidationError):
        TrainingSettings(learning_rate=0.1)
    with pytest.raises(ValidationError):
        LossSettings(kind="mse")


def test_molecules_have_no_stress_term():
    molecule = Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.2]])
    molecule.calc = SinglePointCalculator(molecule, energy=-1.0, forces=np.zeros((2, 3)))
    batch = batch_of(molecule)
    terms = Loss(LossSettings(stress_unit="eV/atom")).terms(outputs_like(batch), batch)
    assert set(terms.sums) == {(0, "energy"), (0, "forces")}


@pytest.mark.parametrize("kind", ["allegro_fm", "mace_universal"])
def test_counts_follow_from_the_labels(kind):
    frames = [crystal(-1.0, np.full((2, 3), 0.1)), crystal(), crystal(stress=np.full(6, 0.1)), crystal(-3.0)]
    batch = batch_of(*frames, heads=[0, 0, 1, 1])
    for weights in ({}, {"forces_weight": 0.0}):
        loss = Loss(LossSettings(kind=kind, stress_unit="eV/A^3", **weights))
        assert loss.counts(batch) == loss.terms(outputs_like(batch), batch).counts


def test_slopes_are_the_derivatives_of_the_total():
    terms = LossTerms(
        {(0, "energy"): torch.tensor(3.0), (1, "forces"): torch.tensor(8.0)}, {(0, "energy"): 4, (1, "forces"): 2}
    )
    squares = Loss(LossSettings(stress_unit="GPa"), head_weights={1: 0.5})
    assert {key: slope.item() for key, slope in squares.slopes(terms).items()} == {
        (0, "energy"): 2.0,
        (1, "forces"): 0.25,
    }
    roots = Loss(LossSettings(stress_unit="GPa", form="rmse"), head_weights={1: 0.5})
    assert not roots.is_linear and squares.is_linear
    assert roots.slopes(terms)[1, "forces"].item() == pytest.approx(0.5 * 0.5 / 2.0 / 2)
