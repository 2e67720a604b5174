"""Batches that meet the end of their job: nothing is lost, nothing computed twice, and they go on in the next."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from ase import Atoms
from jobflow import CURRENT_JOB, Flow, run_locally

from atomfoundry import deadline
from atomfoundry.datasets import Dataset, with_metadata
from atomfoundry.deadline import MARGIN_S, NoTimeLeftError, forget_stop
from atomfoundry.documents import LabelSetDoc, StructureSetDoc
from atomfoundry.engines.isolation import stop_process
from atomfoundry.errors import LabelError
from atomfoundry.makers import LabelMaker
from atomfoundry.makers.label_time import MAX_INTERRUPTIONS, TimePlan
from atomfoundry.results import Project, use_project
from atomfoundry.running import run

CALCULATORS = Path(__file__).parents[1] / "atomfoundry" / "engines"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(CALCULATORS))
    for name in ("ATOMFOUNDRY_PROJECT", "ATOMFOUNDRY_DEADLINE", "ATOMFOUNDRY_DEADLINE_MARGIN", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    yield
    forget_stop()


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays():
    yield
    stop_process()


@pytest.fixture
def project(tmp_path):
    return Project.open_or_create(tmp_path / "project")


def chain(symbol: str, length: int) -> Atoms:
    return with_metadata(Atoms([symbol] + ["H"] * length, [[0, 0, i] for i in range(length + 1)]), source=symbol)


def labelling(project: Project, tmp_path: Path, structures: list[Atoms], *, pause: float = 0.0, **fields):
    dataset = Dataset.create(tmp_path / "set", structures)
    document = StructureSetDoc(
        name="set",
        n_structures=len(structures),
        elements=sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}),
        structures=project.artifacts.put(dataset.path),
    )
    settings = {
        "calculator_class": "breaking_calculator.Breaking",
        "calculator_kwargs": {"log": str(tmp_path / "log"), "pause": pause},
    }
    return LabelMaker(engine="ase", engine_settings=settings, **fields).make(document)


def computed(tmp_path: Path) -> Counter[str]:
    log = tmp_path / "log"
    return Counter(line.split()[0] for line in log.read_text().splitlines()) if log.exists() else Counter()


def run_here(project: Project, job) -> LabelSetDoc:
    with use_project(project):
        run_locally(Flow([job]), store=project.job_store(), ensure_success=True, log=False, raise_immediately=True)
    return LabelSetDoc.model_validate(project.job_store().get_output(job.uuid, load=True))


def batch_documents(project: Project) -> list[dict]:
    found = list(project.job_store().query({"name": "label batch"}, load=True))
    return sorted(found, key=lambda document: document["index"])


class JobTimes:
    """Pretend that every index of a batch is a job of its own with so much time, s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *given: float) -> None:
        self.given = given
        self.begun: dict[int, float] = {}
        monkeypatch.setattr(deadline, "seconds_left", self.left)

    def left(self) -> float | None:
        job = CURRENT_JOB.job
        if job is None or job.name != "label batch":
            return None
        begun = self.begun.setdefault(job.index, time.monotonic())
        return MARGIN_S + self.given[min(job.index, len(self.given)) - 1] - (time.monotonic() - begun)


@pytest.mark.parametrize("per_job", [1, 4])
def test_a_batch_goes_on_until_all_is_done(project, tmp_path, monkeypatch, per_job):
    def left() -> float | None:
        job = CURRENT_JOB.job
        if job is None or job.name != "label batch":
            return None
        return MARGIN_S + 100.0 * (per_job * job.index - project.labels().count())

    monkeypatch.setattr(deadline, "seconds_left", left)
    structures = [chain("H", length) for length in range(1, 6)] + [chain("N", 3)]
    document = run_here(project, labelling(project, tmp_path, structures, batch_size=6))
    assert (document.n_labelled, document.n_failed, document.n_reused) == (5, 1, 0)
    assert computed(tmp_path) == {atoms.get_chemical_formula(): 1 for atoms in structures}
    assert all(label.attempts == 1 for label in project.labels().query())
    batches = [entry["output"] for entry in batch_documents(project)]
    assert len(batches) == -(-6 // per_job)
    assert len({entry["uuid"] for entry in batch_documents(project)}) == 1
    assert [batch["n_left"] for batch in batches] == [max(0, 6 - per_job * (i + 1)) for i in range(len(batches))]
    last = batches[-1]
    assert (last["n_computed"], last["n_failed"], last["reasons"]) == (5, 1, {"crashed": 1})
    labels = list(project.labels().query())
    assert document.compute_time_s == pytest.approx(sum(label.wall_time_s for label in labels))


def test_a_label_that_fits_into_no_job_fails(project, tmp_path, monkeypatch):
    JobTimes(monkeypatch, 1.0)
    structures = [chain("B", 9), chain("H", 1), chain("H", 2)]
    document = run_here(project, labelling(project, tmp_path, structures, batch_size=3))
    assert (document.n_labelled, document.n_failed) == (2, 1)
    (failure,) = document.failures
    assert (failure.source, failure.reason) == ("B", "timeout")
    assert "not computed within 1 s, and no job gives it more" in failure.message
    # a machine may be so busy that one job gives it far less time than another
    assert 1 <= computed(tmp_path)[structures[0].get_chemical_formula()] <= MAX_INTERRUPTIONS
    assert computed(tmp_path)["H2"] == computed(tmp_path)["H3"] == 1


def test_an_interrupted_label_is_computed_where_there_is_more_time(project, tmp_path, monkeypatch):
    JobTimes(monkeypatch, 0.5, 60.0)
    document = run_here(project, labelling(project, tmp_path, [chain("H", 1), chain("H", 2)], pause=1.0))
    assert (document.n_labelled, document.n_failed) == (2, 0)
    assert computed(tmp_path) == {"H3": 2, "H2": 1}
    assert {label.attempts for label in project.labels().query()} == {1}
    assert len(batch_documents(project)) == 2


def test_a_label_of_its_own_time_limit_still_fails(project, tmp_path, monkeypatch):
    JobTimes(monkeypatch, 60.0)
    document = run_here(project, labelling(project, tmp_path, [chain("B", 1), chain("H", 1)], timeout=0.4))
    assert [(failure.source, failure.reason) for failure in document.failures] == [("B", "timeout")]
    assert document.n_labelled == 1
    assert len(batch_documents(project)) == 1


def test_nothing_is_begun_without_time(project, tmp_path, monkeypatch):
    job = labelling(project, tmp_path, [chain("H", 1)])
    with use_project(project):
        (batch, *_) = job.run(project.job_store()).replace.jobs
        monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 5))
        with pytest.raises(NoTimeLeftError, match="the job ends soon"):
            batch.run(project.job_store())
    assert not computed(tmp_path)


