"""What fails, and that nothing is lost or doubled by it: real processes, really killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from fireworks.core.launchpad import WFLock
from jobflow import Flow

from atomfoundry.errors import RunError
from atomfoundry.running.cluster import attempt as attempt_module
from atomfoundry.running.cluster import patience
from atomfoundry.running.cluster.attempt import read_attempt
from atomfoundry.running.cluster.control import retry_run
from atomfoundry.running.cluster.launchpad import FoundryLaunchPad
from atomfoundry.running.cluster.status import cluster_runs
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.sweep import sweep
from atomfoundry.running.cluster.worker import WorkerOptions, work
from atomfoundry.running.execution import job_folder

NOW = WorkerOptions(idle_s=0, sleep_s=0)


def states(launchpad, project):
    (run,) = cluster_runs(launchpad, project)
    return run.states


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


class Clock:
    """A sweep's clock, put forward at will."""

    now = 1e9

    def __call__(self):
        return self.now


def swept(project, launchpad, clock=None, **kwargs):
    report = sweep(project, launchpad=launchpad, **({"clock": clock} if clock else {}), **kwargs)
    return [finding.kind for finding in report.findings]


def documents(project):
    return sorted((doc["uuid"], doc["index"]) for doc in project.job_store().query())


# -- real kills -------------------------------------------------------------------------------------------


def test_a_killed_worker_s_job_is_found_and_run_again(jobs, project, shared_launchpad, start_worker, tmp_path):
    first = jobs.kill_once(str(tmp_path / "once"))
    submission = submit(Flow([first, last := jobs.add(first.output, 1)]), project=project, launchpad=shared_launchpad)
    assert start_worker().wait(60) == -signal.SIGKILL
    assert states(shared_launchpad, project) == {"RUNNING": 1, "WAITING": 1}
    assert swept(project, shared_launchpad) == ["lost"]
    assert swept(project, shared_launchpad) == []
    assert start_worker("--idle", "0").wait(60) == 0
    assert states(shared_launchpad, project) == {"COMPLETED": 2}
    assert project.job_store().get_output(submission.uuid_of(last)) == 2
    assert len(documents(project)) == 2


@pytest.mark.slow
def test_a_killed_long_job_goes_on_from_its_checkpoint(jobs, project, shared_launchpad, start_worker, tmp_path):
    path = tmp_path / "steps"
    submission = submit(jobs.steps(str(path), 12, 0.1), project=project, launchpad=shared_launchpad)
    worker = start_worker()
    until(lambda: path.exists() and len(path.read_text().split()) >= 4)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert swept(project, shared_launchpad) == ["lost"]
    assert start_worker("--idle", "0").wait(60) == 0
    assert states(shared_launchpad, project) == {"COMPLETED": 1}
    numbers = [int(word) for word in path.read_text().split()]
    assert sorted(set(numbers)) == list(range(1, 13))
    assert len(numbers) <= 13  # at most the step in flight is done twice
    assert project.job_store().count({"uuid": submission.uuid_of(next(iter(submission.uuids)))}) <= 1


@pytest.mark.slow
def test_a_job_that_kills_its_workers_is_failed_at_last(jobs, project, shared_launchpad, start_worker, tmp_path):
    submit(jobs.kill_own_worker(str(tmp_path / "n"), 10), project=project, launchpad=shared_launchpad)
    kinds = []
    for _ in range(3):
        assert start_worker().wait(60) == -signal.SIGKILL
        kinds += swept(project, shared_launchpad)
    assert kinds == ["lost", "lost", "lost too often"]
    (run,) = cluster_runs(shared_launchpad, project)
    assert run.states == {"FAILED": 1}
    assert "was lost 3 times" in run.failures[0].message
    assert start_worker("--idle", "0").wait(60) == 0
    assert states(shared_launchpad, project) == {"FAILED": 1}


