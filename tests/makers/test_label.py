from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from jobflow import Flow, run_locally

from atomfoundry.datasets import Dataset, frame_id, with_metadata
from atomfoundry.documents import LabelSetDoc, StructureSetDoc
from atomfoundry.engines import get_engine
from atomfoundry.errors import EngineUnavailableError, UnsupportedElementError
from atomfoundry.makers.label import LabelMaker, deal_batches
from atomfoundry.makers.label_batch import LabelBatchMaker
from atomfoundry.makers.label_frames import MAX_ATTEMPTS
from atomfoundry.results import Project, use_project

EMT_SETTINGS = {"calculator_class": "ase.calculators.emt.EMT"}


class Counting(EMT):
    """EMT that counts, fails on demand, and dies when three atoms come."""

    calls: ClassVar[list[str]] = []
    broken: ClassVar[bool] = False

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if self.atoms is None or system_changes:
            Counting.calls.append(atoms.get_chemical_formula())
        if Counting.broken and len(atoms) == 3:
            raise RuntimeError("boom")
        super().calculate(atoms, list(properties), system_changes)


class Unimportable(Calculator):
    implemented_properties: ClassVar = ["energy"]


@pytest.fixture
def counting():
    sys.modules.setdefault(Counting.__module__, sys.modules[__name__])
    Counting.calls.clear()
    Counting.broken = False
    return {"calculator_class": f"{Counting.__module__}.Counting"}


def frames() -> list[Atoms]:
    rng = np.random.default_rng(0)
    crystals = []
    for i in range(3):
        atoms = bulk("Cu", a=3.6 + 0.1 * i)
        atoms.set_cell(atoms.cell.array + 0.05 * rng.normal(size=(3, 3)), scale_atoms=True)
        # Outside of the cell, and below single precision: both must survive.
        atoms.positions += [5.0, -7.0, 0.123456789012]
        crystals.append(atoms)
    crystals += [Atoms("Cu3", 2.4 * np.eye(3)), Atoms("Cu")]
    slab = bulk("Cu", cubic=True)
    slab.pbc = (True, True, False)
    slab.cell[2] = 0
    crystals.append(slab)
    return [with_metadata(atoms, source=f"s{i}", sampling="rattle") for i, atoms in enumerate(crystals)]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = Project.open_or_create(tmp_path / "project")
    with use_project(opened):
        yield opened


def structure_set(project: Project, structures: list[Atoms], tmp_path: Path) -> StructureSetDoc:
    dataset = Dataset.create(tmp_path / f"set{len(structures)}", structures)
    return StructureSetDoc(
        name="set",
        n_structures=len(structures),
        elements=sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}),
        structures=project.artifacts.put(dataset.path),
    )


def label(project: Project, structures: StructureSetDoc, **fields) -> LabelSetDoc:
    # What is counted in this process must be computed in it.
    fields.setdefault("isolate", "Counting" not in fields["engine_settings"]["calculator_class"])
    job = LabelMaker(engine="ase", **fields).make(structures)
    responses = run_locally(
        Flow([job]), store=project.job_store(), ensure_success=True, log=False, raise_immediately=True
    )
    assert responses
    return LabelSetDoc.model_validate(_plain(project.job_store().get_output(job.uuid, load=True)))


def _plain(output):
    return output.model_dump() if hasattr(output, "model_dump") else output


def test_labels_equal_the_calculators_and_order_and_info_stay(project, tmp_path):
    wanted = frames()
    document = label(project, structure_set(project, wanted, tmp_path), engine_settings=EMT_SETTINGS, batch_size=2)
    assert (document.n_requested, document.n_labelled, document.n_failed, document.n_reused) == (6, 6, 0, 0)
    assert document.compute_time_s > 0
    assert document.provenance is not None and document.provenance.job_name == "label collect"
    dataset = Dataset.open(project.artifacts.fetch(document.frames))
    assert dataset.level.id == document.level_id == get_engine("ase", **EMT_SETTINGS).level.id
    for atoms, original in zip(dataset.frames(), wanted, strict=True):
        assert np.array_equal(atoms.positions, original.positions)
        assert np.array_equal(atoms.cell.array, original.cell.array)
        assert np.array_equal(atoms.pbc, original.pbc)
        assert atoms.info["source"] == original.info["source"]
        assert atoms.info["level"] == document.level_id
        reference = original.copy()
        reference.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(
            reference.get_potential_energy(force_consistent=True), abs=1e-12
        )
        assert atoms.get_forces() == pytest.approx(reference.get_forces(), abs=1e-12)
        assert ("stress" in atoms.calc.results) == bool(original.pbc.all())
        if original.pbc.all():
            assert atoms.get_stress() == pytest.approx(reference.get_stress(), abs=1e-12)


