from __future__ import annotations

import json

import pytest
import torch
from ase.build import molecule

from atomfoundry.errors import ModelError
from atomfoundry.models import Allegro, AllegroConfig, HeadConfig, build_graph, load_model, save_model
from atomfoundry.models.io import read_record


@pytest.fixture
def model() -> Allegro:
    config = AllegroConfig(
        type_names=["H", "O"],
        cutoff=4.0,
        num_channels=2,
        two_body_dims=[4, 6],
        latent_dims=[6],
        avg_num_neighbors=2.0,
        heads=[HeadConfig(name="pt", isolated_energies={"H": -13.0, "O": -2041.123456789}, scale={"H": 1, "O": 2})],
    )
    model = Allegro(config)
    model.add_head(HeadConfig(name="ft", isolated_energies={"H": -12.5}, level_id="abc"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.rand(parameter.shape)
    return model


def energy(model, head=0):
    return model(build_graph(molecule("H2O"), cutoff=4.0, type_names=["H", "O"], head=head))["energy"]


def test_round_trip(model, tmp_path):
    path = save_model(model, tmp_path / "deep" / "model", metadata={"epochs": 3, "seeds": [1, 2]})
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    assert [child.name for child in path.parent.iterdir()] == ["model"]
    loaded = load_model(path)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(energy(loaded), energy(model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name].nan_to_num(), tensor.nan_to_num())
    record = read_record(path)
    assert record["metadata"] == {"epochs": 3, "seeds": [1, 2]}
    assert record["architecture"] == "allegro"
    mode = path.stat().st_mode & 0o777
    (tmp_path / "plain").mkdir()
    assert mode == (tmp_path / "plain").stat().st_mode & 0o777


def test_folder_of_before_there_were_variants(model, tmp_path):
    path = save_model(model, tmp_path / "model", metadata={})
    record = json.loads((path / "config.json").read_text())
    assert record["config"].pop("variant") == "A"
    (path / "config.json").write_text(json.dumps(record))
    assert load_model(path).config == model.config


def test_saving_again_keeps_the_rest(model, tmp_path):
    path = save_model(model, tmp_path / "model", metadata={})
    (path / "checkpoint").mkdir()
    with torch.no_grad():
        model.readouts.heads[0][0].mul_(2.0)
    save_model(model, path, metadata={"second": True})
    assert torch.equal(energy(load_model(path)), energy(model))
    assert (path / "checkpoint").is_dir()


def test_same_model_same_bytes(model, tmp_path):
    first, second = (save_model(model, tmp_path / name, metadata={"a": 1}) for name in ("one", "two"))
    for file in ("model.safetensors", "config.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_bad_folders(model, tmp_path):
    path = save_model(model, tmp_path / "model", metadata={})
    config, weights = path / "config.json", path / "model.safetensors"
    good_config, good_weights = config.read_text(), weights.read_bytes()

    def changed(**changes):
        config.write_text(json.dumps(json.loads(good_config) | changes))

    with pytest.raises(ModelError, match="no model folder"):
        load_model(tmp_path / "nowhere")
    changed(schema_version=99)
    with pytest.raises(ModelError, match=r"format version 99; this version reads up to 1.*Upgrade"):
        load_model(path)
    changed(architecture="other")
    with pytest.raises(ModelError, match="unknown architecture"):
        load_model(path)
    changed(config=json.loads(good_config)["config"] | {"l_maxx": 2})
    with pytest.raises(ModelError, match="l_maxx"):
        load_model(path)
    changed(config=json.loads(good_config)["config"] | {"num_channels": 3})
    with pytest.raises(ModelError, match="does not fit its architecture"):
        load_model(path)
    config.write_text(good_config[:-20])
    with pytest.raises(ModelError, match="not valid JSON"):
        load_model(path)
    config.write_text("{}")
    with pytest.raises(ModelError, match="does not describe"):
        load_model(path)
    config.write_text(good_config)
    weights.write_bytes(good_weights[:-1] + b"\x01")
    with pytest.raises(ModelError, match="sha256"):
        load_model(path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        load_model(path)


def test_bad_metadata_leaves_nothing(model, tmp_path):
    with pytest.raises(ModelError, match="cannot be written as JSON"):
        save_model(model, tmp_path / "model", metadata={"loss": float("nan")})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a file"):
        save_model(model, tmp_path / "file", metadata={})
