"""Replay subsets, heads, and forgetting: naive against replay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.documents.model import ErrorMetrics
from atomfoundry.errors import TrainingError
from atomfoundry.models.allegro.config import AllegroConfig, HeadConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.evaluation import evaluate
from atomfoundry.models.finetuning import (
    equal_budget,
    finetune_naive,
    finetune_replay,
    forgetting_ratios,
    measure_forgetting,
    pseudo_label,
    with_fine_head,
)
from atomfoundry.models.replay import default_replay_size, fine_repeats, matches, replay_subset
from atomfoundry.models.training.settings import LossSettings, TrainingSettings
from atomfoundry.models.training.trainer import train

FINE = {"Si", "O"}


@pytest.mark.parametrize(
    ("rule", "passing"),
    [
        ("none", {"Si", "O", "SiO", "SiON", "SiN", "N", "SiC"}),
        ("shared_pair", {"SiO", "SiON"}),
        ("subset", {"Si", "O", "SiO"}),
        ("exact", {"SiO"}),
        ("superset", {"SiO", "SiON"}),
    ],
)
def test_filters(rule, passing):
    formulas = ["Si", "O", "SiO", "SiON", "SiN", "N", "SiC"]
    found = {f for f in formulas if matches(set(Atoms(f).get_chemical_symbols()), FINE, rule)}
    assert found == passing


def test_a_single_element_shares_one():
    assert matches({"Si", "C"}, {"Si"}, "shared_pair")
    assert not matches({"C"}, {"Si"}, "shared_pair")


def atoms_of(*formulas):
    return [Atoms(f, positions=[[2.0 * i, 0, 0] for i in range(len(Atoms(f)))]) for f in formulas]


def test_too_few_are_filled_at_random_and_all_are_different():
    pool = atoms_of("SiO", "N2", "C2", "O2", "H2", "SiO2")
    chosen = replay_subset(pool, atoms_of("SiO"), n_replay=4, seed=1)
    assert set(chosen.indices) >= {0, 5}
    assert (chosen.n_matching, chosen.n_filled, len(set(chosen.indices))) == (2, 2, 4)
    assert chosen == replay_subset(pool, atoms_of("SiO"), n_replay=4, seed=1)


def test_too_many_are_thinned_far_from_the_fine_set():
    pool = atoms_of(*["SiO"] * 5)
    values = iter([np.array([[0.0], [1.0], [2.0], [9.0], [10.0]]), np.array([[0.0]])])
    chosen = replay_subset(pool, atoms_of("SiO"), n_replay=2, descriptors=lambda _: next(values))
    assert chosen.indices == [4, 2]
    randomly = replay_subset(pool, atoms_of("SiO"), n_replay=2, method="random", seed=3)
    assert len(set(randomly.indices)) == 2


def test_an_asked_for_step_happens_or_is_an_error():
    pool = atoms_of(*["SiO"] * 3)
    with pytest.raises(TrainingError, match="descriptors"):
        replay_subset(pool, atoms_of("SiO"), n_replay=2)
    with pytest.raises(TrainingError, match="has 3"):
        replay_subset(pool, atoms_of("SiO"), n_replay=4)
    with pytest.raises(TrainingError, match="both sets"):
        replay_subset(pool, [])


def test_sizes():
    assert default_replay_size(500, 10) == 500
    assert default_replay_size(50_000, 10) == 10_000
    assert default_replay_size(10**6, 1000) == 20_000
    assert default_replay_size(10**7, 10**5) == 100_000
    assert fine_repeats(50, 100) == 1
    assert fine_repeats(3, 100) == 4
    budget = equal_budget(TrainingSettings(max_epochs=10), n_frames=5, reference_frames=50)
    assert budget.max_epochs == 100


def test_ratios():
    def metrics(energy, forces, head="pt"):
        return ErrorMetrics(split="t", head=head, n_frames=1, energy_mae=0, energy_rmse=energy, forces_rmse=forces)

    records = forgetting_ratios(
        {"a": metrics(0.1, 0.2)},
        {"a": metrics(0.3, 0.2, head="ft")},
        method="naive",
        shifted_before={"a": 0.1},
        shifted_after={"a": 0.2},
    )
    ratios = {(r.quantity, r.head, r.task): r.ratio for r in records}
    assert ratios == {
        ("energy", "ft", "a"): pytest.approx(3.0),
        ("energy_shifted", "ft", "a"): pytest.approx(2.0),
        ("forces", "ft", "a"): pytest.approx(1.0),
    }
    with pytest.raises(TrainingError, match="differ"):
        forgetting_ratios({"a": metrics(1, 1)}, {"b": metrics(1, 1)}, method="naive")


def lj_frames(n, seed, *, sigma=2.6, scale=1.0):
    """Rattled two-atom cells near the minimum of a Lennard-Jones crystal."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Ar", "fcc", a=scale * 4.1 * rng.uniform(0.97, 1.05)) * (2, 1, 1)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.calc = LennardJones(sigma=sigma, epsilon=0.3, rc=6.0, smooth=True)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return frames


def small_config():
    return AllegroConfig(
        type_names=["Ar"],
        cutoff=4.5,
        num_channels=4,
        l_max=1,
        n_layers=1,
        two_body_dims=[8, 8],
        latent_dims=[8, 8],
        edge_energy_dims=[8],
        avg_num_neighbors=16.0,
        heads=[HeadConfig(isolated_energies={"Ar": 0.0}, scale=0.5)],
    )


