from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def jobs(request, monkeypatch):
    """The module of job functions, importable here and in workers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    return sys.modules.get("foundry_flow_jobs") or importlib.import_module("foundry_flow_jobs")


@pytest.fixture
def launchpad(monkeypatch):
    """An empty LaunchPad in memory."""
    import fireworks.core.launchpad
    import mongomock
    from mongomock.gridfs import enable_gridfs_integration

    enable_gridfs_integration()
    monkeypatch.setattr(fireworks.core.launchpad, "MongoClient", mongomock.MongoClient)

    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

    return FoundryLaunchPad(name="fireworks", strm_lvl="WARNING")


@pytest.fixture
def database(monkeypatch):
    """A MongoDB server that several processes share."""
    monkeypatch.delenv("MONGOMOCK_SERVERSTORE_FILE", raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "cluster"))
    from mongo_server import MongoServer

    with MongoServer() as server:
        yield server


@pytest.fixture
def shared_launchpad(database, project):
    """The LaunchPad of the project, on that server."""
    import fireworks.core.launchpad
    import pymongo

    assert fireworks.core.launchpad.MongoClient is pymongo.MongoClient
    from atomfoundry.results import MongoConnection
    from atomfoundry.running.cluster.launchpad import open_launchpad

    MongoConnection(host="127.0.0.1", port=database.port, name="tests").save(project.launchpad_path)
    return open_launchpad(project)


@pytest.fixture
def start_worker(project):
    """Start workers in processes of their own."""
    here = str(Path(__file__).parents[1])
    started = []

    def start(*arguments):
        environment = {**os.environ, "PYTHONPATH": here}
        command = [sys.executable, "-m", "atomfoundry.running.cluster.worker", "--project", str(project.path)]
        process = subprocess.Popen([*command, "--sleep", "0.05", *arguments], env=environment, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
