"""Two projects whose jobs are in one database: neither sees, takes, changes or forgets anything of the other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fireworks.core.firework import Firework, Workflow
from fireworks.core.fworker import FWorker
from fireworks.user_objects.firetasks.script_task import ScriptTask
from jobflow import Flow

from atomfoundry.errors import ProjectError
from atomfoundry.results import Project
from atomfoundry.results.ownership import OWNER, claim_results, owner_of
from atomfoundry.running.cluster.control import cancel_run, retry_run
from atomfoundry.running.cluster.fireworks_files import fworker_file
from atomfoundry.running.cluster.gates import open_gates
from atomfoundry.running.cluster.layout import ClusterLayout
from atomfoundry.running.cluster.profiles import Profiles
from atomfoundry.running.cluster.status import cluster_runs
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.sweep import SEEN, sweep
from atomfoundry.running.cluster.worker import WorkerOptions, work

NOW = WorkerOptions(idle_s=0, sleep_s=0)


@pytest.fixture
def other(tmp_path):
    return Project.open_or_create(tmp_path / "other")


def states(launchpad, project):
    return [run.states for run in cluster_runs(launchpad, project)]


@pytest.mark.parametrize("size", [100, 2])
def test_the_same_flow_runs_in_both(jobs, project, other, launchpad, size):
    """A fan that is cut into parts with gates, and jobs that make jobs; every lasting name is the project's own."""

    def flow():
        fan = [jobs.add(i, 1) for i in range(4)]
        made = jobs.replace_by_flow(5)
        return Flow([*fan, made, jobs.gather([*(job.output for job in fan), made.output])])

    def handed_in(project):
        return submit(flow(), project=project, launchpad=launchpad, workflow_size=size)

    first, second = handed_in(project), handed_in(other)
    assert first.run_id == second.run_id
    assert first.n_new_workflows == second.n_new_workflows == first.n_workflows
    assert handed_in(project).n_new_workflows == handed_in(other).n_new_workflows == 0

    n_run = work(project, NOW, launchpad=launchpad)
    assert n_run >= 6
    assert set(states(launchpad, project)[0]) == {"COMPLETED"}
    assert not states(launchpad, other)[0].get("COMPLETED")
    assert other.job_store().count() == 0
    assert work(other, NOW, launchpad=launchpad) == n_run
    assert states(launchpad, other) == states(launchpad, project)
    outputs = [{doc["uuid"]: doc["output"] for doc in each.job_store().query()} for each in (project, other)]
    assert outputs[0] == outputs[1]
    assert launchpad.workflows.count_documents({"state": {"$ne": "COMPLETED"}}) == 0


def test_what_is_retried_and_cancelled(jobs, project, other, launchpad, tmp_path):
    path = tmp_path / "there"
    bad = jobs.fail_unless(str(path))
    flow = Flow([bad, jobs.add(bad.output, 1)])
    run_id = submit(flow, project=project, launchpad=launchpad).run_id
    submit(flow, project=other, launchpad=launchpad)
    for each in (project, other):
        work(each, NOW, launchpad=launchpad)
        assert states(launchpad, each) == [{"FAILED": 1, "BLOCKED": 1}]
    path.write_text("")
    assert retry_run(launchpad, run_id, project.project_id) >= 1
    assert states(launchpad, project) == [{"READY": 1, "WAITING": 1}]
    assert states(launchpad, other) == [{"FAILED": 1, "BLOCKED": 1}]
    assert cancel_run(launchpad, run_id, project.project_id) == 2
    assert states(launchpad, project) == [{"CANCELLED": 2}]
    assert retry_run(launchpad, run_id, other.project_id) >= 1
    assert work(other, NOW, launchpad=launchpad) == 2
    assert states(launchpad, other) == [{"COMPLETED": 2}]
    assert states(launchpad, project) == [{"CANCELLED": 2}]


def test_stopping_a_flow_stops_one(jobs, project, other, launchpad):
    stops = jobs.stop("flow")
    flow = Flow([stops, *[jobs.add(i, 1) for i in range(3)]])
    for each in (project, other):
        submit(flow, project=each, launchpad=launchpad)
    stopping = launchpad.fireworks.find_one({"name": "stop", "spec.foundry.project_id": project.project_id})
    launchpad.fireworks.update_one({"fw_id": stopping["fw_id"]}, {"$set": {"spec._priority": 9}})
    work(project, WorkerOptions(idle_s=0, sleep_s=0, max_jobs=1), launchpad=launchpad)
    assert states(launchpad, project) == [{"COMPLETED": 1, "STOPPED": 3}]
    assert states(launchpad, other) == [{"READY": 4}]


