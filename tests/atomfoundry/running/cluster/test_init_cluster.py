from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
import yaml

from atomfoundry.errors import ConfigurationError, InputError, ProjectError
from atomfoundry.results.project import Project
from atomfoundry.running.cluster.initialise import init_cluster
from atomfoundry.running.cluster.layout import ClusterLayout

SECRET = 'p"w: 1e5 %s\\'
ANSWERS = {
    "scheduler": "slurm",
    "host": "db.internal",
    "cpu_partition": "cpu",
    "gpu_partition": "a100",
    "account": "mat",
    "modules": ["gcc/13.2"],
}


@pytest.fixture(autouse=True)
def no_password(monkeypatch):
    monkeypatch.delenv("ATOMFOUNDRY_MONGODB_PASSWORD", raising=False)
    monkeypatch.delenv("MONGOMOCK_SERVERSTORE_FILE", raising=False)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("silicon", "atomfoundry_silicon"),
        ("Silicon-2 (new)", "atomfoundry_silicon_2_new"),
        ("_-", "atomfoundry_project"),
        ("硅", "atomfoundry_project"),
        ("a" * 26, "atomfoundry_" + "a" * 26),
        ("a" * 27, f"atomfoundry_{'a' * 17}_{hashlib.sha256(b'a' * 27).hexdigest()[:8]}"),
    ],
)
def test_each_project_has_a_database_of_its_own(tmp_path, folder, name):
    """No character that MongoDB refuses, no name that differs in case alone, at most 38 bytes."""
    layout = ClusterLayout(tmp_path / folder)
    assert layout.database_name == name
    assert len(name.encode()) <= 38
    setup = init_cluster(tmp_path / folder, password=SECRET, **ANSWERS)
    assert yaml.safe_load(layout.launchpad.read_text())["name"] == setup.answers.database_name == name


def test_the_name_of_the_database_stays(tmp_path):
    """Also where the folder is renamed."""
    init_cluster(tmp_path / "p", password=SECRET, **ANSWERS)
    (tmp_path / "p").rename(tmp_path / "q")
    assert init_cluster(tmp_path / "q", force=True).answers.database_name == "atomfoundry_p"


def test_a_new_folder_becomes_a_project(tmp_path):
    setup = init_cluster(tmp_path / "p", password=SECRET, **ANSWERS)
    layout = ClusterLayout(tmp_path / "p")
    assert Project.open(tmp_path / "p").metadata["database"] == "mongodb"
    assert {file.action for file in setup.files} == {"written"}
    assert len(setup.next_commands) == 3
    launch = f"{layout.launch_script} $profile --nlaunches infinite"
    assert f"for profile in light dft gpu md; do {launch} & done; wait" in setup.next_commands
    private = {path for path in layout.folder.rglob("*") if path.is_file() and mode(path) == 0o600}
    assert private == {layout.launchpad, layout.jobflow}
    assert mode(layout.launch_script) == mode(layout.mongodb / "backup.sh") == 0o755
    for name in ("light", "dft", "gpu", "md"):
        assert layout.launches(name).is_dir()


def test_the_password_is_in_the_private_files_alone(tmp_path):
    secret = "only-in-two-files"
    setup = init_cluster(tmp_path / "p", password=secret, **ANSWERS)
    holders = {p.name for p in setup.project.rglob("*") if p.is_file() and secret in p.read_text()}
    assert holders == {"my_launchpad.yaml", "jobflow.yaml"}
    assert secret not in str(setup.as_dict()) + repr(setup)


def test_the_same_again_changes_nothing(tmp_path):
    init_cluster(tmp_path / "p", password=SECRET, **ANSWERS)
    before = snapshot(tmp_path)
    again = init_cluster(tmp_path / "p", password=SECRET, **ANSWERS)
    assert {file.action for file in again.files} == {"unchanged"}
    # without any answer, those of before count; the password too
    silent = init_cluster(tmp_path / "p")
    assert {file.action for file in silent.files} == {"unchanged"}
    assert init_cluster(tmp_path / "p", force=True, **ANSWERS).answers == again.answers
    assert snapshot(tmp_path) == before


