"""How many workers a launcher sends: by the jobs that wait, the workers there are, and what became of earlier ones."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from fireworks.core.firework import Firework
from fireworks.core.fworker import FWorker
from pymongo.errors import ServerSelectionTimeoutError

from atomfoundry.errors import ProjectError
from atomfoundry.results import Project
from atomfoundry.running.cluster import launch as command
from atomfoundry.running.cluster import launcher as module
from atomfoundry.running.cluster.launcher import Launcher
from atomfoundry.running.cluster.layout import jobs_of_project
from atomfoundry.running.cluster.profiles import Profile
from atomfoundry.running.cluster.task import FoundryTask


class Queue:
    """Allocations by id, and what becomes of them."""

    def __init__(self, monkeypatch) -> None:
        self.states: dict[str, str] = {}
        self.takes = True
        monkeypatch.setattr(module, "job_states", lambda ids, scheduler: {job: self.states[job] for job in ids})
        monkeypatch.setattr("fireworks.queue.queue_launcher.launch_rocket_to_queue", self.submit)

    def submit(self, launchpad, fworker, adapter, folder, reserve, level, create) -> str | bool:
        if not self.takes:
            return False
        job = str(len(self.states) + 1)
        self.states[job] = "pending"
        if reserve:
            launchpad.reserve_fw(fworker, folder)
        return job


@pytest.fixture
def queue(monkeypatch):
    return Queue(monkeypatch)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=1e9)
    monkeypatch.setattr(module.time, "time", lambda: now.time)
    return now


def add(launchpad, n: int, category: str = "labels", project_id: str = "mine") -> None:
    launchpad.ensure_indexes()
    for _ in range(n):
        launchpad.add_wf(
            Firework(FoundryTask(job="{}"), spec={"_category": category, "foundry": {"project_id": project_id}})
        )


def make(launchpad, folder, *, reserve: bool = False, max_queued: int = 10, **fields) -> Launcher:
    values = {"name": "dft", "category": "labels", "cores": 2, "cores_per_job": 2, "threads": 1, "wall_time": 3600}
    profile = Profile(**{**values, **fields})
    fworker = FWorker(name="any", category=profile.category, query=jobs_of_project("mine"))
    return Launcher(launchpad, "mine", profile, fworker, SimpleNamespace(q_type="SLURM"), folder, reserve, max_queued)


def send_all(launcher: Launcher) -> int:
    n = 0
    while launcher.wanted():
        assert launcher.send()
        n += 1
        assert n < 50
    return n


@pytest.mark.parametrize("state", ["pending", "running", "unknown"])
def test_a_worker_for_each_job_however_long_it_takes_to_begin(launchpad, queue, tmp_path, state):
    add(launchpad, 3)
    add(launchpad, 5, "others")
    launcher = make(launchpad, tmp_path)
    assert send_all(launcher) == 3
    queue.states = dict.fromkeys(queue.states, state)
    assert launcher.wanted() == 0
    # another launcher finds the notes
    assert make(launchpad, tmp_path).wanted() == 0


def test_jobs_of_an_allocation_and_the_limit(launchpad, queue, tmp_path):
    add(launchpad, 9)
    assert send_all(make(launchpad, tmp_path / "a", cores=4)) == 5
    assert send_all(make(launchpad, tmp_path / "b", max_queued=2)) == 2


def test_busy_workers_are_none_for_the_next_job(launchpad, queue, tmp_path):
    add(launchpad, 2)
    launcher = make(launchpad, tmp_path)
    assert send_all(launcher) == 2
    queue.states = dict.fromkeys(queue.states, "running")
    launchpad.checkout_fw(launcher.fworker, str(tmp_path))
    assert launcher.wanted() == 0
    add(launchpad, 1)  # two wait; one worker is busy, one is about to begin
    assert launcher.wanted() == 1
    queue.states["2"] = "gone"  # it has ended, and its time was not used for nothing: a job was begun meanwhile
    assert launcher.wanted() == 2
    assert launcher.notes.n_idle == 0


def test_parts_of_an_allocation_that_have_left_take_no_job(launchpad, queue, clock, tmp_path):
    """Four at once; three found nothing and left while the fourth still runs a long job."""
    add(launchpad, 1)
    launcher = make(launchpad, tmp_path, cores=8)
    assert send_all(launcher) == 1
    queue.states["1"] = "running"
    assert launcher.wanted() == 0
    launchpad.checkout_fw(launcher.fworker, str(tmp_path))
    add(launchpad, 3)
    assert launcher.wanted() == 0  # it has only just begun: the other three are about to ask
    clock.time += 31
    assert launcher.wanted() == 1
    add(launchpad, 2)
    assert launcher.wanted() == 2


def test_jobs_that_others_run_need_no_workers(launchpad, queue, clock, tmp_path):
    add(launchpad, 6)
    launcher = make(launchpad, tmp_path)
    for _ in range(5):  # by hand
        launchpad.checkout_fw(launcher.fworker, str(tmp_path))
    assert send_all(launcher) == 1


def test_a_launcher_that_stays_outlives_refusals(launchpad, queue, tmp_path, monkeypatch, caplog):
    add(launchpad, 1)
    launcher = make(launchpad, tmp_path)
    monkeypatch.setattr(command, "_launcher", lambda *arguments, **more: launcher)
    looks = []

    def wanted() -> int:
        looks.append(1)
        if len(looks) == 2:
            raise ServerSelectionTimeoutError("db: refused")
        queue.takes = len(looks) > 2
        return 1

    monkeypatch.setattr(launcher, "wanted", wanted)
    sent = command.launch(None, None, stay=True, n_launches=1, sleep_s=0.01, pause_s=0.0)
    assert sent == ["1"]
    assert len(looks) == 3
    assert "did not take a worker" in caplog.text
    assert "db: refused" in caplog.text
    queue.takes = False
    looks.clear()
    with pytest.raises(ProjectError):
        command.launch(None, None, n_launches=1, sleep_s=0.01)


def test_what_another_project_begins_is_no_sign_of_life(launchpad, queue, clock, tmp_path):
    add(launchpad, 1)
    add(launchpad, 1, project_id="other")
    launcher = make(launchpad, tmp_path)
    assert send_all(launcher) == 1
    theirs = FWorker(name="any", category="labels", query=jobs_of_project("other"))
    assert launchpad.checkout_fw(theirs, str(tmp_path))[0] is not None
    queue.states["1"] = "gone"
    assert launcher.wanted() == 0
    assert launcher.notes.n_idle == 1


def test_workers_that_do_nothing_are_sent_ever_less_often(launchpad, queue, clock, tmp_path, caplog):
    add(launchpad, 1)
    launcher = make(launchpad, tmp_path)
    pauses = []
    for _ in range(9):
        assert send_all(launcher) == 1
        queue.states[str(len(queue.states))] = "gone"
        with caplog.at_level(logging.WARNING):
            assert launcher.wanted() == 0
        begun = clock.time
        while not make(launchpad, tmp_path).wanted():
            clock.time += 1
        pauses.append(clock.time - begun)
    assert pauses == pytest.approx([30, 60, 120, 240, 480, 960, 1920, 3600, 3600], abs=1)
    assert "ended without beginning one of the jobs that wait (9 in a row)" in caplog.text
    assert str(tmp_path) in caplog.text
    # one that works ends that
    send_all(launcher)
    launchpad.checkout_fw(launcher.fworker, str(tmp_path))
    queue.states[str(len(queue.states))] = "gone"
    add(launchpad, 1)
    assert launcher.wanted() == 1
    assert launcher.notes.n_idle == 0


def test_reserved_jobs_have_an_allocation_each(launchpad, queue, tmp_path):
    add(launchpad, 3)
    launcher = make(launchpad, tmp_path, reserve=True, max_queued=2)
    assert send_all(launcher) == 2
    assert launchpad.fireworks.count_documents({"state": "RESERVED"}) == 2
    queue.states["1"] = "gone"
    assert launcher.wanted() == 1
    # allocations for one job are not there for others
    assert make(launchpad, tmp_path).wanted() == 1


def test_a_queue_that_refuses(launchpad, queue, tmp_path):
    add(launchpad, 1)
    queue.takes = False
    launcher = make(launchpad, tmp_path)
    with pytest.raises(ProjectError, match="did not take a worker of profile 'dft'"):
        launcher.send()
    assert launcher.notes.workers == []
    launchpad.fireworks.delete_many({})
    assert launcher.send() == ""


def test_spoiled_notes(launchpad, queue, tmp_path):
    (tmp_path / "launcher.json").write_text("{")
    add(launchpad, 1)
    assert send_all(make(launchpad, tmp_path)) == 1
    assert make(launchpad, tmp_path).notes.workers[0].id == "1"


def test_a_database_that_is_away(tmp_path, monkeypatch, capsys):
    Project.open_or_create(tmp_path / "p")

    def away(*args, **kwargs):
        raise ServerSelectionTimeoutError("db:1: refused, Timeout: 5s, Topology Description: <secret>")

    monkeypatch.setattr(command, "launch", away)
    with pytest.raises(SystemExit) as caught:
        command.main(["--project", str(tmp_path / "p"), "dft"])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "The database went away: db:1: refused" in said
    assert "secret" not in said
    with pytest.raises(SystemExit) as caught:
        command.main(["--project", str(tmp_path / "p"), "dtf"])
    assert caught.value.code == 2
    assert "Did you mean 'dft'" in capsys.readouterr().err
