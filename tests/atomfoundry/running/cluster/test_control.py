"""Failures, retries, cancelling and stopping over FireWorks."""

from __future__ import annotations

import pytest
from jobflow import Flow

from atomfoundry.running.cluster.control import cancel_run, retry_run
from atomfoundry.running.cluster.status import cluster_runs
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.worker import WorkerOptions, work

NOW = WorkerOptions(idle_s=0, sleep_s=0)


def the_run(launchpad, project):
    (run,) = cluster_runs(launchpad, project)
    return run


@pytest.mark.parametrize("size", [100, 1])
def test_a_failure_is_shown_and_retried(jobs, project, launchpad, tmp_path, size):
    path = tmp_path / "there"
    bad = jobs.fail_unless(str(path))
    child = jobs.add(bad.output, 1)
    grandchild = jobs.add(child.output, 1)
    submission = submit(Flow([bad, child, grandchild]), project=project, launchpad=launchpad, workflow_size=size)
    work(project, NOW, launchpad=launchpad)
    run = the_run(launchpad, project)
    assert run.states == {"FAILED": 1, "BLOCKED": 2}
    (failure,) = run.failures
    assert failure.name == "fail_unless"
    assert failure.message == f"ValueError: {path} is missing"
    assert failure.host
    assert failure.folder.is_dir()
    path.write_text("")
    assert retry_run(launchpad, submission.run_id, project.project_id) >= 1
    work(project, NOW, launchpad=launchpad)
    assert the_run(launchpad, project).states == {"COMPLETED": 3}
    assert project.job_store().get_output(submission.uuid_of(grandchild)) == 3


@pytest.mark.parametrize("size", [100, 2])
def test_a_fan_with_failures_is_collected_and_again_after_a_retry(jobs, project, launchpad, tmp_path, size):
    path = tmp_path / "there"
    fan = [jobs.add(i, 1) for i in range(4)] + [jobs.fail_unless(str(path))]
    last = jobs.gather([job.output for job in fan])
    submission = submit(Flow([*fan, last]), project=project, launchpad=launchpad, workflow_size=size)
    work(project, NOW, launchpad=launchpad)
    run = the_run(launchpad, project)
    assert run.states == {"COMPLETED": 5, "FAILED": 1}
    assert project.job_store().get_output(submission.uuid_of(last)) == [1, 2, 3, 4, None]
    path.write_text("")
    assert retry_run(launchpad, submission.run_id, project.project_id) == 1
    work(project, NOW, launchpad=launchpad)
    assert the_run(launchpad, project).states == {"COMPLETED": 6}
    assert project.job_store().get_output(submission.uuid_of(last)) == [1, 2, 3, 4, 1]
    assert project.job_store().count() == 6


@pytest.mark.parametrize("size", [100, 1])
def test_cancel_and_retry(jobs, project, launchpad, size):
    first = jobs.add(1)
    flow = Flow([first, jobs.add(first.output, 1), jobs.add(2, 2)])
    submission = submit(flow, project=project, launchpad=launchpad, workflow_size=size)
    work(project, WorkerOptions(max_jobs=1), launchpad=launchpad)
    assert cancel_run(launchpad, submission.run_id, project.project_id) == 2
    assert the_run(launchpad, project).states == {"COMPLETED": 1, "CANCELLED": 2}
    assert work(project, NOW, launchpad=launchpad) == 0
    assert retry_run(launchpad, submission.run_id, project.project_id) >= 2
    work(project, NOW, launchpad=launchpad)
    assert the_run(launchpad, project).states == {"COMPLETED": 3}


@pytest.mark.parametrize("size", [100, 1])
def test_a_job_stops_its_flow(jobs, project, launchpad, size):
    first = jobs.stop("flow")
    flow = Flow([first, second := jobs.add(first.output), jobs.add(second.output)])
    submit(flow, project=project, launchpad=launchpad, workflow_size=size)
    work(project, NOW, launchpad=launchpad)
    assert the_run(launchpad, project).states == {"COMPLETED": 1, "STOPPED": 2}


def test_a_job_stops_its_children(jobs, project, launchpad):
    first = jobs.stop("children")
    flow = Flow([first, jobs.add(first.output), jobs.add(5)])
    submit(flow, project=project, launchpad=launchpad)
    work(project, NOW, launchpad=launchpad)
    assert the_run(launchpad, project).states == {"COMPLETED": 2, "STOPPED": 1}


def test_a_job_that_always_fails_is_reported(jobs, project, launchpad):
    submit(jobs.fail(message="first\nlast"), project=project, launchpad=launchpad)
    work(project, NOW, launchpad=launchpad)
    (failure,) = the_run(launchpad, project).failures
    assert failure.message == "last"
