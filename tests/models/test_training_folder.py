"""A training as a folder: parted by groups, resumed to the same bits, never mixed up with another."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from atomfoundry.datasets import Dataset, attach_labels, with_metadata, write_extxyz
from atomfoundry.deadline import NoTimeLeftError
from atomfoundry.errors import ConfigurationError, DatasetError, TrainingError
from atomfoundry.models import load_model
from atomfoundry.models.train_plan import HeadPlan, TrainingPlan, read_head, training_plan
from atomfoundry.models.training import process_group
from atomfoundry.models.training.processes import Processes
from atomfoundry.models.training_folder import train_folder

SMALL = {
    "cutoff": 3.5,
    "num_channels": 4,
    "l_max": 1,
    "n_layers": 1,
    "two_body_dims": [8, 8],
    "latent_dims": [8, 8],
    "edge_energy_dims": [8],
}


def labelled(atoms, **metadata):
    atoms.calc = EMT()
    labels = [atoms.get_potential_energy(), atoms.get_forces()]
    if atoms.pbc.all():
        labels.append(atoms.get_stress())
    atoms.calc = None
    return attach_labels(with_metadata(atoms, **metadata), *labels)


def crystals(symbol="Cu", seed=0):
    rng = np.random.default_rng(seed)
    frames = []
    for group in range(6):
        for _ in range(2):
            atoms = bulk(symbol) * (1, 1, 2)
            atoms.set_cell(atoms.cell * (1 + 0.01 * (group - 3)), scale_atoms=True)
            atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
            frames.append(labelled(atoms, group_id=f"{symbol}-{group}", sampling="rattle"))
    return frames


def free_atom(symbol):
    return labelled(Atoms(symbol), sampling="isolated_atom")


@pytest.fixture
def xyz(tmp_path):
    write_extxyz(tmp_path / "cu.xyz", [*crystals(), free_atom("Cu")])
    return tmp_path / "cu.xyz"


def plan(path, **changes):
    values = {
        "heads": {"pt": {"data": str(path)}},
        "architecture": SMALL,
        "training": {"max_epochs": 3, "batch_size": 4},
        "valid_fraction": 0.2,
    }
    return training_plan(values | changes)


def test_groups_are_never_cut(xyz):
    data = read_head("pt", HeadPlan(data=str(xyz)), valid_fraction=0.3, seed=1)
    groups = [{atoms.info["group_id"] for atoms in part} for part in (data.train, data.valid)]
    assert groups[0] | groups[1] == {f"Cu-{n}" for n in range(6)}
    assert not groups[0] & groups[1]
    assert len(data.valid) == 4
    assert data.isolated_energies == {"Cu": pytest.approx(EMT().get_property("energy", Atoms("Cu")))}
    again = read_head("pt", HeadPlan(data=str(xyz)), valid_fraction=0.3, seed=1)
    assert [a.info["frame_id"] for a in again.valid] == [a.info["frame_id"] for a in data.valid]


def test_frames_without_names_are_groups_of_their_own(tmp_path):
    """Formats such as mlearn's name neither frames nor groups."""
    frames = [labelled(bulk("Cu", a=a)) for a in np.linspace(3.4, 3.8, 20)]
    for atoms in frames:
        atoms.info = {"frame_id": "", "group_id": ""}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atomfoundry.models.train_plan.read_frames", lambda path, format: iter(frames))
        (tmp_path / "cu.json").touch()
        head = read_head("pt", HeadPlan(data=[str(tmp_path / "cu.json")]), valid_fraction=0.2, seed=0)
    assert (len(head.train), len(head.valid)) == (16, 4)
    assert len({atoms.info["frame_id"] for atoms in head.train + head.valid}) == 20


