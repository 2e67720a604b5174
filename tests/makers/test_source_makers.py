"""Makers of structures: files and folders, databases, prototypes, molecules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import ase.io
import pytest
from ase.build import bulk
from jobflow import Flow, run_locally
from monty.json import MontyDecoder, jsanitize

import atomfoundry.makers as makers
from atomfoundry.errors import StructureError
from atomfoundry.makers.databases import MaterialsProjectMaker, MoleculesMaker, OptimadeMaker, PrototypesMaker
from atomfoundry.makers.frames import open_dataset
from atomfoundry.makers.sources import StructuresMaker
from atomfoundry.results import Project, use_project
from atomfoundry.settings import settings
from atomfoundry.sources import Fetched, prototype


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project.open_or_create(tmp_path_factory.mktemp("sources") / "project")
    with use_project(project):
        yield project


def run(project: Project, folder: Path, maker: Any) -> Any:
    job = maker.make()
    done = run_locally(
        Flow([job]), store=project.job_store(), create_folders=True, root_dir=folder, ensure_success=True, log=False
    )
    return done[job.uuid][1].output


def test_every_name_is_a_maker_of_its_module() -> None:
    for name in makers.__all__:
        assert getattr(makers, name).__name__ == name


def test_folders_become_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("POSCAR", "deep/CONTCAR"):
        ase.io.write(tmp_path / name, bulk("Si"), format="vasp")
    maker = StructuresMaker.from_files([tmp_path])
    assert list(maker.files) == [str(tmp_path / "POSCAR"), str(tmp_path / "deep" / "CONTCAR")]
    assert StructuresMaker.from_files([tmp_path / "POS*"]).files == {
        key: value for key, value in maker.files.items() if key.endswith("POSCAR")
    }


def test_files_of_one_name_are_groups_of_their_own(tmp_path: Path) -> None:
    for number, name in enumerate(("a/POSCAR", "b/POSCAR", "c.vasp")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        ase.io.write(tmp_path / name, bulk("Si", a=5.4 + 0.1 * number), format="vasp")
    groups = [atoms.info["group_id"] for atoms in StructuresMaker.from_files([tmp_path]).structures()]
    assert groups == ["a/POSCAR", "b/POSCAR", "c"]


def test_prototypes_and_molecules(project: Project, tmp_path: Path) -> None:
    crystals = run(
        project,
        tmp_path,
        PrototypesMaker(
            prototypes=[
                {"name": "rocksalt", "species": ["Mg", "O"], "a": 4.2},
                {"name": "perovskite", "species": ["Sr", "Ti", "O"]},
            ],
            supercell=[2, 1, 1],
        ),
    )
    assert crystals.formulas == {"Mg2O2": 1, "O6Sr2Ti2": 1}
    assert run(project, tmp_path, MoleculesMaker(names=["H2O", "CH4"])).n_structures == 2
    for wrong in (
        PrototypesMaker(),
        PrototypesMaker(prototypes=[{"name": "fcc"}]),
        PrototypesMaker(prototypes=[{"name": "fcc", "species": ["Cu"], "b": 1}]),
        MoleculesMaker(),
    ):
        with pytest.raises(StructureError):
            wrong.make.__wrapped__(wrong)


def test_databases_tell_what_they_refused(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*arguments: Any, **keywords: Any) -> Fetched:
        return Fetched([prototype("fcc", "Cu")], {"x": "has disorder"}, 2)

    def nothing(*arguments: Any, **keywords: Any) -> Fetched:
        return Fetched([], {"x": "has disorder"}, 1)

    optimade = import_module("atomfoundry.sources.optimade")
    materials = import_module("atomfoundry.sources.materials_project")
    monkeypatch.setattr(optimade, "fetch_optimade", fetch)
    monkeypatch.setattr(materials, "fetch_materials_project", fetch)
    monkeypatch.setenv("ATOMFOUNDRY_MATERIALS_PROJECT_KEY", "key-that-nobody-sees")
    settings.cache_clear()
    for maker in (
        OptimadeMaker(provider="http://nowhere", query='elements HAS "Cu"', supercell=[2, 2, 2]),
        MaterialsProjectMaker(formulas=["Cu"], supercell=[2, 2, 2]),
    ):
        doc = run(project, tmp_path, maker)
        assert doc.formulas == {"Cu8": 1}
        lineage = open_dataset(doc.structures).metadata.lineage
        assert lineage["rejected"] == {"x": "has disorder"}
        assert lineage["n_entries"] == 2
        assert "key-that-nobody-sees" not in doc.model_dump_json() + json.dumps(lineage)
    settings.cache_clear()
    monkeypatch.setattr(optimade, "fetch_optimade", nothing)
    empty = OptimadeMaker(provider="http://nowhere", query="x")
    with pytest.raises(StructureError, match="no usable structure among 1 entries: x: has disorder"):
        empty.make.__wrapped__(empty)


@pytest.mark.parametrize(
    "maker",
    [
        MaterialsProjectMaker(formulas=["Cu"]),
        OptimadeMaker(provider="mp", query="nelements=1"),
        PrototypesMaker(prototypes=[{"name": "fcc", "species": ["Cu"]}]),
        MoleculesMaker(smiles=["CCO"]),
    ],
    ids=lambda maker: type(maker).__name__,
)
def test_makers_survive_json(maker: Any) -> None:
    document = json.loads(json.dumps(jsanitize(maker, strict=True, enum_values=True)))
    assert MontyDecoder().process_decoded(document) == maker