def test_what_is_estimated_not_to_fit_is_not_begun(monkeypatch):
    from atomfoundry.documents import LabelDoc

    left = MARGIN_S + 10.0
    monkeypatch.setattr(deadline, "seconds_left", lambda: left)
    plan = TimePlan({"long": [100.0], "short": [0.5, 1.0]})
    assert plan.order(["a", "long", "b", "short"]) == ["short", "a", "b", "long"]
    assert plan.may_begin(chain("H", 1000))
    plan.begin("a", chain("H", 1))
    plan.note(LabelDoc(frame_id="a", level_id="", engine="", status="ok", n_atoms=10, wall_time_s=2.0))
    assert plan.may_begin(chain("H", 1))
    assert plan.may_begin(chain("H", 16))
    assert not plan.may_begin(chain("H", 17))
    left = MARGIN_S + 1.0
    assert not plan.may_begin(chain("H", 1))


def test_programs_are_given_no_more_time_than_the_job_has(monkeypatch):
    from atomfoundry.makers.label_batch import LabelBatchMaker

    given = []

    def record(self, atoms, directory):
        given.append(self.timeout)
        raise LabelError("enough", reason="timeout")

    monkeypatch.setattr("atomfoundry.engines.espresso.engine.EspressoEngine.evaluate", record)
    maker = LabelBatchMaker(engine="espresso", timeout=100.0)
    for left in (None, MARGIN_S + 500.0, MARGIN_S + 7.0):
        monkeypatch.setattr(deadline, "seconds_left", lambda left=left: left)
        with pytest.raises(LabelError):
            maker.run_ase(chain("H", 1))
    assert given == [100.0, 100.0, 7.0]


def test_a_code_that_the_queue_ends_has_not_crashed(monkeypatch):
    plan = TimePlan()
    plan.begin("a", chain("H", 1))
    assert not plan.interrupted("a", "crashed")
    monkeypatch.setattr(deadline._Request, "signal", "SIGTERM")
    assert plan.interrupted("a", "crashed")
    assert not plan.interrupted("a", "unconverged")
    assert max(plan.tried["a"]) < 10


def test_ever_shorter_jobs_do_not_try_for_ever(monkeypatch):
    left = 100.0
    monkeypatch.setattr(deadline, "seconds_left", lambda: MARGIN_S + left)
    tried = {"a": [100.0] + [10.0] * (MAX_INTERRUPTIONS - 2)}
    left = 10.0
    TimePlan(tried).begin("a", chain("H", 1))
    tried["a"].append(10.0)
    with pytest.raises(LabelError, match="not computed within 100 s"):
        TimePlan(tried).begin("a", chain("H", 1))
    left = 200.0
    TimePlan(tried).begin("a", chain("H", 1))


@pytest.mark.parametrize(
    ("how", "workers"),
    [
        ("SIGUSR1", 0),
        pytest.param("SIGUSR1", 1, marks=pytest.mark.slow),
        pytest.param("deadline", 0, marks=pytest.mark.slow),
    ],
)
def test_the_local_runner_stops_and_the_next_run_goes_on(project, tmp_path, monkeypatch, workers, how):
    structures = [chain("H", length) for length in range(1, 7)]
    flow = Flow([labelling(project, tmp_path, structures, pause=0.8, batch_size=6)])

    def stop_after_three() -> None:
        end = time.monotonic() + 120
        while sum(computed(tmp_path).values()) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)

    if how == "SIGUSR1":
        threading.Thread(target=stop_after_three, daemon=True).start()
    else:
        monkeypatch.setenv("ATOMFOUNDRY_DEADLINE_MARGIN", "20")
        monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 20 + 3.5))
    first = run(flow, project=project, workers=workers, progress=False)
    assert not first.ok
    assert (first.failed, first.blocked) == (0, 0)
    assert first.left > 0
    assert "left for the next run" in str(first)
    stopped_at = sum(computed(tmp_path).values())
    assert project.labels().count() >= stopped_at - 1
    forget_stop()
    monkeypatch.delenv("ATOMFOUNDRY_DEADLINE", raising=False)
    second = run(flow, project=project, workers=workers, progress=False)
    assert second.ok, second
    document = LabelSetDoc.model_validate(second.output(flow.jobs[0]))
    assert (document.n_labelled, document.n_failed, document.n_reused) == (6, 0, 0)
    assert sorted(label.attempts for label in project.labels().query()) == [1] * 6
    # Only a deadline interrupts what has begun.
    assert sum(computed(tmp_path).values()) <= 6 + (how == "deadline")