def test_sweeps_keep_apart(jobs, project, other, launchpad):
    """A lock, and what each sweep remembers of what it watches."""
    for each in (project, other):
        submit(jobs.add(1), project=each, launchpad=launchpad)
    launchpad.add_wf(Workflow([Firework([ScriptTask(script="true")])], name="foreign"))
    launchpad.workflows.update_many({}, {"$set": {"locked": True}})
    clock = [1e9]

    def swept(each):
        report = sweep(each, launchpad=launchpad, clock=lambda: clock[0])
        return report.n_watched, [finding.kind for finding in report.findings]

    assert swept(project) == (1, [])
    assert swept(other) == (1, [])
    clock[0] += 1000.0
    assert swept(project) == (0, ["locked"])
    assert swept(project) == (0, [])
    assert launchpad.db[SEEN].count_documents({"project_id": other.project_id}) == 1
    assert launchpad.workflows.count_documents({"locked": True}) == 2
    assert swept(other) == (0, ["locked"])
    left = launchpad.workflows.find_one({"locked": True})
    assert left["name"] == "foreign"


def test_a_result_on_disk_is_not_judged_by_another_s_job(jobs, project, other, launchpad):
    """The numbers of jobs in a database that was another one before may be another project's."""
    from atomfoundry.checkpoint.files import write_atomically

    submit(jobs.add(1), project=other, launchpad=launchpad)
    work(other, NOW, launchpad=launchpad)
    folder = project.work_dir / "0000_1"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    write_atomically(folder / "attempt.json", b'{"fw_id": 1, "token": "t"}')
    report = sweep(project, launchpad=launchpad, stuck_after_s=0.0)
    assert report.findings == []
    assert (folder / "result.json").is_file()


def test_gates_of_one_project(jobs, project, other, launchpad):
    for each in (project, other):
        submit(Flow([(a := jobs.add(1, 1)), jobs.add(a.output, 1)]), project=each, launchpad=launchpad, workflow_size=1)
    launchpad.fireworks.update_many({"spec.foundry.kind": "gate"}, {"$set": {"state": "PAUSED"}})
    for workflow in list(launchpad.workflows.find({"metadata.foundry.part": {"$exists": True}})):
        launchpad.ended_parts.insert_one({"_id": workflow["metadata"]["foundry"]["part"]})
    assert open_gates(launchpad, project_id=project.project_id) == 1
    assert open_gates(launchpad) == 1


def test_what_was_submitted_under_a_name_without_the_project(jobs, project, launchpad):
    """As an earlier version did: it runs, and the same flow is taken for a new one."""
    first, second = jobs.add(1, 1), jobs.replace_by_flow(3)
    flow = Flow([first, second, jobs.gather([first.output, second.output])])
    run_id = submit(flow, project=project, launchpad=launchpad).run_id
    launchpad.workflows.update_one({}, {"$set": {"metadata.foundry.part": f"{run_id}/0"}})
    assert work(project, NOW, launchpad=launchpad) > 3
    before = states(launchpad, project)
    assert submit(flow, project=project, launchpad=launchpad).n_new_workflows == 1
    work(project, NOW, launchpad=launchpad)
    assert states(launchpad, project) == before
    assert set(before[0]) == {"COMPLETED"}


def test_what_is_none_of_ours_is_left_alone(project, launchpad):
    launchpad.ensure_indexes()
    launchpad.add_wf(Workflow([Firework([ScriptTask(script="true")])]))
    assert work(project, NOW, launchpad=launchpad) == 0
    # FireWorks' own worker without a FWorker file takes it
    assert launchpad.fireworks.count_documents({**FWorker().query, "state": "READY"}) == 1


def test_a_project_older_than_ids_takes_no_foreign_job(project, launchpad, jobs):
    project._write({key: value for key, value in project.metadata.items() if key != "project_id"})
    submit(jobs.add(1), project=project, launchpad=launchpad)
    launchpad.add_wf(Workflow([Firework([ScriptTask(script="true")], spec={"_priority": 9})]))
    assert work(project, NOW, launchpad=launchpad) == 1
    assert launchpad.fireworks.find_one({"spec.foundry": {"$exists": False}})["state"] == "READY"


def test_fireworks_own_workers_read_whose_jobs_they_take(jobs, project, other, launchpad, tmp_path):
    """The files of ``rlaunch -w`` and ``qlaunch -w``."""
    submit(jobs.add(1), project=project, launchpad=launchpad)
    found = []
    for each in (project, other):
        path = tmp_path / "my_fworker.yaml"
        path.write_text(fworker_file(ClusterLayout(each.path), Profiles()["light"], each.project_id).text)
        found.append(launchpad.run_exists(FWorker.from_file(str(path))))
    assert found == [True, False]


