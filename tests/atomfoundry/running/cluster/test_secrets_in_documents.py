"""What FireWorks stores about a run holds no secret of the environment or the settings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from jobflow import Flow

sys.path.insert(0, str(Path(__file__).parents[3] / "security"))
from planted_secrets import ALL, MARK, dump_database, find_in_database, find_in_files

from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.worker import WorkerOptions, work
from atomfoundry.settings import settings


@pytest.fixture
def planted(monkeypatch, tmp_path):
    for name, value in ALL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", str(tmp_path / "none.yaml"))
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def test_fireworks_documents(planted, jobs, project, launchpad):
    careless = jobs.tell_settings_and_fail()
    flow = Flow([jobs.dynamic_flow(), careless, jobs.gather([careless.output])], name="with secrets")
    submit(flow, project=project, launchpad=launchpad)
    assert find_in_database(launchpad.db) == []
    work(project, WorkerOptions(idle_s=0, sleep_s=0), launchpad=launchpad)
    dumped = dump_database(launchpad.db)
    assert {"fireworks", "workflows", "launches"} <= set(dumped)
    # the failure is told, with the settings' stars
    assert "not with" in "".join(dumped.values()) or any(
        "not with" in p.read_text() for p in project.path.rglob("*.log")
    )
    assert find_in_database(launchpad.db) == []
    found, n_read = find_in_files(project.path)
    assert n_read
    assert not found
    launchpad.db.fireworks.insert_one({"fw_id": 10**6, "spec": {"_tasks": [{"job": f"{MARK}"}]}})
    assert find_in_database(launchpad.db) == ["fireworks"]
