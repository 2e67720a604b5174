"""Trouble of the machine rather than of a job: no space left, a database that cannot be used."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atomfoundry.errors import StorageError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def storage_trouble(error: BaseException) -> StorageError | None:
    """Return what is wrong with disk or database, if that is why something failed.

    Parameters
    ----------
    error
        What was raised; what caused it is looked at as well.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, StorageError):
            return cause
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            where = f" (at {cause.filename})" if cause.filename else ""
            return StorageError(
                f"{cause.strerror}{where}.",
                remedy="Make space, then run again: what was finished is kept.",
            )
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Let a full disk be a ``StorageError`` that names the project.

    Parameters
    ----------
    path
        The project.

    Raises
    ------
    StorageError
        If there is no space left.
    """
    try:
        yield
    except OSError as error:
        trouble = storage_trouble(error)
        if trouble is None:
            raise
        raise StorageError(f"The run in {path} cannot go on: {trouble.message}", remedy=trouble.remedy) from error
