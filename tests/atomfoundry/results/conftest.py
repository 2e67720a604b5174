"""A small campaign with two levels of theory, datasets, models and reports, made by real Makers."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from atomfoundry.results import Project, open_results
from atomfoundry.running import run


def _module(patch: pytest.MonkeyPatch) -> ModuleType:
    patch.syspath_prepend(str(Path(__file__).parent))
    patch.delenv("ATOMFOUNDRY_PROJECT", raising=False)
    return sys.modules.get("provenance_jobs") or importlib.import_module("provenance_jobs")


@pytest.fixture(scope="session")
def _campaign(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        module = _module(patch)
        campaign = module.campaign()
        folder = tmp_path_factory.mktemp("campaign") / "project"
        result = run(campaign.flow, project=folder, workers=0, progress=False)
        assert result.ok, result.failures
        uuids = {name: result.uuid_of(job) for name, job in campaign.jobs.items()}
        yield SimpleNamespace(folder=folder, frames=campaign.frames, uuids=uuids)


def _at(folder: Path, campaign: SimpleNamespace, module: ModuleType) -> SimpleNamespace:
    project = Project.open(folder)
    return SimpleNamespace(
        project=project, db=open_results(project), frames=campaign.frames, uuids=campaign.uuids, module=module
    )


@pytest.fixture
def campaign(_campaign, monkeypatch):
    """The campaign of provenance_jobs.py, for a test that only reads."""
    return _at(_campaign.folder, _campaign, _module(monkeypatch))


@pytest.fixture
def own_campaign(_campaign, tmp_path, monkeypatch):
    """A copy of it, for a test that writes."""
    shutil.copytree(_campaign.folder, tmp_path / "project")
    return _at(tmp_path / "project", _campaign, _module(monkeypatch))