@pytest.mark.slow
def test_asked_to_stop_it_goes_on_elsewhere(jobs, project, shared_launchpad, start_worker, tmp_path):
    path = tmp_path / "steps"
    submit(jobs.steps(str(path), 5, 0.01, stop_after=2), project=project, launchpad=shared_launchpad)
    assert start_worker("--idle", "0").wait(60) == 0
    assert states(shared_launchpad, project) == {"COMPLETED": 1}
    assert path.read_text().split() == ["1", "2", "3", "4", "5"]
    assert shared_launchpad.fireworks.count_documents({}) == 3
    assert len(documents(project)) == 1


def test_two_workers_never_run_the_same_job(jobs, project, shared_launchpad, start_worker, calls):
    n = 24
    fan = [jobs.add(i, 1) for i in range(n)]
    last = jobs.total([job.output for job in fan])
    submission = submit(Flow([*fan, last]), project=project, launchpad=shared_launchpad, workflow_size=10)
    workers = [start_worker("--idle", "3") for _ in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    assert states(shared_launchpad, project) == {"COMPLETED": n + 1}
    assert sorted(calls()) == sorted(set(calls()))
    assert project.job_store().get_output(submission.uuid_of(last)) == n * (n + 1) // 2


def nothing_is_lost_or_doubled(project, launchpad, n_jobs):
    """Every job completed, once, with one output; nothing left to mend."""
    assert states(launchpad, project) == {"COMPLETED": n_jobs}
    assert launchpad.fireworks.count_documents({}) == n_jobs
    assert [launch["state"] for launch in launchpad.launches.find()] == ["COMPLETED"] * n_jobs
    (workflow,) = launchpad.workflows.find()
    assert workflow["state"] == "COMPLETED"
    assert set(workflow["fw_states"].values()) == {"COMPLETED"}
    assert "locked" not in workflow
    found = documents(project)
    assert len(found) == len(set(found)) == n_jobs
    assert not list(project.work_dir.glob("*/result.json"))
    assert swept(project, launchpad, stuck_after_s=0) == swept(project, launchpad, stuck_after_s=0) == []


class Cut:
    """Takes the server off the network at a write of the first completion, or when that is in the database."""

    def __init__(self, monkeypatch, database, write, *, after):
        self.gone = threading.Event()
        self._database, self._write, self._after = database, write, after
        self._n_writes = -1
        self._true = database.answer
        monkeypatch.setattr(database, "answer", self._answer)

    def _answer(self, command):
        change = command.get("update")
        completing = isinstance(change, dict) and change.get("state") == "COMPLETED"
        if self._n_writes >= 0 or (command.get("findAndModify") == "launches" and completing):
            self._n_writes += "findAndModify" in command
        if self.gone.is_set() or self._n_writes != self._write or "findAndModify" not in command:
            return self._true(command)
        if self._after:
            self._true(command)
        self._database.pause()
        self.gone.set()
        return {"ok": 0.0}


@pytest.mark.parametrize("seconds", [2.0, *(pytest.param(each, marks=pytest.mark.slow) for each in (5.0, 30.0))])
def test_the_database_is_away_when_a_job_ends(
    jobs, project, shared_launchpad, start_worker, tmp_path, database, seconds
):
    path = tmp_path / "steps"
    first = jobs.steps(str(path), 1, 1.0)
    submission = submit(Flow([first, last := jobs.add(first.output, 1)]), project=project, launchpad=shared_launchpad)
    worker = start_worker("--idle", "0")
    until(lambda: list(project.work_dir.glob("*/attempt.json")))
    database.pause()
    time.sleep(seconds)
    assert worker.poll() is None
    database.resume()
    assert worker.wait(120) == 0
    nothing_is_lost_or_doubled(project, shared_launchpad, 2)
    assert path.read_text().split() == ["1"]
    assert project.job_store().get_output(submission.uuid_of(last)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [5.0, 30.0])
def test_the_database_goes_away_in_mid_completion(
    jobs, project, shared_launchpad, start_worker, tmp_path, database, monkeypatch, seconds
):
    """The job is written to have ended, the one that waits for it not to be ready."""
    path = tmp_path / "steps"
    first = jobs.steps(str(path), 1)
    submission = submit(Flow([first, last := jobs.add(first.output, 1)]), project=project, launchpad=shared_launchpad)
    cut = Cut(monkeypatch, database, 2, after=True)
    worker = start_worker("--idle", "0")
    assert cut.gone.wait(60)
    time.sleep(seconds)
    assert worker.poll() is None
    database.resume()
    assert worker.wait(120) == 0
    nothing_is_lost_or_doubled(project, shared_launchpad, 2)
    assert path.read_text().split() == ["1"]
    assert project.job_store().get_output(submission.uuid_of(last)) == 2


QUICK = {(1, True), (2, True), (5, False)}
WRITES = [
    pytest.param(write, after, marks=[] if (write, after) in QUICK else pytest.mark.slow)
    for write in range(6)
    for after in (False, True)
]


@pytest.mark.parametrize(("write", "after"), WRITES)
def test_the_connection_breaks_at_a_write_of_a_completion(
    jobs, project, shared_launchpad, database, monkeypatch, calls, write, after
):
    """Launch, lock, job, child, workflow, unlocking: nobody waits for a sweep, and no completed job is failed."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(WFLock.__init__, "__defaults__", (0.5, True))
    first = jobs.add(1)
    submission = submit(Flow([first, last := jobs.add(first.output, 1)]), project=project, launchpad=shared_launchpad)
    cut = Cut(monkeypatch, database, write, after=after)

    def back():
        if cut.gone.wait(60):
            time.sleep(0.2)
            database.resume()

    threading.Thread(target=back, daemon=True).start()
    work(project, NOW, launchpad=shared_launchpad)
    assert cut.gone.is_set()
    nothing_is_lost_or_doubled(project, shared_launchpad, 2)
    assert len(calls()) == 2
    assert project.job_store().get_output(submission.uuid_of(last)) == 2


def write_half(monkeypatch, ends):
    """Let a worker die after it has written that a job has ended and before anything of what follows from it."""
    true = FoundryLaunchPad._upsert_fws

    def half(self, fireworks, reassign_all=False):
        ended = [fw for fw in fireworks if fw.state == "COMPLETED" and ends(fw)]
        done = true(self, ended or fireworks, reassign_all)
        if ended:
            raise Died
        return done

    monkeypatch.setattr(FoundryLaunchPad, "_upsert_fws", half)
    monkeypatch.setattr(WFLock, "__exit__", lambda self, *exception: None)


def test_the_sweep_settles_what_the_dead_left(jobs, project, launchpad, monkeypatch):
    """Of a job that came in for another one, and was made after the one that waits for it."""
    first = jobs.replace_by_job(5)
    submit(Flow([first, jobs.add(first.output, 1)]), project=project, launchpad=launchpad)
    with monkeypatch.context() as patch, pytest.raises(Died):
        write_half(patch, lambda fw: fw.fw_id == max(launchpad.fireworks.distinct("fw_id")))
        patch.setattr(WFLock, "__enter__", lambda self: None)
        work(project, NOW, launchpad=launchpad)
    forget_process(project, launchpad)
    launchpad.workflows.update_many({}, {"$set": {"locked": True}})
    assert launchpad.fireworks.count_documents({"state": "WAITING"}) == 1
    clock = Clock()
    assert swept(project, launchpad, clock) == []
    clock.now += 1000
    assert swept(project, launchpad, clock) == ["locked", "folder"]
    work(project, NOW, launchpad=launchpad)
    assert set(states(launchpad, project)) == {"COMPLETED"}


def test_a_lock_taken_from_the_dead_settles_what_they_left(jobs, project, launchpad, monkeypatch):
    """A worker died between writing that its job had ended and that the next was ready; no sweep comes."""
    monkeypatch.setattr(WFLock.__init__, "__defaults__", (0.5, True))
    first, other = jobs.add(1), jobs.add(5)
    submission = submit(Flow([first, jobs.add(first.output, 1), other]), project=project, launchpad=launchpad)
    uuid = submission.uuid_of(other)
    launchpad.fireworks.update_one({"spec.foundry.uuid": uuid}, {"$set": {"state": "PAUSED"}})
    with monkeypatch.context() as patch, pytest.raises(Died):
        write_half(patch, lambda fw: True)
        work(project, NOW, launchpad=launchpad)
    forget_process(project, launchpad)
    found = launchpad.fireworks.find({}, ["state"], sort=[("fw_id", 1)])
    assert [fw["state"] for fw in found] == ["COMPLETED", "WAITING", "PAUSED"]
    assert "locked" in launchpad.workflows.find_one({})
    launchpad.fireworks.update_one({"spec.foundry.uuid": uuid}, {"$set": {"state": "READY"}})
    work(project, NOW, launchpad=launchpad)
    assert states(launchpad, project) == {"COMPLETED": 3}


@pytest.mark.parametrize("call", range(1, 13))
def test_the_connection_breaks_while_a_job_is_taken(jobs, project, launchpad, monkeypatch, call):
    """Wherever that is, the job is taken in the end, or is one that a sweep gives back."""
    import mongomock
    from pymongo.errors import AutoReconnect

    submit(jobs.add(1), project=project, launchpad=launchpad)
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    count = 0
    for name in ("find_one_and_update", "find_one_and_replace", "find_one", "find", "update_one"):
        true = getattr(mongomock.collection.Collection, name)

        def breaking(self, *args, true=true, **kwargs):
            nonlocal count
            count += 1
            if count == call:
                raise AutoReconnect("broken")
            return true(self, *args, **kwargs)

        monkeypatch.setattr(mongomock.collection.Collection, name, breaking)
    clock = Clock()
    for _ in range(3):
        work(project, NOW, launchpad=launchpad)
        forget_process(project, launchpad)
        swept(project, launchpad, clock)
        clock.now += 1000
    assert states(launchpad, project) == {"COMPLETED": 1}
    assert len(documents(project)) == 1


# -- failures at a chosen place ---------------------------------------------------------------------------


class Died(BaseException):
    """Ends a worker at a chosen place, as a kill would: nothing after it happens."""


def dies(monkeypatch, owner, name, *, after=False):
    """Let the first call of a method be the last thing its worker does."""
    true = getattr(owner, name)

    def dying(*args, **kwargs):
        monkeypatch.setattr(owner, name, true)
        if after:
            true(*args, **kwargs)
        raise Died

    monkeypatch.setattr(owner, name, dying)


@pytest.fixture
def no_last_report(monkeypatch):
    """A killed process reports nothing: FireWorks' own handling of exceptions is kept from doing so."""
    from fireworks.core.launchpad import LaunchPad

    true = LaunchPad.complete_launch

    def complete(self, launch_id, action=None, state="COMPLETED"):
        if state == "FIZZLED" and "Died" in json.dumps(action.to_dict() if action else {}, default=str):
            raise Died
        return true(self, launch_id, action, state)

    monkeypatch.setattr(LaunchPad, "complete_launch", complete)


def forget_process(project, launchpad):
    """What this test did in its own process is to look like the work of one that is dead."""
    for fw in launchpad.fireworks.find({"state": "RUNNING"}):
        mark = fw["spec"]["foundry"]
        path = job_folder(project, mark["uuid"], mark["index"]) / "attempt.json"
        if path.exists():
            content = {**json.loads(path.read_text()), "pid": 2**22 + 1}
            path.write_text(json.dumps(content))


PLACES = [
    (attempt_module, "write_result", False),
    (attempt_module, "write_result", True),
    (attempt_module, "_deliver", False),
    (attempt_module, "_enter", False),
    (attempt_module, "_enter", True),
    (attempt_module, "_deliver", True),
    (FoundryLaunchPad, "add_part", True),
    (FoundryLaunchPad, "attach", False),
    (FoundryLaunchPad, "attach", True),
    (FoundryLaunchPad, "complete_launch", False),
    (FoundryLaunchPad, "_refresh_wf", False),
    (FoundryLaunchPad, "_update_wf", False),
    (FoundryLaunchPad, "_update_wf", True),
    (FoundryLaunchPad, "complete_launch", True),
]


@pytest.mark.parametrize("size", [100, 2])
@pytest.mark.parametrize(("owner", "name", "after"), PLACES)
def test_killed_anywhere_nothing_is_lost_or_doubled(
    jobs, project, launchpad, monkeypatch, no_last_report, calls, owner, name, after, size
):
    def flow():
        first = jobs.replace_by_flow(4)
        more = jobs.add_more(3)
        return Flow([first, more, jobs.add(first.output, 100)], name="killed")

    submit(flow(), project=project, launchpad=launchpad, workflow_size=size)
    clock = Clock()
    dies(monkeypatch, owner, name, after=after)
    with pytest.raises(Died):
        work(project, NOW, launchpad=launchpad)
    for _ in range(4):
        launchpad.when_completed.clear()
        forget_process(project, launchpad)
        swept(project, launchpad, clock)
        clock.now += 1000
        work(project, NOW, launchpad=launchpad)
    # replace_by_flow, its four jobs, their sum and the stored reference, add_more, its addition, the last
    assert states(launchpad, project) == {"COMPLETED": 10}
    found = documents(project)
    assert len(found) == len(set(found)) == 10
    kinds = [fw["spec"]["foundry"]["kind"] for fw in launchpad.fireworks.find({"state": {"$ne": "COMPLETED"}})]
    assert kinds == []
    assert swept(project, launchpad, clock) == []
    assert not list(project.work_dir.glob("*/result.json"))


def test_a_submission_killed_half_way_is_completed_by_the_next(jobs, project, launchpad, monkeypatch):
    flow = Flow([jobs.add(i, 1) for i in range(9)])
    import mongomock

    true = mongomock.collection.Collection.insert_many

    def half(self, found, *args, **kwargs):
        found = list(found)
        monkeypatch.setattr(mongomock.collection.Collection, "insert_many", true)
        true(self, found[:1])
        raise Died

    monkeypatch.setattr(mongomock.collection.Collection, "insert_many", half)
    with pytest.raises(Died):
        submit(flow, project=project, launchpad=launchpad, workflow_size=4)
    clock = Clock()
    assert swept(project, launchpad, clock) == []
    clock.now += 1000
    assert swept(project, launchpad, clock) == ["incomplete"]
    submit(flow, project=project, launchpad=launchpad, workflow_size=4)
    work(project, NOW, launchpad=launchpad)
    assert states(launchpad, project) == {"COMPLETED": 9}
    assert launchpad.fireworks.count_documents({}) == 9


def test_a_reservation_without_a_launch_is_undone(jobs, project, launchpad):
    submit(jobs.add(1), project=project, launchpad=launchpad)
    launchpad._get_a_fw_to_run()
    assert states(launchpad, project) == {"READY": 1}
    assert work(project, NOW, launchpad=launchpad) == 0
    clock = Clock()
    assert swept(project, launchpad, clock) == []
    clock.now += 1000
    assert swept(project, launchpad, clock) == ["reserved"]
    work(project, NOW, launchpad=launchpad)
    assert states(launchpad, project) == {"COMPLETED": 1}


def test_a_stale_lock_is_broken(jobs, project, launchpad):
    submit(jobs.add(1), project=project, launchpad=launchpad)
    launchpad.workflows.update_many({}, {"$set": {"locked": True}})
    clock = Clock()
    assert swept(project, launchpad, clock) == []
    clock.now += 1000
    assert swept(project, launchpad, clock, dry_run=True) == ["locked"]
    assert swept(project, launchpad, clock) == ["locked"]
    work(project, NOW, launchpad=launchpad)
    assert states(launchpad, project) == {"COMPLETED": 1}


@pytest.mark.parametrize("skew_h", [-30, 30])
def test_clocks_of_workers_do_not_matter(jobs, project, launchpad, skew_h):
    """A job of another host, whose clock is hours off: only that its heartbeat stands still counts."""
    from datetime import UTC, datetime, timedelta

    submit(jobs.add(1), project=project, launchpad=launchpad)
    launchpad.checkout_fw(_fworker(), str(project.work_dir))
    clock = Clock()

    def beat(minutes):
        now = (datetime.now(UTC) + timedelta(hours=skew_h, minutes=minutes)).isoformat()
        launchpad.launches.update_one({}, {"$set": {"state_history.0.updated_on": now, "host": "elsewhere"}})

    for minutes in range(0, 60, 10):
        beat(minutes)
        assert swept(project, launchpad, clock) == []
        clock.now += 600
    clock.now += 200
    assert swept(project, launchpad, clock) == []
    clock.now += 200
    assert swept(project, launchpad, clock) == ["lost"]


def _fworker():
    from fireworks.core.fworker import FWorker

    return FWorker(name="test")


@pytest.mark.parametrize(("answer", "kinds"), [("running", []), ("unknown", []), ("gone", ["lost"])])
def test_the_scheduler_is_asked(jobs, project, launchpad, answer, kinds):
    submit(jobs.add(1), project=project, launchpad=launchpad)
    fw, _ = launchpad.checkout_fw(_fworker(), str(project.work_dir))
    mark = fw.spec["foundry"]
    folder = job_folder(project, mark["uuid"], mark["index"])
    folder.mkdir()
    content = {"token": "t", "host": "elsewhere", "pid": 1, "process_start": 1.0, "fw_id": fw.fw_id, "queue_job": "77"}
    (folder / "attempt.json").write_text(json.dumps(content))
    clock = Clock()
    asked = {"scheduler": "slurm", "job_states": lambda ids, scheduler: {"77": answer}}
    assert swept(project, launchpad, clock, **asked) == []
    clock.now += 300
    assert swept(project, launchpad, clock, **asked) == kinds


def test_a_job_that_another_living_process_runs_is_not_begun(jobs, project, launchpad):
    """Somebody made a running job ready again by hand: the second worker leaves the first one alone."""
    import subprocess

    submit(jobs.add(1), project=project, launchpad=launchpad)
    fw = launchpad.fireworks.find_one({})
    mark = fw["spec"]["foundry"]
    folder = job_folder(project, mark["uuid"], mark["index"])
    folder.mkdir()
    other = subprocess.Popen(["sleep", "60"])
    try:
        from atomfoundry.running.processes import host_name, process_start

        content = {"token": "t", "host": host_name(), "pid": other.pid, "process_start": process_start(other.pid)}
        (folder / "attempt.json").write_text(json.dumps(content))
        work(project, NOW, launchpad=launchpad)
        (run,) = cluster_runs(launchpad, project)
        assert run.states == {"FAILED": 1}
        assert "still runs this job" in run.failures[0].message
        assert read_attempt(folder)["token"] == "t"
    finally:
        other.kill()
        other.wait()
    retry_run(launchpad, run.run_id, project.project_id)
    work(project, NOW, launchpad=launchpad)
    assert states(launchpad, project) == {"COMPLETED": 1}


@pytest.mark.slow
def test_a_failed_job_is_retried_by_another_while_its_first_worker_lives_on(
    jobs, project, shared_launchpad, start_worker, tmp_path
):
    path = tmp_path / "there"
    submission = submit(jobs.fail_unless(str(path)), project=project, launchpad=shared_launchpad)
    work(project, NOW, launchpad=shared_launchpad)
    assert states(shared_launchpad, project) == {"FAILED": 1}
    path.write_text("")
    retry_run(shared_launchpad, submission.run_id, project.project_id)
    assert start_worker("--idle", "0").wait(60) == 0
    assert states(shared_launchpad, project) == {"COMPLETED": 1}


def test_a_reported_result_is_not_delivered_again(jobs, project, launchpad, monkeypatch, tmp_path):
    """FireWorks' own rlaunch leaves results on disk: a collector that runs again must collect anew."""
    monkeypatch.setattr(attempt_module, "tidy", lambda folder: None)
    path = tmp_path / "there"
    fan = [jobs.add(1, 1), jobs.fail_unless(str(path))]
    last = jobs.gather([job.output for job in fan])
    submission = submit(Flow([*fan, last]), project=project, launchpad=launchpad)
    work(project, NOW, launchpad=launchpad)
    assert list(project.work_dir.glob("*/result.json"))
    path.write_text("")
    retry_run(launchpad, submission.run_id, project.project_id)
    work(project, NOW, launchpad=launchpad)
    assert project.job_store().get_output(submission.uuid_of(last)) == [2, 1]


def test_a_job_taken_over_delivers_nothing(jobs, project, launchpad, monkeypatch):
    submit(jobs.add(1), project=project, launchpad=launchpad)
    true = attempt_module._perform

    def taken_over(claim, task, project):
        result = true(claim, task, project)
        path = job_folder(project, claim.uuid, claim.index) / "attempt.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "token": "another"}))
        return result

    monkeypatch.setattr(attempt_module, "_perform", taken_over)
    work(project, NOW, launchpad=launchpad)
    assert documents(project) == []
    assert states(launchpad, project) == {"FAILED": 1}


def test_a_job_without_progress_is_failed(jobs, project, launchpad):
    submit(jobs.needs_time("/nowhere/at/all"), project=project, launchpad=launchpad)
    work(project, NOW, launchpad=launchpad)
    (run,) = cluster_runs(launchpad, project)
    assert run.states == {"FAILED": 1}
    assert "found no time to get on" in run.failures[0].traceback


def test_disk_full(jobs, project, launchpad, monkeypatch):
    """Nothing is reported before it is on disk; with space again the job is retried."""
    import errno

    submit(jobs.add(1), project=project, launchpad=launchpad)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device", str(project.work_dir))

    with monkeypatch.context() as patch:
        patch.setattr(attempt_module, "write_result", full)
        work(project, NOW, launchpad=launchpad)
    (run,) = cluster_runs(launchpad, project)
    assert "No space left on device" in run.failures[0].message
    assert documents(project) == []
    retry_run(launchpad, run.run_id, project.project_id)
    work(project, NOW, launchpad=launchpad)
    assert states(launchpad, project) == {"COMPLETED": 1}


def test_a_worker_of_another_project_refuses(jobs, project, launchpad, tmp_path, monkeypatch):
    """It asks for its own project's jobs alone; FireWorks' own worker without a FWorker file takes whatever waits."""
    from fireworks.core.fworker import FWorker
    from fireworks.core.rocket_launcher import launch_rocket

    from atomfoundry.results import Project, use_project

    submit(jobs.add(1), project=project, launchpad=launchpad)
    other = Project.open_or_create(tmp_path / "other")
    assert work(other, NOW, launchpad=launchpad) == 0
    assert states(launchpad, project) == {"READY": 1}
    monkeypatch.chdir(tmp_path)
    with use_project(other):
        launch_rocket(launchpad, FWorker(), strm_lvl="WARNING")
    (run,) = cluster_runs(launchpad, project)
    assert "belongs to another project" in run.failures[0].message


def test_offline_mode_is_refused(jobs, project, launchpad):
    from atomfoundry.running.cluster.task import FoundryTask

    with pytest.raises(RunError, match="offline mode"):
        FoundryTask(job="{}").run_task({"foundry": {}})


def test_heartbeats_survive_a_database_error(launchpad, caplog, monkeypatch):
    from pymongo.errors import AutoReconnect

    def away(launch_id):
        raise AutoReconnect("no route")

    monkeypatch.setattr(launchpad, "get_launch_by_id", away)
    launchpad.ping_launch(3)
    assert "No heartbeat of launch 3: no route" in caplog.text


def test_patience_ends(monkeypatch):
    from pymongo.errors import AutoReconnect

    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    tries = []

    def away():
        tries.append(1)
        raise AutoReconnect("gone")

    with pytest.raises(AutoReconnect):
        patience.patiently(away, "asking", limit_s=0.1)
    assert 3 <= len(tries) <= 8
