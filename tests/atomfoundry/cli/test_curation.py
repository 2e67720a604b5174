from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from atomfoundry.cli.main import app
from atomfoundry.datasets import Dataset


@pytest.fixture
def raw(tmp_path):
    frames = []
    for i in range(4):
        atoms = bulk("Cu", a=3.6 + 0.01 * i, cubic=True)
        forces = np.zeros((4, 3))
        forces[:2, 0] = [60.0, -60.0] if i == 3 else [0.5, -0.5]
        atoms.calc = SinglePointCalculator(atoms, energy=-14.0, forces=forces)
        frames.append(atoms)
    return Dataset.create(tmp_path / "raw", frames).path


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_curate(raw, tmp_path):
    done = invoke("dataset", "curate", raw, "-o", tmp_path / "good", "--rejected", tmp_path / "bad", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert (said["frames"], said["kept"], said["refused"]) == (4, 3, {"exploded": 1})
    assert len(Dataset.open(tmp_path / "good")) == 3
    assert Dataset.open(tmp_path / "bad")[0].info["flags"] == ["exploded"]


def test_nothing_good_is_failed_work(raw, tmp_path):
    done = invoke("dataset", "curate", raw, "-o", tmp_path / "good", "--max-force", "0.1")
    assert done.exit_code == 1
    assert "0 of 4 frames are good" in done.output


def test_coverage(raw, tmp_path):
    done = invoke("dataset", "coverage", raw, "-o", tmp_path / "page.html", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["elements"] == {"Cu": 4}
    assert "Coverage of raw" in (tmp_path / "page.html").read_text()
    spoken = invoke("dataset", "coverage", raw)
    assert "All frames are neutral." in spoken.output


def test_split_makes_a_new_version(raw):
    done = invoke("dataset", "split", raw, "--fractions", "0.5", "0.25", "0.25", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {"version": 2, "splits": {"train": 2, "valid": 1, "test": 1}}
    assert Dataset.open(raw, version=1).splits == {}
    assert len(Dataset.open(raw).splits["train"]) == 2


def test_impossible_splits(raw):
    for words in (["--hold-out", "colour=red"], ["--hold-out", "size=big"], ["--hold-out", "element=Cu"]):
        done = invoke("dataset", "split", raw, *words)
        assert done.exit_code != 0
        assert len(Dataset.open(raw).splits) == 0
