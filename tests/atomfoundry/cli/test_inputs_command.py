"""``atomfoundry inputs``: folders for calculations run by hand, exit codes 0, 1 and 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.build import bulk, molecule
from ase.io import write
from typer.testing import CliRunner

from atomfoundry.cli.inputs import read_settings
from atomfoundry.cli.main import app
from atomfoundry.datasets import Dataset, frame_id, with_metadata
from atomfoundry.engines import registry
from atomfoundry.engines.ase_calculator import AseCalculatorEngine
from atomfoundry.errors import ConfigurationError, InputError


class PaperEngine(AseCalculatorEngine):
    """An engine with input files."""

    def write_inputs(self, atoms, directory):
        path = directory / "paper.in"
        path.write_text(json.dumps(self.calculator_kwargs))
        return [path]


@pytest.fixture(autouse=True)
def paper(tmp_path, monkeypatch):
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "paper_engine", sys.modules[__name__])
    monkeypatch.setitem(registry._ENGINES, "paper", "paper_engine:PaperEngine")


def run(*words: str):
    return CliRunner().invoke(app, ["inputs", *words])


SETTINGS = ("--engine", "paper", "-s", "calculator_class=ase.calculators.emt.EMT")


def test_engine_inputs_and_rerun(tmp_path: Path):
    write("si.cif", bulk("Si", cubic=True))
    write("cu.extxyz", [bulk("Cu"), bulk("Cu", a=3.7)])
    Path("kwargs.yaml").write_text("calculator_kwargs: {cutoff: 4.5}\nelements: [Si, Cu]\n")
    words = ("si.cif", "cu.extxyz", "-o", "campaign", *SETTINGS, "-s", "kwargs.yaml")
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    assert [record["folder"] for record in answer["written"]] == ["0001-Si8", "0002-Cu", "0003-Cu"]
    assert answer["written"][0]["level_id"] == answer["level_id"]
    assert json.loads(Path("campaign/0002-Cu/paper.in").read_text()) == {"cutoff": 4.5}
    assert Path(answer["table"]).is_file()
    again = run(*words)
    assert again.exit_code == 0
    assert "0 folders written, 3 structures skipped" in again.output


def test_poscars_of_a_dataset_and_refusals():
    frames = [with_metadata(bulk("Cu")), with_metadata(molecule("H2O"))]
    Dataset.create("structures", frames)
    result = run("structures", "-o", "campaign", "--format", "poscar", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.output)
    assert [record["frame_id"] for record in answer["written"]] == [frame_id(frames[0])]
    assert answer["failed"][0]["formula"] == "H2O"
    assert Path("campaign/0001-Cu/POSCAR").is_file()
    shown = run("structures", "-o", "campaign", "--format", "poscar")
    assert shown.exit_code == 1
    assert "1 refused" in shown.output and "cell" in shown.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "either --engine or --format"),
        (("--engine", "xtb", "--format", "poscar"), "either --engine or --format"),
        (("--format", "cif"), "no format 'cif'"),
        (("--format", "poscar", "-s", "a=1"), "no settings"),
        (("--engine", "xtb"), "no input files"),
        (("--engine", "xtbb"), "Did you mean 'xtb'"),
        (("--engine", "xtb", "-s", "methood=GFN1-xTB"), "Did you mean 'method'"),
        (("--engine", "xtb", "-s", "nothing"), "neither KEY=VALUE"),
        (("--engine", "xtb", "-s", "a={"), "no YAML"),
    ],
)
def test_wrong_use(words, message):
    write("si.cif", bulk("Si"))
    result = run("si.cif", "-o", "campaign", *words)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not Path("campaign").exists()


def test_settings_are_yaml_and_later_ones_win():
    Path("settings.yaml").write_text("kpoint_spacing: 0.3\nspin: true\n")
    assert read_settings(["settings.yaml", "kpoint_spacing=0.2", "pair=[a, b]", "name=x=y"]) == {
        "kpoint_spacing": 0.2,
        "spin": True,
        "pair": ["a", "b"],
        "name": "x=y",
    }
    Path("list.yaml").write_text("[1, 2]\n")
    with pytest.raises(ConfigurationError, match="neither"):
        read_settings(["list.yaml"])
