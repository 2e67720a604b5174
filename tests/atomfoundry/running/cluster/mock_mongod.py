"""A MongoDB for tests that several processes share: mongomock behind a socket, one command at a time.

Real processes can then be killed, and the database can go away for a while. Only for tests: it unpickles what it gets.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pymongo.errors import AutoReconnect

VARIABLE = "FOUNDRY_TEST_MONGOD"
KEY = b"foundry-test"


# -- the server -------------------------------------------------------------------------------------------


class Server:
    def __init__(self, address: str) -> None:
        import mongomock

        self.client = mongomock.MongoClient()
        self.address = address
        self.lock = threading.Lock()
        self.away_until = 0.0
        self.n_commands = 0

    def serve(self) -> None:
        with Listener(self.address, family="AF_UNIX", authkey=KEY, backlog=64) as listener:
            while True:
                with contextlib.suppress(OSError, EOFError, AuthenticationError):
                    connection = listener.accept()
                    threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: Any) -> None:
        with contextlib.suppress(OSError, EOFError), connection:
            while True:
                database, collection, method, args, kwargs = connection.recv()
                if method == "__away__":
                    self.away_until = time.monotonic() + args[0]
                    connection.send((True, None))
                    continue
                if method == "__count__":
                    connection.send((True, self.n_commands))
                    continue
                if time.monotonic() < self.away_until:
                    return
                try:
                    with self.lock:
                        self.n_commands += 1
                        answer = (True, self.do(database, collection, method, args, kwargs))
                except Exception as error:
                    answer = (False, error)
                if time.monotonic() < self.away_until:
                    return
                connection.send(answer)

    def do(self, database: str, collection: str, method: str, args: tuple, kwargs: dict) -> Any:
        found = getattr(self.client[database][collection], method)(*args, **kwargs)
        if method in ("find", "aggregate"):
            return list(found)
        counts = ("inserted_id", "inserted_ids", "modified_count", "matched_count", "deleted_count", "upserted_id")
        if any(hasattr(type(found), name) for name in counts):
            return SimpleNamespace(**{name: getattr(found, name) for name in counts if hasattr(type(found), name)})
        return found


# -- the client -------------------------------------------------------------------------------------------


class Cursor(list):
    """What ``find`` gives: its commands are sent with the question."""


class Collection:
    def __init__(self, client: MongoClient, database: str, name: str) -> None:
        self._client, self._database, self._name = client, database, name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args, **kwargs: self._client.ask(self._database, self._name, method, args, kwargs)


class Database:
    def __init__(self, client: MongoClient, name: str) -> None:
        self._client, self._name = client, name

    def __getitem__(self, name: str) -> Collection:
        return Collection(self._client, self._name, name)

    __getattr__ = __getitem__


class MongoClient:
    """Stands in for pymongo's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.local = threading.local()

    def __getitem__(self, name: str) -> Database:
        return Database(self, name)

    def ask(self, *command: Any) -> Any:
        try:
            if getattr(self.local, "pid", None) != os.getpid():
                self.local.connection = Client(os.environ[VARIABLE], family="AF_UNIX", authkey=KEY)
                self.local.pid = os.getpid()
            command = tuple(_plain(part) for part in command)
            self.local.connection.send(command)
            good, answer = self.local.connection.recv()
        except (OSError, EOFError) as error:
            self.local.pid = None
            raise AutoReconnect(f"no answer from {os.environ[VARIABLE]}: {error}") from error
        if not good:
            raise answer
        return answer


def _plain(value: Any) -> Any:
    if isinstance(value, dict | list | tuple | str | int | float | bool | None):
        return value
    return list(value) if hasattr(value, "__next__") else value


def use_here(monkeypatch: Any = None) -> None:
    """Let FireWorks in this process use the server of the environment."""
    import fireworks.core.launchpad as module

    if monkeypatch is None:
        module.MongoClient, module.GRIDFS_FALLBACK_COLLECTION = MongoClient, None
    else:
        monkeypatch.setattr(module, "MongoClient", MongoClient)
        monkeypatch.setattr(module, "GRIDFS_FALLBACK_COLLECTION", None)


def start(folder: Path) -> subprocess.Popen:
    """Start a server and set the variable in this process's environment."""
    address = str(folder / "mongod.socket")
    process = subprocess.Popen([sys.executable, __file__, address])
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, EOFError), Client(address, family="AF_UNIX", authkey=KEY):
            return process
        time.sleep(0.02)
    raise RuntimeError("the test database did not start")


if __name__ == "__main__":
    Server(sys.argv[1]).serve()
