"""The budget of ``perf/accuracy.py``: what fits, what happens at its end, and that the test set stays out."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.errors import ConfigurationError
from atomfoundry.models import AllegroConfig, HeadConfig, build_graph
from atomfoundry.models.training import TrainingSettings

PERF = Path(__file__).parents[2] / "perf"


@pytest.fixture
def accuracy(monkeypatch):
    monkeypatch.syspath_prepend(PERF)
    return importlib.import_module("accuracy")


def copper(seed):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
    atoms.info.update(sampling="hot" if seed % 2 else "cold", frame_id=str(seed))
    return atoms


@pytest.fixture
def training(accuracy):
    graphs = [build_graph(copper(seed), cutoff=4.0, type_names=["Cu"]) for seed in range(6)]
    data = accuracy.Data(graphs[:4], graphs[4:], [], {"Cu": 0.0}, 1.0)
    config = AllegroConfig(
        type_names=["Cu"],
        cutoff=4.0,
        l_max=1,
        num_channels=2,
        latent_dims=[4],
        two_body_dims=[4, 4],
        edge_energy_dims=[4],
        avg_num_neighbors=data.neighbours,
        heads=[HeadConfig(isolated_energies=data.isolated)],
    )
    return data, config


def clock(*times):
    """Return a clock that shows these times, then the last one forever."""
    left = list(times)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_the_same_part_of_each_kind_is_held_out(accuracy):
    frames = [copper(0) for _ in range(30)]
    for index, frame in enumerate(frames):
        frame.info.update(sampling="a" if index < 20 else "b", frame_id=str(index))
    training, held = accuracy.split(frames, fraction=0.1, seed=3)
    assert Counter(frame.info["sampling"] for frame in held) == {"a": 2, "b": 1}
    assert {f.info["frame_id"] for f in training} | {f.info["frame_id"] for f in held} == set(map(str, range(30)))
    assert len(training) == 27
    again = accuracy.split(frames, fraction=0.1, seed=3)[1]
    assert [f.info["frame_id"] for f in again] == [f.info["frame_id"] for f in held]
    other = accuracy.split(frames, fraction=0.1, seed=4)[1]
    assert [f.info["frame_id"] for f in other] != [f.info["frame_id"] for f in held]


def test_as_many_epochs_as_fit(accuracy):
    settings = TrainingSettings()
    assert accuracy.fitted(settings, 2.0, 100.0, 17.0).max_epochs == 39
    with pytest.raises(ConfigurationError, match="does not suffice for one epoch"):
        accuracy.fitted(settings, 90.0, 100.0, 17.0)


def test_at_the_end_of_the_budget_the_last_epoch_within_it_counts(accuracy, training):
    data, config = training
    settings = accuracy.valid_settings({"training": {}}, 0, 9)
    free = accuracy.Course(np.inf, clock(0.0)).train(
        config, data, settings.model_copy(update={"eval_interval": 1}), may_restart=False
    )
    assert free.n_epochs == 9
    # begins at 1 s, then looks after each epoch
    course = accuracy.Course(35.0, clock(1.0, 10.0, 20.0, 30.0, 40.0))
    result = course.train(config, data, settings, may_restart=False)
    assert result.stop_reason == "wall_time" and result.n_epochs == 3
    assert [point["cpu_s"] for point in course.curve] == [10.0, 20.0, 30.0]
    assert result.best_loss == min(record.valid_loss for record in free.history[:3])


def test_a_budget_that_ends_before_the_first_epoch_is_an_error(accuracy, training):
    data, config = training
    settings = accuracy.valid_settings({"training": {}}, 0, 9)
    with pytest.raises(ConfigurationError, match="does not suffice"):
        accuracy.Course(5.0, clock(1.0, 10.0)).train(config, data, settings, may_restart=False)


def test_a_slower_machine_makes_a_long_training_start_anew(accuracy, training):
    data, config = training
    settings = accuracy.valid_settings({"training": {}}, 0, 20)
    course = accuracy.Course(100.0, clock(0.0, 6.0, 12.0))
    assert course.train(config, data, settings, may_restart=True) is None
    assert course.replan == 6.0
    steady = accuracy.Course(100.0, clock(0.0, 4.0, 8.0))
    assert steady.train(config, data, settings, may_restart=True).n_epochs == 20


def test_settings_of_file_and_command_line(accuracy, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"training": {"lr": 0.1, "batch_size": 4}}))
    changes = ["training.lr=0.2", "training.loss.forces_weight=7", "architecture.radial_transform=agnesi"]
    given = accuracy.given_settings(file, changes)
    assert given["architecture"] == {"radial_transform": "agnesi"}
    settings = accuracy.valid_settings(given, 5, 3)
    assert (settings.lr, settings.batch_size, settings.seed, settings.max_epochs) == (0.2, 4, 5, 3)
    # what the loss is not told stays as the trainer has it
    assert settings.loss == TrainingSettings().loss.model_copy(update={"forces_weight": 7.0})
    with pytest.raises(ConfigurationError, match=r"training\.lr"):
        accuracy.given_settings(None, ["lr:3"])
    with pytest.raises(ConfigurationError, match="nonsense"):
        accuracy.given_settings(None, ["nonsense.lr=3"])
    file.write_text("[1]")
    with pytest.raises(ConfigurationError, match=r"settings\.json"):
        accuracy.given_settings(file, [])


def test_data_that_are_not_there(accuracy, monkeypatch, tmp_path):
    monkeypatch.setenv("ATOMFOUNDRY_TEST_DATA", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"training\.json\.gz"):
        accuracy.read("Si", cutoff=5.2, fraction=0.1, seed=0)
