"""The written files, read by the programs that they are for."""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pymongo
import pytest
import yaml
from fireworks.core.fworker import FWorker
from fireworks.core.launchpad import LaunchPad
from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter
from jobflow import JobStore

from atomfoundry.results import Project
from atomfoundry.running.cluster.answers import ClusterAnswers
from atomfoundry.running.cluster.initialise import cluster_files, init_cluster, write_cluster
from atomfoundry.running.cluster.layout import ClusterLayout

SECRET = 'p"w: 1e5 %s\\'
WORKER = ["--category", "gpu", "--parallel", "1", "--threads", "8"]
SLURM = {"scheduler": "slurm", "host": "db.internal", "cpu_partition": "cpu", "gpu_partition": "a100"}


@pytest.fixture(autouse=True)
def no_password(monkeypatch):
    monkeypatch.delenv("ATOMFOUNDRY_MONGODB_PASSWORD", raising=False)
    monkeypatch.delenv("MONGOMOCK_SERVERSTORE_FILE", raising=False)


def make(folder: Path, **answers) -> ClusterLayout:
    init_cluster(folder, password=SECRET, **{**SLURM, **answers})
    return ClusterLayout(folder)


@pytest.fixture
def arguments(monkeypatch):
    """What FireWorks gives MongoClient."""
    seen = {}

    def client(*args, **kwargs):
        seen.update(kwargs, positional=args)
        return real(*args, **kwargs, connect=False)

    real = pymongo.MongoClient
    monkeypatch.setattr("fireworks.core.launchpad.MongoClient", client)
    return seen


def test_fireworks_reads_the_launchpad(tmp_path, arguments, monkeypatch):
    authority = tmp_path / "ca.pem"
    authority.touch()
    layout = make(tmp_path / "p", tls=True, tls_ca_file=authority, replica_set="rs0", auth_source="admin")
    monkeypatch.setattr(pymongo.client_options, "get_ssl_context", lambda *args, **kwargs: None)
    launchpad = LaunchPad.from_file(str(layout.launchpad))
    assert (launchpad.host, launchpad.port, launchpad.name) == ("db.internal", 27017, "atomfoundry_p")
    assert (launchpad.username, launchpad.password, launchpad.authsource) == ("atomfoundry", SECRET, "admin")
    assert "spec.foundry.uuid" in launchpad.user_indices
    assert arguments["tls"] is True
    assert arguments["tlsCAFile"] == str(authority)
    assert arguments["replicaSet"] == "rs0"
    assert arguments["serverSelectionTimeoutMS"] == 300_000
    assert set(yaml.safe_load(layout.launchpad.read_text())) <= set(launchpad.to_dict())


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("mongodb://a:1,b:2/?replicaSet=rs0", "atomfoundry_p"),
        ("mongodb://a", "atomfoundry_p"),
        ("mongodb://a/other?tls=false", "admin"),
    ],
)
def test_a_connection_string(tmp_path, arguments, host, source):
    layout = make(tmp_path / "p", host=host, auth_source=source if source == "admin" else None)
    launchpad = LaunchPad.from_file(str(layout.launchpad))
    assert launchpad.uri_mode is True
    assert "authSource" not in launchpad.mongoclient_kwargs
    store = yaml.safe_load(layout.jobflow.read_text())["JOB_STORE"]["docs_store"]
    jobflow_client = pymongo.MongoClient(store["uri"], connect=False, **store["mongoclient_kwargs"])
    for client in (launchpad.connection, jobflow_client):
        who = client.options.pool_options._credentials
        assert (who.username, who.password, who.source) == ("atomfoundry", SECRET, source)
        assert client.options.replica_set_name == ("rs0" if "rs0" in host else None)
    # the earlier password is found in it
    assert {file.action for file in init_cluster(tmp_path / "p").files} == {"unchanged"}


