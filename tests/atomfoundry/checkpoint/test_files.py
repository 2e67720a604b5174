"""Checkpoint files: every bit comes back, and a writer killed at any moment leaves a whole file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from atomfoundry.checkpoint import Saved, read_saved, write_saved
from atomfoundry.checkpoint.files import remove_unfinished
from atomfoundry.errors import CheckpointError


def test_every_bit_comes_back(tmp_path):
    values = np.array([0.1, -0.0, np.nan, np.inf, 5e-324, 1 / 3])
    state = np.random.default_rng(1).bit_generator.state
    saved = Saved(
        {"a": values, "integrator/b": np.arange(6, dtype=np.int32).reshape(2, 3), "none": np.zeros((0, 4, 3))},
        {"rng": state, "float": 0.1 + 0.2, "nan": float("nan"), "name": "Å", "list": [1, None, True]},
    )
    write_saved(tmp_path / "new" / "folder" / "x.npz", saved)
    found = read_saved(tmp_path / "new" / "folder" / "x.npz")
    assert set(found.arrays) == set(saved.arrays)
    for name, array in saved.arrays.items():
        assert found.arrays[name].tobytes() == array.tobytes()
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
    assert np.isnan(found.state.pop("nan")) and np.isnan(saved.state.pop("nan"))
    assert found.state == saved.state
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["x.npz"]


def test_no_file_is_no_checkpoint(tmp_path):
    assert read_saved(tmp_path / "x.npz") is None


@pytest.mark.parametrize("damage", ["cut", "bit", "text", "empty"])
def test_a_corrupt_file_is_refused(tmp_path, damage):
    path = tmp_path / "x.npz"
    write_saved(path, Saved({"a": np.arange(100.0)}))
    content = path.read_bytes()
    middle = len(content) // 2
    changed = bytes([content[middle] ^ 1])
    damaged = {"cut": content[:middle], "bit": content[:middle] + changed + content[middle + 1 :], "text": b"no zip"}
    path.write_bytes(damaged.get(damage, b""))
    with pytest.raises(CheckpointError, match=r"x\.npz is corrupt.*Remove it"):
        read_saved(path)


def test_objects_and_pickles_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="arrays odd"):
        write_saved(tmp_path / "x.npz", Saved({"odd": np.array([{}], dtype=object)}))
    with pytest.raises(CheckpointError, match="arrays state"):
        write_saved(tmp_path / "x.npz", Saved({"state": np.zeros(1)}))
    with pytest.raises(CheckpointError, match="its state"):
        write_saved(tmp_path / "x.npz", Saved({}, {"what": object()}))
    np.savez(tmp_path / "x.npz", state=np.array([{}], dtype=object))
    with pytest.raises(CheckpointError, match="corrupt"):
        read_saved(tmp_path / "x.npz")


def test_another_version_is_refused(tmp_path):
    write_saved(tmp_path / "x.npz", Saved({}, {"version": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        read_saved(tmp_path / "x.npz")


def killed(monkeypatch, where: str, path: Path, saved: Saved) -> None:
    """Write in a child process that kills itself at a point of the writing."""
    child = os.fork()
    if child:
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        return

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "half":
        fdopen = os.fdopen

        def half(*arguments):
            file = fdopen(*arguments)
            write = file.write

            class Half:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    file.close()

                def write(self, content):
                    write(content[: len(content) // 2])
                    file.flush()
                    die()

            return Half()

        os.fdopen = half
    elif where == "sync":
        os.fsync = die
    elif where == "rename":
        Path.replace = die
    else:
        fsync, calls = os.fsync, []

        def second(descriptor):
            calls.append(1)
            if len(calls) == 2:
                die()
            fsync(descriptor)

        os.fsync = second
    try:
        write_saved(path, saved)
    finally:
        os._exit(0)


@pytest.mark.parametrize("where", ["half", "sync", "rename", "folder"])
def test_a_writer_killed_at_any_point_leaves_a_whole_file(tmp_path, monkeypatch, where):
    path = tmp_path / "x.npz"
    old, new = (Saved({"a": np.full(1000, value)}, {"value": value}) for value in (1.0, 2.0))
    write_saved(path, old)
    killed(monkeypatch, where, path, new)
    found = read_saved(path)
    expected = new if where == "folder" else old
    assert found.state == expected.state
    assert np.array_equal(found.arrays["a"], expected.arrays["a"])
    leftovers = [each for each in tmp_path.iterdir() if each != path]
    assert len(leftovers) == (where != "folder")
    remove_unfinished(path)
    assert list(tmp_path.iterdir()) == [path]
    write_saved(path, new)
    assert read_saved(path).state == new.state


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    write_saved(path, Saved({}, {"value": 1}))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_saved(path, Saved({}, {"value": 2}))
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["x.npz"]
    assert read_saved(path).state == {"value": 1}