def test_another_answer_needs_force(tmp_path):
    init_cluster(tmp_path / "p", password=SECRET, **ANSWERS)
    before = snapshot(tmp_path)
    with pytest.raises(ConfigurationError, match=r"says host 'db\.internal', the answer now is 'other'.*--force"):
        init_cluster(tmp_path / "p", host="other")
    with pytest.raises(InputError, match=r"password differs.*--force") as caught:
        init_cluster(tmp_path / "p", password="new")
    assert "new" not in str(caught.value)
    assert snapshot(tmp_path) == before
    setup = init_cluster(tmp_path / "p", host="other", password="new", force=True)
    layout = ClusterLayout(setup.project)
    assert yaml.safe_load(layout.launchpad.read_text())["host"] == "other"
    assert yaml.safe_load(layout.jobflow.read_text())["JOB_STORE"]["docs_store"]["password"] == "new"
    assert mode(layout.launchpad) == 0o600


def test_edited_files_stay_and_adapters_follow_the_profiles(tmp_path):
    init_cluster(tmp_path / "p", password=SECRET, **ANSWERS)
    layout = ClusterLayout(tmp_path / "p")
    mine = "scheduler: slurm\nprofiles:\n  gpu: {queue: h100, gpus: 4, cores: 32, max_queued: 3}\n  big: {queue: cpu}\n"
    layout.profiles.write_text(mine)
    layout.fireworks.write_text("PING_TIME_SECS: 30\n")
    setup = init_cluster(tmp_path / "p")
    actions = {file.path: file.action for file in setup.files}
    assert actions[layout.profiles] == actions[layout.fireworks] == actions[layout.qadapter("gpu")] == "kept"
    assert actions[layout.qadapter("big")] == "written"
    assert "a100" in layout.qadapter("gpu").read_text()
    assert any("FW_config.yaml" in note and "--force" in note for note in setup.notes)
    init_cluster(tmp_path / "p", force=True)
    adapter = yaml.safe_load(layout.qadapter("gpu").read_text())
    assert (adapter["queue"], adapter["gres"]) == ("h100", "gpu:4")
    assert layout.profiles.read_text() == mine
    assert "PING_TIME_SECS: 60" in layout.fireworks.read_text()
    assert "light|dft|gpu|md|big) ;;" in layout.launch_script.read_text()
    with pytest.raises(ConfigurationError, match=r"is yours and stays.*another gpu_partition would change nothing"):
        init_cluster(tmp_path / "p", gpu_partition="h100", force=True)
    layout.profiles.write_text(mine.replace("slurm", "pbs"))
    with pytest.raises(ConfigurationError, match=r"scheduler 'pbs', the answer was 'slurm'"):
        init_cluster(tmp_path / "p", force=True)


def test_a_private_file_is_made_private_again(tmp_path):
    init_cluster(tmp_path / "p", password=SECRET, **ANSWERS)
    layout = ClusterLayout(tmp_path / "p")
    layout.launchpad.chmod(0o644)
    init_cluster(tmp_path / "p")
    assert mode(layout.launchpad) == 0o600


def test_a_folder_that_others_may_write_to_is_noted(tmp_path):
    setup = init_cluster(tmp_path / "p", password=SECRET, **ANSWERS)
    setup.folder.chmod(0o755)
    assert not any("chmod" in note for note in init_cluster(tmp_path / "p").notes)
    setup.folder.chmod(0o775)
    assert any("chmod go-w" in note for note in init_cluster(tmp_path / "p").notes)


def test_password_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMFOUNDRY_MONGODB_PASSWORD", SECRET)
    setup = init_cluster(tmp_path / "p", **ANSWERS)
    assert yaml.safe_load((setup.folder / "my_launchpad.yaml").read_text())["password"] == SECRET


def test_generated_passwords_survive_an_interruption(tmp_path, monkeypatch):
    layout = ClusterLayout(tmp_path / "p")
    replace = Path.replace

    def full_disk(path: Path, target: Path) -> Path:
        if target == layout.launchpad:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(ProjectError, match=r"my_launchpad\.yaml: .*No space left"):
        init_cluster(tmp_path / "p", generate_password=True, **ANSWERS)
    monkeypatch.undo()
    left = {path.name for path in layout.folder.rglob("*") if path.is_file()}
    assert left == {"passwords.env", "cluster.yaml", "profiles.yaml"}  # no half file
    assert mode(layout.mongodb_passwords) == 0o600
    values = dict(line.split("=", 1) for line in layout.mongodb_passwords.read_text().splitlines()[1:])
    setup = init_cluster(tmp_path / "p", generate_password=True, **ANSWERS)
    assert yaml.safe_load(layout.launchpad.read_text())["password"] == values["ATOMFOUNDRY_PASSWORD"]
    assert len(values["ATOMFOUNDRY_PASSWORD"]) >= 40
    assert values["MONGO_INITDB_ROOT_PASSWORD"] != values["ATOMFOUNDRY_PASSWORD"]
    assert values["ATOMFOUNDRY_DATABASE"] == "atomfoundry_p"
    assert {file.action for file in init_cluster(setup.project).files} == {"unchanged"}


