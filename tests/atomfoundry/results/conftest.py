"""A small project with two levels of theory, datasets, models and a benchmark, made by real Makers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from atomfoundry.results import Project, open_results
from atomfoundry.running import run


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The campaign of provenance_jobs.py, run once for a module's tests that only read."""
    with pytest.MonkeyPatch.context() as patch:
        yield made(tmp_path_factory.mktemp("campaign") / "project", patch)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """The same for a test that writes."""
    return made(tmp_path / "project", monkeypatch)


def made(folder: Path, patch: pytest.MonkeyPatch) -> SimpleNamespace:
    patch.syspath_prepend(str(Path(__file__).parent))
    patch.delenv("ATOMFOUNDRY_PROJECT", raising=False)
    module = sys.modules.get("provenance_jobs") or importlib.import_module("provenance_jobs")
    project = Project.open_or_create(folder)
    campaign = module.campaign()
    result = run(campaign.flow, project=project, workers=0, progress=False)
    assert result.ok, result.failures
    uuids = {name: result.uuid_of(job) for name, job in campaign.jobs.items()}
    return SimpleNamespace(
        project=project, db=open_results(project), uuids=uuids, frames=campaign.frames, module=module, result=result
    )
