from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from atomfoundry.cli import init
from atomfoundry.cli.main import app
from atomfoundry.errors import InputError

RUNNER = CliRunner()
SECRET = "s3cret-word"


@pytest.fixture(autouse=True)
def password(monkeypatch):
    monkeypatch.setenv("ATOMFOUNDRY_MONGODB_PASSWORD", SECRET)
    monkeypatch.delenv("MONGOMOCK_SERVERSTORE_FILE", raising=False)


def test_options_become_files(tmp_path):
    options = ["--scheduler", "slurm", "--host", "db", "--port", "27018", "--cpu-partition", "cpu"]
    options += ["--modules", "gcc/13 cuda/12,mpi/4", "--modules", "vasp/6", "--database-name", "si", "--user", "me"]
    done = RUNNER.invoke(app, ["init", "cluster", str(tmp_path / "p"), *options])
    assert done.exit_code == 0, done.output
    assert SECRET not in done.output
    assert "Next:\n  atomfoundry submit" in done.output
    answers = yaml.safe_load((tmp_path / "p/cluster/cluster.yaml").read_text())
    assert answers["modules"] == ["gcc/13", "cuda/12", "mpi/4", "vasp/6"]
    assert (answers["port"], answers["database_name"], answers["user"]) == (27018, "si", "me")
    again = RUNNER.invoke(app, ["init", "cluster", str(tmp_path / "p"), *options, "--json"])
    report = json.loads(again.output)
    assert {file["action"] for file in report["files"]} == {"unchanged"}
    assert SECRET not in again.output


def test_nobody_is_asked_without_a_terminal(tmp_path):
    done = RUNNER.invoke(app, ["init", "cluster", str(tmp_path / "p")])
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == "Missing: --scheduler, --host. Give them, or answer on a terminal."
    assert not (tmp_path / "p").exists()


def test_only_what_is_missing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(init, "_is_terminal", lambda: True)
    monkeypatch.delenv("ATOMFOUNDRY_MONGODB_PASSWORD")
    options = ["--scheduler", "slurm", "--cpu-partition", "cpu"]
    done = RUNNER.invoke(
        app, ["init", "cluster", str(tmp_path / "p"), *options], input=f"db.internal\ngpu\nmat\n{SECRET}\n"
    )
    assert done.exit_code == 0, done.output
    assert SECRET not in done.output
    assert "Scheduler" not in done.output
    launchpad = yaml.safe_load((tmp_path / "p/cluster/my_launchpad.yaml").read_text())
    assert (launchpad["host"], launchpad["password"]) == ("db.internal", SECRET)
    answers = yaml.safe_load((tmp_path / "p/cluster/cluster.yaml").read_text())
    assert (answers["cpu_partition"], answers["gpu_partition"], answers["account"]) == ("cpu", "gpu", "mat")
    # all is known: nothing is asked
    again = RUNNER.invoke(app, ["init", "cluster", str(tmp_path / "p")], input="")
    assert again.exit_code == 0, again.output


def test_typos(tmp_path):
    done = RUNNER.invoke(app, ["init", "cluster", str(tmp_path / "p"), "--scheduler", "slrum", "--host", "db"])
    assert "Did you mean 'slurm'?" in str(done.exception)
    done = RUNNER.invoke(app, ["init", "cluster", str(tmp_path / "p"), "--schedular", "slurm"])
    assert done.exit_code == 2
    assert "--scheduler" in done.output
    assert not (tmp_path / "p").exists()


def test_there_is_no_option_for_a_password():
    done = RUNNER.invoke(app, ["init", "cluster", "--help"])
    assert "--password" not in done.output
    assert "--generate-password" in done.output.replace("\n", "")
