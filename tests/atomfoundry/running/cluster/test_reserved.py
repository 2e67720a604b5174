"""Allocations made for one job: the batch scripts that FireWorks writes of what ``submit`` has entered."""

from __future__ import annotations

import json
import subprocess
import warnings
from pathlib import Path

import pytest
import yaml
from fireworks.core.fworker import FWorker
from fireworks.queue.queue_launcher import launch_rocket_to_queue
from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter
from fireworks.utilities import fw_serializers

from atomfoundry.results import Project
from atomfoundry.running.cluster.initialise import init_cluster
from atomfoundry.running.cluster.layout import ClusterLayout
from atomfoundry.running.cluster.submission import submit

SECRET = "p-w/1e5"
EXTRA = {"slurm": {"qos": "long", "mail_user": "me"}, "pbs": {"place": "excl", "email": "me"}}
DROPPED = {"slurm": {"qos": None}, "pbs": {"place": None}}


def profiles(scheduler):
    gpu = {"queue": "a100", "account": "mat", "cores": 8, "threads": 4, "gpus": 2, "gpu_type": "a100"}
    gpu |= {"memory_mb": 64000, "wall_time": 7200, "modules": ["cuda/12"], "environment": {"A": "1", "B": "$HOME/b"}}
    small = {"gpus": 0, "gpu_type": None, "memory_mb": None, "account": None, "extra": DROPPED[scheduler]}
    return {
        "scheduler": scheduler,
        "profiles": {
            "gpu": {**gpu, "extra": EXTRA[scheduler]},
            "large": {"queue": "h100", "nodes": 2, "cores": 4, "memory_mb": 1000},
        },
        "jobs": {
            "small *": {**small, "threads": 2, "wall_time": 600, "modules": [], "environment": {"B": "b", "C": "c"}},
            "large *": {"profile": "large", "category": "gpu"},
        },
    }


class Cluster:
    """A project with the files of ``init cluster``, and a queue that takes everything."""

    def __init__(self, folder, scheduler, results, launchpad, monkeypatch):
        first = {"scheduler": scheduler, "host": "db.internal", "cpu_partition": "cpu", "results": results}
        init_cluster(folder, password=SECRET, **first)
        self.layout = ClusterLayout(folder.resolve())
        self.layout.profiles.write_text(yaml.safe_dump(profiles(scheduler)))
        init_cluster(folder, password=SECRET, force=True)
        self.project = Project.open(folder)
        self.launchpad = launchpad
        self.adapter = CommonAdapter.from_file(str(self.layout.qadapter("gpu")))
        self.fworker = FWorker.from_file(str(self.layout.fworker("gpu")))
        self.scripts = []

        def take(adapter, script_file):
            self.scripts.append(Path(script_file).read_text())
            return 7

        monkeypatch.setattr(CommonAdapter, "submit_to_queue", take)
        # as after FireWorks' search through all its modules, whose own tests do not load within these
        monkeypatch.setitem(fw_serializers.SAVED_FW_MODULES, "CommonAdapter", CommonAdapter.__module__)

    def reserved(self, job, folder):
        """Submit a job and return the script of its allocation, and the place where it lies."""
        job.update_metadata({"profile": "gpu"})
        submit(job, project=self.project, launchpad=self.launchpad)
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Key .* not present in template")
            assert launch_rocket_to_queue(self.launchpad, self.fworker, self.adapter, str(folder), reserve=True) == 7
        return self.scripts[-1]


@pytest.fixture(params=[("slurm", "mongodb"), ("pbs", "sqlite")], ids=["slurm", "pbs"])
def kinds(request):
    return request.param


@pytest.fixture
def scheduler(kinds):
    return kinds[0]


@pytest.fixture
def results(kinds):
    return kinds[1]


@pytest.fixture
def cluster(tmp_path, scheduler, results, launchpad, monkeypatch):
    monkeypatch.delenv("MONGOMOCK_SERVERSTORE_FILE", raising=False)
    return Cluster(tmp_path / "a project's", scheduler, results, launchpad, monkeypatch)


