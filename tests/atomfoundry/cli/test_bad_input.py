"""Bad input: one clear line that says what and what to do, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from atomfoundry.cli.main import main
from atomfoundry.settings import settings


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATOMFOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("ATOMFOUNDRY_PROJECT", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["atomfoundry", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.err + captured.out


BAD_CIF = "data_x\n_cell_length_a 5\nloop_\n_atom_site_label\n"


@pytest.mark.parametrize(
    ("words", "content", "expected"),
    [
        (["run", "quikstart"], None, ["quikstart", "does not exist", "quickstart"]),
        (["run", "quickstart", "--structures", "absent.cif"], None, ["absent.cif"]),
        (["run", "quickstart", "--structures", "bad.cif"], {"bad.cif": BAD_CIF}, ["bad.cif"]),
        (
            ["run", "quickstart", "--structures", "two.xyz"],
            {"two.xyz": '2\nLattice="5 0 0 0 5 0 0 0 5" pbc="T T T"\nSi 0 0 0\nSi 0 0 0.05\n'},
            ["two.xyz"],
        ),
        (
            ["run", "quickstart", "--structures", "water.xyz"],
            {"water.xyz": "3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"},
            ["periodic in three dimensions"],
        ),
        (["run", "quickstart", "--engine", "espreso"], None, ["espreso", "espresso"]),
        (["run", "quickstart"], None, ["atomfoundry engine install espresso", "--engine xtb"]),
        (
            ["run", "instant", "--structures", "u.xyz"],
            {"u.xyz": '1\nLattice="3 0 0 0 3 0 0 0 3" pbc="T T T"\nPu 0 0 0\n'},
            ["Pu", "xtb"],
        ),
        (
            ["run", "flow.yaml"],
            {"flow.yaml": "workflow: FoundationFlowMaker\npreset: instant\narguments: {tran: {}}\n"},
            ["flow.yaml", "'tran'", "Did you mean 'train'"],
        ),
        (["engine", "install", "vasp"], None, ["vasp"]),
        (["status", "--project", "nowhere"], None, ["nowhere"]),
        (["results", "models"], None, ["--project"]),
    ],
)
def test_wrong_use(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    content: dict[str, str] | None,
    expected: list[str],
) -> None:
    for name, text in (content or {}).items():
        (tmp_path / name).write_text(text)
    before = sorted(path.name for path in tmp_path.iterdir())
    code, output = command(capsys, monkeypatch, *words)
    assert code == 2
    assert output.startswith("Error: ")
    assert output.count("\n") == 1
    for word in expected:
        assert word in output
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_project_of_a_newer_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "project.json").write_text(json.dumps({"schema_version": 99, "created": "", "code": ""}))
    code, output = command(capsys, monkeypatch, "run", "instant", "--project", str(folder))
    assert code == 2
    assert "99" in output
    assert [path.name for path in folder.iterdir()] == ["project.json"]


def test_foreign_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_text("")
    code, output = command(capsys, monkeypatch, "run", "instant", "--project", str(folder))
    assert code == 2
    assert "cat.jpg" in output
    assert [path.name for path in folder.iterdir()] == ["cat.jpg"]


def test_wrong_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.yaml").write_text("wrkers: 2\n")
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", str(tmp_path / "settings.yaml"))
    settings.cache_clear()
    code, output = command(capsys, monkeypatch, "run", "instant")
    assert code == 2
    assert "wrkers" in output