def test_what_a_worker_asks_for_has_an_index(launchpad):
    launchpad.ensure_indexes()
    keys = [[field for field, _ in index["key"]] for index in launchpad.fireworks.index_information().values()]
    assert ["spec.foundry.project_id", "state", "spec._category", "spec._priority"] in keys


# -- results -------------------------------------------------------------------------------------------------


@pytest.fixture
def on_mongodb(database, tmp_path):
    """Make projects whose results are in a database of one server."""
    from atomfoundry.results import MongoConnection

    def make(folder, name):
        connection = MongoConnection(host="127.0.0.1", port=database.port, name=name)
        return Project.open_or_create(tmp_path / folder, "mongodb", connection=connection)

    return make


def test_results_of_two_projects_do_not_mix(jobs, project, on_mongodb):
    from atomfoundry.running.cluster.launchpad import open_launchpad

    first, second, third = on_mongodb("a", "one"), on_mongodb("b", "one"), on_mongodb("c", "two")
    submit(jobs.add(1), project=first)
    with pytest.raises(ProjectError, match=r"holds the results of another project") as caught:
        submit(jobs.add(1), project=second)
    assert "--database-name" in caught.value.remedy
    assert "The database 'one'" in caught.value.message
    assert open_launchpad(second).workflows.count_documents({}) == 1
    work(first, NOW)
    assert first.job_store().count() == 1
    # whoever writes without having submitted
    with pytest.raises(ProjectError, match=first.project_id):
        second.job_store().update([{"uuid": "u", "index": 1, "output": 1}], key=["uuid", "index"])
    with pytest.raises(ProjectError, match=first.project_id):
        second.ensure_indexes()
    assert first.job_store().count() == 1
    submit(jobs.add(1), project=third)
    assert owner_of(third.mongodb().database()) == third.project_id
    # results in SQLite: the jobs may lie there
    first.launchpad_path.replace(tmp := project.path / "my_launchpad.yaml")
    project.launchpad_path.parent.mkdir()
    tmp.replace(project.launchpad_path)
    submit(jobs.add(1), project=project)
    assert work(project, NOW) == 1
    assert project.job_store().count() == 1


def test_results_of_a_project_that_is_gone(jobs, on_mongodb):
    """What the error says to do."""
    submit(jobs.add(1), project=on_mongodb("a", "one"))
    second = on_mongodb("b", "one")
    with pytest.raises(ProjectError) as caught:
        submit(jobs.add(1), project=second)
    assert f"mongosh one, db.{OWNER}.drop()" in caught.value.remedy
    second.mongodb().database()[OWNER].drop()
    submit(jobs.add(1), project=second)
    assert work(second, NOW) == 1


def test_one_of_many_that_begin_at_once_gets_the_database(on_mongodb):
    database = on_mongodb("a", "one").mongodb().database()
    barrier = threading.Barrier(8)

    def claim(project_id):
        barrier.wait()
        try:
            claim_results(database, project_id, "here")
        except ProjectError:
            return None
        return project_id

    with ThreadPoolExecutor(8) as pool:
        won = [name for name in pool.map(claim, [f"p{number}" for number in range(8)]) if name]
    assert won == [owner_of(database)]


def test_init_cluster_asks_whose_results_are_there(jobs, on_mongodb, database, tmp_path, monkeypatch):
    from atomfoundry.running.cluster.initialise import init_cluster

    monkeypatch.delenv("ATOMFOUNDRY_MONGODB_PASSWORD", raising=False)
    first = on_mongodb("a", "one")
    answers = {"scheduler": "none", "port": database.port, "user": ""}
    init_cluster(tmp_path / "b", host="127.0.0.1", database_name="one", **answers)  # nobody's results yet
    submit(jobs.add(1), project=first)
    again = {"database_name": "one", **answers}
    for host in ("127.0.0.1", f"mongodb://127.0.0.1:{database.port}/?retryWrites=false"):
        given = again if "://" not in host else {**again, "port": None}
        with pytest.raises(ProjectError, match=f"another project \\({first.project_id}\\)"):
            init_cluster(tmp_path / f"c{len(host)}", host=host, **given)
    init_cluster(tmp_path / "d", host="127.0.0.1", results="sqlite", **again)  # the jobs may lie there
    assert init_cluster(tmp_path / "e", host="127.0.0.1", **answers).answers.database_name == "atomfoundry_e"


def test_a_copy_of_a_project_is_the_same_project(jobs, on_mongodb):
    import shutil

    first = on_mongodb("a", "one")
    submit(jobs.add(1), project=first)
    copy = shutil.copytree(first.path, first.path.with_name("moved"))
    assert submit(jobs.add(1), project=copy).n_new_workflows == 0
