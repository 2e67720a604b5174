from __future__ import annotations

import atexit
import gc
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from jobflow import Flow, JobOrder

from atomfoundry.documents import LabelDoc
from atomfoundry.errors import InputError, ProjectError, RunError
from atomfoundry.results import Project
from atomfoundry.running import cancel, is_finished, retry, run
from atomfoundry.running.processes import ProjectLock
from atomfoundry.running.queue import Queue
from atomfoundry.running.status import status


def here(flow, project, **kwargs):
    """Run in this process: fast, for what does not need workers."""
    return run(flow, project=project, workers=0, progress=False, **kwargs)


# -- semantics --------------------------------------------------------------------------------------


def test_diamond(jobs, project):
    a = jobs.add(1)
    b, c = jobs.add(a.output, 10), jobs.add(a.output, 100)
    d = jobs.add(b.output, c.output)
    flow = Flow([d, c, b, a])
    result = here(flow, project)
    assert (result.total, result.completed, result.reused, result.failed) == (4, 4, 0, 0)
    assert result.output(d) == 112
    assert result.output(d.output) == 112
    assert result.ok
    assert not result.nothing_to_do


def test_the_same_flow_again_does_nothing_and_says_so(jobs, project, calls):
    def flow():
        a = jobs.add(1)
        return Flow([a, jobs.replace_by_flow(3), jobs.add(a.output, 2)], name="twice")

    here(flow(), project)
    before = calls()
    assert is_finished(flow(), project.path)
    documents = list(project.job_store().query())
    again = run(flow(), project=project.path, progress=False)
    assert calls() == before
    assert again.nothing_to_do
    assert again.reused == again.total == len(documents)
    assert str(again) == f"Nothing to do: all {len(documents)} jobs of 'twice' were finished before."
    assert list(project.job_store().query()) == documents


def test_finished_is_only_what_ended_well(jobs, project, tmp_path):
    assert not is_finished(Flow([jobs.add(1)]), tmp_path / "nowhere")
    here(Flow([jobs.add(1), jobs.fail()], name="failing"), project)
    assert not is_finished(Flow([jobs.add(1), jobs.fail()], name="failing"), project)
    assert not is_finished(Flow([jobs.add(1)], name="another"), project)


def test_a_longer_flow_is_another_run(jobs, project):
    assert here(jobs.add(1), project).run_id != here(jobs.add(2), project).run_id
    assert len(status(project).runs) == 2


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("replace_by_job", (5,), 15),
        ("replace_by_flow", (4,), 10),
        ("nested", (3, 1), 304),
        ("replace_by_flow_without_output", (7,), 7),
        ("stop", ("nothing",), 1),
    ],
)
def test_children_wait_for_what_replaces_their_parent(jobs, project, name, args, expected):
    first = getattr(jobs, name)(*args)
    last = jobs.add(first.output, 1000)
    result = here(Flow([first, last]), project)
    assert result.failures == []
    assert result.output(last) == expected + 1000
    assert result.completed == result.total == project.job_store().count()


def test_a_detour_is_waited_for(jobs, project, tmp_path):
    path = str(tmp_path / "file")
    first = jobs.detour(path)
    last = jobs.file_exists(path, after=first.output)
    last.update_metadata({"priority": 5})
    assert here(Flow([first, last]), project).output(last) is True


def test_an_addition_runs_and_outputs_may_point_at_it(jobs, project):
    first = jobs.add_more(5)
    result = here(first, project)
    assert result.total == 2
    assert result.output(first) == {"value": 5, "points_to": 6}
    stored = project.job_store().query_one({"name": "add"})
    assert stored["metadata"]["spawned_by"] == {"uuid": result.uuid_of(first), "index": 1}


def test_linear_order(jobs, project, tmp_path):
    path = str(tmp_path / "file")
    flow = Flow([jobs.write_file(path), last := jobs.file_exists(path)], order=JobOrder.LINEAR)
    last.update_metadata({"priority": 5})
    assert here(flow, project).output(last) is True
    flow = Flow([jobs.write_file(path + "2"), last := jobs.file_exists(path + "2")])
    last.update_metadata({"priority": 5})
    assert here(flow, project).output(last) is False


