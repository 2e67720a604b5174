from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import Flow

from atomfoundry.datasets import Dataset, write_extxyz
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError
from atomfoundry.makers import ImportDatasetMaker, MergeMaker, SelectMaker, SplitMaker
from atomfoundry.results import Project
from atomfoundry.running import run

LEVEL = LevelOfTheory(code="test", method="PBE")


def frames(symbol, n, offset=0):
    made = []
    for i in range(n):
        atoms = bulk(symbol, "fcc", a=3.6 + 0.01 * (i + offset), cubic=True)
        atoms.calc = SinglePointCalculator(atoms, energy=-14.0 + i, forces=np.zeros((4, 3)))
        atoms.info["group_id"] = f"{symbol}{i + offset}"
        made.append(atoms)
    return made


@pytest.fixture
def project(tmp_path):
    return Project.open_or_create(tmp_path / "project")


@pytest.fixture
def files(tmp_path):
    write_extxyz(tmp_path / "cu.xyz", frames("Cu", 8))
    write_extxyz(tmp_path / "more.xyz", frames("Cu", 4, offset=6) + frames("Ag", 6))
    return tmp_path / "cu.xyz", tmp_path / "more.xyz"


def finished(project, jobs):
    result = run(Flow(jobs), project=project, workers=0, progress=False)
    assert result.ok, result.failures
    return [result.output(job) for job in jobs]


def test_import_merge_split_select(project, files):
    one, two = (ImportDatasetMaker.from_file(path, name=path.stem, level=LEVEL).make() for path in files)
    merged = MergeMaker(name="all").make([one.output, two.output])
    split = SplitMaker(name="split", fractions=(0.5, 0.25, 0.25), seed=3).make(merged.output)
    held = SplitMaker(name="held", hold_out={"element": ["Ag"]}).make(merged.output)
    few = SelectMaker(name="few", number=5, method="equal", by="group_id", seed=1).make(split.output)
    documents = finished(project, [one, two, merged, split, held, few])
    assert [d.n_frames for d in documents] == [8, 10, 16, 16, 16, 5]  # two structures occur in both files
    assert documents[2].level == LEVEL
    assert documents[3].splits == {"train": 8, "valid": 4, "test": 4}
    assert documents[4].splits["test"] == 6
    dataset = Dataset.open(project.artifacts.fetch(documents[4].dataset))
    assert {s for i in dataset.splits["train"] for s in dataset[i].symbols} == {"Cu"}
    assert sum(documents[5].splits.values()) == 5


def test_a_file_that_changed_is_an_error(project, files):
    job = ImportDatasetMaker.from_file(files[0]).make()
    files[0].write_text(files[1].read_text())
    result = run(Flow([job]), project=project, workers=0, progress=False)
    assert "is not the file that the flow was made of" in result.failures[0].message
    with pytest.raises(DatasetError, match="no file"):
        ImportDatasetMaker.from_file("nowhere.xyz")


def test_what_a_selection_needs(project, files):
    loaded = ImportDatasetMaker.from_file(files[0], level=LEVEL).make()
    jobs = [
        SelectMaker(name="a", method="farthest").make(loaded.output),
        SelectMaker(name="b", method="stratified").make(loaded.output),
        SplitMaker(name="c", hold_out={"size": 4, "element": ["Cu"]}).make(loaded.output),
    ]
    result = run(Flow([loaded, *jobs]), project=project, workers=0, progress=False)
    messages = " ".join(failure.message for failure in result.failures)
    assert all(part in messages for part in ("needs a model", "needs a column", "Hold out by one axis"))
