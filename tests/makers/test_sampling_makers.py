"""Makers of sampled structures, each against the plain function it is a shell of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.spacegroup import crystal
from jobflow import Flow, run_locally
from monty.json import MontyDecoder, jsanitize

from atomfoundry.datasets import with_metadata
from atomfoundry.documents import StructureSetDoc
from atomfoundry.makers.defects import DefectsMaker, SlabsMaker
from atomfoundry.makers.dynamics import MDSnapshotsMaker, NormalModesMaker
from atomfoundry.makers.frames import open_dataset, structure_set
from atomfoundry.makers.sampling import (
    DimersMaker,
    IsolatedAtomsMaker,
    MonteCarloRattleMaker,
    RandomStructuresMaker,
    StrainMaker,
)
from atomfoundry.results import Project, use_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project.open_or_create(tmp_path_factory.mktemp("sampling") / "project")
    with use_project(project):
        yield project


def salt() -> StructureSetDoc:
    return structure_set(
        [with_metadata(bulk("MgO", "rocksalt", a=4.2), group_id="MgO", sampling="input", source="test")], name="MgO"
    )


def water() -> StructureSetDoc:
    return structure_set([with_metadata(molecule("H2O"), group_id="water", source="test")], name="water")


def test_jobs_make_structure_sets(project: Project, tmp_path: Path) -> None:
    jobs = {
        "strain": StrainMaker(
            hydrostatic={"start": -0.02, "stop": 0.02, "step": 0.01}, shear=[0.02], keep_input=True
        ).make(salt()),
        "mc": MonteCarloRattleMaker(n=2).make(salt()),
        "dimers": DimersMaker(distances=[1.5, 2.0]).make([salt()]),
        "random": RandomStructuresMaker(composition="MgO", n=2, space_groups=[225, 216]).make(),
        "defects": DefectsMaker(
            min_atoms=16,
            vacancies=["Mg", "O"],
            vacancy_pairs=[["Mg", "O"]],
            max_pair_distance=2.2,
            substitutions={"Mg": ["Ca"]},
            interstitials=["H"],
            max_interstitial_sites=1,
            remove={"O": 2},
            n_random=2,
        ).make(salt()),
        "slabs": SlabsMaker(thickness=4.0, vacuum=8.0, miller_indices=[[1, 0, 0]]).make(salt()),
        "modes": NormalModesMaker(engine="xtb", n=2, temperatures=[300.0, 600.0]).make(water()),
        "md": MDSnapshotsMaker(engine="xtb", n=2, interval=2, equilibration=0, timestep=0.5).make(water()),
    }
    done = run_locally(
        Flow(list(jobs.values())),
        store=project.job_store(),
        create_folders=True,
        root_dir=tmp_path,
        ensure_success=True,
        log=False,
    )
    docs = {name: done[job.uuid][1].output for name, job in jobs.items()}
    assert docs["strain"].n_structures == 5 + 3
    assert docs["strain"].samplings == {"input": 1, "strain": 7}
    assert docs["mc"].samplings == {"mc_rattle": 2}
    assert docs["dimers"].n_structures == 6
    assert docs["random"].samplings == {"random": 2}
    assert {"vacancy", "vacancy_pair", "substitution", "interstitial", "random_defects"} <= set(
        docs["defects"].samplings
    )
    assert docs["defects"].samplings["vacancy"] == 2
    assert docs["slabs"].samplings == {"slab": 1}
    assert docs["modes"].samplings == {"normal_modes": 4}
    assert docs["md"].samplings == {"md": 2}
    for doc in docs.values():
        assert doc.provenance is not None
        assert len(open_dataset(doc.structures)) == doc.n_structures


def test_the_alumina_defects_are_four_structures(project: Project) -> None:
    corundum = crystal(
        ["Al", "O"],
        [(0, 0, 0.35216), (0.30624, 0, 0.25)],
        spacegroup=167,
        cellpar=[4.7602, 4.7602, 12.9933, 90, 90, 120],
        primitive_cell=True,
    )
    bare = Atoms(corundum.numbers, corundum.positions, cell=corundum.cell, pbc=True)
    maker = DefectsMaker.alumina()
    doc = maker.make.__wrapped__(maker, structure_set([bare], name="corundum"))
    assert doc.formulas == {"Al32O48": 1, "Al31O48": 1, "Al32O47": 1, "Al31O47": 1}


def test_the_alumina_preset_is_2001_cells_of_each_structure() -> None:
    from atomfoundry.sampling.deformation import strain_values

    assert len(strain_values(StrainMaker.alumina().hydrostatic)) == 2001


@pytest.mark.parametrize(
    "maker",
    [
        IsolatedAtomsMaker(),
        StrainMaker.alumina(),
        MonteCarloRattleMaker(),
        DimersMaker(),
        RandomStructuresMaker(composition="Si"),
        DefectsMaker(vacancies=["O"]),
        SlabsMaker(),
        NormalModesMaker(),
        MDSnapshotsMaker(),
    ],
    ids=lambda maker: type(maker).__name__,
)
def test_makers_survive_json(maker: object) -> None:
    document = json.loads(json.dumps(jsanitize(maker, strict=True, enum_values=True)))
    assert MontyDecoder().process_decoded(document) == maker
