from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from atomfoundry.datasets import Dataset, attach_labels, labels_of
from atomfoundry.datasets.files import new_folder
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

PBE = LevelOfTheory(code="espresso", method="PBE")
HYBRID = LevelOfTheory(code="pyscf", method="wB97M-D3(BJ)")


def frames(start: int, n: int, element: str = "H") -> list[Atoms]:
    found = []
    for number in range(start, start + n):
        atoms = Atoms(element, positions=[[float(number), 0, 0]], info={"flags": ["odd"] if number % 2 else []})
        found.append(attach_labels(atoms, float(number), np.full((1, 3), number)))
    return found


def places(dataset: Dataset) -> list[float]:
    return [atoms.positions[0, 0] for atoms in dataset]


def test_append_makes_a_version_and_keeps_the_old_one(tmp_path: Path) -> None:
    first = Dataset.create(tmp_path / "set", frames(0, 5), level=PBE, splits={"train": [0, 1]}, lineage={"from": "x"})
    hashes = {file.name: file.read_bytes() for file in first.path.glob("shard*")}
    second = first.append(
        frames(5, 3, "He"), splits={"train": [5], "test": [7]}, isolated_energies={"He": -1.0}, lineage={"why": "more"}
    )
    assert places(second) == list(range(8))
    assert (second.version, second.metadata.parent) == (2, first.content_hash)
    assert second.content_hash != first.content_hash
    assert second.splits == {"train": [0, 1, 5], "test": [7]}
    assert second.isolated_energies == {"He": -1.0}
    assert second.metadata.counts.elements == {"H": 5, "He": 3}
    assert second.metadata.counts.flags == {"odd": 4}
    assert second.metadata.counts.levels == {PBE.id: 8}
    assert second.metadata.lineage == {"from": "x", "appended": [{"version": 2, "frames": 3, "why": "more"}]}
    # The old version is there as it was, and what was open still shows it.
    assert places(first) == list(range(5))
    old = Dataset.open(first.path, version=1)
    assert old.metadata == first.metadata
    assert {name: (first.path / name).read_bytes() for name in hashes} == hashes
    third = second.append(frames(8, 1))
    assert places(third) == list(range(9))
    assert [len(Dataset.open(first.path, version=number)) for number in (1, 2, 3)] == [5, 8, 9]
    third.verify()
    with pytest.raises(DatasetError, match="versions 1 to 3, not 4"):
        Dataset.open(first.path, version=4)
    assert sorted(file.name for file in first.path.iterdir() if file.name.startswith("dataset")) == [
        "dataset.json",
        "dataset.v1.json",
        "dataset.v2.json",
    ]


def test_equal_histories_have_equal_hashes(tmp_path: Path) -> None:
    one = Dataset.create(tmp_path / "a", frames(0, 3), name="a").append(frames(3, 2))
    two = Dataset.create(tmp_path / "b", frames(0, 3), name="b").append(frames(3, 2))
    assert one.content_hash == two.content_hash
    assert one.content_hash != Dataset.create(tmp_path / "c", frames(0, 5)).append(frames(5, 1)).content_hash


def test_nothing_appended_is_no_version(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", frames(0, 2))
    assert dataset.append([]).version == 1
    assert len(list(dataset.path.iterdir())) == 3


def test_revise(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", frames(0, 4))
    renamed = dataset.revise(name="other")
    assert (renamed.name, renamed.version, renamed.content_hash) == ("other", 2, dataset.content_hash)
    split = renamed.revise(splits={"train": [0, 1], "test": [3]}, isolated_energies={"H": -13.6})
    assert split.splits == {"train": [0, 1], "test": [3]}
    assert split.content_hash != dataset.content_hash
    assert places(split) == list(range(4))
    with pytest.raises(DatasetError, match="version 3, what was opened is version 1"):
        dataset.revise(name="late")
    with pytest.raises(DatasetError, match="Split 'x'"):
        split.revise(splits={"x": [4]})
    assert Dataset.open(dataset.path).version == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": {"train": [1]}}, "an old one"),
        ({"splits": {"train": [9]}}, "Split 'train' names frame 9"),
        ({"isolated_energies": {"H": -2.0}}, "Isolated H"),
    ],
)
def test_refused_appends_change_nothing(tmp_path: Path, options: dict, message: str) -> None:
    dataset = Dataset.create(tmp_path / "set", frames(0, 4), level=PBE, isolated_energies={"H": -1.0})
    before = {file.name: file.read_bytes() for file in dataset.path.iterdir()}
    with pytest.raises(DatasetError, match=message):
        dataset.append(frames(4, 2), **options)
    foreign = frames(4, 1)
    foreign[0].info["level"] = HYBRID.id
    with pytest.raises(DatasetError, match=HYBRID.id):
        dataset.append(foreign)
    assert {file.name: file.read_bytes() for file in dataset.path.iterdir()} == before


