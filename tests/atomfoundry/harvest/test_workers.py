"""Reading with processes: the same frames in the same order; hangs, crashes and floods cost one file."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from atomfoundry.datasets import Dataset
from atomfoundry.errors import DatasetError
from atomfoundry.harvest import harvest, harvest_dataset


def write_tree(folder: Path, number: int = 6) -> None:
    for index in range(number):
        atoms = bulk("Cu", a=3.6 + 0.01 * index)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * index, forces=np.zeros((1, 3)))
        place = folder / f"run-{index:02d}"
        place.mkdir(parents=True)
        ase.io.write(place / "a.traj", atoms)
    (folder / "notes.md").write_text("nothing")


def test_processes_change_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree")
    here = harvest(tmp_path / "tree")
    there = harvest_dataset(tmp_path / "tree", tmp_path / "out", processes=2)
    assert there.n_frames == here.n_frames == 6
    assert (there.files, there.skipped, there.frames) == (here.files, 1, [])
    dataset = Dataset.open(tmp_path / "out")
    assert [atoms.info["frame_id"] for atoms in dataset] == [atoms.info["frame_id"] for atoms in here.frames]
    assert dataset.level is None
    assert there.without_level == 6
    with pytest.raises(DatasetError, match="exists already"):
        harvest_dataset(tmp_path / "tree", tmp_path / "out")


@pytest.mark.slow
def test_a_hanging_and_a_dying_reader_cost_one_file(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", 3)
    (tmp_path / "tree/run-00b").mkdir()
    (tmp_path / "tree/run-00b/OUTCAR").write_text("x")
    script = tmp_path / "site/sitecustomize.py"
    script.parent.mkdir()
    # In the workers only: opening the one file hangs, opening the other kills.
    script.write_text(
        "import os, signal, sys\n"
        "if any('worker' in word for word in sys.orig_argv):\n"
        "    def hook(event, args):\n"
        "        if event == 'open' and 'run-00b' in str(args[0]):\n"
        "            while True: signal.pause()\n"
        "        if event == 'open' and 'run-00c' in str(args[0]):\n"
        f"            os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
        "    sys.addaudithook(hook)\n"
    )
    (tmp_path / "tree/run-00c").mkdir()
    (tmp_path / "tree/run-00c/OUTCAR").write_text("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(script.parent))
        report = harvest(tmp_path / "tree", processes=2, timeout=6.0)
    assert len(report.frames) == 3
    assert {item.source: item.reason for item in report.rejections} == {
        "run-00b/OUTCAR": "timeout",
        "run-00c/OUTCAR": "crashed_reader",
    }


def test_nothing_good_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/OUTCAR").write_text("")
    report = harvest_dataset(tmp_path / "tree", tmp_path / "out")
    assert report.reasons == {"truncated": 1}
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_the_command(tmp_path: Path) -> None:
    from atomfoundry.cli.main import app

    write_tree(tmp_path / "tree", 2)
    (tmp_path / "tree/OUTCAR").write_text("")
    arguments = ["harvest", str(tmp_path / "tree"), "-o", str(tmp_path / "out"), "-j", "1", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["frames"], content["files"], content["reasons"]) == (2, 3, {"truncated": 1})
    assert len(Dataset.open(tmp_path / "out")) == 2
