"""A worker killed in the middle of a label, of molecular dynamics, of a training: the run goes on, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from atomfoundry.datasets import attach_labels, with_metadata
from atomfoundry.documents import LevelOfTheory
from atomfoundry.makers.dataset import dataset_document
from atomfoundry.makers.dynamics import MDSnapshotsMaker
from atomfoundry.makers.frames import store_frames, structure_set
from atomfoundry.makers.label import LabelMaker
from atomfoundry.makers.train import TrainMaker
from atomfoundry.results import Project, use_project
from atomfoundry.running import run
from atomfoundry.running.queue import Queue

LEVEL = LevelOfTheory(code="ase", method="EMT")
VOLATILE = ("provenance", "wall_time_s", "compute_time_s", "training_time_s", "computed_at")


@pytest.fixture
def undisturbed(tmp_path):
    return Project.open_or_create(tmp_path / "undisturbed")


@pytest.fixture
def flag(tmp_path, monkeypatch):
    """What lets the calculator kill its process, once."""
    path = tmp_path / "flag"
    monkeypatch.setenv("BREAKING_EMT_FLAG", str(path))
    return path


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VOLATILE}
    return [plain(item) for item in value] if isinstance(value, list) else value


def outputs(project):
    found = {}
    for document in project.job_store().query():
        key = document["uuid"], document["index"]
        assert key not in found
        found[key] = json.dumps(plain(document["output"]), sort_keys=True)
    return found


def interrupted(project):
    return Queue(project.queue_path).rows("SELECT name, attempts FROM jobs WHERE attempts > 1")


def run_and_die(job, project):
    """Run in a child process that is killed by what it runs, as a runner with its worker is."""
    pid = os.fork()
    if pid == 0:
        try:
            run(job, project=project, workers=0, progress=False)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def dimers(n):
    frames = [Atoms("Cu2", positions=[[0, 0, 0], [x, 0, 0]], cell=[9.0] * 3) for x in np.linspace(2.1, 2.9, n)]
    return [with_metadata(atoms, group_id="Cu2", sampling="input", source="test") for atoms in frames]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_label_in_flight_is_all_that_is_lost(jobs, project, undisturbed, flag, workers):
    maker = LabelMaker.with_calculator({"calculator_class": "breaking_emt.BreakingEMT"}, batch_size=6, isolate=False)
    made = {}
    for place in (undisturbed, project):
        with use_project(place):
            made[place] = maker.make(structure_set(dimers(12), name="dimers"))
    assert run(made[undisturbed], project=undisturbed, workers=0, progress=False).ok
    flag.touch()
    if workers == 0:
        sys.modules["breaking_emt"].BreakingEMT.n_calculated = 0
        run_and_die(made[project], project)
        assert len(list(project.labels().query())) == 3
    result = run(made[project], project=project, workers=workers, progress=False)
    assert result.ok, result.failures
    assert not flag.exists()
    assert interrupted(undisturbed) == []
    assert interrupted(project) == [("label batch", 2)]
    labels = list(project.labels().query())
    assert len(labels) == 12
    assert all(label.attempts == 1 and label.status == "ok" for label in labels)
    assert outputs(project) == outputs(undisturbed)


@pytest.mark.slow
def test_molecular_dynamics_ends_as_if_undisturbed(jobs, project, undisturbed, flag):
    settings = {"calculator_class": "breaking_emt.BreakingEMT"}
    maker = MDSnapshotsMaker(engine="ase", settings=settings, n=3, interval=5, equilibration=5)
    for place, workers in ((undisturbed, 0), (project, 1)):
        with use_project(place):
            job = maker.make(structure_set(dimers(1), name="dimer"))
        assert run(job, project=place, workers=workers, progress=False).ok
        if place is undisturbed:
            flag.touch()
    assert not flag.exists()
    assert interrupted(project) == [("MD snapshots", 2)]
    assert outputs(project) == outputs(undisturbed)


def copper(project):
    rng = np.random.default_rng(0)
    frames = []
    for number in range(12):
        atoms = bulk("Cu")
        atoms.set_cell(atoms.cell * (1 + rng.uniform(-0.05, 0.05)), scale_atoms=True)
        atoms.calc = EMT()
        labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = None
        atoms = with_metadata(atoms, group_id=f"Cu{number}", sampling="strain", level=LEVEL.id, source="test")
        frames.append(attach_labels(atoms, *labels))
    splits = {"train": list(range(8)), "valid": [8, 9], "test": [10, 11]}
    artifact = store_frames(frames, name="copper", level=LEVEL, isolated_energies={"Cu": 0.0}, splits=splits)
    return dataset_document(artifact, name="copper", rejections={}, rejected=[])


@pytest.mark.slow
def test_a_training_goes_on_from_its_checkpoint(jobs, project, undisturbed):
    architecture = {
        "cutoff": 4.0,
        "num_channels": 4,
        "latent_dims": [16],
        "two_body_dims": [8, 16],
        "edge_energy_dims": [8],
    }
    maker = TrainMaker(architecture=architecture, training={"max_epochs": 60, "batch_size": 4})
    with use_project(undisturbed):
        job = maker.make({"pt": copper(undisturbed)})
    assert run(job, project=undisturbed, workers=0, threads=1, progress=False).ok
    with use_project(project):
        job = maker.make({"pt": copper(project)})

    def kill_after_a_checkpoint():
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if list(project.work_dir.glob("*/checkpoint/*")):
                ((_, _, pid, _, _),) = Queue(project.queue_path).workers()
                psutil.Process(pid).kill()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_after_a_checkpoint)
    thread.start()
    result = run(job, project=project, workers=1, progress=False)
    thread.join()
    assert result.ok, result.failures
    assert interrupted(project) == [("train", 2)]
    assert outputs(project) == outputs(undisturbed)
