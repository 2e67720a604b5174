from __future__ import annotations

import pytest


@pytest.fixture
def jobs(request, monkeypatch):
    """The module of job functions, importable here and in workers."""
    import importlib
    import sys
    from pathlib import Path

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
