"""FireWorks' workers killed within a label, molecular dynamics, a training: nothing is lost or doubled."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from pathlib import Path

import pytest

from atomfoundry.makers.dynamics import MDSnapshotsMaker
from atomfoundry.makers.frames import structure_set
from atomfoundry.makers.label import LabelMaker
from atomfoundry.makers.train import TrainMaker
from atomfoundry.results import Project, use_project
from atomfoundry.running import run
from atomfoundry.running.cluster.status import cluster_runs
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.sweep import sweep

pytestmark = pytest.mark.slow


@pytest.fixture
def local():
    """The same faults under the local runner: their structures and their comparison."""
    path = Path(__file__).parents[1] / "test_faults_in_work.py"
    spec = importlib.util.spec_from_file_location("local_faults_in_work", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def undisturbed(tmp_path):
    return Project.open_or_create(tmp_path / "undisturbed")


@pytest.fixture
def flag(tmp_path, monkeypatch):
    """What lets the calculator kill its process, once."""
    path = tmp_path / "flag"
    monkeypatch.setenv("BREAKING_EMT_FLAG", str(path))
    return path


def goes_on(project, launchpad, start_worker, n_jobs):
    """What a sweep and another worker make of it."""
    assert [finding.kind for finding in sweep(project, launchpad=launchpad).findings] == ["lost"]
    assert start_worker("--idle", "0").wait(120) == 0
    (found,) = cluster_runs(launchpad, project)
    assert found.states == {"COMPLETED": n_jobs}, found.failures


def test_a_label_in_flight_is_all_that_is_lost(jobs, local, project, undisturbed, flag, shared_launchpad, start_worker):
    maker = LabelMaker.with_calculator({"calculator_class": "breaking_emt.BreakingEMT"}, batch_size=6, isolate=False)
    made = {}
    for place in (undisturbed, project):
        with use_project(place):
            made[place] = maker.make(structure_set(local.dimers(12), name="dimers"))
    assert run(made[undisturbed], project=undisturbed, workers=0, progress=False).ok
    flag.touch()
    submit(made[project], project=project, launchpad=shared_launchpad)
    assert start_worker().wait(120) == -signal.SIGKILL
    assert len(list(project.labels().query())) == 3
    goes_on(project, shared_launchpad, start_worker, 5)
    labels = list(project.labels().query())
    assert len(labels) == 12
    assert all(label.attempts == 1 and label.status == "ok" for label in labels)
    assert local.outputs(project) == local.outputs(undisturbed)


def test_molecular_dynamics_ends_as_if_undisturbed(
    jobs, local, project, undisturbed, flag, shared_launchpad, start_worker
):
    settings = {"calculator_class": "breaking_emt.BreakingEMT"}
    maker = MDSnapshotsMaker(engine="ase", settings=settings, n=3, interval=5, equilibration=5)
    made = {}
    for place in (undisturbed, project):
        with use_project(place):
            made[place] = maker.make(structure_set(local.dimers(1), name="dimer"))
    assert run(made[undisturbed], project=undisturbed, workers=0, progress=False).ok
    flag.touch()
    submit(made[project], project=project, launchpad=shared_launchpad)
    assert start_worker().wait(120) == -signal.SIGKILL
    goes_on(project, shared_launchpad, start_worker, 1)
    assert local.outputs(project) == local.outputs(undisturbed)


def test_a_training_goes_on_from_its_checkpoint(jobs, local, project, undisturbed, shared_launchpad, start_worker):
    architecture = {
        "cutoff": 4.0,
        "num_channels": 4,
        "latent_dims": [16],
        "two_body_dims": [8, 16],
        "edge_energy_dims": [8],
    }
    maker = TrainMaker(architecture=architecture, training={"max_epochs": 60, "batch_size": 4})
    made = {}
    for place in (undisturbed, project):
        with use_project(place):
            made[place] = maker.make({"pt": local.copper(place)})
    assert run(made[undisturbed], project=undisturbed, workers=0, threads=1, progress=False).ok
    submit(made[project], project=project, launchpad=shared_launchpad)
    worker = start_worker()
    end = time.monotonic() + 120
    while not list(project.work_dir.glob("*/checkpoint/*")) and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    goes_on(project, shared_launchpad, start_worker, 1)
    assert local.outputs(project) == local.outputs(undisturbed)