def test_one_group_cannot_be_held_out(tmp_path):
    frames = crystals()
    for atoms in frames:
        atoms.info["group_id"] = "trajectory"
    write_extxyz(tmp_path / "md.xyz", [*frames, free_atom("Cu")])
    head = HeadPlan(data=str(tmp_path / "md.xyz"))
    with pytest.raises(DatasetError, match=r"all 12 are of one group \('trajectory'\).*--split-groups.*--valid 0"):
        read_head("pt", head, valid_fraction=0.2, seed=0)
    parted = read_head("pt", head, valid_fraction=0.25, seed=0, split_groups=True)
    assert (len(parted.train), len(parted.valid)) == (9, 3)
    again = read_head("pt", head, valid_fraction=0.25, seed=0, split_groups=True)
    assert [a.info["frame_id"] for a in again.valid] == [a.info["frame_id"] for a in parted.valid]
    assert len(read_head("pt", head, valid_fraction=0.0, seed=0).train) == 12
    # a validation set of its own, or one of two files, is enough
    write_extxyz(tmp_path / "cu.xyz", crystals(seed=1))
    own = HeadPlan(data=str(tmp_path / "md.xyz"), valid=str(tmp_path / "cu.xyz"))
    assert len(read_head("pt", own, valid_fraction=0.2, seed=0).valid) == 12
    both = HeadPlan(data=[str(tmp_path / "md.xyz"), str(tmp_path / "cu.xyz")])
    assert read_head("pt", both, valid_fraction=0.2, seed=0).valid
    # one frame, or few of their own groups: nothing is cut
    write_extxyz(tmp_path / "one.xyz", frames[:1])
    assert not read_head("pt", HeadPlan(data=str(tmp_path / "one.xyz")), valid_fraction=0.2, seed=0).valid


def test_a_plan_of_an_older_version_is_the_same_plan(xyz, tmp_path):
    train_folder(plan(xyz), tmp_path / "run")
    old = json.loads((tmp_path / "run" / "plan.json").read_text())
    del old["split_groups"]
    (tmp_path / "run" / "plan.json").write_text(json.dumps(old))
    assert not train_folder(plan(xyz), tmp_path / "run").trained_now
    (tmp_path / "run" / "plan.json").write_text(json.dumps({**old, "heads": {}}))
    with pytest.raises(ConfigurationError, match="is broken"):
        train_folder(plan(xyz), tmp_path / "run")


def test_an_interrupted_training_is_not_finished(xyz, tmp_path, monkeypatch):
    wanted = plan(xyz, training={"max_epochs": 4, "batch_size": 4})
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", "1")
    with pytest.raises(NoTimeLeftError, match=r"interrupted in epoch 1, because the job ends soon.*same command"):
        train_folder(wanted, tmp_path / "run")
    assert not (tmp_path / "run" / "training.json").exists()
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.delenv("ATOMFOUNDRY_DEADLINE")
    weights = [(train_folder(wanted, tmp_path / n).model / "model.safetensors").read_bytes() for n in ("run", "whole")]
    assert weights[0] == weights[1]


def test_splits_of_a_dataset_are_kept(tmp_path):
    frames = crystals()
    splits = {"train": [0, 1, 4, 5], "valid": [2, 3], "test": [6, 7]}
    Dataset.create(tmp_path / "set", frames, splits=splits, isolated_energies={"Cu": 1.0})
    data = read_head("pt", HeadPlan(data=str(tmp_path / "set")), valid_fraction=0.5, seed=0)
    ids = [atoms.info["frame_id"] for atoms in frames]
    assert [a.info["frame_id"] for a in data.valid] == [ids[2], ids[3]]
    assert [a.info["frame_id"] for a in data.test] == [ids[6], ids[7]]
    # frames of no split are there to train on
    assert len(data.train) == 8
    assert data.isolated_energies == {"Cu": 1.0}


def test_a_validation_set_of_its_own(xyz, tmp_path):
    write_extxyz(tmp_path / "valid.xyz", crystals(seed=5)[:3])
    head = HeadPlan(data=str(xyz), valid=str(tmp_path / "valid.xyz"))
    data = read_head("pt", head, valid_fraction=0.5, seed=0)
    assert (len(data.train), len(data.valid)) == (12, 3)
    with pytest.raises(DatasetError, match="12 frames are both"):
        read_head("pt", HeadPlan(data=str(xyz), valid=str(xyz)), valid_fraction=0.5, seed=0)


