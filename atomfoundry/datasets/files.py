"""Files of a dataset folder: known by their hash, made in a temporary place, never changed afterwards."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atomfoundry.datasets.metadata import StoredFile
from atomfoundry.errors import DatasetError

_FRESH = 60.0


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stored_file(path: Path) -> StoredFile:
    """Return the record of a finished file."""
    return StoredFile(file=path.name, sha256=file_sha256(path), size=path.stat().st_size)


def check_size(folder: Path, record: StoredFile) -> None:
    """Check that a file is there, as long as it was.

    Raises
    ------
    DatasetError
        Naming the file.
    """
    path = folder / record.file
    size = path.stat().st_size if path.is_file() else None
    if size != record.size:
        what = "is missing" if size is None else f"has {size} bytes instead of {record.size}"
        raise DatasetError(f"Shard '{path}' {what}.", remedy="Copy or write the dataset again.")


def check_file(folder: Path, record: StoredFile) -> None:
    """Check a file's content against its sha256.

    Raises
    ------
    DatasetError
        Naming the file.
    """
    check_size(folder, record)
    path = folder / record.file
    if file_sha256(path) != record.sha256:
        raise DatasetError(
            f"Shard '{path}' is corrupt: its sha256 is not the recorded one.",
            remedy="Copy or write the dataset again.",
        )


def sync(path: Path) -> None:
    """Have the system write a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write a file in place of an older one, which stays whole until the new one is complete."""
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name; on another file system, a copy.

    A hard link outlives the first name and the folder it stood in, so neither folder depends on the other.
    """
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES):
            raise
        shutil.copyfile(source, target)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary sibling folder that becomes ``path`` when the block ends well, and vanishes otherwise.

    Raises
    ------
    DatasetError
        If ``path`` exists, before or after the block.
    """
    if path.exists():
        raise DatasetError(f"'{path}' exists already.", remedy="Choose another name or remove it first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_dead(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
    temporary.mkdir()
    lock = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if path.exists():
            raise DatasetError(f"'{path}' was made by someone else meanwhile.", remedy="Choose another name.")
        temporary.rename(path)
        sync(path.parent)
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def _clear_dead(path: Path) -> None:
    """Remove the temporary folders of writers of ``path`` that were killed: the system took their lock away."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        # One that was made this minute may not have its lock yet.
        if not left.is_dir() or time.time() - left.stat().st_mtime < _FRESH:
            continue
        handle = os.open(left, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)
