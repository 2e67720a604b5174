"""Trainings from a job file: alone, under torchrun, interrupted, and with a wrong file."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ase.io import write

sys.path.insert(0, str(Path(__file__).parent))
from argon import config, crystals, equal, losses, settings, weights

from atomfoundry.datasets import Dataset
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import ConfigurationError, InputError
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.io import load_model, read_record, save_model
from atomfoundry.models.training.distributed import main, read_frames, read_job
from atomfoundry.models.training.energies import average_num_neighbors, force_rms
from atomfoundry.models.training.logs import CSV_FILE, read_csv_log
from atomfoundry.models.training.trainer import train


@pytest.fixture
def job_file(tmp_path):
    write(tmp_path / "train.extxyz", crystals(6))
    write(tmp_path / "valid.extxyz", crystals(2, seed=9))

    def make(name="job.json", **changes):
        content = {
            "train": {"pt": "train.extxyz"},
            "valid": {"pt": "valid.extxyz"},
            "architecture": config(dtype="float64").model_dump(mode="json"),
            "settings": settings(max_epochs=2).model_dump(mode="json"),
            "directory": "training",
            "output": "model",
            "edge_cache": "edges",
        }
        path = tmp_path / name
        path.write_text(json.dumps({k: v for k, v in (content | changes).items() if v is not None}))
        return path

    return make


def expected(tmp_path):
    frames = [read_frames(tmp_path / f"{name}.extxyz", split=name) for name in ("train", "valid")]
    return train(config(dtype="float64"), *frames, settings=settings(max_epochs=2))


def test_alone_it_is_the_plain_training(tmp_path, job_file, capsys):
    assert main([str(job_file())]) == 0
    assert "Done (max_epochs): 2 epochs" in capsys.readouterr().err
    plain = expected(tmp_path)
    assert equal(weights(plain.model), weights(load_model(tmp_path / "model")))
    metadata = read_record(tmp_path / "model")["metadata"]
    assert (metadata["n_processes"], metadata["stop_reason"]) == (1, "max_epochs")
    table = read_csv_log(tmp_path / "training" / CSV_FILE)
    assert [r.train_loss for r in table] == [r.train_loss for r in plain.history]
    assert list((tmp_path / "edges").iterdir())


def test_a_toml_file_and_a_model_to_start_from(tmp_path, job_file):
    job_file()
    save_model(Allegro(config()), tmp_path / "first", metadata={})
    (tmp_path / "job.toml").write_text(
        'directory = "again"\noutput = "second"\nstart = "first"\ntrain = {pt = "train.extxyz"}\n'
        "[settings]\nmax_epochs = 1\n"
    )
    job = read_job(tmp_path / "job.toml")
    assert (job.start, job.train) == (tmp_path / "first", {"pt": tmp_path / "train.extxyz"})
    assert main([str(tmp_path / "job.toml")]) == 0
    assert not equal(weights(load_model(tmp_path / "first")), weights(load_model(tmp_path / "second")))


def test_a_job_file_needs_no_more_than_data(tmp_path, job_file):
    """Elements, neighbours, free atoms and scale come from the data; so does what a head's table leaves out."""
    frames = crystals(4)
    level = LevelOfTheory(code="test", method="lj")
    splits = {"train": [0, 1, 2], "valid": [3]}
    Dataset.create(tmp_path / "set", frames, level=level, splits=splits, isolated_energies={"Ar": -0.25})
    (tmp_path / "least.toml").write_text(
        'directory = "run"\noutput = "made"\ntrain = {pt = "set"}\n[settings]\nmax_epochs = 0\n'
    )
    assert main([str(tmp_path / "least.toml")]) == 0
    config = load_model(tmp_path / "made").config
    assert (config.type_names, config.latent_width, config.cutoff) == (["Ar"], 64, 5.2)
    assert config.avg_num_neighbors == pytest.approx(average_num_neighbors(frames[:3], cutoff=5.2))
    assert config.heads[0].isolated_energies == {"Ar": -0.25}
    assert config.heads[0].scale == pytest.approx(force_rms(frames[:3]))
    assert config.heads[0].level_id == level.id
    record = read_record(tmp_path / "made")["metadata"]["reference_energies"]
    assert (record["pt"]["policy"], record["pt"]["undetermined"]) == ("isolated", [])

    head = '[[architecture.heads]]\nname = "pt"\nisolated_energies = {Ar = 0.5}\n'
    (tmp_path / "table.toml").write_text(
        'directory = "second"\noutput = "other"\ntrain = {pt = "train.extxyz"}\nscale = "per_element"\n'
        f"[settings]\nmax_epochs = 0\n[architecture]\ncutoff = 4.5\n{head}"
    )
    path = job_file(train={"pt": "train.extxyz"}, architecture={"cutoff": 4.5}, energies="isolated")
    assert main([str(tmp_path / "table.toml")]) == 0
    head = load_model(tmp_path / "other").config.heads[0]
    assert head.isolated_energies == {"Ar": 0.5}
    assert head.scale == {"Ar": pytest.approx(force_rms(crystals(6)))}
    # nothing tells the energy of the free atom: an error, not zero
    assert main([str(path)]) == 1
    assert main([str(job_file(architecture={"cut_off": 4.5}, energies="lstsq"))]) == 2