def test_failure_blocks_children_and_the_rest_goes_on(jobs, project):
    good, bad = jobs.add(1), jobs.fail(message="first line\nlast line")
    child = jobs.add(bad.output)
    grandchild = jobs.add(child.output)
    gathered = jobs.gather([good.output, bad.output, good.output])
    result = here(Flow([good, bad, child, grandchild, gathered]), project)
    assert (result.completed, result.failed, result.blocked, result.total) == (2, 1, 2, 5)
    assert result.output(gathered) == [1, None, 1]
    (failure,) = result.failures
    assert failure.name == "fail"
    assert failure.message == "last line"
    assert "ValueError: first line" in failure.traceback
    assert failure.folder.is_dir()
    assert not result.ok
    with pytest.raises(RunError, match=r"1 failed, 2 blocked.*First: fail"):
        here(Flow([*map(_free, (good, bad, child, grandchild, gathered))]), project, ensure_success=True)


def _free(job):
    job.hosts = []
    return job


def test_failure_inside_a_replacement(jobs, project):
    tolerant = jobs.replace_with_failure(True)
    strict = jobs.replace_with_failure(False)
    after = jobs.add(strict.output)
    result = here(Flow([tolerant, strict, after]), project)
    assert result.output(tolerant) == [2, None]
    assert result.failed == 3  # twice the job itself, once the child of an output that points nowhere
    assert {failure.name for failure in result.failures} == {"fail", "add"}
    assert result.blocked == 1


def test_stop_children_and_stop_jobflow(jobs, project):
    first = jobs.stop("children")
    child = jobs.add(first.output)
    result = here(Flow([first, child, jobs.add(child.output), jobs.add(1)]), project)
    assert (result.completed, result.stopped, result.failed) == (2, 2, 0)
    first = jobs.stop("flow")
    result = here(Flow([first, *(jobs.add(i) for i in range(3))]), project)
    assert (result.completed, result.stopped) == (1, 3)
    assert here(Flow([jobs.stop("flow"), *(jobs.add(i) for i in range(3))]), project).nothing_to_do


def test_stored_data_is_kept(jobs, project):
    here(jobs.keep_data(), project)
    rows = Queue(project.queue_path).rows("SELECT stored_data FROM jobs")
    assert rows == [('{"a": [1, 2]}',)]


@pytest.mark.parametrize(
    ("name", "message"), [("exits", "SystemExit: 3"), ("returns_junk", "RuntimeError: Job output contained")]
)
def test_other_ways_to_fail(jobs, project, name, message):
    result = here(Flow([getattr(jobs, name)(), jobs.add(1)]), project)
    assert (result.failed, result.completed) == (1, 1)
    assert result.failures[0].message.startswith(message)


def test_retry(jobs, project, tmp_path):
    flag = tmp_path / "flag"

    def flow():
        first = jobs.fail_unless(str(flag))
        return Flow([first, jobs.add(first.output), jobs.add(5)])

    assert here(flow(), project).blocked == 1
    assert here(flow(), project).failed == 1  # not tried again unless asked
    flag.touch()
    assert retry(project) == 2
    result = here(flow(), project)
    assert (result.completed, result.reused, result.failed, result.blocked) == (3, 1, 0, 0)


def test_retry_failed_waits_for_replacements_again(jobs, project, tmp_path):
    flag = tmp_path / "flag"

    def flow():
        first = jobs.replace_by_job(1)
        bad = jobs.fail_unless(str(flag))
        return Flow([first, bad, jobs.total([first.output, bad.output])])

    assert here(flow(), project).failed == 1
    flag.touch()
    result = here(flow(), project, retry_failed=True)
    assert result.ok
    assert result.completed == 4


def test_cancel_and_retry(jobs, project):
    here(Flow([jobs.fail(), jobs.add(1)]), project)
    queue = Queue(project.queue_path)
    assert cancel(project) == 0
    retry(project)
    assert cancel(project) == 1
    assert queue.counts(status(project).runs[0].run_id) == {"CANCELLED": 1, "COMPLETED": 1}
    assert here(Flow([jobs.fail(), jobs.add(1)]), project).stopped == 1
    assert retry(project) == 1


def test_external_references_are_refused(jobs, project):
    outside = jobs.add(1)
    with pytest.raises(InputError, match="cannot be run"):
        here(jobs.add(outside.output), project)


