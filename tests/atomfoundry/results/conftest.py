"""A small campaign with two levels of theory, datasets, models and reports, made by real Makers."""

from __future__ import annotations

import importlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from jobflow import OutputReference

from atomfoundry.datasets import Dataset
from atomfoundry.results import LineageGraph, Project, ResultsDB, open_results
from atomfoundry.results.stale import marked_outputs
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


@dataclass
class Campaign:
    """The project, and questions that tests ask."""

    project: Project
    db: ResultsDB
    frames: dict[str, Any]
    uuids: dict[str, str]
    module: ModuleType

    def reference(self, name: str) -> OutputReference:
        return OutputReference(self.uuids[name])

    def document(self, name: str) -> Any:
        return self.db.document(self.uuids[name]).document

    def jobs_of(self, graph: LineageGraph) -> dict[str, str]:
        """Names of the jobs in a graph, and what is noted of them."""
        names = {uuid: name for name, uuid in self.uuids.items()}
        return {names[node.uuid]: node.note for node in graph.nodes.values() if node.uuid in names}

    def split_of(self, name: str, frame: str) -> str | None:
        """The split of a dataset that holds a frame; None if the dataset does not."""
        dataset = Dataset.open(self.project.artifacts.fetch(self.document(name).dataset))
        ids = dataset.column("frame_id")
        if frame not in ids:
            return None
        return next(split for split, rows in dataset.splits.items() if ids.index(frame) in rows)

    def levels(self) -> tuple[str, str]:
        """Ids of the source and of the target level."""
        sets = {result.document.name: result.document.level_id for result in self.db.label_sets()}
        return sets["molecule labels"], sets["molecules again"]

    def marked(self) -> dict[str, list[dict[str, Any]]]:
        """Name of each stale output -> its marks."""
        names = {uuid: name for name, uuid in self.uuids.items()}
        return {names.get(node.uuid, node.name): node.stale for node in marked_outputs(self.db.store.docs_store)}

    def everything(self) -> tuple[list[dict], list[dict]]:
        """All labels and all outputs."""
        labels = sorted((label.model_dump() for label in self.project.labels().query()), key=str)
        outputs = sorted(self.db.store.docs_store.query(), key=lambda d: (d["uuid"], d["index"]))
        return labels, outputs


def _at(folder: Path, campaign: SimpleNamespace, module: ModuleType) -> Campaign:
    project = Project.open(folder)
    return Campaign(project, open_results(project), campaign.frames, campaign.uuids, module)


@pytest.fixture
def campaign(_campaign, monkeypatch):
    """The campaign of provenance_jobs.py, for a test that only reads."""
    return _at(_campaign.folder, _campaign, _module(monkeypatch))


@pytest.fixture
def own_campaign(_campaign, tmp_path, monkeypatch):
    """A copy of it, for a test that writes."""
    shutil.copytree(_campaign.folder, tmp_path / "project")
    return _at(tmp_path / "project", _campaign, _module(monkeypatch))
