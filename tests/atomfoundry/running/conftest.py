from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from atomfoundry.results import Project

HERE = Path(__file__).parent


@pytest.fixture
def jobs(monkeypatch):
    """The module of job functions, importable here and in workers."""
    monkeypatch.syspath_prepend(str(HERE))
    return sys.modules.get("foundry_flow_jobs") or importlib.import_module("foundry_flow_jobs")


@pytest.fixture
def project(tmp_path):
    return Project.open_or_create(tmp_path / "project")


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What ran, in order."""
    path = tmp_path / "calls.log"
    monkeypatch.setenv("FLOW_JOBS_LOG", str(path))
    return lambda: path.read_text().splitlines() if path.exists() else []


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.delenv("ATOMFOUNDRY_PROJECT", raising=False)