def test_jobs_that_wait_for_each_other_are_blocked(jobs, project):
    first = jobs.add(1)
    queue = Queue(project.queue_path)
    result = here(first, project)
    with queue.file.transaction() as connection:
        connection.execute("INSERT INTO waits SELECT id, id, 1 FROM jobs")
        connection.execute("UPDATE jobs SET state = 'WAITING', n_waiting = 1")
    result = here(jobs.add(1), project)
    assert result.blocked == 1


def test_outputs_do_not_depend_on_what_a_process_ran_before(jobs, tmp_path):
    outputs = []
    for workers, extra in ((0, 0), (1, 3)):
        project = Project.open_or_create(tmp_path / f"p{workers}")
        job = jobs.global_random()
        for _ in range(extra):
            run(jobs.global_random(), project=project, workers=0, progress=False)
        outputs.append(run(job, project=project, workers=workers, progress=False).output(job))
    assert outputs[0] == outputs[1]


def test_without_a_project_outputs_last_as_long_as_the_result(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = jobs.replace_by_flow(3)
    last = jobs.add(first.output, 100)
    result = run(Flow([first, last]), project=None, progress=False)
    folder = result.project.path
    assert folder.parent == tmp_path
    assert (result.output(last), result.completed) == (106, 7)
    pid = os.fork()
    if pid == 0:
        atexit._run_exitfuncs()  # as in a child that ends like a program
        os._exit(0)
    os.waitpid(pid, 0)
    assert result.output(first) == 6
    del result
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_project_goes_with_its_process(tmp_path):
    code = "from atomfoundry.results import Project; kept = Project.temporary(); print(kept.path)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert Path(done.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


# -- worker processes -------------------------------------------------------------------------------


def test_two_workers_run_in_parallel(jobs, project, tmp_path):
    flow = Flow([jobs.meet(str(tmp_path), "a", "b"), jobs.meet(str(tmp_path), "b", "a")])
    result = run(flow, project=project, workers=2, progress=False)
    assert result.failures == []
    assert list(project.work_dir.iterdir()) == []


def test_output_of_failed_jobs_is_kept_and_the_environment_is_set(jobs, project):
    labels = project.labels()
    labels.put(LabelDoc(frame_id="f", level_id="l", engine="e", status="ok"))
    counted, bad = jobs.uses_labels(), jobs.fail()
    result = run(Flow([counted, bad]), project=project, workers=1, progress=False)
    assert result.output(counted) == 1
    assert (result.failures[0].folder / "job.log").read_text().startswith("last words")


@pytest.mark.slow
def test_a_killed_attempt_leaves_only_its_checkpoint(jobs, project):
    job = jobs.folder_content("x")
    result = run(job, project=project, workers=1, progress=False)
    assert result.output(job) == {
        "found": ["checkpoint", "job.log"],
        "state": "resumed",
        "cwd": f"{result.uuid_of(job)}_1",
    }
    assert [path.name for path in (project.work_dir / f"{result.uuid_of(job)}_1").iterdir()] == ["result.txt"]


def test_a_job_that_kills_its_worker_fails_at_the_third_time(jobs, project, tmp_path):
    deadly = jobs.kill_own_worker(str(tmp_path / "a"), 99)
    once = jobs.kill_own_worker(str(tmp_path / "b"), 1)
    result = run(Flow([deadly, once, jobs.add(1)]), project=project, workers=1, progress=False)
    assert result.output(once) == 1
    assert result.completed == 2
    assert result.failures[0].message == "Its worker died 3 times: killed by signal 9."
    assert (tmp_path / "a").read_text() == "3"


def test_another_runner_is_refused(jobs, project):
    with ProjectLock(project), pytest.raises(ProjectError, match=rf"process {os.getpid()} on"):
        here(jobs.add(1), project)
    assert here(jobs.add(1), project).ok


def test_functions_of_the_script_itself_are_refused(jobs, project, monkeypatch):
    monkeypatch.setattr(jobs.add.original, "__module__", "__main__")
    job = jobs.add(1)
    monkeypatch.setattr(job.function, "__module__", "__main__")
    with pytest.raises(InputError, match=r"script itself.*module beside"):
        run(job, project=project, workers=1, progress=False)


def test_workers_that_cannot_start_are_reported(jobs, project, monkeypatch):
    monkeypatch.setattr("atomfoundry.running.processes.sys.executable", "/bin/false")
    with pytest.raises(RunError, match="Worker processes end at once"):
        run(jobs.add(1), project=project, workers=1, progress=False)


def test_status_while_running_and_messages(jobs, project):
    flow = Flow([jobs.talk(1.0), jobs.fail()], name="talking")
    flow.jobs[0].update_metadata({"stage": "Conversation"})
    thread = threading.Thread(target=run, args=(flow,), kwargs={"project": project, "workers": 1, "progress": False})
    thread.start()
    end = time.monotonic() + 20
    seen = None
    while time.monotonic() < end and thread.is_alive():
        running = [job for item in status(project).runs for job in item.running if job.message]
        seen = running[0] if running else seen
        time.sleep(0.02)
    thread.join()
    assert seen is not None
    assert (seen.stage, seen.message, seen.fraction) == ("Conversation", "half way", 0.5)
    report = status(project)
    (item,) = report.runs
    assert item.name == "talking"
    assert item.states == {"COMPLETED": 1, "FAILED": 1}
    assert [(stage.name, stage.completed, stage.failed) for stage in item.stages] == [
        ("Conversation", 1, 0),
        ("fail", 0, 1),
    ]
    assert report.as_dict()["runs"][0]["failures"][0]["message"] == "ValueError: on purpose"
    assert item.finished


def test_log_lines_when_not_on_a_terminal(jobs, project, caplog):
    with caplog.at_level(logging.INFO, logger="atomfoundry.running"):
        run(Flow([jobs.add(i) for i in range(3)]), project=project, workers=0)
    assert [r.message for r in caplog.records if r.name == "atomfoundry.running"] == [
        "add: started",
        "add: 3 of 3 done",
    ]


def test_live_picture(jobs, project):
    from rich.console import Console

    from atomfoundry.running.progress import render
    from atomfoundry.running.status import RunningJob, stages

    result = here(Flow([jobs.add(1), jobs.fail()]), project)
    console = Console(width=100, record=True, file=io.StringIO())
    running = [RunningJob("u", 1, "train", "train", 0.0, "epoch 3, loss 0.1", 0.25)] * 10
    console.print(render("Foundation", stages(Queue(project.queue_path), result.run_id), running, elapsed=61, now=5.0))
    text = console.export_text()
    assert "Foundation   1 of 2 jobs   1:01" in text
    assert "1 failed" in text
    assert "train 0:05 25 %  epoch 3, loss 0.1" in text
    assert "and 2 more" in text


# -- kills of parts ---------------------------------------------------------------------------------


def test_programs_die_with_a_killed_runner_and_the_next_run_goes_on(jobs, project, tmp_path, gone):
    pids = tmp_path / "pids"
    pid = os.fork()
    if pid == 0:
        try:
            run(jobs.start_program_and_wait(str(pids)), project=project, workers=1, progress=False)
        finally:
            os._exit(1)
    end = time.monotonic() + 20
    while not (pids.exists() and " " in pids.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    worker, program = map(int, pids.read_text().split())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert gone(worker)
    assert gone(program)


def test_a_killed_worker_is_replaced_and_its_program_killed(jobs, project, tmp_path, gone):
    pids = tmp_path / "pids"
    killed = []

    def killer():
        end = time.monotonic() + 20
        while not (pids.exists() and " " in pids.read_text()) and time.monotonic() < end:
            time.sleep(0.02)
        killed.extend(map(int, pids.read_text().split()))
        pids.unlink()
        os.kill(killed[0], signal.SIGKILL)
        while not (pids.exists() and " " in pids.read_text()) and time.monotonic() < end:
            time.sleep(0.02)
        killed.append(int(pids.read_text().split()[1]))
        os.kill(killed[-1], signal.SIGTERM)

    thread = threading.Thread(target=killer)
    thread.start()
    result = run(jobs.start_program_and_wait(str(pids)), project=project, workers=1, progress=False)
    thread.join()
    assert result.ok
    assert len(killed) == 3
    assert gone(killed[1])
