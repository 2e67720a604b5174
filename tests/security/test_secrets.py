"""Secrets of the settings and the environment are in nothing that a run writes."""

from __future__ import annotations

import gzip
import sys
import traceback
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from careless_jobs import tell_and_fail
from jobflow import Flow
from planted_secrets import ALL, MARK, dump_database, find_in_database, find_in_files

from atomfoundry.datasets import Dataset, with_metadata
from atomfoundry.documents import CalculatorSpec, StructureSetDoc
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers import LabelMaker
from atomfoundry.results import Project, open_results
from atomfoundry.running import run
from atomfoundry.settings import settings

LJ = {"calculator_class": "ase.calculators.lj.LennardJones", "calculator_kwargs": {"sigma": 2.0, "epsilon": 0.4}}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in ALL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", str(tmp_path / "settings.yaml"))
    (tmp_path / "settings.yaml").write_text(f"materials_project_key: {MARK}-in-the-file\nkernel: auto\n")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


@pytest.mark.slow
def test_a_run_writes_no_secret(planted: None, tmp_path: Path) -> None:
    project = Project.open_or_create(tmp_path / "project")
    frames = [with_metadata(bulk("Ar", a=a, cubic=True), source="made", group_id=str(a)) for a in (5.2, 5.3)]
    dataset = Dataset.create(tmp_path / "set", frames)
    structures = StructureSetDoc(
        name="set", n_structures=2, elements=["Ar"], structures=project.artifacts.put(dataset.path)
    )
    labels = [
        LabelMaker(name="label", engine="ase", engine_settings=LJ).make(structures),
        LabelMaker(name="elsewhere", engine="interpreter", engine_settings={**LJ, "interpreter": sys.executable}).make(
            structures
        ),
        # one that cannot be made, whose message has the arguments
        LabelMaker(name="wrong", engine="ase", engine_settings={"calculator_class": "no.such.Thing"}).make(structures),
        tell_and_fail(),
    ]
    result = run(Flow(labels, name="with secrets"), project=project, workers=1, progress=False)
    assert result.failed == 2
    assert len(open_results(project).labels({"status": "ok"})) >= 2
    found, n_read = find_in_files(project.path)
    assert n_read > 5
    assert not found
    logs = [path.read_text(errors="replace") for path in project.path.rglob("*.log")]
    assert logs or result.failures
    assert "**********" in "".join([*logs, *(failure.traceback for failure in result.failures)])
    for failure in result.failures:
        assert MARK not in failure.traceback + failure.message
    for document in project.job_store().query():
        assert MARK not in str(document)


@pytest.mark.slow
def test_the_whole_pipeline_writes_no_secret(planted: None, tmp_path: Path) -> None:
    from atomfoundry.workflows import load_preset

    lj = {"engine": "ase", "engine_settings": {**LJ, "elements": ["H", "Si"]}}
    lj["engine_settings"]["calculator_kwargs"] = {"sigma": 2.0, "epsilon": 0.4, "rc": 5.0, "smooth": True}  # type: ignore[index]
    flow = load_preset(
        "instant",
        {
            "crystal_labels": lj,
            "molecule_labels": lj,
            "align": {"mode": "atoms", "force": False},
            "dataset": {"fractions": [0.6, 0.2, 0.2], "max_force": 1000.0},
            "task_dataset": {"max_force": 1000.0},
            "train": {"training": {"max_epochs": 1}},
            "finetune": {"training": {"max_epochs": 1}},
            "retrain": {"training": {"max_epochs": 1}},
            "explore": {"n_steps": 10},
        },
    )
    result = run(flow.make(), project=tmp_path / "project", workers=2, progress=False)  # type: ignore[attr-defined]
    assert result.ok, result.failures
    found, n_read = find_in_files(tmp_path / "project")
    assert n_read > 50
    assert not found


def test_settings_tell_no_secret(planted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = f"{settings()!r} {settings()} {settings().model_dump()} {settings().model_dump_json()}"
    assert MARK not in shown
    assert "**********" in shown
    monkeypatch.delenv("ATOMFOUNDRY_MATERIALS_PROJECT_KEY")
    wrong = [
        f"materials_projct_key: {MARK}\n",
        f"materials_project_key: [{MARK}]\n",
        f"materials_project_key: {MARK}\nworkers: {MARK}\n",
        f"materials_project_key: '{MARK}\n",
        f"materials_project_key: !!python/name:{MARK} x\n",
    ]
    for text in wrong:
        (tmp_path / "settings.yaml").write_text(text)
        settings.cache_clear()
        with pytest.raises(ConfigurationError) as caught:
            settings()
        assert MARK not in "".join(traceback.format_exception(caught.value)), text
    monkeypatch.setenv("ATOMFOUNDRY_TRUSTED_PACKAGES", f"{MARK},b")
    (tmp_path / "settings.yaml").write_text("kernel: auto\n")
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="JSON") as caught:
        settings()
    assert MARK not in "".join(traceback.format_exception(caught.value))


def test_a_description_does_not_quote_its_environment(tmp_path: Path) -> None:
    spec = CalculatorSpec(
        calculator_class="no.such.Thing", interpreter=sys.executable, environment={"HF_TOKEN": "hidden-value"}
    )
    with pytest.raises(Exception, match=r"no\.such\.Thing") as caught:
        from atomfoundry.engines.foreign import calculator_of

        calculator_of(spec)
    assert "hidden-value" not in "".join(traceback.format_exception(caught.value))


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """A search that finds nothing must have been able to."""
    (tmp_path / "log.txt").write_text(f"x {MARK}-a y")
    (tmp_path / "log.gz").write_bytes(gzip.compress(f"{MARK}-b".encode()))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", f"{MARK}-c")
    (tmp_path / f"{MARK}.txt").touch()
    (tmp_path / "good").write_text("nothing")
    found, n_read = find_in_files(tmp_path)
    assert sorted(path.name for path in found) == ["a.npz", "log.gz", "log.txt", f"{MARK}.txt"]
    assert n_read == 5
    assert find_in_files(tmp_path, seconds=0.0) == ([], 0)


def test_the_search_of_a_database(planted: None) -> None:
    from mongomock_ng import MongoClient

    database = MongoClient().db
    database.outputs.insert_one({"output": {"nested": [{"deep": f"{MARK}-a"}]}})
    database["fw_gridfs.chunks"].insert_one({"data": gzip.compress(f"{MARK}-b".encode())})
    database.labels.insert_one({"energy": 1.0, f"{MARK}": 1})
    database.workflows.insert_one({"nodes": [1, 2]})
    assert find_in_database(database) == ["fw_gridfs.chunks", "labels", "outputs"]
    assert set(dump_database(database)) == {"outputs", "fw_gridfs.chunks", "labels", "workflows"}


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_key_in_a_file_that_others_may_read(
    planted: None, tmp_path: Path, mode: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "settings.yaml").chmod(mode)
    settings.cache_clear()
    settings()
    assert ("chmod 600" in caplog.text) == warned
    assert MARK not in caplog.text
    caplog.clear()
    (tmp_path / "settings.yaml").write_text("kernel: auto\n")
    settings.cache_clear()
    settings()
    assert not caplog.text
