"""Flows through FireWorks: what comes out is what the local runner makes, uuids included."""

from __future__ import annotations

import pytest
import yaml
from jobflow import Flow, JobOrder

from atomfoundry.errors import InputError
from atomfoundry.results import Project
from atomfoundry.running import run
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.worker import WorkerOptions, work


def through_fireworks(flow, project, launchpad, **kwargs):
    submission = submit(flow, project=project, launchpad=launchpad, **kwargs)
    work(project, WorkerOptions(idle_s=0, sleep_s=0), launchpad=launchpad)
    return submission


def outputs(project):
    return {(doc["uuid"], doc["index"]): doc["output"] for doc in project.job_store().query()}


def states(launchpad):
    return {fw["state"] for fw in launchpad.fireworks.find({}, ["state"])}


def output(project, submission, job):
    return project.job_store().get_output(submission.uuid_of(job), load=True)


@pytest.mark.parametrize(
    "size", [pytest.param(100, marks=pytest.mark.slow), 3, pytest.param(1, marks=pytest.mark.slow)]
)
def test_same_documents_as_the_local_runner(jobs, project, launchpad, tmp_path, size):
    here = Project.open_or_create(tmp_path / "here")
    run(jobs.dynamic_flow(), project=here, workers=0, progress=False)
    submission = through_fireworks(jobs.dynamic_flow(), project, launchpad, workflow_size=size)
    assert states(launchpad) == {"COMPLETED"}

    def without_provenance(found):
        return {
            key: {k: v for k, v in value.items() if k != "provenance"} if isinstance(value, dict) else value
            for key, value in found.items()
        }

    assert without_provenance(outputs(project)) == without_provenance(outputs(here))
    assert submission.n_new_workflows == submission.n_workflows
    again = submit(jobs.dynamic_flow(), project=project, launchpad=launchpad, workflow_size=size)
    assert again.n_new_workflows == 0
    assert work(project, WorkerOptions(idle_s=0), launchpad=launchpad) == 0


@pytest.mark.parametrize("size", [100, 1])
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
def test_children_wait_for_what_replaces_their_parent(jobs, project, launchpad, name, args, expected, size):
    first = getattr(jobs, name)(*args)
    last = jobs.add(first.output, 1000)
    submission = through_fireworks(Flow([first, last]), project, launchpad, workflow_size=size)
    assert states(launchpad) == {"COMPLETED"}
    assert output(project, submission, last) == expected + 1000


def test_a_detour_is_waited_for(jobs, project, launchpad, tmp_path):
    path = str(tmp_path / "file")
    first = jobs.detour(path)
    last = jobs.file_exists(path, after=first.output)
    assert output(project, through_fireworks(Flow([first, last]), project, launchpad), last) is True


def test_an_addition_is_entered_once(jobs, project, launchpad):
    first = jobs.add_more(5)
    submission = through_fireworks(first, project, launchpad)
    assert output(project, submission, first) == {"value": 5, "points_to": 6}
    assert project.job_store().count() == 2


def test_linear_order(jobs, project, launchpad, tmp_path):
    path = str(tmp_path / "file")
    flow = Flow([jobs.write_file(path), last := jobs.file_exists(path)], order=JobOrder.LINEAR)
    assert output(project, through_fireworks(flow, project, launchpad), last) is True


def test_functions_of_the_script_are_refused(project, launchpad):
    from jobflow import job

    def function():
        return 1

    function.__module__ = "__main__"
    with pytest.raises(InputError, match="cannot import"):
        submit(job(function)(), project=project, launchpad=launchpad)


def test_indexes_that_the_launchpad_file_names_too(launchpad):
    """Those that ``init cluster`` writes into it, which FireWorks makes in its own way."""
    from atomfoundry.running.cluster.answers import ClusterAnswers
    from atomfoundry.running.cluster.fireworks_files import launchpad_file

    content = yaml.safe_load(launchpad_file(ClusterAnswers(), None).text)
    launchpad.user_indices = content["user_indices"]
    launchpad.wf_user_indices = content["wf_user_indices"]
    launchpad.ensure_indexes()
    launchpad.ensure_indexes()
    found = launchpad.fireworks.index_information()
    assert {"spec.foundry.run_id_1", "spec.foundry.uuid_1", "spec._category_1"} <= set(found)
