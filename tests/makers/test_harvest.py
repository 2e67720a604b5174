from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import run_locally

from atomfoundry.documents import LevelOfTheory
from atomfoundry.documents.harvest import HarvestDoc
from atomfoundry.errors import DatasetError
from atomfoundry.makers import HarvestMaker
from atomfoundry.makers.frames import open_dataset
from atomfoundry.results import Project, use_project

LEVEL = LevelOfTheory(code="emt", method="EMT")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    opened = Project.open_or_create(tmp_path / "project")
    with use_project(opened):
        yield opened


def write_tree(folder: Path) -> None:
    folder.mkdir()
    for index in range(3):
        atoms = bulk("Cu", a=3.6 + 0.01 * index)
        forces = np.full((1, 3), np.nan if index == 2 else 0.0)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
        ase.io.write(folder / f"{index}.traj", atoms)


def test_harvest_job(tmp_path: Path, project: Project) -> None:
    write_tree(tmp_path / "tree")
    job = HarvestMaker(level=LEVEL).make(str(tmp_path / "tree"))
    done = run_locally(job, store=project.job_store(), ensure_success=True)
    doc = done[job.uuid][1].output
    assert isinstance(doc, HarvestDoc)
    assert (doc.n_files, doc.n_files_with_frames, doc.n_frames, doc.rejections) == (3, 2, 2, {"nan": 1})
    assert doc.levels == [LEVEL]
    assert doc.provenance is not None
    dataset = open_dataset(doc.dataset)
    assert len(dataset) == 2
    assert dataset.level == LEVEL


def test_files_without_a_level_are_refused(tmp_path: Path, project: Project) -> None:
    write_tree(tmp_path / "tree")
    job = HarvestMaker().make([str(tmp_path / "tree")])
    with pytest.raises(DatasetError, match="unknown_level"):
        run_locally(job, store=project.job_store(), ensure_success=True, raise_immediately=True)
