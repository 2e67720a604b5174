"""Any calculator wherever a model sits: benchmarks, exploration, labels; and the jobs' resources."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from jobflow import Flow, run_locally

from atomfoundry.datasets import attach_labels, with_metadata
from atomfoundry.documents import CalculatorSpec, DatasetDoc, LevelOfTheory, StructureSetDoc
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers import BenchmarkMaker, ExploreMaker, LabelMaker
from atomfoundry.makers.dataset import dataset_document
from atomfoundry.makers.frames import open_dataset, store_frames, structure_set
from atomfoundry.makers.profiles import profile_of
from atomfoundry.makers.seats import take_seat
from atomfoundry.models import Allegro, AllegroConfig, HeadConfig, save_model
from atomfoundry.results import Project, use_project

EMT_SPEC = {"calculator_class": "ase.calculators.emt.EMT"}
LEVEL = LevelOfTheory(code="ase", method="EMT")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project.open_or_create(tmp_path_factory.mktemp("seats") / "project")
    with use_project(project):
        yield project


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def labelled(seed: int) -> Atoms:
    atoms = bulk("Cu") * (1, 1, 2)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    atoms.calc = None
    return attach_labels(with_metadata(atoms, group_id=str(seed), level=LEVEL.id), *labels)


@pytest.fixture
def dataset(project: Project) -> DatasetDoc:
    frames = [labelled(seed) for seed in range(12)]
    splits = {"train": [0, 1], "valid": [*range(2, 10)], "test": [10, 11]}
    artifact = store_frames(frames, name="cu", level=LEVEL, isolated_energies={"Cu": 0.0}, splits=splits)
    return dataset_document(artifact, name="cu", rejections={}, rejected=[])


@pytest.fixture
def crystals(project: Project) -> StructureSetDoc:
    return structure_set([with_metadata(bulk("Cu"), group_id="cu")], name="cu")


def benchmark(model, crystals, dataset, **fields):
    maker = BenchmarkMaker(**fields)
    return maker.make.original(maker, model, crystals, dataset)


def test_parity_of_a_calculator_with_its_own_labels(crystals: StructureSetDoc, dataset: DatasetDoc) -> None:
    document = benchmark(EMT_SPEC, crystals, dataset, benchmark="parity")
    assert document.calculator == "EMT"
    assert document.summary["forces_mae"] < 1e-12
    assert document.summary["n_frames"] == 2
    assert document.calculator_description["calculator_class"] == EMT_SPEC["calculator_class"]
    assert len(document.calculator_description["level_id"]) > 8


def test_a_curve_from_another_interpreter_is_the_same(crystals: StructureSetDoc, dataset: DatasetDoc) -> None:
    there = {**EMT_SPEC, "interpreter": sys.executable, "name": "EMT over there"}
    found = [benchmark(spec, crystals, dataset, benchmark="equation_of_state") for spec in (EMT_SPEC, there)]
    assert found[0].n_failed == 0
    assert found[0].summary == found[1].summary
    assert found[1].calculator == "EMT over there"
    assert found[1].calculator_description["versions"]["numpy"] == np.__version__


def test_a_job_from_a_flow_says_who_and_where(
    project: Project, crystals: StructureSetDoc, dataset: DatasetDoc, tmp_path: Path
) -> None:
    spec = CalculatorSpec(**EMT_SPEC, profile="gpu")
    job = BenchmarkMaker(benchmark="parity").make(spec, crystals, dataset)
    assert job.metadata["profile"] == "gpu"
    done = run_locally(Flow([job]), store=project.job_store(), root_dir=tmp_path, ensure_success=True)
    document = done[job.uuid][1].output
    assert document.calculator == "EMT"
    assert document.provenance.job_uuid == job.uuid


def test_profiles_are_found_among_arguments() -> None:
    heavy = {**EMT_SPEC, "profile": "gpu"}
    assert profile_of([EMT_SPEC, 3, "x"]) == "light"
    assert profile_of([None, [EMT_SPEC, heavy]]) == "gpu"
    assert profile_of([{"model": "x", "other": 1}, {"pt": EMT_SPEC}, {}]) is None


def test_our_own_model_by_its_folder(tmp_path: Path) -> None:
    config = AllegroConfig(
        type_names=["Cu"], cutoff=3.5, num_channels=4, avg_num_neighbors=12.0, heads=[HeadConfig(name="pt")]
    )
    folder = save_model(Allegro(config), tmp_path / "model", metadata={})
    seat = take_seat({"model": str(folder), "kwargs": {"head": "pt"}})
    assert seat.label == "model [pt]"
    assert isinstance(seat.model, Allegro)
    first = seat.description["level_id"]
    save_model(Allegro(config.model_copy(update={"seed": 1})), tmp_path / "other", metadata={})
    assert take_seat({"model": str(tmp_path / "other"), "kwargs": {"head": "pt"}}).description["level_id"] != first


def explored(model, crystals, dataset, uncertainty=None, committee=None, **fields):
    maker = ExploreMaker(
        **{"temperatures": [600.0], "n_steps": 40, "timestep": 4.0, "interval": 5, "n_select": 2, "min_atoms": 2}
        | fields
    )
    return maker.make.original(maker, model, uncertainty, crystals, dataset, committee=committee)


def test_exploration_without_uncertainty_says_so(crystals: StructureSetDoc, dataset: DatasetDoc) -> None:
    document = explored(EMT_SPEC, crystals, dataset)
    assert document.uncertainty.startswith("none: EMT tells no uncertainty")
    assert document.thresholds == {}
    assert document.n_candidates == 9
    assert document.n_selected == 2
    assert document.n_selected + sum(document.n_rejected.values()) == document.n_candidates
    assert document.trajectories[0].sigma_max == []
    frames = list(open_dataset(document.selected).frames())
    assert all("sigma_forces_max" not in atoms.info for atoms in frames)


def test_exploration_with_a_committee(crystals: StructureSetDoc, dataset: DatasetDoc) -> None:
    members = [
        {"calculator_class": "ase.calculators.lj.LennardJones", "kwargs": {"sigma": 2.3, "epsilon": e, "rc": 6.0}}
        for e in (0.2, 0.3)
    ]
    document = explored(EMT_SPEC, crystals, dataset, committee=members)
    assert document.uncertainty.startswith("committee of EMT, LennardJones, LennardJones, disagreement times ")
    assert "8 validation frames" in document.uncertainty
    assert set(document.thresholds) == {"low", "high"}
    assert document.trajectories[0].sigma_max
    maker = ExploreMaker()
    assert maker.make(EMT_SPEC, None, crystals, dataset, committee=[{**EMT_SPEC, "profile": "gpu"}]).metadata == {
        "profile": "gpu"
    }


def test_a_committee_needs_validation_frames(project: Project, crystals: StructureSetDoc) -> None:
    artifact = store_frames([labelled(1)], name="one", level=LEVEL, splits={"train": [0]})
    one = dataset_document(artifact, name="one", rejections={}, rejected=[])
    with pytest.raises(ConfigurationError, match="has no validation frames"):
        explored(EMT_SPEC, crystals, one, committee=[EMT_SPEC])


def test_wrong_descriptions_are_named(crystals: StructureSetDoc, dataset: DatasetDoc) -> None:
    with pytest.raises(ConfigurationError, match="calculator_clas"):
        benchmark({"calculator_clas": "x"}, crystals, dataset)


def test_labels_of_any_calculator(crystals: StructureSetDoc, tmp_path: Path) -> None:
    there = {**EMT_SPEC, "interpreter": sys.executable, "timeout": 60.0, "profile": "gpu"}
    maker = LabelMaker.with_calculator(there, batch_size=4, timeout=30.0)
    assert maker.engine == "interpreter"
    flow = maker.make.original(maker, crystals).replace
    assert [job.metadata["profile"] for job in flow.jobs] == ["gpu", "light"]
    batch = maker._batch_maker()
    assert batch.build_engine().timeout == 30.0
    assert not batch.build_engine().in_process
    labels = batch._labels(bulk("Cu"))
    assert labels["energy"] == EMT().get_property("energy", bulk("Cu"))
