"""``atomfoundry export``: what it hands on, and exit codes."""

from __future__ import annotations

import pytest
from ase.build import molecule
from typer.testing import CliRunner

from atomfoundry.cli.main import app
from atomfoundry.errors import EngineUnavailableError, InputError


def invoke(*words):
    return CliRunner().invoke(app, ["export", *(str(word) for word in words)])


@pytest.fixture
def asked(monkeypatch):
    """What the command asks of the library."""
    calls = []

    def note(model, out, head, **kwargs):
        calls.append({"model": model, "out": out, "head": head, **kwargs})
        return out

    monkeypatch.setattr("atomfoundry.models.lammps.export.export_lammps", note)
    monkeypatch.setattr("atomfoundry.models.lammps.installation.find_lammps", lambda path: ("headers of", path))
    return calls


def test_to_lammps(asked, tmp_path):
    done = invoke(tmp_path / "model", "--to", "lammps", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "lmp -in in.example" in done.output
    (call,) = asked
    assert (call["model"], call["out"]) == (tmp_path / "model", tmp_path / "out")
    assert call["head"] is None
    assert call["structure"] is None
    assert call["lammps"] == ("headers of", None)


def test_options(asked, tmp_path):
    molecule("H2O").write(tmp_path / "water.xyz")
    words = ("--head", "ft", "--structure", tmp_path / "water.xyz", "--lammps", tmp_path)
    done = invoke(tmp_path / "model", "--to", "lammps", "--out", tmp_path / "out", *words)
    assert done.exit_code == 0, done.output
    (call,) = asked
    assert call["head"] == "ft"
    assert len(call["structure"]) == 3
    assert call["lammps"] == ("headers of", tmp_path)


def test_refusals(tmp_path):
    done = invoke(tmp_path, "--to", "excel", "--out", tmp_path / "out")
    assert isinstance(done.exception, InputError)
    assert "Targets: lammps" in str(done.exception)
    done = invoke(tmp_path, "--to", "lammps", "--out", tmp_path / "out", "--lammps", tmp_path)
    assert isinstance(done.exception, EngineUnavailableError)
    assert invoke(tmp_path, "--out", tmp_path / "out").exit_code == 2