def test_no_password_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="ATOMFOUNDRY_MONGODB_PASSWORD"):
        init_cluster(tmp_path / "p", **ANSWERS)
    with pytest.raises(InputError, match="control character"):
        init_cluster(tmp_path / "p", ask_password=lambda: "a\nb", **ANSWERS)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "slrum"}, "no scheduler 'slrum'.*Did you mean 'slurm'"),
        ({"results": "mongo"}, "Did you mean 'mongodb'"),
        ({"cpu_partiton": "x"}, "unknown answer 'cpu_partiton'.*'cpu_partition'"),
        ({"port": 0}, "port: "),
        ({"host": "a b"}, "host: 'a b' is no host"),
        ({"host": "mongodb://me:pw@db"}, "holds no user or password"),
        ({"host": "mongodb://db/?authSource=x"}, "an answer of its own"),
        ({"host": "mongodb://db", "port": 1}, "the port stands in it"),
        ({"database_name": "a.b"}, "no name of a database"),
        ({"cpu_partition": "a;b"}, "cpu_partition"),
        ({"modules": ["gcc;rm"]}, "modules"),
        ({"python": "python3"}, "python: 'python3' must be an absolute path"),
        ({"python": "/no/such/python"}, "/no/such/python is no Python interpreter"),
        ({"scheduler": "none"}, "without a scheduler there is no partition"),
        ({"tls_ca_file": "/ca.pem"}, "tls_ca_file needs tls"),
        ({"scheduler": "pbs", "cpu_partition": None}, "PBS needs a queue"),
    ],
)
def test_wrong_answers(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        init_cluster(tmp_path / "p", password=SECRET, **{**ANSWERS, **changes})
    assert "pw" not in str(caught.value)
    assert not (tmp_path / "p").exists()


def test_an_existing_project_keeps_its_kind(tmp_path):
    Project.open_or_create(tmp_path / "p")
    setup = init_cluster(tmp_path / "p", password=SECRET, **ANSWERS)
    assert setup.answers.results == "sqlite"
    assert any("one host" in note for note in setup.notes)
    assert not ClusterLayout(setup.project).jobflow.exists()
    assert "JOBFLOW" not in ClusterLayout(setup.project).qadapter("gpu").read_text()
    with pytest.raises(InputError):
        init_cluster(tmp_path / "p", results="mongodb", force=True)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "holiday.txt").write_text("sun")
    with pytest.raises(ProjectError, match=r"holiday\.txt"):
        init_cluster(tmp_path, password=SECRET, **ANSWERS)


def test_without_a_queue(tmp_path):
    setup = init_cluster(tmp_path / "p", scheduler="none", user=None, host="localhost", password=SECRET)
    layout = ClusterLayout(setup.project)
    assert setup.answers.user == "atomfoundry"  # None counts as not given
    assert not list(layout.folder.glob("my_qadapter*"))
    assert not layout.launch_script.exists()
    assert (layout.systemd / "atomfoundry-p-work-gpu.service").is_file()
    assert setup.next_commands[1] == (
        f"for profile in light dft gpu md; do {layout.work_script} $profile --stay & done; wait"
    )


def test_without_authentication(tmp_path):
    setup = init_cluster(tmp_path / "p", scheduler="none", user="", host="localhost")
    launchpad = yaml.safe_load((setup.folder / "my_launchpad.yaml").read_text())
    assert not {"username", "password", "authsource"} & set(launchpad)
    assert any("whoever reaches it can run code as you" in note for note in setup.notes)
    again = init_cluster(tmp_path / "p")
    assert again.answers.user is None
    assert {file.action for file in again.files} == {"unchanged"}


def test_training_without_a_gpu_partition_runs_on_cpus(tmp_path):
    setup = init_cluster(tmp_path / "p", password=SECRET, scheduler="slurm", host="db", cpu_partition="cpu")
    adapter = yaml.safe_load(ClusterLayout(setup.project).qadapter("gpu").read_text())
    assert adapter["queue"] == "cpu"
    assert "gres" not in adapter
    assert any("runs on CPUs" in note for note in setup.notes)