def test_jobflow_reads_its_store(tmp_path):
    layout = make(tmp_path / "p")
    store = JobStore.from_dict_spec(yaml.safe_load(layout.jobflow.read_text())["JOB_STORE"])
    docs = store.docs_store
    assert (docs.host, docs.port, docs.database, docs.collection_name) == (
        "db.internal",
        27017,
        "atomfoundry_p",
        "outputs",
    )
    assert (docs.username, docs.password, docs.auth_source) == ("atomfoundry", SECRET, "atomfoundry_p")


def test_fireworks_reads_its_settings(tmp_path):
    layout = make(tmp_path / "p")
    script = (
        "import fireworks.fw_config as c, json; from fireworks.core.fworker import FWorker\n"
        "print(json.dumps([c.PING_TIME_SECS, c.LAUNCHPAD_LOC, c.SORT_FWS, FWorker.auto_load().query]))"
    )
    environment = {**os.environ, "FW_CONFIG_FILE": str(layout.fireworks), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *values, query = json.loads(done.stdout.splitlines()[-1])
    assert values == [60, str(layout.launchpad), "FIFO"]
    # a bare 'rlaunch' takes jobs of this project alone, of any category
    assert query["spec.foundry.project_id"] == Project.open(tmp_path / "p").project_id
    assert "spec._category" not in query


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_fireworks_reads_workers_and_adapters(tmp_path, scheduler):
    layout = make(tmp_path / "p", scheduler=scheduler)
    for name in ("light", "dft", "gpu", "md"):
        worker = FWorker.from_file(str(layout.fworker(name)))
        assert worker.category == name
        assert worker.query["spec._category"] == name
        assert worker.query["spec.foundry.project_id"] == Project.open(tmp_path / "p").project_id
        adapter = CommonAdapter.from_file(str(layout.qadapter(name)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            script = adapter.get_script_str(str(tmp_path))
        command = f"{sys.executable} -m atomfoundry.cli.main worker --project {tmp_path / 'p'} --category {name} "
        at_once, threads = {"light": (4, 1), "dft": (1, 1), "gpu": (1, 8), "md": (1, 8)}[name]
        assert f"\nexec {command}--parallel {at_once} --threads {threads} singleshot\n" in script
        assert "$$" not in script


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_a_batch_script_becomes_the_worker(tmp_path, scheduler):
    """Run by bash, with a stand-in for the interpreter that tells what reached it, and that it is the batch process."""
    python = tmp_path / "my python's"
    python.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$$" "$PWD" "$ATOMFOUNDRY_PROJECT" "$FW_CONFIG_FILE" "$OMP_NUM_THREADS" "$@"\n'
    )
    python.chmod(0o755)
    project = tmp_path / '100% a\'s "run" $HOME'
    layout = make(project, scheduler=scheduler, python=python)
    launch = tmp_path / "launch"
    launch.mkdir()
    script = launch / "job.sh"
    script.write_text(CommonAdapter.from_file(str(layout.qadapter("gpu"))).get_script_str(str(launch)))
    process = subprocess.Popen(["bash", str(script)], stdout=subprocess.PIPE, text=True)
    seen = process.communicate(timeout=60)[0].splitlines()
    assert seen[:3] == [str(process.pid), str(launch), str(project)]
    assert seen[3:5] == [str(layout.fireworks), "8"]
    assert seen[5:] == ["-m", "atomfoundry.cli.main", "worker", "--project", str(project), *WORKER, "singleshot"]


@pytest.mark.slow
def test_scripts_run_with_odd_names(tmp_path):
    python = tmp_path / "my python's"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    project = tmp_path / '100% a\'s "run" $HOME'
    layout = make(project, python=python)
    for script in layout.folder.rglob("*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert os.access(script, os.X_OK)
    ran = subprocess.run([str(layout.sweep_script), "--json"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-4:] == ["sweep", "--project", str(project), "--json"]
    ran = subprocess.run([str(layout.work_script), "md", "--stay"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-7:] == ["--category", "md", *WORKER[2:], "--stay"]
    for script in (layout.work_script, layout.launch_script):
        wrong = subprocess.run([str(script), "gup"], capture_output=True, text=True)
        assert wrong.returncode == 2
        assert "light|dft|gpu|md" in wrong.stderr
    # cron hands everything before an unescaped '%' to the shell
    lines = [line for line in layout.crontab.read_text().splitlines() if not line.startswith("#") and line]
    assert len(lines) == 5
    for line in lines:
        command = line.split(maxsplit=5)[5]
        assert "%" not in command.replace("\\%", "")
        subprocess.run(["bash", "-n", "-c", command.replace("\\%", "%")], check=True)
    sweep = lines[-1].split(maxsplit=5)[5].replace("\\%", "%")
    layout.logs.mkdir(exist_ok=True)
    subprocess.run(["bash", "-c", sweep], check=True)
    assert (layout.logs / "sweep.log").read_text().splitlines()[-1] == str(project)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_units_are_understood(tmp_path):
    layout = make(tmp_path / "100% a b")
    units = sorted(map(str, layout.systemd.iterdir()))
    assert len(units) == 6
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    if "Failed to" in done.stderr and "manager" in done.stderr:
        pytest.skip("systemd-analyze cannot run here")
    ours = [line for line in done.stderr.splitlines() if "atomfoundry" in line]
    assert not ours


@pytest.mark.parametrize("reserve", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_launcher_sends_workers_to_the_queue(tmp_path, reserve):
    """On FireWorks' file of mongomock, with a stand-in for sbatch."""
    layout = make(tmp_path / "p")
    store = tmp_path / "store.json"
    store.write_text("{}")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text(f'#!/bin/bash\ncp "$1" {tmp_path}/sent\necho "Submitted batch job 7"\n')
    (tools / "sbatch").chmod(0o755)
    environment = {
        **os.environ,
        "MONGOMOCK_SERVERSTORE_FILE": str(store),
        "HOME": str(tmp_path),
        "USER": "me",
        "LOGNAME": "me",
    }
    add = (
        "import sys; from fireworks import Firework, LaunchPad, ScriptTask\n"
        "lpad = LaunchPad.from_file(sys.argv[1]); lpad.reset('', require_password=False)\n"
        "spec = {'_category': 'gpu', 'foundry': {'project_id': sys.argv[2]}}\n"
        "spec['_queueadapter'] = {'walltime': '00:07:00'}\n"
        "lpad.add_wf(Firework(ScriptTask.from_str('true'), spec=spec))\n"
    )
    mine = Project.open(tmp_path / "p").project_id
    subprocess.run([sys.executable, "-c", add, str(layout.launchpad), mine], env=environment, cwd=tmp_path, check=True)
    first = ["--reserve"] if reserve else []
    for profile, options in (("light", first), ("gpu", [*first, "--nlaunches", "1"])):
        done = subprocess.run(
            ["bash", "-c", f'PATH="{tools}:$PATH"; source "$0" "$@"', str(layout.launch_script), profile, *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "sent").exists() == (profile == "gpu"), done.stdout + done.stderr
    script = (tmp_path / "sent").read_text()
    assert "#SBATCH --partition=a100\n" in script
    assert "#SBATCH --gres=gpu:1\n" in script
    assert ("#SBATCH --time=00:07:00\n" in script) == reserve
    assert ("singleshot --fw_id 1" in script) == reserve
    assert list(layout.launches("gpu").glob("block_*/launcher_*/FW_submit.script"))


@pytest.mark.slow
def test_no_more_workers_are_sent_than_there_are_jobs(tmp_path):
    """Two jobs run at once in an allocation; the workers do not begin."""
    layout = make(tmp_path / "p")
    profile = {"queue": "cpu", "cores": 2, "cores_per_job": 1, "threads": 1, "max_queued": 4}
    layout.profiles.write_text(yaml.safe_dump({"scheduler": "slurm", "profiles": {"md": profile}}))
    init_cluster(tmp_path / "p", force=True)
    store = tmp_path / "store.json"
    store.write_text("{}")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text(
        f"#!/bin/bash\necho x >> {tmp_path}/sent\nn=$(wc -l < {tmp_path}/sent)\n"
        f'echo "$n|$n|$n|PENDING" >> {tmp_path}/queue\necho "Submitted batch job $n"\n'
    )
    (tools / "squeue").write_text(f"#!/bin/bash\n[ -e {tmp_path}/queue ] && cat {tmp_path}/queue || true\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = {**os.environ, "MONGOMOCK_SERVERSTORE_FILE": str(store), "HOME": str(tmp_path), "USER": "me"}
    add = (
        "import sys; from fireworks import Firework, LaunchPad, ScriptTask\n"
        "lpad = LaunchPad.from_file(sys.argv[1]); lpad.reset('', require_password=False)\n"
        "spec = {'_category': 'md', 'foundry': {'project_id': sys.argv[2]}}\n"
        "for _ in range(3):\n"
        "    lpad.add_wf(Firework(ScriptTask.from_str('true'), spec=spec))\n"
        "spec['foundry'] = {'project_id': 'another'}  # jobs of other projects need none of our workers\n"
        "for _ in range(20):\n"
        "    lpad.add_wf(Firework(ScriptTask.from_str('true'), spec=spec))\n"
    )
    mine = Project.open(tmp_path / "p").project_id
    subprocess.run([sys.executable, "-c", add, str(layout.launchpad), mine], env=environment, cwd=tmp_path, check=True)
    words = ["bash", "-c", f'PATH="{tools}:$PATH"; source "$0" "$@"', str(layout.launch_script), "md"]
    for _ in range(2):  # the second launcher knows of the first one's workers
        done = subprocess.run(
            [*words, "--timeout", "3", "--sleep", "0.2", "--pause", "0"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "sent").read_text().splitlines()) == 2, done.stderr


@pytest.mark.parametrize(("arguments", "said"), [(["big"], "usage"), (["md", "--nlaunches", "x"], "is no number")])
def test_what_the_launcher_does_not_know(tmp_path, arguments, said):
    layout = make(tmp_path / "p")
    done = subprocess.run([str(layout.launch_script), *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_second_launcher_says_that_it_leaves(tmp_path):
    layout = make(tmp_path / "p")
    with (layout.launches("md") / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([str(layout.launch_script), "md"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    assert "Another launcher of profile md runs" in done.stderr


def test_compose(tmp_path):
    layout = make(tmp_path / "p", port=27018)
    service = yaml.safe_load((layout.mongodb / "compose.yaml").read_text())["services"]["mongodb"]
    assert "--auth" in service["command"]
    assert int(service["image"].split(":")[1].split(".")[0]) >= 7
    assert service["ports"] == ["${MONGODB_ADDRESS:-127.0.0.1}:${MONGODB_PORT:-27018}:27017"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "data:/data/db" in service["volumes"]
    pod = yaml.safe_load((layout.kubernetes / "worker.yaml").read_text())["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][1] == str(tmp_path / "p")


def test_users_are_made_without_docker(tmp_path, monkeypatch):
    init_cluster(tmp_path / "p", generate_password=True, **SLURM)
    layout = ClusterLayout(tmp_path / "p")
    made = []

    class Client(dict):
        def __init__(self, *args, **kwargs):
            self.who = (args, kwargs.get("username"), kwargs.get("password"))

        def __missing__(self, name):
            return type("Database", (), {"command": lambda _, *a, **k: made.append((name, self.who, a, k))})()

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

    monkeypatch.setattr(pymongo, "MongoClient", Client)
    monkeypatch.setattr(sys, "argv", ["create_users.py", "27018"])
    runpy.run_path(str(layout.mongodb / "create_users.py"))
    (first, second), values = (
        made,
        dict(line.split("=", 1) for line in layout.mongodb_passwords.read_text().splitlines()[1:]),
    )
    admin = values["MONGO_INITDB_ROOT_PASSWORD"]
    address = ("127.0.0.1", 27018)
    assert first == ("admin", (address, None, None), ("createUser", "admin"), {"pwd": admin, "roles": ["root"]})
    assert second[:2] == ("atomfoundry_p", (address, "admin", admin))
    assert second[3]["pwd"] == yaml.safe_load(layout.launchpad.read_text())["password"]
    assert second[3]["roles"] == [{"role": "readWrite", "db": "atomfoundry_p"}]


def test_backup_and_restore(tmp_path, monkeypatch):
    """With stand-ins for docker and MongoDB's tools: they get the password, no list of processes does."""
    init_cluster(tmp_path / "p", generate_password=True, **SLURM)
    layout = ClusterLayout(tmp_path / "p")
    admin = layout.mongodb_passwords.read_text().split("MONGO_INITDB_ROOT_PASSWORD=")[1].split()[0]
    tools = tmp_path / "bin"
    tools.mkdir()
    asked = tmp_path / "asked"
    config = f'while [ "$1" != --config ]; do shift; done; cat "$2" >> {tmp_path}/told'
    stand_ins = {
        "docker": f'echo "docker $*" >> {asked}\nset -a; source passwords.env; shift 4; exec "$@"',
        "mongodump": f'echo "dump $*" >> {asked}\n{config}\necho data; exit ${{FAIL:-0}}',
        "mongorestore": f'echo "restore $*" >> {asked}\n{config}\ncat > {tmp_path}/restored',
    }
    for name, lines in stand_ins.items():
        (tools / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    backup = subprocess.run([str(layout.mongodb / "backup.sh")], capture_output=True, text=True)
    assert backup.returncode == 0, backup.stderr
    archive = layout.mongodb / backup.stdout.strip()
    assert archive.read_text() == "data\n"
    assert archive.stat().st_mode & 0o777 == 0o600
    restore = subprocess.run([str(layout.mongodb / "restore.sh"), str(archive)], capture_output=True, text=True)
    assert restore.returncode == 0, restore.stderr
    assert (tmp_path / "restored").read_text() == "data\n"
    words = asked.read_text()
    assert admin not in words
    assert (tmp_path / "told").read_text() == f"password: {admin}\n" * 2
    assert "--db atomfoundry_p --gzip --archive" in words
    assert "--nsInclude atomfoundry_p.* --drop --gzip --archive" in words
    # a dump that fails leaves nothing that looks like a backup
    archive.unlink()
    monkeypatch.setenv("FAIL", "3")
    assert subprocess.run([str(layout.mongodb / "backup.sh")], capture_output=True).returncode == 3
    assert not list(archive.parent.glob("*.gz"))


def test_variables_of_the_mock_database_reach_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("MONGOMOCK_SERVERSTORE_FILE", str(tmp_path / "store.json"))
    layout = make(tmp_path / "p")
    assert (
        f"export MONGOMOCK_SERVERSTORE_FILE={tmp_path}/store.json\n"
        in yaml.safe_load(layout.qadapter("md").read_text())["pre_rocket"] + "\n"
    )


def test_nothing_is_written_by_cluster_files(tmp_path):
    layout = ClusterLayout(tmp_path / "p")
    assert cluster_files(layout, ClusterAnswers.check(SLURM), password=None, project_id="a-b")
    assert not layout.project_path.exists()


def test_no_authentication(tmp_path, arguments):
    Project.open_or_create(tmp_path / "p", "mongodb")
    done = write_cluster(tmp_path / "p", ClusterAnswers.check({**SLURM, "user": None}))
    layout = ClusterLayout(tmp_path / "p")
    assert layout.launchpad in {file.path for file in done}
    launchpad = LaunchPad.from_file(str(layout.launchpad))
    assert launchpad.username is None
    assert "password" not in layout.launchpad.read_text() + layout.jobflow.read_text()
