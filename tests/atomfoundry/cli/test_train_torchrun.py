"""``atomfoundry train`` under torchrun: one model, one folder, said once; and it goes on where it was stopped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from safetensors.torch import load_file

from atomfoundry.datasets import attach_labels, with_metadata, write_extxyz

pytestmark = pytest.mark.slow  # processes that import torch

SETTINGS = """
valid_fraction = 0.25
[architecture]
cutoff = 3.5
num_channels = 4
l_max = 1
n_layers = 1
two_body_dims = [8, 8]
latent_dims = [8, 8]
edge_energy_dims = [8]
dtype = "float64"
[training]
max_epochs = 3
batch_size = 4
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frames = []
    for seed in range(8):
        atoms = bulk("Cu") * (1, 1, 2)
        atoms.rattle(0.05 + 0.01 * seed, seed=seed)
        atoms.calc = EMT()
        labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        frames.append(attach_labels(with_metadata(atoms, group_id=str(seed)), *labels))
    free = attach_labels(with_metadata(Atoms("Cu")), EMT().get_property("energy", Atoms("Cu")))
    write_extxyz(tmp_path / "cu.xyz", [*frames, free])
    (tmp_path / "small.toml").write_text(SETTINGS)
    return tmp_path


def train(folder: Path, n: int, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(n), "--master-port", str(port)] if n > 1 else []
    command = [sys.executable, *launcher, "-m", "atomfoundry.cli.main", "train", "cu.xyz", "-s", "small.toml", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False
    )


def test_many_processes_make_the_model_of_one(folder: Path) -> None:
    assert train(folder, 1, "-o", "one").returncode == 0
    # the time is up at once: a checkpoint, no model, and torchrun tells the status of its processes
    ended = train(folder, 2, "-o", "two", ATOMFOUNDRY_DEADLINE="1")
    assert ended.returncode != 0
    assert "exitcode  : 75" in ended.stderr
    assert ended.stderr.count("Run the same command again") == 1
    assert not (folder / "two" / "model").exists()

    done = train(folder, 2, "-o", "two")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("frames to train on") == 1
    assert done.stdout.count("Errors after 3 epochs") == 1
    ours, theirs = (load_file(folder / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-11
    names = {path.name for path in (folder / "two").iterdir()}
    assert names == {path.name for path in (folder / "one").iterdir()}
    first, second = (json.loads((folder / name / "training.json").read_text()) for name in ("one", "two"))
    assert (first["n_processes"], second["n_processes"]) == (1, 2)
    for ours, theirs in zip(first["metrics"], second["metrics"], strict=True):
        assert theirs["forces_rmse"] == pytest.approx(ours["forces_rmse"], rel=1e-9)
    assert train(folder, 2, "-o", "two").stdout.count("finished before") == 1