def test_a_head_that_the_first_model_lacks_is_added(tmp_path, job_file):
    job_file()
    save_model(Allegro(config()), tmp_path / "first", metadata={})
    (tmp_path / "job.toml").write_text(
        'directory = "again"\noutput = "second"\nstart = "first"\nenergies = "foundation_corrected"\n'
        'train = {pt = "train.extxyz", ft = "valid.extxyz"}\n[settings]\nmax_epochs = 0\n'
    )
    assert main([str(tmp_path / "job.toml")]) == 0
    assert [head.name for head in load_model(tmp_path / "second").config.heads] == ["pt", "ft"]
    assert set(read_record(tmp_path / "second")["metadata"]["reference_energies"]) == {"ft"}


def test_not_at_its_end_is_another_exit_code(tmp_path, job_file, monkeypatch, capsys):
    path = str(job_file())
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", "1")
    assert main([path]) == 75
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    monkeypatch.delenv("ATOMFOUNDRY_DEADLINE")
    assert main([path]) == 0
    assert (tmp_path / "model").is_dir()


@pytest.mark.slow
def test_torchrun_whose_time_is_up_fails(tmp_path, job_file, monkeypatch):
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", "1")
    process = torchrun(job_file(), 2, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "exitcode  : 75" in errors or "exitcode: 75" in errors
    assert not (tmp_path / "model").exists()


def torchrun(path, n, **options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), "--master-port", str(port)),
        *("-m", "atomfoundry.models.training.distributed", str(path)),
    ]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options)


@pytest.mark.slow
def test_torchrun_trains_the_same_model(tmp_path, job_file):
    process = torchrun(job_file(), 2, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "with 2 processes" in errors
    plain = expected(tmp_path)
    together = weights(load_model(tmp_path / "model"))
    assert max((together[n] - w).abs().max().item() for n, w in weights(plain.model).items()) < 1e-11
    assert read_record(tmp_path / "model")["metadata"]["n_processes"] == 2


@pytest.mark.slow
def test_a_terminated_torchrun_goes_on(tmp_path, job_file):
    long = settings(max_epochs=100).model_dump(mode="json")
    process = torchrun(job_file(settings=long), 2, stderr=subprocess.PIPE, text=True)
    table = tmp_path / "training" / CSV_FILE
    deadline = time.monotonic() + 90
    while not (table.exists() and len(table.read_text().splitlines()) > 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "Interrupted (signal)" in errors
    assert not (tmp_path / "model").exists()
    done = len(read_csv_log(table))
    assert 3 <= done < 100
    process = torchrun(job_file(settings=long), 2, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    history = read_csv_log(table)
    assert [r.epoch for r in history] == list(range(1, 101))
    frames = [read_frames(tmp_path / f"{name}.extxyz", split=name) for name in ("train", "valid")]
    whole = train(config(dtype="float64"), *frames, settings=settings(max_epochs=100))
    for ours, theirs in zip(losses(whole), history, strict=True):
        assert theirs.train_loss == pytest.approx(ours[1], rel=1e-6)


def test_frames_of_a_dataset_are_those_of_its_split(tmp_path):
    level = LevelOfTheory(code="test", method="lj")
    frames = crystals(4)
    Dataset.create(tmp_path / "set", frames, level=level, splits={"train": [3, 0], "valid": []})
    ids = [frame.info["frame_id"] for frame in read_frames(tmp_path / "set", split="train")]
    assert ids == [frames[3].info["frame_id"], frames[0].info["frame_id"]]
    with pytest.raises(InputError, match="no frames for 'valid'"):
        read_frames(tmp_path / "set", split="valid")
    with pytest.raises(InputError, match="test"):
        read_frames(tmp_path / "set", split="test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "model"}, "both of 'start' and 'architecture'"),
        ({"train": {}}, "'train'"),
        ({"outptu": "x"}, "'outptu'"),
        ({"settings": {"learning_rate": 1}}, r"'settings.learning_rate'"),
    ],
)
def test_a_wrong_job_is_named(job_file, changes, message, capsys):
    path = job_file(**changes)
    with pytest.raises(ConfigurationError, match=message):
        read_job(path)
    assert main([str(path)]) == 2
    assert "Error: " in capsys.readouterr().err


def test_a_missing_or_unreadable_file_is_named(tmp_path, job_file, capsys):
    with pytest.raises(ConfigurationError, match=r"none.toml cannot be read"):
        read_job(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        read_job(tmp_path / "bad.toml")
    assert main([str(job_file(train={"pt": "elsewhere.extxyz"}))]) == 2
    assert "elsewhere.extxyz does not exist" in capsys.readouterr().err
    assert main([]) == 2
    assert main([str(job_file(train={"ft": "train.extxyz"}))]) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(job_file, capsys):
    assert main([str(job_file(device="cuda"))]) == 2
    assert "there is no GPU for device" in capsys.readouterr().err
