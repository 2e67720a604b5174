from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import Flow

from atomfoundry.datasets import Dataset
from atomfoundry.makers import CoverageMaker, CurateMaker
from atomfoundry.makers.dataset import dataset_document
from atomfoundry.makers.frames import DATASET_MEDIA_TYPE
from atomfoundry.results import Project, open_results
from atomfoundry.running import run


@pytest.fixture
def project(tmp_path):
    return Project.open_or_create(tmp_path / "project")


@pytest.fixture
def document(project, tmp_path):
    frames = []
    for i in range(6):
        atoms = bulk("Cu", a=3.6 + 0.01 * i, cubic=True)
        forces = np.zeros((4, 3))
        forces[0, 0], forces[1, 0] = (70.0, -70.0) if i == 4 else (0.1, -0.1)
        atoms.calc = SinglePointCalculator(atoms, energy=-14.0 + 0.1 * i, forces=forces)
        atoms.info["group_id"] = f"cu{i}"
        frames.append(atoms)
    dataset = Dataset.create(
        tmp_path / "raw",
        frames,
        isolated_energies={"Cu": -0.5},
        splits={"train": [0, 1, 4], "valid": [2], "test": [3, 5]},
    )
    artifact = project.artifacts.put(dataset.path, media_type=DATASET_MEDIA_TYPE)
    from atomfoundry.results import use_project

    with use_project(project):
        return dataset_document(artifact, name="raw", rejections={"nan": 2}, rejected=[])


def test_curation_and_coverage_in_a_flow(project, document):
    assert document.max_force == pytest.approx(70.0)
    assert document.energy_range == pytest.approx((-3.0, -2.875))
    curated = CurateMaker(settings={"weight_temperature": 3000.0}).make(document)
    covered = CoverageMaker().make(curated.output)
    result = run(Flow([curated, covered]), project=project, workers=0, progress=False)
    assert result.ok, result.failures
    new = result.output(curated)
    assert (new.n_frames, new.splits) == (5, {"train": 2, "valid": 1, "test": 2})
    assert new.rejections == {"nan": 2, "exploded": 1}
    assert new.rejected[0].reason == "exploded"
    assert new.max_force == pytest.approx(0.1)
    page = result.output(covered)
    assert page.counts["elements"] == {"Cu": 5}
    assert "All frames are neutral." in page.gaps
    assert "Frames by element" in project.artifacts.fetch(page.html).read_text()
    assert [r.document.name for r in open_results(project).datasets()] == ["curate"]


def test_nothing_good_is_an_error(project, document):
    job = CurateMaker(settings={"max_force": 0.01}).make(document)
    result = run(Flow([job]), project=project, workers=0, progress=False)
    assert not result.ok
    assert "None of the 6 frames of 'raw' is good" in result.failures[0].message