def test_a_folder_holds_everything(xyz, tmp_path):
    seen = []
    trained = train_folder(plan(xyz), tmp_path / "run", callback=seen.append, provenance={"host": "here"})
    assert trained.trained_now
    assert [record.epoch for record in seen] == [1, 2, 3]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    tables = {"training.csv", "training_elements.csv", "training_forces.csv"}
    assert names == {"checkpoint", "errors.html", "history.json", "model", "plan.json", "training.json", *tables}
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["frames"] == {"pt": {"train": 10, "valid": 2, "test": 0}}
    assert {(m["head"], m["split"]) for m in record["metrics"]} == {("pt", "train"), ("pt", "valid")}
    assert record["provenance"] == {"host": "here"}
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())) == 3
    model = load_model(trained.model)
    assert model.config.type_names == ["Cu"]
    assert model.config.heads[0].isolated_energies["Cu"] == pytest.approx(EMT().get_property("energy", Atoms("Cu")))
    again = train_folder(plan(xyz), tmp_path / "run", callback=seen.append)
    assert not again.trained_now
    assert again.record == record
    assert len(seen) == 3


class StoppedError(Exception):
    pass


def test_what_was_stopped_goes_on_to_the_same_bits(xyz, tmp_path):
    training = {"max_epochs": 4, "batch_size": 4, "checkpoint_epochs": 1}

    def stop(record):
        if record.epoch == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_folder(plan(xyz, training=training), tmp_path / "stopped", callback=stop)
    assert not (tmp_path / "stopped" / "training.json").exists()
    epochs = []
    resumed = train_folder(
        plan(xyz, training=training), tmp_path / "stopped", callback=lambda record: epochs.append(record.epoch)
    )
    assert epochs[0] > 1
    whole = train_folder(plan(xyz, training=training), tmp_path / "whole")
    weights = [(run.model / "model.safetensors").read_bytes() for run in (resumed, whole)]
    assert weights[0] == weights[1]
    assert resumed.record["metrics"] == whole.record["metrics"]
    # how often it is saved is no other training
    often = plan(xyz, training={**training, "checkpoint_epochs": 2})
    assert not train_folder(often, tmp_path / "whole").trained_now


def test_another_training_is_refused(xyz, tmp_path):
    train_folder(plan(xyz), tmp_path / "run")
    with pytest.raises(ConfigurationError, match="another training: seed, training differ"):
        train_folder(plan(xyz, seed=3, training={"max_epochs": 5}), tmp_path / "run")
    write_extxyz(xyz, [*crystals(seed=9), free_atom("Cu")])
    with pytest.raises(ConfigurationError, match="have changed since"):
        train_folder(plan(xyz), tmp_path / "run")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(ConfigurationError, match="holds no training"):
        train_folder(plan(xyz), tmp_path / "photos")
    with pytest.raises(ConfigurationError, match="is a file"):
        train_folder(plan(xyz), xyz)


def test_processes_without_work_are_mentioned(xyz, tmp_path, monkeypatch):
    class Three(Processes):
        def wait(self):
            pass

    monkeypatch.setattr(process_group, "process_group", lambda device: nullcontext(Three(0, 3)))
    said = []
    for batch_size in (2, 3):
        run = plan(xyz, training={"max_epochs": 0, "batch_size": batch_size})
        record = train_folder(run, tmp_path / str(batch_size), say=said.append).record
        assert record["n_processes"] == 3
    told = [text for text in said if "processes" in text]
    assert told == ["A step has 2 structures: some of the 3 processes have nothing to do."]


def test_two_heads_with_their_own_levels(xyz, tmp_path):
    write_extxyz(tmp_path / "au.xyz", [*crystals("Au"), free_atom("Au")])
    heads = {"pt": {"data": str(xyz)}, "gold": {"data": [str(tmp_path / "au.xyz")], "weight": 0.5}}
    trained = train_folder(plan(xyz, heads=heads), tmp_path / "run")
    model = load_model(trained.model)
    assert [head.name for head in model.config.heads] == ["pt", "gold"]
    assert model.config.type_names == ["Cu", "Au"]
    assert set(model.config.heads[1].isolated_energies) == {"Au"}
    assert {m["head"] for m in trained.errors} == {"pt", "gold"}
    start = str(trained.model)
    with pytest.raises(DatasetError, match=r"Head 'pt'.*does not know Au"):
        train_folder(plan(xyz, heads={"pt": heads["gold"]}, architecture={}, start=start), tmp_path / "c")
    # a head more begins as a copy of the first
    more = plan(xyz, heads={"silver": heads["gold"]}, architecture={}, start=start, training={"max_epochs": 0})
    silver = load_model(train_folder(more, tmp_path / "b").model)
    assert [head.name for head in silver.config.heads] == ["pt", "gold", "silver"]
    assert silver.config.heads[2].isolated_energies == model.config.heads[1].isolated_energies
    with pytest.raises(ConfigurationError, match="architecture"):
        train_folder(plan(xyz, heads=heads, start=start), tmp_path / "e")
    further = train_folder(plan(xyz, heads=heads, architecture={}, start=str(trained.model)), tmp_path / "d")
    assert [head.name for head in load_model(further.model).config.heads] == ["pt", "gold"]