def asked(script):
    """What a script asks of the queue, but for the names of files."""
    lines = [line.split(maxsplit=1)[1] for line in script.splitlines() if line.startswith(("#SBATCH", "#PBS"))]
    return [line for line in lines if not line.startswith(("--output", "--error", "-o", "-e"))]


def variables(script):
    """What the worker of a script finds in its environment."""
    lines = [line for line in script.splitlines() if line.startswith("export")]
    done = subprocess.run(
        ["bash", "-c", "\n".join([*lines, "env -0"])],
        env={"HOME": "/home/me", "PATH": "/usr/bin:/bin", "SLURM_JOB_END_TIME": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    return {name: value for name, value in found.items() if name not in ("HOME", "PATH", "PWD", "SHLVL", "_")}


def project_variables(cluster, results):
    folder = cluster.layout.folder
    found = {"ATOMFOUNDRY_PROJECT": str(cluster.project.path), "FW_CONFIG_FILE": str(folder / "FW_config.yaml")}
    return {**found, **({"JOBFLOW_CONFIG_FILE": str(folder / "jobflow.yaml")} if results == "mongodb" else {})}


def test_a_job_without_wishes_gets_what_its_profile_gets(jobs, cluster, results, tmp_path):
    script = cluster.reserved(jobs.add(1), tmp_path / "launch")
    ordinary = cluster.adapter.get_script_str(str(tmp_path / "launch"))
    assert script == ordinary.replace(" singleshot\n", " singleshot --fw_id 1\n")
    assert script != ordinary
    assert "JOBFLOW_CONFIG_FILE" in script or results == "sqlite"


def test_a_job_gets_what_its_name_asks_for_and_nothing_else(jobs, cluster, scheduler, results, tmp_path):
    """No GPU, no limit of memory, no account and not the quality of service of its profile."""
    # what a project from before 'init cluster', or one made by hand, lacks
    cluster.layout.answers.unlink()
    job = jobs.add(1)
    job.name = "small one"
    script = cluster.reserved(job, tmp_path / "launch")
    if scheduler == "slurm":
        shape = ["--nodes=1", "--ntasks-per-node=4", "--cpus-per-task=2", "--time=00:10:00", "--partition=a100"]
        assert asked(script) == [*shape, "--job-name=foundry-gpu", "--signal=B:USR1@120", "--mail-user=me"]
    else:
        shape = ["-q a100", "-l select=1:ncpus=8:mpiprocs=4:ompthreads=2", "-l walltime=00:10:00"]
        assert asked(script) == ["-N foundry-gpu", *shape, "-M me"]
    assert "module" not in script
    assert "None" not in script
    found = variables(script)
    if scheduler == "pbs":
        assert found.pop("ATOMFOUNDRY_DEADLINE")
    own = {"A": "1", "B": "b", "C": "c", "OMP_NUM_THREADS": "2"}
    assert found.pop("SLURM_JOB_END_TIME") == "1"
    assert found == {**own, **project_variables(cluster, results)}


def test_a_job_of_another_profile_that_these_workers_take(jobs, cluster, scheduler, results, tmp_path):
    job = jobs.add(1)
    job.name = "large one"
    script = cluster.reserved(job, tmp_path / "launch")
    if scheduler == "slurm":
        shape = ["--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=1", "--time=04:00:00", "--partition=h100"]
        assert asked(script) == [*shape, "--job-name=foundry-large", "--signal=B:USR1@120", "--mem=1000M"]
    else:
        shape = ["-q h100", "-l select=2:ncpus=4:mpiprocs=4:ompthreads=1:mem=1000mb", "-l walltime=04:00:00"]
        assert asked(script) == ["-N foundry-large", *shape]
    assert "module" not in script
    found = variables(script)
    assert "A" not in found
    assert project_variables(cluster, results).items() <= found.items()


def test_no_job_carries_a_credential(jobs, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMFOUNDRY_MONGODB_PASSWORD", SECRET)
    cluster.reserved(jobs.add(1), tmp_path / "launch")
    documents = [*cluster.launchpad.fireworks.find(), *cluster.launchpad.workflows.find()]
    assert len(documents) == 2
    assert SECRET not in json.dumps(documents, default=str)
