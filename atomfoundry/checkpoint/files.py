"""Checkpoint files: arrays and a JSON-ready state in one npz file, replaced in one step, without pickle."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atomfoundry.errors import CheckpointError

VERSION = 1
_STATE = "state"
_TAKEN = (_STATE, "file", "allow_pickle")
"""Names that no array can have: our own, and those of NumPy's arguments."""


@dataclass
class Saved:
    """What a computation needs to go on.

    Parameters
    ----------
    arrays
        Name -> array; kept bit for bit.
    state
        What fits JSON; floats are kept bit for bit, NaN and infinities too.
    """

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, whole.

    Parameters
    ----------
    path
        Where to; its folder must exist.
    content
        All of it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_unfinished(path: Path) -> None:
    """Remove what a writer left that was killed in `write_atomically`.

    Parameters
    ----------
    path
        The file it was writing.
    """
    for leftover in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def write_saved(path: Path, saved: Saved) -> None:
    """Write a checkpoint file, atomically.

    Parameters
    ----------
    path
        Where to; its folder is made if absent.
    saved
        What to write.

    Raises
    ------
    CheckpointError
        If an array holds Python objects, or the state something that JSON has no word for.
    """
    odd = [name for name, array in saved.arrays.items() if np.asarray(array).dtype.hasobject or name in _TAKEN]
    if odd:
        raise CheckpointError(f"Checkpoint {path} cannot hold the arrays {', '.join(odd)}.")
    try:
        text = json.dumps({"version": VERSION, **saved.state})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"Checkpoint {path} cannot hold its state: {error}.") from error
    buffer = io.BytesIO()
    members: dict[str, Any] = {_STATE: np.frombuffer(text.encode(), dtype=np.uint8), **saved.arrays}
    np.savez(buffer, allow_pickle=False, **members)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def read_saved(path: Path) -> Saved | None:
    """Read a checkpoint file, or return None if there is none.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    CheckpointError
        If the file is corrupt or of another version.
    """
    remedy = "Remove it to begin from the start."
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        state = json.loads(arrays.pop(_STATE).tobytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"Checkpoint {path} is corrupt: {error}.", remedy=remedy) from error
    if not isinstance(state, dict) or state.pop("version", None) != VERSION:
        raise CheckpointError(f"Checkpoint {path} is of another version.", remedy=remedy)
    return Saved(arrays, state)