def test_energies_of_atoms_are_fitted_where_there_are_none(tmp_path):
    path = tmp_path / "cu.xyz"
    write_extxyz(path, crystals())
    with pytest.raises(TrainingError, match="Head 'pt': No isolated-atom energy of Cu") as caught:
        train_folder(plan(path), tmp_path / "run")
    assert "--energies lstsq" in str(caught.value)
    assert not (tmp_path / "run").exists()
    trained = train_folder(plan(path, energies="lstsq"), tmp_path / "run")
    energies = load_model(trained.model).config.heads[0].isolated_energies
    per_atom = np.mean(
        [
            a.get_potential_energy() / len(a)
            for a in read_head("pt", HeadPlan(data=str(path)), valid_fraction=0.2, seed=0).train
        ]
    )
    assert energies["Cu"] == pytest.approx(per_atom)
    given = {"pt": {"data": str(path), "isolated_energies": {"Cu": -3.0}}}
    trained = train_folder(plan(path, heads=given), tmp_path / "given")
    assert load_model(trained.model).config.heads[0].isolated_energies == {"Cu": -3.0}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"heads": {}}, "heads"),
        ({"heads": {"pt": {"dta": "x"}}}, "heads.pt"),
        ({"preset": "fm65"}, "preset"),
        ({"epochs": 3}, "'epochs'"),
        ({"valid_fraction": 1.5}, "valid_fraction"),
    ],
)
def test_wrong_plans_are_named(xyz, values, words):
    with pytest.raises(ConfigurationError, match=words):
        plan(xyz, **values)


def test_wrong_settings_are_named(xyz, tmp_path):
    with pytest.raises(ConfigurationError, match="'max_epoch'"):
        plan(xyz, training={"max_epoch": 3}).settings()
    with pytest.raises(ConfigurationError, match="cut_off"):
        train_folder(plan(xyz, architecture={"cut_off": 3}), tmp_path / "run")
    with pytest.raises(DatasetError, match=r"nowhere\.xyz"):
        train_folder(plan(tmp_path / "nowhere.xyz"), tmp_path / "run")
    write_extxyz(tmp_path / "bare.xyz", [with_metadata(bulk("Cu"))])
    with pytest.raises(DatasetError, match="no labelled training frames"):
        train_folder(plan(tmp_path / "bare.xyz"), tmp_path / "run")
    write_extxyz(tmp_path / "two.xyz", [*crystals(), attach_labels(with_metadata(Atoms("Cu")), 7.0), free_atom("Cu")])
    with pytest.raises(DatasetError, match="two isolated Cu atoms"):
        train_folder(plan(tmp_path / "two.xyz"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_profiles_and_presets_are_starting_points(xyz):
    settings = plan(xyz, profile="finetune", training={"max_epochs": 7}, seed=4).settings()
    assert (settings.max_epochs, settings.lr, settings.clip_norm, settings.seed) == (7, 1e-4, 100.0, 4)
    from atomfoundry.models.first_model import new_config

    head = read_head("pt", HeadPlan(data=str(xyz)), valid_fraction=0.2, seed=0)
    for preset, width, cutoff in (("fm64", 64, 5.2), ("fm256", 256, 5.2), ("fm512", 512, 5.2), ("alumina", 128, 3.0)):
        config = new_config(plan(xyz, preset=preset, architecture={}), [head])
        assert (config.latent_width, config.cutoff, config.type_names) == (width, cutoff, ["Cu"])
    assert isinstance(plan(xyz), TrainingPlan)
    assert Path(xyz).exists()
