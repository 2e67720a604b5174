"""Flows by our launcher, FireWorks' qlaunch and a real Slurm: partitions, wall times, kills, packed allocations."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from jobflow import Flow
from mongo_server import MongoServer
from slurm import missing

from atomfoundry.results import Project
from atomfoundry.running.cluster.answers import ClusterAnswers
from atomfoundry.running.cluster.initialise import write_cluster
from atomfoundry.running.cluster.launchpad import open_launchpad
from atomfoundry.running.cluster.layout import ClusterLayout
from atomfoundry.running.cluster.scheduler import job_states
from atomfoundry.running.cluster.status import cluster_runs
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.sweep import sweep

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=str(missing()))]

HERE = Path(__file__).parent
MINUTE = {"cores": 1, "memory_mb": 1000, "wall_time": 60, "signal_before": 30}
PROFILES = {
    "light": {**MINUTE, "queue": "cpu", "wall_time": 300, "cores_per_job": 1},
    "gpu": {**MINUTE, "queue": "gpu", "wall_time": 300, "gpus": 1, "threads": 1},
    # Slurm's warning may come a minute early, which here is at once: the job looks at the clock instead
    "md": {**MINUTE, "queue": "cpu", "threads": 1, "extra": {"signal": None}},
    "packed": {**MINUTE, "queue": "gpu", "wall_time": 300, "cores": 2, "gpus": 2},
}
BY_NAME = {
    "without a GPU *": {"queue": "cpu", "gpus": 0, "memory_mb": None, "cores": 2, "threads": 2, "wall_time": 600}
}


@pytest.fixture(scope="module")
def database():
    with MongoServer() as server:
        yield server


@pytest.fixture
def jobs():
    import slurm_flow_jobs

    return slurm_flow_jobs


class Cluster:
    """A project whose jobs run on the tests' Slurm, with the files that ``atomfoundry init cluster`` writes."""

    def __init__(self, folder: Path, slurm, database, results: str) -> None:
        self.slurm = slurm
        self.project = Project.open_or_create(folder, database=results)
        self.layout = ClusterLayout(self.project.path)
        self.layout.folder.mkdir()
        own = {"environment": {"PYTHONPATH": str(HERE)}}
        profiles = {name: {**fields, **own} for name, fields in PROFILES.items()}
        self.layout.profiles.write_text(yaml.safe_dump({"scheduler": "slurm", "profiles": profiles, "jobs": BY_NAME}))
        answers = ClusterAnswers(
            host="127.0.0.1",
            port=database.port,
            database_name=folder.parent.name,
            user=None,
            results=results,
            cpu_partition="cpu",
            gpu_partition="gpu",
        )
        write_cluster(self.project.path, answers)
        self.launchpad = open_launchpad(self.project)

    def submit(self, flow):
        return submit(flow, project=self.project, launchpad=self.launchpad)

    def launch(
        self, profile: str, n: int = 1, *, to_the_end: bool = False, qlaunch: bool = False, reserve: bool = False
    ) -> list[str]:
        """Send workers to the queue as cron does, or as FireWorks' qlaunch does; return their batch jobs."""
        before = {job["JobId"] for job in self.slurm.ended()} | set(self.slurm.jobs())
        command = [str(self.layout.launch_script), profile, *(["--reserve"] if reserve else [])]
        command += ["--sleep", "2"] if to_the_end else ["--nlaunches", str(n)]
        if qlaunch:
            layout = self.layout
            files = ["-l", layout.launchpad, "-w", layout.fworker(profile), "-q", layout.qadapter(profile)]
            layout.launches(profile).mkdir(parents=True, exist_ok=True)
            files += ["--launch_dir", layout.launches(profile)]
            command = [sys.executable, "-m", "fireworks.scripts.qlaunch_run", *map(str, files)]
            command += ["rapidfire", "--nlaunches", str(n)]
        done = subprocess.run(
            command, env=self.slurm.environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        now = {job["JobId"] for job in self.slurm.ended()} | set(self.slurm.jobs())
        new = sorted(now - before, key=int)
        assert len(new) == n, done.stdout + done.stderr
        return new

    def said(self) -> str:
        """Return what the batch jobs wrote."""
        files = sorted(self.layout.folder.glob("launches/**/foundry-*.*"))
        return "\n".join(f"--- {file.name}\n{file.read_text()}" for file in files)

    def states(self) -> dict[str, int]:
        (run,) = cluster_runs(self.launchpad, self.project)
        return run.states

    def output(self, submission, job):
        return self.project.job_store().get_output(submission.uuid_of(job), load=True)


@pytest.fixture(params=["sqlite"])
def cluster(request, tmp_path, slurm, database):
    made = Cluster(tmp_path / "project", slurm, database, request.param)
    yield made
    for job in slurm.jobs():
        slurm.run("scancel", job)
    slurm.wait()


def wanting(job, profile):
    job.update_metadata({"profile": profile})
    return job


def test_two_categories_on_their_own_partitions(cluster, jobs):
    first = jobs.where(1)
    second = wanting(jobs.where(10, [first.output]), "gpu")
    third = jobs.where(100, [second.output])
    submission = cluster.submit(Flow([first, second, third]))
    seen = {}
    for number, profile in enumerate(("light", "gpu", "light")):
        # a job that waits until its worker has started needs no second worker
        (job,) = cluster.launch(profile, qlaunch=profile == "gpu", to_the_end=number == 2)
        seen.setdefault(profile, []).append(job)
        cluster.slurm.wait()
    assert cluster.states() == {"COMPLETED": 3}, cluster.said()
    documents = [cluster.output(submission, job) for job in (first, second, third)]
    assert [document["n_items"] for document in documents] == [1, 11, 111]
    places = [document["records"][0] for document in documents]
    assert [place["partition"] for place in places] == ["cpu", "gpu", "cpu"]
    assert [place["queue_job"] for place in places] == [seen["light"][0], seen["gpu"][0], seen["light"][1]]
    assert [place["gpus"] for place in places] == [None, "0", None]
    assert documents[1]["provenance"]["inputs"] == [{"uuid": submission.uuid_of(first), "index": 1}]
    assert documents[1]["provenance"]["job_uuid"] == submission.uuid_of(second)
    ended = {job["JobId"]: job for job in cluster.slurm.ended()}
    for profile, partition in (("light", "cpu"), ("gpu", "gpu")):
        for job in seen[profile]:
            assert (ended[job]["Partition"], ended[job]["JobState"]) == (partition, "COMPLETED")
            assert ended[job]["Name"] == f"foundry-{profile}"


@pytest.mark.parametrize("cluster", ["mongodb"], indirect=True)
def test_allocations_made_for_one_job(cluster, jobs):
    """One gets what its profile gets, another what its name asks for and nothing of its profile's."""
    usual, own = wanting(jobs.where(1), "gpu"), wanting(jobs.where(10), "gpu")
    own.name = "without a GPU 1"
    last = wanting(jobs.where(100, [usual.output, own.output]), "gpu")
    last.name = "without a GPU 2"
    submission = cluster.submit(Flow([usual, own, last]))
    made = cluster.launch("gpu", 2, reserve=True)
    cluster.slurm.wait()
    assert cluster.states() == {"COMPLETED": 2, "READY": 1}, cluster.said()
    made += cluster.launch("gpu", reserve=True)
    cluster.slurm.wait()
    assert cluster.states() == {"COMPLETED": 3}, cluster.said()
    documents = [cluster.output(submission, job) for job in (usual, own, last)]
    assert [document["n_items"] for document in documents] == [1, 10, 111]
    places = [document["records"][0] for document in documents]
    assert sorted(place["queue_job"] for place in places) == made
    assert [place["partition"] for place in places] == ["gpu", "cpu", "cpu"]
    assert [place["gpus"] for place in places] == ["0", None, None]
    assert [place["threads"] for place in places] == ["1", "2", "2"]
    assert {place["store"] for place in places} == {str(cluster.layout.jobflow)}
    ended = {job["JobId"]: job for job in cluster.slurm.ended()}
    found = [ended[place["queue_job"]] for place in places]
    assert {job["JobState"] for job in found} == {"COMPLETED"}
    assert [(job["TimeLimit"], job["ProcCnt"]) for job in found] == [("5", "1"), ("10", "2"), ("10", "2")]


@pytest.mark.parametrize("cluster", ["mongodb"], indirect=True)
def test_many_jobs_in_one_allocation(cluster, jobs, tmp_path):
    """Two at once, a device each, every job once."""
    pair = [wanting(jobs.meet(str(tmp_path), me, other), "packed") for me, other in ("ab", "ba")]
    many = [wanting(jobs.where(number), "packed") for number in range(20)]
    last = wanting(jobs.where(1000, [job.output for job in many]), "packed")
    submission = cluster.submit(Flow([*pair, *many, last]))
    (batch_job,) = cluster.launch("packed")
    cluster.slurm.wait(150)
    assert cluster.states() == {"COMPLETED": 23}, cluster.said()
    met = [cluster.output(submission, job) for job in pair]
    assert {place["gpus"] for place in met} == {"0", "1"}
    assert len({place["pid"] for place in met}) == 2
    final = cluster.output(submission, last)
    assert final["n_items"] == sum(range(20)) + 1000
    assert len(final["provenance"]["inputs"]) == 20
    places = met + [cluster.output(submission, job)["records"][0] for job in many]
    assert {(place["partition"], place["queue_job"]) for place in places} == {("gpu", batch_job)}
    assert {place["pid"] for place in places} == {place["pid"] for place in met}
    assert cluster.launchpad.launches.count_documents(
        {"state": "COMPLETED"}
    ) == cluster.launchpad.launches.count_documents({})
    assert cluster.project.job_store().count() == 23


def test_an_array_of_workers(cluster, jobs, tmp_path, slurm_environment):
    """The script that the launcher has written starts any number of them."""
    cluster.submit(jobs.where(0))
    cluster.launch("light")
    (script,) = cluster.layout.launches("light").glob("block_*/launcher_*/FW_submit.script")
    cluster.slurm.wait()
    pair = [jobs.meet(str(tmp_path), me, other) for me, other in ("ab", "ba")]
    submission = cluster.submit(Flow(pair))
    array = cluster.slurm.run("sbatch", "--parsable", "--array=0-1", str(script), cwd=script.parent).strip()
    cluster.slurm.wait_for(f"{array}_1", "RUNNING")
    assert job_states([array], "slurm") == {array: "running"}
    cluster.slurm.wait()
    # each knows itself by a number of its own, which the queue knows too
    own = [cluster.output(submission, job)["queue_job"] for job in pair]
    assert len(set(own)) == 2
    assert job_states([array, *own], "slurm") == dict.fromkeys([array, *own], "gone")


def test_ended_allocations_are_continued(cluster, jobs, tmp_path, slurm_environment, monkeypatch):
    """By the clock, a warning, a kill, the wall time of a job that hangs: each time from the checkpoint."""
    logs = {name: tmp_path / f"{name}.log" for name in ("heeding", "deaf", "warned", "killed")}
    heeding = wanting(jobs.steps(80, 0.5, str(logs["heeding"])), "md")
    deaf = wanting(jobs.steps(20, 0.2, str(logs["deaf"]), heed=False, hang_at=10), "md")
    warned = jobs.steps(100, 0.2, str(logs["warned"]))
    killed = jobs.steps(100, 0.2, str(logs["killed"]), heed=False)
    submission = cluster.submit(Flow([heeding, deaf, warned, killed]))
    slurm = cluster.slurm

    def done(name):
        return [line.split() for line in logs[name].read_text().splitlines()] if logs[name].exists() else []

    def until(condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{cluster.states()}\n{cluster.said()}\n{slurm.log()}"
            time.sleep(0.2)

    def findings(**kwargs):
        return [finding.kind for finding in sweep(cluster.project, launchpad=cluster.launchpad, **kwargs).findings]

    first = cluster.launch("md", 2)
    lights = cluster.launch("light", 2)
    until(lambda: done("warned") and done("killed"), 60)
    (warned_job,), (killed_job,) = ({job for _, job in done(name)} for name in ("warned", "killed"))
    assert {warned_job, killed_job} == set(lights)
    # what Slurm sends ahead of the end, and what the kernel or an administrator may do at any time
    slurm.run("scancel", "--signal=USR1", "--batch", warned_job)
    slurm.run("scancel", "--signal=KILL", "--full", killed_job)
    until(lambda: not set(lights) & set(slurm.jobs()), 30)
    assert findings() == ["lost"]
    lights += cluster.launch("light", 2)
    # the one that looks at the clock makes room in time, and goes on in the next allocation
    until(lambda: len(set(slurm.jobs()) & set(first)) == 1, 60)
    first += cluster.launch("md")
    until(lambda: cluster.states() == {"RUNNING": 1, "COMPLETED": 3} and len(slurm.jobs()) == 1, 60)
    # the one that does not is ended with its allocation; seen from another host, only the queue knows of it
    (last,) = set(first) & set(slurm.jobs())
    monkeypatch.setattr("atomfoundry.running.cluster.sweep.is_alive", lambda attempt: None)
    assert findings(stuck_after_s=0) == []
    until(lambda: last not in slurm.jobs(), 60)
    assert findings(stuck_after_s=0) == ["lost"]
    first += cluster.launch("md")
    slurm.wait(90)
    assert set(cluster.states()) == {"COMPLETED"}, cluster.said()

    ended = {job["JobId"]: job["JobState"] for job in slurm.ended()}
    assert ended.pop(last) == "TIMEOUT"
    assert ended.pop(killed_job) in ("CANCELLED", "FAILED")
    assert {ended[job] for job in {*first, *lights} - {last, killed_job}} == {"COMPLETED"}
    jobs_by_name = {"heeding": heeding, "deaf": deaf, "warned": warned, "killed": killed}
    for name, job in jobs_by_name.items():
        output = cluster.output(submission, job)
        steps = Counter(int(step) for step, _ in done(name))
        # a kill may come between a checkpoint and the line in the log
        assert max(steps.values()) == 1
        assert output["steps"] - len(steps) <= (name in ("deaf", "killed"))
        assert len({queue_job for _, queue_job in done(name)}) == 2
        assert 0 < output["began_at"] < output["steps"]
    assert not list(cluster.project.work_dir.glob("*/checkpoint"))
