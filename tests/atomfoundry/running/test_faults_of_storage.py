"""A database that is locked, a disk that is full, artifacts that are gone: said clearly, nothing lost, gone on with."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from jobflow import Flow

from atomfoundry.errors import StorageError
from atomfoundry.results import Project
from atomfoundry.running import run
from atomfoundry.running.execution import HoldingStore
from atomfoundry.running.queue import Queue
from atomfoundry.settings import settings

HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


class Holder:
    """Another process that holds the database."""

    def __init__(self, path):
        self.path = path
        self.process = None

    def hold(self, seconds):
        command = [sys.executable, "-c", HOLD, str(self.path), str(seconds)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "locked\n"

    def release(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def holder(project):
    Queue(project.queue_path).close()
    holder = Holder(project.database_path)
    yield holder
    holder.release()


@pytest.fixture
def patience(monkeypatch):
    """How long to wait for the database, here and in workers."""

    def wait(seconds):
        monkeypatch.setenv("ATOMFOUNDRY_DATABASE_TIMEOUT", str(seconds))
        settings.cache_clear()

    yield wait
    monkeypatch.undo()
    settings.cache_clear()


def documents(project):
    return Counter((doc["uuid"], doc["index"]) for doc in project.job_store().query())


def states(project):
    return dict(Queue(project.queue_path).rows("SELECT state, COUNT(*) FROM jobs GROUP BY state"))


def at_first_call(monkeypatch, owner, name, action):
    """Let something happen right before the first call of a method."""
    original = getattr(owner, name)
    done = []

    def changed(self, *args, **kwargs):
        if not done:
            done.append(True)
            action()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, changed)


def fan(jobs, *others):
    first = jobs.replace_by_flow(4)
    return Flow([first, jobs.add(first.output, 100), *others], name="fan")


# -- a locked database ------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_a_lock_in_mid_completion_is_waited_for(jobs, project, calls, holder, monkeypatch, seconds):
    at_first_call(monkeypatch, Queue, "complete", lambda: holder.hold(seconds))
    result = run(fan(jobs), project=project, workers=0, progress=False)
    assert result.ok
    assert result.completed == result.total == 8
    assert set(documents(project).values()) == {1}
    assert len(calls()) == 6  # no job was run again


@pytest.mark.parametrize("moment", ["claim", "complete", "fail"])
def test_a_lock_for_too_long_stops_the_run_and_the_next_one_goes_on(
    jobs, project, holder, monkeypatch, patience, moment
):
    patience(0.3)
    at_first_call(monkeypatch, Queue, moment, lambda: holder.hold(60))

    def flow():
        return fan(jobs, jobs.fail())

    with pytest.raises(StorageError, match=r"foundry.sqlite has been locked by another process for 0.3 s"):
        run(flow(), project=project, workers=0, progress=False)
    holder.release()
    again = run(flow(), project=project, workers=0, progress=False)
    assert (again.completed, again.failed, again.left, again.total) == (8, 1, 0, 9)
    assert set(documents(project).values()) == {1}
    assert [failure.message for failure in again.failures] == ["ValueError: on purpose"]


def test_what_a_job_says_of_itself_cannot_end_it(jobs, project, holder, monkeypatch, patience):
    patience(0.2)
    held = []
    at_first_call(monkeypatch, Queue, "set_message", lambda: held.append(holder.hold(60)))
    at_first_call(monkeypatch, HoldingStore, "flush", holder.release)
    result = run(jobs.talk(0.0), project=project, workers=0, progress=False)
    assert result.ok
    assert len(held) == 1
    assert set(documents(project).values()) == {1}


@pytest.mark.slow
def test_a_lock_stops_workers_as_well(jobs, project, holder, patience, tmp_path):
    patience(1.0)
    go = tmp_path / "go"

    def flow():
        return Flow([jobs.wait_for(str(go), str(tmp_path / "waits")), jobs.add(1, 1)])

    with holding_when(tmp_path / "waits", holder, go), pytest.raises(StorageError, match="locked by another process"):
        run(flow(), project=project, workers=1, progress=False)
    holder.release()
    again = run(flow(), project=project, workers=1, progress=False)
    assert again.ok
    assert set(documents(project).values()) == {1}


@contextmanager
def holding_when(sign, holder, go):
    """Hold the database as soon as a job has started, and let the job end then."""

    def wait():
        end = time.monotonic() + 120
        while not sign.exists() and time.monotonic() < end:
            time.sleep(0.01)
        holder.hold(120)
        go.touch()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


# -- a full disk ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB, and how it is made larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")

    def enlarge():
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)

    yield folder, enlarge
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["big_output", "big_file"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_stops_the_run_and_with_space_it_is_finished(jobs, small_disk, kind, workers):
    folder, enlarge = small_disk
    project = Project.open_or_create(folder / "project")

    def flow():
        return Flow([getattr(jobs, kind)(i, 400_000 if kind == "big_output" else 400_000 * i) for i in range(12)])

    with pytest.raises(StorageError, match=r"(?i)full|no space") as caught:
        run(flow(), project=project, workers=workers, progress=False)
    assert "then run again" in str(caught.value)
    before = states(project)
    assert "FAILED" not in before
    assert before["COMPLETED"] <= len(documents(project)) < 12
    enlarge()
    again = run(flow(), project=project, workers=workers, progress=False)
    assert again.ok
    assert again.reused == before["COMPLETED"]
    assert len(documents(project)) == 12
    assert set(documents(project).values()) == {1}


def test_a_database_that_may_not_grow_stops_the_run(jobs, project):
    """As at a quota; without rights to mount anything."""

    def flow():
        return Flow([jobs.big_output(i, 200_000) for i in range(12)])

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
            run(flow(), project=project, workers=0, progress=False)
        except StorageError as error:
            code = 0 if "foundry.sqlite cannot be used" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert 0 < states(project)["COMPLETED"] < 12
    again = run(flow(), project=project, workers=0, progress=False)
    assert again.ok
    assert set(documents(project).values()) == {1}


def test_a_job_that_never_finds_space_fails_in_the_end(jobs, project):
    def flow():
        return Flow([jobs.always_full(1), jobs.add(1)])

    for _ in range(3):
        with pytest.raises(StorageError, match=r"'always_full' could not be run: No space left .*\(at /scratch\)"):
            run(flow(), project=project, workers=0, progress=False)
    result = run(flow(), project=project, workers=0, progress=False)
    assert (result.completed, result.failed) == (1, 1)
    assert "3 times: No space left on device" in result.failures[0].message


# -- artifacts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("harm", "message"), [("delete", "is missing"), ("alter", "was altered")])
def test_a_harmed_artifact_is_noticed_and_once_restored_the_run_goes_on(jobs, project, harm, message):
    first = run(jobs.make_artifact("content"), project=project, workers=0, progress=False)
    (document,) = project.job_store().query({"uuid": {"$in": list(first.uuids.values())}})
    path = project.artifacts.root / document["output"]["structures"]["uri"]

    def flow():
        made = jobs.make_artifact("content")
        return Flow([made, read := jobs.read_artifact(made.output), jobs.add(read.output, "!")])

    def damage():
        path.unlink() if harm == "delete" else path.write_text("CONTENT")

    flow_ = flow()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atomfoundry.running.worker.execute", harming(damage))
        result = run(flow_, project=project, workers=0, progress=False)
    assert (result.completed, result.failed, result.blocked) == (1, 1, 1)
    assert message in result.failures[0].message
    assert "Restore it from a copy of the project" in result.failures[0].message
    path.write_text("content")
    again = run(flow(), project=project, workers=0, progress=False, retry_failed=True)
    assert again.ok
    assert again.reused == 1
    last = flow_.jobs[-1].uuid
    assert again.output(result.uuid_of(last)) == "content!"
    assert set(documents(project).values()) == {1}


def harming(damage):
    """Run jobs as ever, but harm something before each but the first."""
    from atomfoundry.running.execution import execute

    ran = []

    def harmed(claim, *args, **kwargs):
        if ran:
            damage() if len(ran) == 1 else None
        ran.append(claim)
        return execute(claim, *args, **kwargs)

    return harmed