def test_two_writers_wait_for_each_other(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", frames(0, 2))
    dataset.append(frames(2, 2))
    # Without indices of new frames it does not matter that this object is of an older version.
    assert places(dataset.append(frames(4, 2))) == list(range(6))
    with pytest.raises(DatasetError, match="version 3"):
        dataset.append(frames(6, 1), splits={"train": [6]})


WRITER = """
import sys, time
from ase import Atoms
from pathlib import Path
from atomfoundry.datasets import Dataset
def frames():
    for number in range(10**9):
        if number == 3000:
            print("writing", flush=True)
        yield Atoms("H", positions=[[float(number), 0, 0]])
folder = Path(sys.argv[1])
if folder.exists():
    Dataset.open(folder).append(frames(), shard_size=1500)
else:
    Dataset.create(folder, frames(), shard_size=1500)
"""


def kill_writer(folder: Path, delay: float) -> None:
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_killed_create_leaves_no_dataset(tmp_path: Path) -> None:
    kill_writer(tmp_path / "set", 0.1)
    with pytest.raises(DatasetError, match="no dataset"):
        Dataset.open(tmp_path / "set")
    # The next writer clears away what the dead one left, but not what a living one is writing.
    (left,) = tmp_path.glob(".set.*.part")
    os.utime(left, (0, 0))
    with new_folder(tmp_path / "set") as living:
        os.utime(living, (0, 0))
        assert len(Dataset.create(tmp_path / "set", frames(0, 2))) == 2
        assert not left.exists()
        assert living.exists()
        (tmp_path / "set").rename(tmp_path / "other")


@pytest.mark.slow
def test_a_killed_append_leaves_the_old_version(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", frames(0, 5))
    kill_writer(dataset.path, 0.05)
    again = Dataset.open(dataset.path)
    again.verify()
    assert (again.version, places(again)) == (1, list(range(5)))
    # What the dead left behind is cleared away by the next one, which was not locked out.
    assert list(dataset.path.glob(".*.part"))
    longer = dataset.append(frames(5, 2))
    assert places(longer) == list(range(7))
    longer.verify()
    assert not list(dataset.path.glob(".*.part"))


STEPS = ["shards written", "one file in place", "old version kept"]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_between_any_two_steps_leaves_the_old_version(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atomfoundry.datasets import versions

    dataset = Dataset.create(tmp_path / "set", frames(0, 3))
    calls = {"sync": 0, "replace": 0}

    def sync(path: Path) -> None:
        calls["sync"] += 1
        if calls["sync"] == {"shards written": 1, "one file in place": 2}.get(step):
            raise KeyboardInterrupt

    real = versions.replace_text

    def replace_text(path: Path, text: str) -> None:
        calls["replace"] += 1
        if step == "old version kept" and calls["replace"] == 2:
            raise KeyboardInterrupt
        real(path, text)

    monkeypatch.setattr(versions, "sync", sync)
    monkeypatch.setattr(versions, "replace_text", replace_text)
    with pytest.raises(KeyboardInterrupt):
        dataset.append(frames(3, 4), shard_size=1)
    monkeypatch.undo()
    again = Dataset.open(dataset.path)
    assert (again.version, places(again)) == (1, [0, 1, 2])
    assert again.metadata == dataset.metadata
    longer = again.append(frames(3, 2))
    assert places(longer) == list(range(5))
    assert labels_of(longer[4])[0] == 4.0
    longer.verify()
    # Nothing of the interrupted one is left.
    wanted = {record.file for shard in longer.metadata.shards for record in (shard, shard.index) if record}
    assert {file.name for file in longer.path.iterdir()} == {*wanted, "dataset.json", "dataset.v1.json"}
