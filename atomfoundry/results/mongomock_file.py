"""FireWorks' mongomock mode: a database in one JSON file, for tests of clusters without a server."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from atomfoundry.errors import ProjectError

MOCK_VARIABLE = "MONGOMOCK_SERVERSTORE_FILE"
"""FireWorks' own variable: the JSON file that stands for a MongoDB server; one process at a time."""

_STORES: dict[tuple[str, int], Any] = {}
_LOCK = threading.Lock()


def mock_file() -> str | None:
    """Return the file that stands for the server, or None where there is a real one."""
    return os.environ.get(MOCK_VARIABLE) or None


def share_mock_store() -> None:
    """Let every mongomock client of this process, FireWorks' as well as ours, show the same content.

    mongomock-persistence reads the file once for each client and writes it when the client is dropped: two
    clients of one process do not see each other, and the last one to go wins. With this call, clients made
    afterwards share one content a file.

    Raises
    ------
    ProjectError
        If mongomock-persistence is not installed.
    """
    try:
        import mongomock.mongo_client
        import mongomock_persistence  # noqa: F401
    except ImportError as error:
        raise ProjectError(
            f"{MOCK_VARIABLE} is set, but {error.name} is not installed.",
            remedy=f"pip install mongomock-persistence, or unset {MOCK_VARIABLE} to use a server.",
        ) from error
    mongomock.mongo_client.ServerStore = _server_store  # type: ignore[assignment, misc]


def _server_store() -> Any:
    from mongomock.store import ServerStore

    file = mock_file()
    if file is None:
        return ServerStore()
    key = (str(Path(file).resolve()), os.getpid())
    with _LOCK:
        if key not in _STORES:
            try:
                _STORES[key] = ServerStore()
            except (OSError, ValueError) as error:
                raise ProjectError(
                    f"{MOCK_VARIABLE}={file} cannot be read: {error}.",
                    remedy="Make a file that holds '{}'.",
                ) from error
        return _STORES[key]


def mock_client(**kwargs: Any) -> Any:
    """Return a mongomock client on the shared content.

    Parameters
    ----------
    **kwargs
        Arguments of pymongo's ``MongoClient``.
    """
    share_mock_store()
    import mongomock

    return mongomock.MongoClient(**kwargs)


def save_mock_store(*, release: bool = False) -> None:
    """Write the shared content to its file now, for another process to read.

    Parameters
    ----------
    release
        Forget it as well: the next client reads the file again.
    """
    file = mock_file()
    if file is None:
        return
    key = (str(Path(file).resolve()), os.getpid())
    with _LOCK:
        store = _STORES.get(key)
        if store is None:
            return
        store._to_file()
        if release:
            # Otherwise the old content would be written again over a newer one when the object goes.
            store._finalizer.detach()
            del _STORES[key]


def _new_lock() -> None:
    global _LOCK
    _LOCK = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)
