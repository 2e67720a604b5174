from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
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
def mongod(monkeypatch):
    """A database that several processes share, as a LaunchPad."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import mock_mongod

    # the path of a socket has to be short
    with tempfile.TemporaryDirectory(prefix="mongod-") as short:
        process = mock_mongod.start(Path(short))
        monkeypatch.setenv(mock_mongod.VARIABLE, f"{short}/mongod.socket")
        mock_mongod.use_here(monkeypatch)
        try:
            yield mock_mongod
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def shared_launchpad(mongod):
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

    return FoundryLaunchPad(name="fireworks", strm_lvl="WARNING")


@pytest.fixture
def start_worker(mongod, project, monkeypatch):
    """Start workers in processes of their own."""
    started = []

    def start(*arguments):
        environment = {**os.environ, "MONGOMOCK_SERVERSTORE_FILE": str(project.path / "unused.json")}
        script = Path(__file__).with_name("worker_process.py")
        command = [sys.executable, str(script), "--project", str(project.path), "--sleep", "0.05", *arguments]
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
