"""Secrets that are set where users set theirs, and the search for them in everything that was written."""

from __future__ import annotations

import gzip
import json
import os
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

SESSION_MARK = "pl4nted-in-the-session"
"""In every secret that is set for all tests."""

MARK = "pl4nted-in-a-run"
"""In every secret that a test sets for a run of its own."""

_SESSION = ("ATOMFOUNDRY_MATERIALS_PROJECT_KEY", "AWS_SECRET_ACCESS_KEY", "PLANTED_TOKEN")

ALL = {
    name: f"{MARK}-{number}"
    for number, name in enumerate((*_SESSION, "ATOMFOUNDRY_MONGODB_PASSWORD", "MP_API_KEY", "PMG_MAPI_KEY"))
}
"""Variables set for one run."""

LARGEST = 64 << 20
"""Bytes; larger files are arrays."""


def plant(environment: MutableMapping[str, str]) -> None:
    """Set the session's secrets where there are none."""
    for number, name in enumerate(_SESSION):
        environment.setdefault(name, f"{SESSION_MARK}-{number}")


def find_in_files(root: Path, *, mark: str = MARK, seconds: float = 1e9) -> tuple[list[Path], int]:
    """Return the files below a folder that hold a secret (gzip and zip files are looked into), and how many were read.

    Whatever is there when ``seconds`` have passed is not read.
    """
    end = time.monotonic() + seconds
    found, n_read = [], 0
    # not rglob: folders may go while they are walked
    paths = (Path(folder, name) for folder, _, names in os.walk(root) for name in sorted(names))
    for path in paths:
        if time.monotonic() > end:
            break
        try:
            if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
                continue
            content = path.read_bytes()
        except OSError:
            continue
        n_read += 1
        if mark in str(path.relative_to(root)) or any(mark.encode() in each for each in _layers(content)):
            found.append(path)
    return found, n_read


def _layers(content: bytes) -> Iterator[bytes]:
    yield content
    try:
        if content[:2] == b"\x1f\x8b":
            yield gzip.decompress(content)
        elif content[:2] == b"PK":
            import io

            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield from (archive.read(name) for name in archive.namelist())
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError):
        return


def dump_database(database: Any) -> dict[str, str]:
    """Return each collection of a pymongo or mongomock database as text: what anybody who may read it sees.

    For a FireWorks ``LaunchPad`` it is ``launchpad.db``: fireworks, workflows, launches, what went to GridFS, and the
    outputs and labels beside them.
    """
    return {
        name: "\n".join(json.dumps(_plain(document)) for document in database[name].find())
        for name in database.list_collection_names()
    }


def find_in_database(database: Any) -> list[str]:
    """Return the collections of a database that hold a secret."""
    return sorted(name for name, text in dump_database(database).items() if MARK in text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return " ".join(layer.decode("latin-1") for layer in _layers(value))
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
