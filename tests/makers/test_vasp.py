from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from jobflow import Flow, run_locally

from atomfoundry.datasets import Dataset, with_metadata
from atomfoundry.documents import LabelSetDoc, StructureSetDoc
from atomfoundry.engines import get_engine
from atomfoundry.errors import ConfigurationError, EngineUnavailableError
from atomfoundry.makers.label import LabelMaker
from atomfoundry.makers.vasp import MatPesLabelMaker
from atomfoundry.results import Project, use_project

_SCRIPT = Path(__file__).parents[1] / "atomfoundry" / "engines" / "vasp" / "standin.py"
_SPEC = importlib.util.spec_from_file_location("vasp_standin", _SCRIPT)
standin_module = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(standin_module)

FAST = {"polling_time_step": 0.05, "run_vasp_kwargs": {"max_errors": 2}}


@pytest.fixture
def standin(tmp_path, monkeypatch):
    return standin_module.install(tmp_path / "standin", monkeypatch)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = Project.open_or_create(tmp_path / "project")
    with use_project(opened):
        yield opened


def structures() -> list[Atoms]:
    """One, two and three atoms."""
    three = bulk("Cu", cubic=True)[:3]
    three.rattle(0.05, seed=1)
    three.symbols[1] = "O"
    two = bulk("NiO", "rocksalt", a=4.1)
    two.rattle(0.05, seed=2)
    return [with_metadata(atoms, source=f"s{i}") for i, atoms in enumerate([bulk("Cu", a=3.5), two, three])]


def structure_set(project: Project, tmp_path: Path) -> StructureSetDoc:
    dataset = Dataset.create(tmp_path / "set", structures())
    return StructureSetDoc(
        name="set", n_structures=3, elements=["Cu", "Ni", "O"], structures=project.artifacts.put(dataset.path)
    )


def run(project: Project, maker, document: StructureSetDoc):
    job = maker.make(document)
    run_locally(Flow([job]), store=project.job_store(), ensure_success=True, log=False, raise_immediately=True)
    return _plain(project.job_store().get_output(job.uuid, load=True))


def _plain(output):
    return output.model_dump() if hasattr(output, "model_dump") else output


def assert_labels(project: Project, document: LabelSetDoc, wanted: list[Atoms]) -> None:
    frames = list(Dataset.open(project.artifacts.fetch(document.frames)).frames())
    assert len(frames) == len(wanted) == document.n_labelled
    for frame, original in zip(frames, wanted, strict=True):
        exact = original.copy()
        exact.calc = LennardJones(sigma=standin_module.SIGMA, epsilon=standin_module.EPSILON, rc=standin_module.CUTOFF)
        assert np.array_equal(frame.positions, original.positions)
        assert frame.get_potential_energy() == pytest.approx(exact.get_potential_energy(), abs=2e-8)
        assert np.abs(frame.get_forces() - exact.get_forces()).max() < 2e-8
        assert np.abs(frame.get_stress() - exact.get_stress()).max() < 2e-8


def test_a_crash_costs_one_label(project, standin, tmp_path):
    standin.plan(n2="silent")
    maker = LabelMaker(engine="vasp", engine_settings=FAST)
    document = LabelSetDoc.model_validate(run(project, maker, structure_set(project, tmp_path)))
    assert (document.n_requested, document.n_labelled, document.n_failed) == (3, 2, 1)
    (failure,) = document.failures
    assert (failure.reason, failure.formula, failure.source) == ("crashed", "NiO", "s1")
    assert_labels(project, document, [structures()[0], structures()[2]])
    assert document.level.id == get_engine("vasp").level.id
    stored = [path.name for path in (tmp_path / "project").rglob("*")]
    assert stored and not any("POTCAR" in name or "WAVECAR" in name for name in stored)
    # Mended, only what was missing is computed.
    standin.plan()
    before = len(standin.calls)
    again = LabelSetDoc.model_validate(run(project, maker, structure_set(project, tmp_path / "again")))
    assert (again.n_labelled, again.n_reused, len(standin.calls) - before) == (3, 2, 1)


@pytest.mark.slow
def test_two_levels_of_the_same_structures(project, standin, tmp_path):
    standin.plan(n2="silent")
    document = structure_set(project, tmp_path)
    output = run(project, MatPesLabelMaker(engine_settings=FAST, batch_size=2), document)
    pbe, r2scan = (LabelSetDoc.model_validate(_plain(output[level])) for level in ("pbe", "r2scan"))
    assert (pbe.level.method, r2scan.level.method) == ("PBE", "r2SCAN")
    assert (pbe.name, r2scan.name) == ("MatPES pbe", "MatPES r2scan")
    for labels in (pbe, r2scan):
        assert (labels.n_labelled, labels.n_failed, labels.n_reused) == (2, 1, 0)
        assert labels.failures[0].reason == "crashed" and labels.compute_time_s > 0
        assert_labels(project, labels, [structures()[0], structures()[2]])
    waves = [(len(call["symbols"]), call["incar"].get("METAGGA"), call["waves"]) for call in standin.calls]
    # The failed PBE run left no wave functions; r2SCAN of that structure was tried on its own.
    assert sorted(waves, key=str) == sorted(
        [
            (3, None, None),
            (3, "R2scan", "waves of Pe"),
            (2, None, None),
            (2, "R2scan", None),
            (1, None, None),
            (1, "R2scan", "waves of Pe"),
        ],
        key=str,
    )
    # PBE alone is the same level: nothing good is computed again.
    standin.plan()
    alone = LabelMaker(engine="vasp", engine_settings={**FAST, "preset": "matpes_pbe"})
    again = LabelSetDoc.model_validate(run(project, alone, document))
    assert (again.level_id, again.n_labelled, again.n_reused, len(standin.calls)) == (pbe.level_id, 3, 2, 7)
    # And r2SCAN of what PBE has by now is computed from scratch.
    output = run(project, MatPesLabelMaker(engine_settings=FAST), document)
    last = LabelSetDoc.model_validate(_plain(output["r2scan"]))
    assert (last.n_labelled, last.n_reused, len(standin.calls)) == (3, 2, 8)
    assert standin.calls[-1]["waves"] is None


def test_what_stops_everything_stops_before_any_batch(project, standin, tmp_path, monkeypatch):
    import atomate2

    document = structure_set(project, tmp_path)
    with pytest.raises(ConfigurationError, match="preset"):
        MatPesLabelMaker(engine_settings={"preset": "static"}).make(document).run(project.job_store())
    monkeypatch.setattr(atomate2.SETTINGS, "VASP_CMD", "no_such_vasp")
    for maker in (MatPesLabelMaker(), LabelMaker(engine="vasp")):
        with pytest.raises(EngineUnavailableError, match="no_such_vasp"):
            maker.make(document).run(project.job_store())


def test_jobs_carry_their_profile(project, standin, tmp_path):
    response = MatPesLabelMaker(batch_size=2).make(structure_set(project, tmp_path)).run(project.job_store())
    jobs = {job.name: job.metadata.get("profile") for job in response.replace.jobs if job.name != "store_inputs"}
    assert jobs == {"MatPES batch": "dft", "MatPES pbe collect": "light", "MatPES r2scan collect": "light"}
