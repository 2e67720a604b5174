"""Jobs of molecular dynamics and benchmarks that are interrupted or killed go on in the same folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from ase.build import bulk
from jobflow import CURRENT_JOB, Flow, run_locally

from atomfoundry.checkpoint import keeper
from atomfoundry.datasets import with_metadata
from atomfoundry.deadline import NoTimeLeftError, forget_stop
from atomfoundry.documents import StructureSetDoc
from atomfoundry.makers.benchmark import BenchmarkMaker
from atomfoundry.makers.dynamics import MDSnapshotsMaker
from atomfoundry.makers.frames import structure_set
from atomfoundry.results import Project, use_project
from atomfoundry.settings import settings


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("ATOMFOUNDRY_CHECKPOINT_INTERVAL", "0")
    monkeypatch.delenv("ATOMFOUNDRY_DEADLINE", raising=False)
    monkeypatch.setattr(keeper, "SHARE", 1e9)
    settings.cache_clear()
    yield
    settings.cache_clear()
    forget_stop()


@pytest.fixture
def project(tmp_path):
    project = Project.open_or_create(tmp_path / "project")
    with use_project(project):
        yield project


def copper() -> StructureSetDoc:
    frames = [with_metadata(bulk("Cu", cubic=True, a=a), group_id=f"{a}", source="test") for a in (3.6, 3.7)]
    return structure_set(frames, name="Cu")


def engine(tmp_path, **when) -> dict:
    return {
        "calculator_class": "acting_calculator.Acting",
        "calculator_kwargs": {"log": str(tmp_path / "log"), **when},
    }


def run_until_done(project, job, folder):
    """Run a job again and again in one folder, each time in a process of its own, as runners do."""
    ends = []
    folder.mkdir()
    while True:
        child = os.fork()
        if not child:
            code = 1
            try:
                os.chdir(folder)
                run_locally(
                    Flow([job]), store=project.job_store(), ensure_success=True, raise_immediately=True, log=False
                )
                code = 0
            except NoTimeLeftError:
                CURRENT_JOB.reset()
                code = os.EX_TEMPFAIL
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        ends.append(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
        if ends[-1] in (0, 1):
            return ends
        assert len(ends) < 30


def calls(tmp_path) -> int:
    return len((tmp_path / "log").read_text().splitlines())


MD = {"engine": "ase", "temperatures": [400.0, 800.0], "n": 2, "interval": 3, "equilibration": 2}


def test_md_job_that_is_stopped_and_killed(project, tmp_path):
    whole = MDSnapshotsMaker(**MD, settings=engine(tmp_path)).make(copper())
    assert run_until_done(project, whole, tmp_path / "whole") == [0]
    undisturbed = calls(tmp_path)
    assert undisturbed == 4 * 9
    (tmp_path / "log").unlink()
    disturbed = MDSnapshotsMaker(**MD, settings=engine(tmp_path, stop_at=[7, 20], kill_at=[12, 31])).make(copper())
    ends = run_until_done(project, disturbed, tmp_path / "disturbed")
    assert ends == [os.EX_TEMPFAIL, -signal.SIGKILL, os.EX_TEMPFAIL, -signal.SIGKILL, 0]
    # where it goes on: the list's structure and the forces there; and the two that the kills have interrupted
    assert calls(tmp_path) <= undisturbed + 4 * 2 + 2
    found = [project.job_store().get_output(each.uuid, load=True) for each in (whole, disturbed)]
    assert found[0]["structures"]["sha256"] == found[1]["structures"]["sha256"]
    assert found[1]["n_structures"] == 8


def test_benchmark_job_that_is_stopped(project, tmp_path):
    description = {
        "calculator_class": "acting_calculator.Acting",
        "kwargs": {"log": str(tmp_path / "log"), "stop_at": [9, 15]},
    }
    job = BenchmarkMaker(
        benchmark="nve_drift", settings={"duration": 12.0, "equilibration": 6.0, "temperature": 300.0}
    ).make(description, copper(), None)
    ends = run_until_done(project, job, tmp_path / "job")
    assert ends == [os.EX_TEMPFAIL, os.EX_TEMPFAIL, 0]
    output = project.job_store().get_output(job.uuid, load=True)
    assert output["summary"]["failure"] is None
    assert output["summary"]["simulated_time"] == pytest.approx(0.012)


def test_a_short_job_writes_no_checkpoint(project, tmp_path, monkeypatch):
    monkeypatch.delenv("ATOMFOUNDRY_CHECKPOINT_INTERVAL")
    settings.cache_clear()
    job = MDSnapshotsMaker(**MD, settings=engine(tmp_path)).make(copper())
    assert run_until_done(project, job, tmp_path / "short") == [0]
    assert list((tmp_path / "short").rglob("*.npz")) == []
