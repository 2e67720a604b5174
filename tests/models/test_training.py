"""The training loop: it learns, repeats itself bit for bit, goes on where it was, and says what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))
from argon import Killed, config, crystals, equal, labelled, losses, settings, weights

from atomfoundry.errors import TrainingError
from atomfoundry.models.allegro.config import HeadConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.graph import collate
from atomfoundry.models.training.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from atomfoundry.models.training.loader import graph_force_rms, prepare_graphs
from atomfoundry.models.training.loss import Loss
from atomfoundry.models.training.schedule import MovingAverage, Schedule
from atomfoundry.models.training.settings import LossSettings, TrainingSettings
from atomfoundry.models.training.trainer import train


def test_it_learns_and_returns_the_best_averaged_weights():
    seen = []
    result = train(config(), crystals(), crystals(3, seed=9), settings=settings(max_epochs=30), callback=seen.append)
    assert result.stop_reason == "max_epochs"
    assert result.n_epochs == len(result.history) == 30
    assert seen == result.history
    assert result.history[-1].train_loss < 0.2 * result.history[0].train_loss
    assert result.best_loss == min(r.valid_loss for r in result.history)
    assert result.history[-1].energy_mae < 0.2 * result.history[0].energy_mae
    assert set(result.gradient_shares) == {"pt/energy", "pt/forces", "pt/stress"}
    assert sum(result.gradient_shares.values()) == pytest.approx(1.0)


def test_it_is_the_plain_loop_bit_for_bit():
    """Shuffled batches, Adam, cosine, moving average: nothing else happens."""
    asked, frames, model = settings(max_epochs=3), crystals(5), Allegro(config())
    graphs = prepare_graphs(model, frames)
    loss = Loss(asked.loss, force_rms={0: graph_force_rms(graphs)})
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    average, schedule = MovingAverage(model.named_parameters(), decay=asked.ema_decay), Schedule(asked)
    for epoch in range(3):
        order = np.random.default_rng([asked.seed, epoch]).permutation(5)
        place = np.empty(5)
        place[order] = np.arange(5)
        order = np.argsort(place)
        for step, members in enumerate((order[:3], order[3:])):
            batch = collate([graphs[i] for i in members])
            optimizer.zero_grad()
            loss(model(batch, create_graph=True), batch).backward()
            optimizer.param_groups[0]["lr"] = schedule.learning_rate((epoch + (step + 0.5) / 2) / 3)
            optimizer.step()
            average.update(model.named_parameters())
    assert equal(average.values, weights(train(config(), frames, settings=asked).model))


def test_the_same_seed_gives_the_same_bits():
    runs = [train(config(), crystals(), crystals(2, seed=9), settings=settings()) for _ in range(2)]
    assert losses(runs[0]) == losses(runs[1])
    assert equal(weights(runs[0].model), weights(runs[1].model))
    other = train(config(), crystals(), crystals(2, seed=9), settings=settings(seed=4))
    assert losses(other) != losses(runs[0])


@pytest.mark.parametrize("stage_two", [0.0, 0.5])
def test_the_best_weights_by_mean_absolute_errors(stage_two):
    asked = settings(judge="mae", stage_two_fraction=stage_two, stage_two_energy_factor=100.0, max_epochs=8)
    run = train(config(), crystals(), crystals(2, seed=9), settings=asked)
    energy, forces, _ = asked.loss.weights
    begun = 4 if stage_two else 0
    factor = 100.0 if stage_two else 1.0
    measures = {r.epoch: factor * energy * r.energy_mae + forces * r.forces_mae for r in run.history[begun:]}
    assert run.best_epoch == min(measures, key=measures.get)
    assert run.best_loss == pytest.approx(min(measures.values()), rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"amsgrad": True, "ema_decay": None, "schedule": "plateau", "plateau_patience": 1},
        {"stage_two_fraction": 0.5, "clip_norm": 1.0},
        {"stage_two_fraction": 0.5, "judge": "mae"},
    ],
)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, changes):
    frames, valid = crystals(), crystals(2, seed=9)
    asked = settings(checkpoint_epochs=1, **changes)
    whole = train(config(), frames, valid, settings=asked, directory=tmp_path / "whole")

    def kill(record):
        if record.epoch == 3:
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            train(config(), frames, valid, settings=asked, directory=tmp_path / "cut", callback=kill)
    resumed = train(config(), frames, valid, settings=asked, directory=tmp_path / "cut")
    assert losses(resumed) == losses(whole)
    assert equal(weights(resumed.model), weights(whole.model))
    assert (resumed.best_epoch, resumed.best_loss) == (whole.best_epoch, whole.best_loss)


def test_a_checkpoint_within_an_epoch_goes_on_with_the_next_batch(tmp_path, monkeypatch):
    frames = crystals()
    asked = settings(checkpoint_interval_s=1e-9)
    whole = train(config(), frames, settings=asked, directory=tmp_path / "whole")
    from atomfoundry.models.training.trainer import _Trainer

    step, done = _Trainer._step, []

    def dying(self, batch, progress):
        if len(done) == 4:
            raise Killed
        done.append(1)
        step(self, batch, progress)

    monkeypatch.setattr(_Trainer, "_step", dying)
    with pytest.raises(Killed):
        train(config(), frames, settings=asked, directory=tmp_path / "cut")
    monkeypatch.setattr(_Trainer, "_step", step)
    assert load_checkpoint(tmp_path / "cut" / "checkpoint").state["progress"]["step"] == 1
    resumed = train(config(), frames, settings=asked, directory=tmp_path / "cut")
    assert losses(resumed) == losses(whole)
    assert equal(weights(resumed.model), weights(whole.model))


def test_a_finished_training_returns_at_once(tmp_path):
    frames = crystals()
    first = train(config(), frames, settings=settings(), directory=tmp_path)
    seen = []
    again = train(config(), frames, settings=settings(), directory=tmp_path, callback=seen.append)
    assert seen == []
    assert again.history == first.history
    assert equal(weights(again.model), weights(first.model))


def test_a_checkpoint_older_than_a_setting_goes_on_with_its_default(tmp_path):
    whole = train(config(), crystals(4), settings=settings(max_epochs=2), directory=tmp_path / "whole")
    train(config(), crystals(4), settings=settings(max_epochs=2, max_wall_time_s=1e-6), directory=tmp_path)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    for later in ("sam_rho", "sam_adaptive", "batching", "batches_per_step"):
        del checkpoint.state["fingerprint"]["settings"][later]
    del checkpoint.state["progress"]["interrupted"]
    save_checkpoint(tmp_path / "checkpoint", checkpoint)
    with pytest.raises(TrainingError, match="settings differ"):
        train(config(), crystals(4), settings=settings(max_epochs=2, sam_rho=0.1), directory=tmp_path)
    resumed = train(config(), crystals(4), settings=settings(max_epochs=2), directory=tmp_path)
    assert losses(resumed) == losses(whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_on_a_gpu_is_trained_there(tmp_path):
    model = Allegro(config()).to("cuda")
    asked = settings(checkpoint_epochs=1, sam_rho=0.01, clip_norm=1.0)
    result = train(model, crystals(), crystals(2, seed=9), settings=asked, directory=tmp_path)
    assert next(result.model.parameters()).device.type == "cuda"
    assert result.history[-1].train_loss < result.history[0].train_loss
    again = train(Allegro(config()).to("cuda"), crystals(), crystals(2, seed=9), settings=asked, directory=tmp_path)
    assert losses(again) == losses(result)


@pytest.mark.parametrize("what", ["settings", "data", "model"])
def test_a_foreign_checkpoint_is_refused(tmp_path, what):
    train(config(), crystals(), settings=settings(max_epochs=1), directory=tmp_path)
    changed = {
        "settings": (config(), crystals(), settings(max_epochs=1, lr=0.02)),
        "data": (config(), crystals(seed=5), settings(max_epochs=1)),
        "model": (config(seed=2), crystals(), settings(max_epochs=1)),
    }[what]
    with pytest.raises(TrainingError, match=f"{what} differ"):
        train(changed[0], changed[1], settings=changed[2], directory=tmp_path)


def test_a_corrupt_checkpoint_is_an_error(tmp_path):
    train(config(), crystals(), settings=settings(max_epochs=1), directory=tmp_path)
    file = tmp_path / "checkpoint" / CHECKPOINT_FILE
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(TrainingError, match="corrupt"):
        train(config(), crystals(), settings=settings(max_epochs=1), directory=tmp_path)


def test_the_checkpoint_is_one_plain_file(tmp_path):
    train(config(), crystals(), settings=settings(max_epochs=1), directory=tmp_path)
    assert [p.name for p in (tmp_path / "checkpoint").iterdir()] == [CHECKPOINT_FILE]
    with safe_open(tmp_path / "checkpoint" / CHECKPOINT_FILE, framework="pt") as file:
        groups = {name.split("/")[0] for name in file.keys()}  # noqa: SIM118
    assert groups == {"model", "ema", "optimizer", "rng"}


def test_missing_labels_and_isolated_atoms_are_fine():
    molecule = labelled(Atoms("Ar2", positions=[[0, 0, 0], [2.8, 0, 0]]))
    frames = [
        *crystals(3),
        molecule,
        labelled(bulk("Ar", a=4.1), keys=("energy",)),
        labelled(bulk("Ar", a=4.0), keys=("forces",)),
        labelled(Atoms("Ar")),
    ]
    result = train(config(), frames, frames, settings=settings(max_epochs=2))
    assert np.isfinite([r.train_loss for r in result.history]).all()
    without = train(config(), frames[:-1], frames[:-1], settings=settings(max_epochs=2))
    assert losses(without) == losses(result)


def test_graphs_may_be_built_before():
    model = Allegro(config())
    graphs = prepare_graphs(model, crystals())
    first = train(model, graphs, settings=settings(max_epochs=2))
    second = train(config(), crystals(), settings=settings(max_epochs=2))
    assert losses(first) == losses(second)


def test_early_stop_counts_bad_evaluations():
    result = train(
        config(),
        crystals(),
        crystals(2, seed=9),
        settings=settings(max_epochs=50, lr=1e-9, ema_decay=None, patience=2, schedule="constant"),
    )
    assert result.stop_reason in ("early_stop", "max_epochs")
    flat = train(config(), crystals(), crystals(2, seed=9), settings=settings(max_epochs=50, lr=3.0, patience=2))
    assert flat.stop_reason == "early_stop"
    assert flat.n_epochs < 50
    assert flat.best_epoch < flat.n_epochs


def test_what_needs_validation_says_so():
    with pytest.raises(TrainingError, match="patience"):
        train(config(), crystals(), settings=settings(patience=3))
    with pytest.raises(TrainingError, match="plateau"):
        train(config(), crystals(), settings=settings(schedule="plateau"))


def test_a_plateau_ends_below_the_smallest_learning_rate():
    asked = settings(max_epochs=60, lr=2.0, schedule="plateau", plateau_patience=1, min_lr=0.5, ema_decay=None)
    result = train(config(), crystals(), crystals(2, seed=9), settings=asked)
    assert result.stop_reason == "min_lr"


def test_a_time_limit_stops_and_a_longer_one_goes_on(tmp_path):
    asked = settings(max_wall_time_s=1e-6)
    stopped = train(config(), crystals(), settings=asked, directory=tmp_path)
    assert (stopped.stop_reason, stopped.n_epochs) == ("wall_time", 0)
    resumed = train(config(), crystals(), settings=settings(), directory=tmp_path)
    assert (resumed.stop_reason, resumed.n_epochs) == ("max_epochs", 6)
    assert losses(resumed) == losses(train(config(), crystals(), settings=settings()))


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(TrainingError, match="no training frame"):
        train(config(), [labelled(Atoms("Ar"))], settings=settings())


def test_forces_that_are_all_missing_cannot_normalise():
    asked = settings(loss=LossSettings(normalise_by_force_rms=True, stress_unit="GPa"))
    with pytest.raises(TrainingError, match="force RMS"):
        train(config(), [labelled(f, keys=("energy",)) for f in crystals(2)], settings=asked)


@pytest.mark.parametrize("sam_rho", [0.0, 0.01])
def test_nan_losses_skip_halve_and_abort(sam_rho):
    broken = crystals(1)[0]
    broken.info["weight"] = float("inf")
    frames = [*crystals(2, seed=1), broken]
    asked = settings(max_epochs=4, batch_size=1, sam_rho=sam_rho)
    result = train(config(), frames, settings=asked)
    assert result.n_skipped == 4
    assert all(torch.isfinite(value).all() for value in weights(result.model).values())
    assert np.isfinite([r.train_loss for r in result.history]).all()
    with pytest.raises(TrainingError, match=broken.info["frame_id"]):
        train(config(), [broken], settings=settings(max_epochs=20, batch_size=1))


def test_one_head_leaves_the_other_readout_alone():
    heads = [HeadConfig(name=n, isolated_energies={"Ar": 0.0}) for n in ("pt", "ft")]
    model = Allegro(config(heads))
    before = weights(model)
    train(model, {"pt": crystals()}, settings=settings(max_epochs=2))
    after = weights(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("readouts.heads.0") for name in moved)
    assert not any(name.startswith("readouts.heads.1") for name in moved)
    assert any(name.startswith("two_body") for name in moved)


@pytest.mark.parametrize("part", ["descriptor", "two_body"])
def test_frozen_parts_do_not_move(part):
    model = Allegro(config())
    before = weights(model)
    train(model, crystals(), settings=settings(max_epochs=1, freeze=part))
    moved = {n for n, v in weights(model).items() if not torch.equal(v, before[n])}
    readouts = {n for n in before if n.startswith("readouts.")}
    if part == "descriptor":
        assert moved == readouts
    else:
        assert readouts < moved
        assert not any(n.startswith(("embedding.", "two_body.")) for n in moved)
    assert all(p.requires_grad for p in model.parameters())


def test_learning_rates():
    cosine = Schedule(TrainingSettings(lr=1.0, warmup_fraction=0.1, final_lr_fraction=0.01))
    assert cosine.learning_rate(0.05) == pytest.approx(0.5)
    assert cosine.learning_rate(0.1) == pytest.approx(1.0)
    assert cosine.learning_rate(0.55) == pytest.approx(0.505)
    assert cosine.learning_rate(1.0) == pytest.approx(0.01)
    constant = Schedule(TrainingSettings(lr=1.0, schedule="constant", warmup_fraction=0.0))
    assert constant.learning_rate(1e-9) == constant.learning_rate(1.0) == 1.0
    plateau = Schedule(TrainingSettings(lr=1.0, schedule="plateau", plateau_patience=2, plateau_factor=0.5))
    for loss in (3.0, 2.0, 2.5, 2.5):
        plateau.evaluated(loss)
    assert plateau.state.factor == 1.0
    plateau.evaluated(2.5)
    assert plateau.state.factor == 0.5


def test_moving_average_ramps_up():
    value = torch.tensor([0.0])
    average = MovingAverage([("w", value)], decay=0.9)
    expected = 0.0
    for step in range(200):
        value = torch.tensor([float(step)])
        average.update([("w", value)])
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.values["w"].item() == pytest.approx(expected, rel=1e-5)