QUICK = TrainingSettings(
    max_epochs=2,
    batch_size=4,
    lr=1e-3,
    loss=LossSettings(normalise_by_force_rms=True, stress_weight=0.0),
)


@pytest.fixture(scope="module")
def pretrained():
    settings = QUICK.model_copy(update={"max_epochs": 10, "lr": 0.01})
    return train(small_config(), lj_frames(12, 0), settings=settings).model


def test_a_new_head_begins_where_the_old_one_is(pretrained):
    tuned = with_fine_head(pretrained, name="ft")
    frames = lj_frames(3, 1)
    _, old = evaluate(pretrained, frames)
    _, new = evaluate(tuned, frames, head="ft")
    assert new.energy_pred == pytest.approx(old.energy_pred, rel=1e-6)
    assert [h.name for h in pretrained.config.heads] == ["pt"]
    shifted = with_fine_head(pretrained, isolated_energies={"Ar": 1.0})
    _, moved = evaluate(shifted, frames, head="ft")
    assert np.subtract(moved.energy_pred, old.energy_pred) == pytest.approx([2.0] * 3, abs=1e-6)
    with pytest.raises(TrainingError, match="already"):
        with_fine_head(tuned, name="ft")


@pytest.mark.parametrize("method", ["naive", "replay"])
def test_zero_epochs_forget_nothing(pretrained, method):
    zero = QUICK.model_copy(update={"max_epochs": 0})
    fine, old = lj_frames(3, 2, sigma=2.7), lj_frames(12, 0)
    tuned = (
        finetune_naive(pretrained, fine, settings=zero)
        if method == "naive"
        else finetune_replay(pretrained, fine, old, n_replay=6, settings=zero)
    )
    tasks = {"old": lj_frames(4, 5)}
    records = measure_forgetting(pretrained, tuned.model, tasks, method=method)
    assert {r.head for r in records} == {"pt", "ft"}
    # one head is a matrix-vector product, two are gathered: the last bit of float32 differs
    assert [r.ratio for r in records] == pytest.approx([1.0] * len(records), abs=1e-5)


def test_replay_shows_both_sets_and_leaves_the_pretrained_model_alone(pretrained):
    before = {n: p.detach().clone() for n, p in pretrained.named_parameters()}
    tuned = finetune_replay(pretrained, lj_frames(2, 2, sigma=2.7), lj_frames(12, 0), n_replay=10, settings=QUICK)
    assert tuned.selection is not None
    assert len(tuned.selection.indices) == 10
    assert tuned.frames_per_epoch == 12
    after = dict(tuned.model.named_parameters())
    assert all(torch.equal(p, before[n]) for n, p in pretrained.named_parameters())
    for head in ("readouts.heads.0", "readouts.heads.1"):
        names = [n for n in after if n.startswith(head)]
        source = [n.replace("heads.1", "heads.0") for n in names]
        assert any(not torch.equal(after[n], before[s]) for n, s in zip(names, source, strict=True))
    assert {key.split("/")[0] for key in tuned.training.gradient_shares} == {"pt", "ft"}


def test_elements_without_isolated_energies_are_refused():
    config = small_config().model_copy(update={"type_names": ["Ar", "Kr"]})
    frames = lj_frames(1, 0)
    frames[0].symbols[0] = "Kr"
    with pytest.raises(TrainingError, match="Kr"):
        finetune_naive(Allegro(config), frames, settings=QUICK)


def test_pseudo_labels_are_the_models_own_predictions(pretrained):
    frames = lj_frames(3, 7, sigma=2.9)
    relabelled = pseudo_label(pretrained, frames)
    metrics, _ = evaluate(pretrained, relabelled)
    assert metrics.energy_mae == pytest.approx(0.0, abs=1e-6)
    assert metrics.forces_mae == pytest.approx(0.0, abs=1e-6)
    assert metrics.stress_mae == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_naive_forgets_more_than_replay():
    """Pretrained over a wide range of volumes; the new task is a compressed crystal of larger atoms."""
    settings = QUICK.model_copy(update={"max_epochs": 150, "lr": 0.01})
    old = lj_frames(24, 0)
    model = train(small_config(), old, lj_frames(6, 1), settings=settings).model
    fine = lj_frames(6, 2, sigma=2.75, scale=0.97)
    tuning = QUICK.model_copy(update={"max_epochs": 40, "lr": 3e-3, "schedule": "constant"})
    replay = finetune_replay(model, fine, old, n_replay=24, settings=tuning)
    same_budget = equal_budget(tuning, n_frames=len(fine), reference_frames=replay.frames_per_epoch)
    naive = finetune_naive(model, fine, settings=same_budget)
    tasks = {"old": lj_frames(12, 9)}
    ratios = {}
    for tuned in (naive, replay):
        for record in measure_forgetting(model, tuned.model, tasks, method=tuned.method):
            ratios[tuned.method, record.head, record.quantity] = record.ratio
    assert ratios["naive", "ft", "forces"] > 1.5
    for quantity in ("energy", "forces"):
        assert ratios["naive", "pt", quantity] > ratios["replay", "pt", quantity]
    assert ratios["replay", "pt", "forces"] < 1.5
    new = {t.method: evaluate(t.model, lj_frames(6, 3, sigma=2.75, scale=0.97), head="ft")[0] for t in (naive, replay)}
    before = evaluate(model, lj_frames(6, 3, sigma=2.75, scale=0.97))[0]
    assert all(m.energy_rmse < 0.5 * before.energy_rmse for m in new.values())
