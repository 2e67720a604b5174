from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from typer.testing import CliRunner

from atomfoundry.cli.main import app
from atomfoundry.datasets import Dataset, attach_labels
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import InputError

PBE = LevelOfTheory(code="vasp", method="PBE")


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["dataset", *map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def write(path: Path, start: int, n: int) -> Dataset:
    frames = []
    for number in range(start, start + n):
        atoms = Atoms("H" if number % 3 else "He", positions=[[float(number), 0, 0]])
        atoms.info.update(sampling="even" if number % 2 == 0 else "odd", group_id=str(number))
        frames.append(attach_labels(atoms, float(number)))
    return Dataset.create(path, frames, level=PBE, splits={"train": list(range(n // 2))})


def test_info(tmp_path: Path) -> None:
    dataset = write(tmp_path / "a", 0, 6).append([Atoms("He", positions=[[0, 0, 0]])])
    info = run("info", tmp_path / "a", "--duplicates")
    assert (info["frames"], info["version"], info["duplicates"], info["energies"]) == (7, 2, 0, 6)
    assert info["elements"] == {"H": 4, "He": 3}
    assert info["content_hash"] == dataset.content_hash
    assert run("info", tmp_path / "a", "--version", 1)["frames"] == 6
    (tmp_path / "a/shard-00000.parquet").write_bytes(b"x" * (tmp_path / "a/shard-00000.parquet").stat().st_size)
    assert run("info", tmp_path / "a", "--no-verify")["frames"] == 7
    with pytest.raises(InputError, match=r"shard-00000\.parquet"):
        run("info", tmp_path / "a")


def test_convert_there_and_back(tmp_path: Path) -> None:
    dataset = write(tmp_path / "a", 0, 6)
    for file, options in (("x.xyz", ("--to", "mace")), ("x.db", ()), ("x.npz", ())):
        assert run("convert", dataset.path, "-o", tmp_path / file, *options)["frames"] == 6
    assert "REF_energy" in ase.io.read(tmp_path / "x.xyz", 0).info
    made = run("convert", tmp_path / "x.xyz", "-o", tmp_path / "b", "--from", "mace", "--name", "mine")
    assert (made["frames"], made["name"], made["level"]) == (6, "mine", None)
    (tmp_path / "level.json").write_text(PBE.model_dump_json())
    bare = ase.io.read(tmp_path / "x.db", ":")
    ase.io.write(tmp_path / "bare.xyz", bare)
    made = run("convert", tmp_path / "bare.xyz", "-o", tmp_path / "c", "--level", tmp_path / "level.json")
    assert made["levels"] == {PBE.id: "PBE (vasp)"}
    assert Dataset.open(tmp_path / "c").column("energy").tolist() == list(range(6))
    with pytest.raises(InputError, match="exists"):
        run("convert", dataset.path, "-o", tmp_path / "x.db")
    with pytest.raises(InputError, match="no level of theory"):
        run("convert", tmp_path / "bare.xyz", "-o", tmp_path / "d", "--level", tmp_path / "bare.xyz")


def test_merge(tmp_path: Path) -> None:
    write(tmp_path / "a", 0, 6)
    write(tmp_path / "b", 4, 6)
    made = run("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "both")
    assert (made["frames"], made["duplicates"], made["splits"]) == (10, 2, {"train": 4})
    assert run("merge", tmp_path / "a", "-o", tmp_path / "one", "--no-splits")["splits"] == {}


def test_select(tmp_path: Path) -> None:
    dataset = write(tmp_path / "a", 0, 40)
    np.save(tmp_path / "x.npy", np.arange(40.0)[:, None])
    np.save(tmp_path / "w.npy", np.array([[39.0]]))
    made = run("select", dataset.path, "-o", tmp_path / "s1", "-n", 3, "--method", "farthest", "--descriptors",
               tmp_path / "x.npy")  # fmt: skip
    assert made["indices"] == [0, 39, 19]
    assert [atoms.positions[0, 0] for atoms in Dataset.open(tmp_path / "s1")] == [0, 39, 19]
    assert made["splits"] == {"train": 2}
    made = run("select", dataset.path, "-o", tmp_path / "s2", "-n", 1, "--method", "farthest", "--descriptors",
               tmp_path / "x.npy", "--chosen", tmp_path / "w.npy", "--where", "sampling=odd")  # fmt: skip
    assert made["indices"] == [1]
    made = run("select", dataset.path, "-o", tmp_path / "s3", "-n", 4, "--method", "equal", "--by", "sampling")
    assert sorted(index % 2 for index in made["indices"]) == [0, 0, 1, 1]
    made = run("select", dataset.path, "-o", tmp_path / "s4", "-n", 9, "--where", "elements=He", "--split", "train")
    assert set(made["indices"]) <= set(range(0, 20, 3))
    assert len(made["indices"]) == 7
    for arguments, message in (
        (("--method", "odd"), "no method"),
        (("--method", "farthest"), "needs --descriptors"),
        (("--method", "stratified"), "needs --by"),
        (("--where", "sampling"), "COLUMN=VALUE"),
        (("--where", "sampling=none"), "No frame"),
        (("--split", "valid"), "no split"),
        (("--method", "farthest", "--descriptors", tmp_path / "w.npy"), "1 rows"),
    ):
        with pytest.raises(InputError, match=message):
            run("select", dataset.path, "-o", tmp_path / "x", "-n", 2, *arguments)
    assert not (tmp_path / "x").exists()


def test_wrong_use_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atomfoundry.cli.main", "dataset", "convert", "x.json", "-o", "y"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "does not tell the format" in done.stderr
