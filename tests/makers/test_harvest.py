from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import Flow, run_locally
from typer.testing import CliRunner

from atomfoundry.documents import DatasetDoc, HarvestDoc, LevelOfTheory
from atomfoundry.errors import DatasetError, InputError
from atomfoundry.makers import DatasetMaker, HarvestMaker
from atomfoundry.makers.frames import open_dataset
from atomfoundry.results import Project, open_results, use_project
from atomfoundry.results.lineage import lineage

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


def test_a_harvest_becomes_a_dataset(tmp_path: Path, project: Project) -> None:
    write_tree(tmp_path / "tree")
    harvested = HarvestMaker(level=LEVEL).make(str(tmp_path / "tree"))
    dataset = DatasetMaker(fractions=(0.5, 0.5, 0.0)).make([harvested.output])
    done = run_locally(Flow([harvested, dataset]), store=project.job_store(), ensure_success=True)
    doc = done[dataset.uuid][1].output
    assert isinstance(doc, DatasetDoc)
    assert (doc.n_frames, doc.level, doc.rejections, doc.samplings) == (2, LEVEL, {"nan": 1}, {"harvest": 2})
    assert sum(doc.splits.values()) == 2
    database = open_results(project.path)
    (found,) = database.harvests({"n_frames": 2})
    assert found.uuid == harvested.uuid
    assert harvested.uuid in {node.uuid for node in lineage(database, dataset.uuid).nodes.values()}


@pytest.mark.slow
def test_harvests_of_two_levels_or_of_none_do_not_mix(tmp_path: Path, project: Project) -> None:
    write_tree(tmp_path / "tree")
    other = LevelOfTheory(code="emt", method="another")
    makers = [HarvestMaker(level=LEVEL), HarvestMaker(level=other), HarvestMaker(require_level=False)]
    jobs = [maker.make(str(tmp_path / "tree")) for maker in makers]
    store = project.job_store()
    run_locally(Flow(jobs), store=store, ensure_success=True)
    documents = [open_results(project.path).document(job.uuid).document for job in jobs]
    for chosen, message in ((documents[:2], "2 levels"), (documents[2:], "no level of theory")):
        job = DatasetMaker().make(chosen)
        with pytest.raises(DatasetError, match=message):
            run_locally(job, store=store, ensure_success=True, raise_immediately=True)


def test_results_lists_harvests(tmp_path: Path, project: Project) -> None:
    from atomfoundry.cli.main import app

    write_tree(tmp_path / "tree")
    job = HarvestMaker(level=LEVEL).make(str(tmp_path / "tree"))
    run_locally(job, store=project.job_store(), ensure_success=True)
    listed = CliRunner().invoke(app, ["results", "harvests", "--project", str(project.path), "--json"])
    assert listed.exit_code == 0, listed.output
    assert job.uuid in listed.stdout
    assert CliRunner().invoke(app, ["results", "harvests", "--project", str(project.path)]).exit_code == 0


def test_a_store_described_by_a_file(tmp_path: Path, project: Project) -> None:
    from maggma.stores import JSONStore
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    step = {
        "structure": structure.as_dict(),
        "e_fr_energy": -11.0,
        "forces": [[0.1, 0, 0], [-0.1, 0, 0]],
        "electronic_steps": [{}],
    }
    calc = {
        "input": {
            "incar": {"GGA": "PE", "ENCUT": 520},
            "potcar_spec": [{"titel": "PAW_PBE Mg 13Apr2007"}, {"titel": "PAW_PBE O 08Apr2002"}],
        },
        "output": {"ionic_steps": [step]},
    }
    store = JSONStore(str(tmp_path / "docs.json"), key="uuid", read_only=False)
    store.connect()
    store.update({"uuid": "a", "index": 1, "output": {"calcs_reversed": [calc]}})
    store.close()
    described = tmp_path / "store.yaml"
    described.write_text(f"docs_store:\n  type: JSONStore\n  paths: {tmp_path / 'docs.json'}\n  key: uuid\n")
    job = HarvestMaker().make(store=str(described))
    done = run_locally(job, store=project.job_store(), ensure_success=True)
    doc = done[job.uuid][1].output
    assert (doc.n_frames, [level.method for level in doc.levels]) == (1, ["PBE"])
    for arguments in ({}, {"paths": "a", "store": "b"}):
        with pytest.raises(InputError, match="either paths or a store"):
            run_locally(
                HarvestMaker().make(**arguments), store=project.job_store(), ensure_success=True, raise_immediately=True
            )
