"""Kill everything at random moments, run again: the same documents, each once, and nothing done twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from atomfoundry.results import Project
from atomfoundry.running import run
from atomfoundry.running.processes import WORKER_VARIABLE
from atomfoundry.running.queue import Queue

HERE = Path(__file__).parent
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import foundry_flow_jobs as jobs
from atomfoundry.running import run
result = run(jobs.dynamic_flow(), project=sys.argv[1], workers=2, progress=False)
sys.exit(0 if result.ok else 1)
"""
VOLATILE = ("started_at", "wall_time_s", "peak_memory_mb", "git_commit")


def documents(project):
    found = {}
    for document in project.job_store().query():
        key = document["uuid"], document["index"]
        assert key not in found
        document.pop("completed_at")
        output = document["output"]
        if isinstance(output, dict) and output.get("provenance"):
            output["provenance"] = {k: v for k, v in output["provenance"].items() if k not in VOLATILE}
        found[key] = document
    return found


def completed(project):
    queue = Queue(project.queue_path)
    return set(queue.rows("SELECT uuid, idx FROM jobs WHERE state = 'COMPLETED'"))


def executions(log):
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return Counter((uuid, int(index)) for _, uuid, index in lines)


def workers_of(project):
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if WORKER_VARIABLE in environment and environment.get("ATOMFOUNDRY_PROJECT") == str(project.path):
            found.append(process)
    return found


def disturbed(project, log, generator, kills):
    """Run to the end; kill at most so often. Returns how often it was killed."""
    killed = 0
    frozen: dict[tuple[str, int], int] = {}
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(project.path), str(HERE)],
            env={**os.environ, "FLOW_JOBS_LOG": str(log)},
            start_new_session=True,
        )
        goal = sum(executions(log).values()) + generator.randint(1, 10)
        while killed < kills and process.poll() is None and sum(executions(log).values()) < goal:
            time.sleep(0.001)
        if killed < kills:
            time.sleep(generator.uniform(0, 0.03))
        if killed < kills and process.poll() is None:
            target = generator.choice(["group", "group", "worker"])
            victims = workers_of(project)
            if target == "worker" and victims:
                victims[0].kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                psutil.wait_procs(victims, timeout=10)
                assert not any(victim.is_running() and victim.status() != "zombie" for victim in victims)
                done = completed(project)
                frozen = {key: count for key, count in executions(log).items() if key in done}
            killed += 1
            if process.poll() is not None:
                continue
        assert process.wait(timeout=120) == 0
        final = executions(log)
        assert {key: final[key] for key in frozen} == frozen, "a finished job was run again"
        return killed


@pytest.mark.slow
@pytest.mark.parametrize("kills", [10])
def test_results_equal_those_of_an_undisturbed_run(jobs, tmp_path, kills):
    reference = Project.open_or_create(tmp_path / "reference")
    result = run(jobs.dynamic_flow(), project=reference, workers=0, progress=False)
    expected = documents(reference)
    assert len(expected) == result.completed == result.total
    generator = random.Random(2026)
    killed, round_ = 0, 0
    while killed < kills:
        round_ += 1
        project = Project.open_or_create(tmp_path / f"disturbed{round_}")
        killed += disturbed(project, tmp_path / f"log{round_}", generator, kills - killed)
        assert documents(project) == expected
        assert completed(project) == set(expected)
        again = run(jobs.dynamic_flow(), project=project, workers=2, progress=False)
        assert again.nothing_to_do