def test_no_label_is_computed_twice(project, tmp_path, counting):
    structures = frames()
    first = label(project, structure_set(project, structures[:4], tmp_path), engine_settings=counting)
    assert first.n_labelled == 4
    assert len(Counting.calls) == 4
    again = label(project, structure_set(project, structures[:4], tmp_path / "b"), engine_settings=counting)
    assert (again.n_labelled, again.n_reused, len(Counting.calls)) == (4, 4, 4)
    more = label(project, structure_set(project, [*structures, structures[0]], tmp_path), engine_settings=counting)
    assert len(Counting.calls) == 6
    assert (more.n_requested, more.n_labelled, more.n_reused) == (7, 7, 5)
    assert again.frames.sha256 == first.frames.sha256


def test_a_failing_frame_costs_only_itself_and_is_tried_three_times(project, tmp_path, counting):
    Counting.broken = True
    structures = structure_set(project, frames(), tmp_path)
    for attempt in range(1, MAX_ATTEMPTS + 2):
        Counting.calls.clear()
        document = label(project, structures, engine_settings=counting, batch_size=6)
        assert (document.n_labelled, document.n_failed) == (5, 1)
        (failure,) = document.failures
        assert (failure.reason, failure.formula, failure.source) == ("crashed", "Cu3", "s3")
        assert "boom" in failure.message
        stored = project.labels().get(failure.frame_id, document.level_id)
        assert stored.attempts == min(attempt, MAX_ATTEMPTS)
        assert Counting.calls.count("Cu3") == (attempt <= MAX_ATTEMPTS)
    assert len(Dataset.open(project.artifacts.fetch(document.frames))) == 5


def test_a_failure_is_mended_by_a_later_run(project, tmp_path, counting):
    structures = structure_set(project, frames(), tmp_path)
    Counting.broken = True
    assert label(project, structures, engine_settings=counting).n_failed == 1
    Counting.broken = False
    document = label(project, structures, engine_settings=counting)
    assert (document.n_labelled, document.n_failed, document.n_reused) == (6, 0, 5)


def test_all_failed_is_an_empty_set(project, tmp_path, counting):
    Counting.broken = True
    document = label(project, structure_set(project, [frames()[3]], tmp_path), engine_settings=counting)
    assert (document.n_labelled, document.n_failed) == (0, 1)
    assert len(Dataset.open(project.artifacts.fetch(document.frames))) == 0


def test_batches_put_the_large_first_and_repeat_nothing(tmp_path):
    structures = frames()
    dataset = Dataset.create(tmp_path / "d", [structures[0], structures[3], structures[0], structures[5]])
    assert deal_batches(dataset, batch_size=2) == [[3, 1], [0]]


def test_what_stops_everything_stops_before_any_batch(project, tmp_path):
    water = structure_set(project, [with_metadata(molecule("H2O"))], tmp_path)
    settings = {**EMT_SETTINGS, "elements": ["Cu"]}
    job = LabelMaker(engine="ase", engine_settings=settings).make(water)
    with pytest.raises(UnsupportedElementError, match="H, O"):
        job.run(project.job_store())
    job = LabelMaker(engine="ase", engine_settings={"calculator_class": "no.where.Calc"}).make(water)
    with pytest.raises(EngineUnavailableError, match=r"no\.where"):
        job.run(project.job_store())


def test_a_batch_that_died_leaves_its_frames_as_failures(project, tmp_path, monkeypatch):
    structures = structure_set(project, frames(), tmp_path)

    def die(self, atoms):
        raise KeyError("not a label's failure")

    monkeypatch.setattr(LabelBatchMaker, "_labels", die)
    job = LabelMaker(engine="ase", engine_settings=EMT_SETTINGS, batch_size=4).make(structures)
    run_locally(Flow([job]), store=project.job_store(), ensure_success=False, log=False, raise_immediately=False)
    document = _plain(project.job_store().get_output(job.uuid, load=True))
    assert document["n_failed"] == 6
    assert {failure["reason"] for failure in document["failures"]} == {"batch_failed"}


def test_jobs_carry_their_profile(project, tmp_path):
    response = (
        LabelMaker(engine="ase", engine_settings=EMT_SETTINGS)
        .make(structure_set(project, frames(), tmp_path))
        .run(project.job_store())
    )
    metadata = [job.metadata for job in response.replace.jobs if job.name != "store_inputs"]
    assert len(metadata) == 2
    assert all(entry["stage"] == "label" and entry["profile"] == "light" for entry in metadata)
    assert get_engine("espresso").profile == "dft"


def test_frame_ids_of_labels_are_those_of_the_frames(project, tmp_path):
    structures = frames()
    document = label(project, structure_set(project, structures, tmp_path), engine_settings=EMT_SETTINGS)
    stored = project.labels().get_many([frame_id(atoms) for atoms in structures], document.level_id)
    assert len(stored) == 6
    assert all(entry.job_uuid and entry.host and entry.attempts == 1 for entry in stored.values())
