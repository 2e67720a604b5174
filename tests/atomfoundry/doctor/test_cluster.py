"""The cluster folder: files, credentials, FireWorks' settings, the queue, the workers' Python, their clocks."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from atomfoundry import __version__
from atomfoundry.doctor import scheduler, worker_environment
from atomfoundry.doctor.credentials import credential_paths, holds_credential
from atomfoundry.doctor.fireworks_settings import known_keys

SECRET = "s3cret-x"


def edit(path: Path, **changed: object) -> None:
    content = yaml.safe_load(path.read_text()) | changed
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))


# -- files ----------------------------------------------------------------------------------------------------


def test_a_good_cluster_folder(one, cluster, adapter) -> None:
    adapter()
    assert one("cluster-files", cluster.parent).status == "ok"


def test_no_launchpad_file(one, cluster) -> None:
    (cluster / "my_launchpad.yaml").unlink()
    found = one("cluster-files", cluster.parent)
    assert found.status == "problem"
    assert found.cure.startswith(f"atomfoundry init cluster {cluster.parent}")
    assert f"chmod 600 {cluster / 'my_launchpad.yaml'}" in found.cure


def test_a_file_that_is_not_yaml_is_named_without_its_content(ask, cluster) -> None:
    (cluster / "my_launchpad.yaml").write_text(f"host: x\npassword: '{SECRET}\nname: y\n")
    found = ask("cluster-files", cluster.parent)[0]
    assert found.status == "problem"
    assert "is not YAML, line" in found.message
    assert SECRET not in str(found)


def test_unknown_keys_name_the_nearest(ask, cluster) -> None:
    edit(cluster / "my_launchpad.yaml", usrname="x")
    edit(cluster / "my_fworker_light.yaml", catgory="light")
    cures = [each.cure for each in ask("cluster-files", cluster.parent)]
    assert cures == [
        f"Write 'username' instead of 'usrname' in {cluster / 'my_launchpad.yaml'}.",
        f"Write 'category' instead of 'catgory' in {cluster / 'my_fworker_light.yaml'}.",
    ]


def test_a_uri_without_uri_mode(one, cluster) -> None:
    edit(cluster / "my_launchpad.yaml", host="mongodb://db.example/foundry")
    assert one("cluster-files", cluster.parent).cure.startswith("Write 'uri_mode: true'")


def test_no_fworker(one, cluster) -> None:
    (cluster / "my_fworker_light.yaml").unlink()
    found = one("cluster-files", cluster.parent)
    assert found.status == "warning"
    assert found.cure.startswith(f"atomfoundry init cluster {cluster.parent}")


def test_wrong_profiles(one, cluster) -> None:
    (cluster / "profiles.yaml").write_text(yaml.safe_dump({"profiles": {"gpu": {"quue": "a100"}}}))
    found = one("cluster-files", cluster.parent)
    assert found.status == "problem"
    assert "quue" in found.message
    assert "queue" in found.cure


@pytest.mark.parametrize(
    ("changed", "message", "cure"),
    [
        ({"_fw_q_type": "SLRUM"}, "has _fw_q_type 'SLRUM'", "Write '_fw_q_type: SLURM'"),
        ({"rocket_launch": None}, "has no rocket_launch", "rocket_launch: atomfoundry worker --project"),
        (
            {"rocket_launch": "rlaunch -w /nowhere/my_fworker.yaml rapidfire"},
            "/nowhere/my_fworker.yaml, which does not exist",
            "Correct '-w /nowhere/my_fworker.yaml'",
        ),
    ],
)
def test_wrong_queue_adapters(one, cluster, adapter, changed, message, cure) -> None:
    adapter(**changed)
    found = one("cluster-files", cluster.parent)
    assert found.status == "problem"
    assert message in found.message
    assert cure in found.cure


@pytest.mark.parametrize(
    "launch",
    ["rlaunch singleshot --offline", "rlaunch -c /c singleshot -o", "rlaunch singleshot -o --pdb"],
)
def test_offline_mode_is_refused(one, cluster, adapter, launch) -> None:
    path = adapter(rocket_launch=launch)
    found = one("offline", cluster.parent)
    assert found.status == "problem"
    assert "monty 2026.2.18" in found.message
    assert f"from rocket_launch in {path}" in found.cure


def test_online_mode_is_not(one, cluster, adapter) -> None:
    adapter(rocket_launch="rlaunch rapidfire --output-x -offset")
    assert one("offline", cluster.parent).status == "ok"


def test_offline_recovery_in_the_crontab(one, cluster) -> None:
    (cluster / "crontab").write_text("# qlaunch --offline\n*/5 * * * * lpad -c /c recover_offline\n")
    found = one("offline", cluster.parent)
    assert "line 2" in found.message
    assert found.cure.startswith(f"sed -i '2d' {cluster / 'crontab'}")


def test_what_init_cluster_writes_is_well(ask, tmp_path, program, slurm) -> None:
    from atomfoundry.running.cluster.initialise import init_cluster

    folder = tmp_path / "made"
    init_cluster(
        folder,
        scheduler="slurm",
        host="db.example",
        cpu_partition="cpu",
        gpu_partition="gpu",
        python=sys.executable,
        generate_password=True,
    )
    found = ask("cluster", folder)
    assert not [each for each in found if each.status in ("problem", "warning")]
    assert {each.status for each in found} == {"ok", "skipped"}
    (launchpad := folder / "cluster" / "my_launchpad.yaml").chmod(0o604)
    assert ask("file-modes", folder)[0].cure.startswith(f"chmod 600 {launchpad}")


# -- credentials ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("host: mongodb://u:pw123@db/x", True),
        ("password: hunter2", True),
        ("export ATOMFOUNDRY_MONGODB_PASSWORD=hunter2", True),
        ('{"password": "hunter2"}', True),
        ("password: null\nhost: x", False),
        ("password:\nauthsource: admin", False),
        ("password: $PASSWORD", False),
        ("# password: hunter2", False),
        ("host: mongodb://u:$PW@db/x", False),
        ("host: mongodb://db.example:27017/x", False),
        ("passwords are elsewhere", False),
        ("| `my_launchpad.yaml` | the database, with its password: mode 0600 |", False),
        ("password: it is in the other file", False),
        ('--config <(printf "password: %s\\n" "$MONGO_PASSWORD")', False),
        ("admin, secret = values['A'], values['ROOT_PASSWORD']", False),
        ("MongoClient(username=admin, password=secret)", False),
        ('Environment="DB_PASSWORD=hunter2"', True),
        ("DB_PASSWORD=hunter2 /usr/bin/worker", True),
        ("  - password: 'hunter2'  # of the database", True),
    ],
)
def test_what_a_credential_is(text, found) -> None:
    assert holds_credential(text) is found


def test_modes_of_files_with_credentials(ask, one, cluster) -> None:
    assert one("file-modes", cluster.parent).status == "ok"
    path = cluster / "my_launchpad.yaml"
    path.chmod(0o640)
    found = one("file-modes", cluster.parent)
    assert found.status == "problem"
    assert f"{path} holds a credential and has mode 0640" in found.message
    assert found.cure.startswith(f"chmod 600 {path}")
    assert SECRET not in str(found)


def test_a_launchpad_file_without_a_password_may_be_read(one, cluster) -> None:
    path = cluster / "my_launchpad.yaml"
    edit(path, password=None)
    path.chmod(0o644)
    assert one("file-modes", cluster.parent).status == "ok"


@pytest.mark.parametrize("name", ["crontab", "my_qadapter_gpu.yaml", "systemd/worker.service", "profiles.yaml"])
def test_credentials_where_none_may_be(one, cluster, name) -> None:
    path = cluster / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("environment: ATOMFOUNDRY_MONGODB_PASSWORD=hunter22\n")
    path.chmod(0o600)
    found = one("credentials", cluster.parent)
    assert found.status == "problem"
    assert (
        found.message == f"{path} holds a credential; only my_launchpad.yaml, jobflow.yaml, mongodb/passwords.env may."
    )
    assert f"Remove it from {path}" in found.cure
    assert "hunter22" not in str(found)


def test_a_known_password_is_found_wherever_it_stands(one, cluster) -> None:
    path = cluster / "notes.txt"
    path.write_text("ask for s3cret-x there")
    path.chmod(0o644)
    found = one("credentials", cluster.parent)
    assert found.details["path"] == str(path)
    assert one("file-modes", cluster.parent).details["path"] == str(path)


def test_the_passwords_of_a_new_database_have_a_file_of_their_own(one, cluster) -> None:
    path = cluster / "mongodb" / "passwords.env"
    path.parent.mkdir()
    path.write_text("MONGO_INITDB_ROOT_PASSWORD=hunter22222\n")
    path.chmod(0o600)
    assert one("credentials", cluster.parent).status == "ok"
    assert one("file-modes", cluster.parent).message.startswith("2 files with credentials")
    (cluster / "README.md").write_text("it is hunter22222")
    assert "README.md holds a credential" in one("credentials", cluster.parent).message


def test_credentials_in_the_project_file(one, cluster) -> None:
    project = cluster.parent / "project.json"
    project.write_text(json.dumps({"schema_version": 1, "database": "mongodb", "uri": "mongodb://u:pw@db/x"}))
    assert f"Remove it from {project}" in one("credentials", cluster.parent).cure


def test_credentials_in_nested_content() -> None:
    spec = {"_tasks": [{"job": {"store": {"password": "hunter2", "host": "x"}}}], "a": {"password": ""}}
    assert list(credential_paths(spec, secrets=set())) == ["_tasks.0.job.store.password"]
    assert list(credential_paths({"note": f"pw is {SECRET}"}, secrets={SECRET})) == ["note"]
    assert list(credential_paths({"uri": "mongodb://a:b@c"}, secrets=set())) == ["uri"]
    assert list(credential_paths({"token": "**********", "n_tokens": 3}, secrets=set())) == []


# -- FW_config ------------------------------------------------------------------------------------------------


def test_fireworks_own_keys_are_known() -> None:
    pytest.importorskip("fireworks")
    assert {"PING_TIME_SECS", "RUN_EXPIRATION_SECS", "ADD_USER_PACKAGES", "LAUNCHPAD_LOC"} <= known_keys()
    from fireworks import fw_config

    assert set(fw_config.config_to_dict()) <= known_keys()


@pytest.mark.parametrize(
    ("changed", "status", "message", "cure"),
    [
        ({"PING_TIMES_SECS": 3}, "problem", "unknown key 'PING_TIMES_SECS'", "Write 'PING_TIME_SECS' instead"),
        ({"PING_TIME_SECS": 3000}, "problem", "healthy jobs will be run twice", "'RUN_EXPIRATION_SECS: 12000'"),
        (
            {"PING_TIME_SECS": 3600, "RUN_EXPIRATION_SECS": 14400},
            "warning",
            "noticed after 4.0 h",
            "'PING_TIME_SECS: 300'",
        ),
        ({"PING_TIME_SECS": [1]}, "problem", "PING_TIME_SECS is [1]", "Write 'PING_TIME_SECS: 300'"),
        ({"RAPIDFIRE_SLEEP_SECS": 60}, "warning", "sleeps 60 s", "'RAPIDFIRE_SLEEP_SECS: 5'"),
    ],
)
def test_wrong_fireworks_settings(one, cluster, changed, status, message, cure) -> None:
    pytest.importorskip("fireworks")
    edit(cluster / "FW_config.yaml", **changed)
    found = one("fw-config", cluster.parent)
    assert found.status == status
    assert message in found.message
    assert cure in found.cure
    assert str(cluster / "FW_config.yaml") in found.cure


def test_good_fireworks_settings(one, cluster) -> None:
    assert one("fw-config", cluster.parent).status == "ok"


def test_no_fireworks_settings(one, cluster) -> None:
    (cluster / "FW_config.yaml").unlink()
    found = one("fw-config", cluster.parent)
    assert "wait 60 s between jobs" in found.message
    assert "'PING_TIME_SECS: 60'" in found.cure


def test_another_file_that_fireworks_reads_first(one, cluster) -> None:
    other = Path.home() / ".fireworks" / "FW_config.yaml"
    other.parent.mkdir()
    other.write_text("{}")
    assert one("fw-config", cluster.parent).cure.startswith(f"mv {other} {other}.old")


def test_a_variable_for_a_file_that_is_not_there(one, cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_CONFIG_FILE", "/nowhere/FW_config.yaml")
    assert one("fw-config", cluster.parent).cure == f"export FW_CONFIG_FILE={cluster / 'FW_config.yaml'}"


# -- queue ----------------------------------------------------------------------------------------------------

SINFO = """\
cpu|up|2-00:00:00|64|256000
cpu|up|2-00:00:00|128|512000
gpu|up|1-00:00:00|16+|128000+
old|down|infinite|8|32000"""


@pytest.fixture
def slurm(program):
    for name in ("sbatch", "scancel"):
        program(name, "exit 0")
    program("squeue", "echo 1\necho 2")
    program("sinfo", f"cat <<'END'\n{SINFO}\nEND")


def test_no_queue_adapters_no_queue(one, cluster) -> None:
    assert one("scheduler", cluster.parent).status == "skipped"


def test_slurm_answers(one, cluster, adapter, slurm) -> None:
    adapter()
    assert one("scheduler", cluster.parent).message == "SLURM answers, 2 jobs of yours"


def test_slurm_that_does_not_answer(one, cluster, adapter, slurm, program) -> None:
    adapter()
    program("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    found = one("scheduler", cluster.parent)
    assert found.status == "problem"
    assert "Unable to contact slurm controller" in found.message


def test_commands_of_the_queue_that_are_missing(one, cluster, adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter(_fw_q_type="PBS")
    monkeypatch.setenv("PATH", "/nowhere")
    found = one("scheduler", cluster.parent)
    assert found.message == "The queue adapters are for PBS, but qsub, qstat, qdel are not in PATH."
    assert "module load pbs" in found.cure


@pytest.mark.parametrize(
    ("profile", "status", "message", "cure"),
    [
        ({"queue": "gpus"}, "problem", "no partition 'gpus' (profile 'big' in", "Write 'queue: gpu' for profile 'big'"),
        ({"queue": "old"}, "warning", "'old' takes no jobs", "sinfo -p old"),
        ({"queue": "gpu", "wall_time": "48:00:00"}, "problem", "asks for 48 h, but", "'wall_time: 86400'"),
        ({"queue": "gpu", "cores": 32}, "problem", "asks for 32 cores a node", "'cores: 16'"),
        ({"queue": "cpu", "memory_mb": 600000}, "problem", "has 512000", "'memory_mb: 512000'"),
    ],
)
def test_profiles_against_partitions(one, cluster, adapter, slurm, profile, status, message, cure) -> None:
    adapter()
    (cluster / "profiles.yaml").write_text(yaml.safe_dump({"profiles": {"big": profile}}))
    found = one("partitions", cluster.parent)
    assert found.status == status
    assert message in found.message
    assert cure in found.cure


def test_overrides_by_job_name_and_queue_adapters_are_looked_at_too(ask, cluster, adapter, slurm) -> None:
    adapter(queue="cpus", walltime="01:00:00")
    (cluster / "profiles.yaml").write_text(yaml.safe_dump({"jobs": {"label *": {"queue": "none"}}}))
    messages = [each.message for each in ask("partitions", cluster.parent)]
    assert "job 'label *'" in messages[0]
    assert "my_qadapter_light.yaml" in messages[1]


def test_good_partitions(one, cluster, adapter, slurm) -> None:
    adapter(walltime="24:00:00")
    (cluster / "profiles.yaml").write_text(yaml.safe_dump({"profiles": {"gpu": {"queue": "gpu", "cores": 16}}}))
    assert one("partitions", cluster.parent).message == "Partitions there and up: cpu, gpu"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2-00:00:00", 172800.0),
        ("1-12", 129600.0),
        ("24:00:00", 86400.0),
        ("30:00", 1800.0),
        ("30", 1800.0),
        (3600, 3600.0),
        ("infinite", None),
        (None, None),
    ],
)
def test_times(text, seconds) -> None:
    assert scheduler.parse_time(text) == seconds


def test_a_cluster_folder_of_rubbish_crashes_no_check(ask, cluster) -> None:
    (cluster.parent / "project.json").write_bytes(b"\xff\xfe{")
    (cluster / "my_launchpad.yaml").write_bytes(b"\xff\xff")
    (cluster / "my_fworker_light.yaml").write_text("- a\n")
    (cluster / "FW_config.yaml").write_text("PING_TIME_SECS: {}\n")
    (cluster / "profiles.yaml").write_text("profiles: 3\njobs: [1]\n")
    (cluster / "my_qadapter_x.yaml").write_text('_fw_q_type: 3\nrocket_launch: "a \'b"\nqueue: 7\nwalltime: {}\n')
    (cluster.parent / "work" / "a").mkdir(parents=True)
    (cluster.parent / "work" / "a" / "attempt.json").write_text("[1]")
    findings = [each for area in ("project", "cluster", "database") for each in ask(area, cluster.parent)]
    assert {each.check for each in findings if each.status == "problem"} >= {"schema", "cluster-files", "mongodb"}
    assert not [each for each in findings if "check itself failed" in each.message]


# -- the workers' Python --------------------------------------------------------------------------------------


def interpreter(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "env" / "bin" / "python"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_python_here(one, cluster, adapter) -> None:
    adapter(rocket_launch=f"{sys.executable} -m atomfoundry.cli.main worker")
    found = one("worker-environment", cluster.parent)
    assert (found.status, found.message) == ("ok", f"Atomfoundry {__version__} in {sys.executable}")


def test_a_python_that_does_not_exist(one, cluster, adapter) -> None:
    path = adapter(rocket_launch="/nowhere/bin/rlaunch rapidfire")
    found = one("worker-environment", cluster.parent)
    assert "/nowhere/bin/rlaunch does not exist" in found.message
    assert f"Correct rocket_launch or pre_rocket in {path}" in found.cure


def test_a_python_of_another_version(one, cluster, adapter, tmp_path) -> None:
    python = interpreter(tmp_path, "echo 0.0.9")
    adapter(rocket_launch="rlaunch rapidfire", pre_rocket=f"source {python.parent}/activate")
    (python.parent / "rlaunch").write_text(f"#!{python}\n")
    found = one("worker-environment", cluster.parent)
    assert found.status == "problem"
    assert f"{python} has Atomfoundry 0.0.9, here it is {__version__}" in found.message
    assert found.cure == f"{python} -m pip install atomfoundry=={__version__}"


def test_a_python_without_atomfoundry(one, cluster, adapter, tmp_path) -> None:
    python = interpreter(tmp_path, "echo \"ModuleNotFoundError: No module named 'atomfoundry'\" >&2; exit 1")
    adapter(rocket_launch=f"{python} -m x")
    found = one("worker-environment", cluster.parent)
    assert "cannot import atomfoundry: ModuleNotFoundError" in found.message
    assert "-m pip install atomfoundry" in found.cure


def test_a_script_whose_python_is_gone(one, cluster, adapter, tmp_path) -> None:
    script = tmp_path / "rlaunch"
    script.write_text("#!/bin/sh\n'''exec' \"/gone/env/bin/python\" \"$0\" \"$@\"\n' '''\n")
    adapter(rocket_launch=f"{script} rapidfire")
    found = one("worker-environment", cluster.parent)
    assert "/gone/env/bin/python, which does not exist" in found.message
    assert "python3 -m venv /gone/env" in found.cure


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"rocket_launch": "apptainer exec a.sif atomfoundry worker"}, ("atomfoundry", "apptainer", False)),
        ({"rocket_launch": "rlaunch x", "pre_rocket": "module load python/3.12"}, (None, None, True)),
        ({"rocket_launch": "rlaunch x", "pre_rocket": "conda activate f"}, (None, None, True)),
        ({"rocket_launch": "rlaunch x", "pre_rocket": 'export PATH="/e/bin:$PATH"'}, ("/e/bin/rlaunch", None, False)),
        ({"rocket_launch": "rlaunch x", "pre_rocket": ". /e/bin/activate"}, ("/e/bin/rlaunch", None, False)),
        ({"rocket_launch": "srun /e/bin/python3.12 -m a"}, ("/e/bin/python3.12", None, False)),
        ({"rocket_launch": "echo hello"}, (None, None, False)),
    ],
)
def test_how_a_worker_is_started(content, expected) -> None:
    start = worker_environment.start_of(content)
    assert (start.program, start.container, start.hidden) == expected


def test_containers_and_modules_are_not_guessed_at(ask, cluster, adapter) -> None:
    adapter("a", rocket_launch="apptainer exec a.sif atomfoundry worker")
    adapter("b", rocket_launch="rlaunch rapidfire", pre_rocket="module load python")
    adapter("c", rocket_launch="echo hello")
    found = ask("worker-environment", cluster.parent)
    assert [each.status for each in found] == ["skipped", "skipped", "problem"]
    assert "rocket_launch: atomfoundry worker --project" in found[-1].cure


# -- clocks ---------------------------------------------------------------------------------------------------


def attempt(project: Path, name: str, *, host: str, ahead: float) -> None:
    folder = project / "work" / name
    folder.mkdir(parents=True)
    path = folder / "attempt.json"
    now = datetime.now(UTC).timestamp()
    started = datetime.fromtimestamp(now + ahead, UTC).isoformat()
    path.write_text(json.dumps({"host": host, "started": started}))
    os.utime(path, (now, now))


def test_no_attempts(one, cluster) -> None:
    assert one("attempt-clocks", cluster.parent).status == "skipped"


def test_a_worker_machine_with_another_clock(ask, cluster) -> None:
    for number in range(3):
        attempt(cluster.parent, f"a{number}_1", host="node1", ahead=0.0)
        attempt(cluster.parent, f"b{number}_1", host="node2", ahead=-600.0)
    attempt(cluster.parent, "c_1", host="node1", ahead=900.0)  # one outlier is no clock
    found = ask("attempt-clocks", cluster.parent)
    assert [each.status for each in found] == ["warning"]
    assert "The clock of node2 is 10 min behind the project's file system" in found[0].message
    assert found[0].cure.startswith("ssh node2 chronyc tracking")


def test_clocks_that_agree(one, cluster) -> None:
    attempt(cluster.parent, "a_1", host="node1", ahead=0.0)
    (cluster.parent / "work" / "b_1").mkdir()
    (cluster.parent / "work" / "b_1" / "attempt.json").write_text("{cut sh")
    assert one("attempt-clocks", cluster.parent).message == "Clocks of node1 agree with the project's file system"
