"""Workers and runners that want the same at the same time, and clocks that are wrong."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter

import pytest
from jobflow import Flow

from atomfoundry.errors import ProjectError
from atomfoundry.running import run, runner
from atomfoundry.running.identity import prepare
from atomfoundry.running.queue import Children, Queue
from atomfoundry.running.status import status

HOURS = 3600.0


def in_children(n, work):
    """Call ``work(number)`` in forked processes at once; their exit codes."""
    pids = []
    for number in range(n):
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                code = work(number) or 0
            finally:
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


# -- races ------------------------------------------------------------------------------------------


def test_each_job_is_claimed_by_one_worker(jobs, project, tmp_path):
    prepared = prepare(Flow([jobs.add(i) for i in range(120)]))
    Queue(project.queue_path).add_run(prepared)
    begin = time.monotonic() + 0.3

    def worker(number):
        queue = Queue(project.queue_path)
        time.sleep(max(0.0, begin - time.monotonic()))
        with (tmp_path / f"{number}.log").open("w") as log:
            while (claim := queue.claim(prepared.run_id, f"w{number}")) is not None:
                log.write(f"{claim.uuid} {claim.attempts}\n")
                assert queue.complete(claim, f"w{number}")
        return 0

    assert in_children(4, worker) == [0] * 4
    claims = Counter(line for path in tmp_path.glob("*.log") for line in path.read_text().splitlines())
    assert claims == Counter(f"{entry.uuid} 1" for entry in prepared.entries)


def test_a_worker_that_lost_its_job_changes_nothing(jobs, project):
    prepared = prepare(Flow([first := jobs.add(1), jobs.add(first.output)]))
    child = prepare(Flow([jobs.add(77)])).entries
    queue = Queue(project.queue_path)
    queue.add_run(prepared)
    lost = queue.claim(prepared.run_id, "slow")
    assert queue.give_back("slow") == 1
    taken = queue.claim(prepared.run_id, "quick")
    assert (taken.uuid, taken.attempts) == (lost.uuid, 2)
    before = queue.rows("SELECT * FROM jobs ORDER BY id")
    assert not queue.complete(lost, "slow", children=[Children(child, waited_for=True)], stop_flow=True)
    assert not queue.fail(lost, "slow", "too late")
    assert queue.rows("SELECT * FROM jobs ORDER BY id") == before
    assert queue.complete(taken, "quick")
    assert queue.counts(prepared.run_id) == {"COMPLETED": 1, "READY": 1}


def test_of_two_runners_one_runs_and_the_other_is_told(jobs, project, calls):
    def start(number):
        try:
            return 0 if run(flow(jobs), project=project, workers=0, progress=False).ok else 1
        except ProjectError as error:
            return 7 if f"Another run is at work in {project.path} (process " in str(error) else 2

    codes = in_children(2, start)
    assert sorted(codes) == [0, 7]
    assert len(calls()) == 3
    assert run(flow(jobs), project=project, workers=0, progress=False).nothing_to_do


def flow(jobs):
    first = jobs.add(1, 1, pause=0.4)
    return Flow([first, second := jobs.add(first.output, pause=0.1), jobs.add(second.output)])


# -- clocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [-48 * HOURS, -5 * HOURS, 0.0, 5 * HOURS])
def test_a_dead_worker_of_another_host_is_known_whatever_the_clocks_say(jobs, project, monkeypatch, skew):
    monkeypatch.setattr(runner, "LEASE_S", 0.2)
    prepared = prepare(jobs.add(1))
    queue = Queue(project.queue_path)
    queue.add_run(prepared)
    queue.register("far", prepared.run_id, "elsewhere", 1, time.time())
    assert queue.claim(prepared.run_id, "far") is not None
    queue._write("UPDATE workers SET heartbeat = ?", (time.time() + skew,))
    start = time.monotonic()
    result = run(jobs.add(1), project=project, workers=0, progress=False)
    assert result.ok
    assert time.monotonic() - start < 20
    assert queue.workers() == []


@pytest.mark.parametrize("skew", [-5 * HOURS, 5 * HOURS])
def test_a_living_worker_of_another_host_is_left_alone(jobs, project, monkeypatch, skew):
    monkeypatch.setattr(runner, "LEASE_S", 5.0)
    prepared = prepare(jobs.add(1))
    queue = Queue(project.queue_path)
    queue.add_run(prepared)
    queue.register("far", prepared.run_id, "elsewhere", 1, time.time())
    held = queue.claim(prepared.run_id, "far")
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            queue._write("UPDATE workers SET heartbeat = ?", (time.time() + skew,))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ProjectError, match="A worker on elsewhere is at work in this project"):
            run(jobs.add(1), project=project, workers=0, progress=False)
    finally:
        ended.set()
        thread.join()
    assert queue.complete(held, "far")


@pytest.mark.parametrize("jump", [-7 * HOURS, 7 * HOURS])
def test_a_clock_that_jumps_during_a_run_changes_nothing(jobs, project, monkeypatch, jump):
    clock, begun = time.time, []

    def jumping():
        begun.append(1)
        return clock() + (jump if len(begun) > 4 else 0.0)

    monkeypatch.setattr(time, "time", jumping)
    result = run(flow(jobs), project=project, workers=0, progress=False)
    assert result.ok
    assert len(begun) > 4
    assert 0 < result.wall_time_s < 60
    (item,) = status(project).runs
    assert item.completed == 3
    assert run(flow(jobs), project=project, workers=0, progress=False).nothing_to_do
