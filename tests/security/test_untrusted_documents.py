"""Stored documents name classes; looking at them imports none but trusted ones."""

from __future__ import annotations

import datetime
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobflow import Flow, job
from maggma.core import StoreError
from monty.json import MontyEncoder

from atomfoundry.documents import Artifact, LevelOfTheory
from atomfoundry.documents.decoding import check_document, decode
from atomfoundry.errors import ArtifactError, ProjectError, UntrustedDocumentError
from atomfoundry.results import ArtifactStore, Project, open_results
from atomfoundry.results.sqlite_store import SQLiteStore
from atomfoundry.running import run
from atomfoundry.running.queue import Queue
from atomfoundry.settings import settings


@job
def give(value: Any) -> Any:
    return value


@pytest.fixture
def ran(tmp_path: Path) -> Any:
    first = give(1)
    second = give(first.output)
    result = run(Flow([first, second]), project=tmp_path / "project", workers=0, progress=False)
    return result, result.uuid_of(first), result.uuid_of(second)


def _tamper(project: Project, uuid: str, output: Any) -> None:
    store = project.job_store()
    store.docs_store.update([{**store.docs_store.query_one({"uuid": uuid}), "output": output}], key=["uuid", "index"])


def _payloads(trap: Any) -> list[Any]:
    reference = {"@module": "jobflow.core.reference", "@class": "OutputReference", "uuid": "other"}
    return [
        trap.thing,
        trap.function,
        {"nested": [{"deep": trap.thing}]},
        {"a": reference, "b": trap.thing},
        {"@module": "os", "@callable": "system"},
        {"@module": "subprocess", "@class": "Popen", "args": trap.command, "shell": True},
        {"@module": "atomfoundry.documents.decoding", "@callable": "import_module"},
        {"@module": "pathlib", "@callable": "os.system"},
        {"@module": "numpyx", "@class": "array"},
        {"@module": "pandas", "@class": "DataFrame", "data": '{"a": {"0": ' + str(trap.thing).replace("'", '"') + "}}"},
        {"@module": "pymatgen.core.structure", "@class": "Structure", "sites": [{"properties": {"a": trap.thing}}]},
    ]


def test_outputs_of_a_run(trap: Any, ran: Any) -> None:
    result, first, second = ran
    assert result.output(second) == 1
    for payload in _payloads(trap):
        _tamper(result.project, first, payload)
        with pytest.raises(UntrustedDocumentError):
            result.output(first)
        with pytest.raises(UntrustedDocumentError):
            open_results(result.project).document(first)
        with pytest.raises(UntrustedDocumentError):
            result.project.job_store().get_output(first, which="all")
        # an output that refers to it
        reference = {"@module": "jobflow.core.reference", "@class": "OutputReference", "uuid": first}
        _tamper(result.project, second, {"a": {**reference, "attributes": [], "output_schema": None}})
        with pytest.raises(UntrustedDocumentError):
            result.output(second)


def test_results_of_a_tampered_document(trap: Any, ran: Any) -> None:
    result, first, _ = ran
    # named like a document of ours: read by its own schema, whatever module it names
    _tamper(result.project, first, {"@module": trap.module, "@class": "ModelDoc", "schema_version": 1})
    with pytest.raises((ProjectError, UntrustedDocumentError)):
        open_results(result.project).models()


def test_what_outputs_hold_comes_back() -> None:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4.0), ["Si"], [[0, 0, 0]], site_properties={"magmom": [1.0]})
    values = {
        "structure": structure,
        "level": LevelOfTheory(code="espresso", method="PBE"),
        "array": np.arange(3.0),
        "when": datetime.datetime(2026, 1, 2),
        "id": uuid.UUID(int=7),
        "path": Path("a/b"),
    }
    again = decode(json.loads(json.dumps(values, cls=MontyEncoder)), where="x")
    assert again["structure"] == structure
    assert again["level"] == values["level"]
    assert (again["array"] == values["array"]).all()
    assert all(again[key] == values[key] for key in ("when", "id", "path"))


def test_packages_of_ones_own(trap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UntrustedDocumentError, match="ATOMFOUNDRY_TRUSTED_PACKAGES"):
        check_document(trap.thing, where="x")
    monkeypatch.setattr(settings(), "trusted_packages", [trap.module])
    check_document(trap.thing, where="x")
    with pytest.raises(UntrustedDocumentError):
        check_document({"@module": f"{trap.module}x", "@class": "Thing"}, where="x")


def test_links_and_addresses_of_artifacts(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "file").write_text("x")
    for link in (folder / "link", folder / "below" / "link"):
        link.symlink_to(tmp_path / "secret")
        with pytest.raises(ArtifactError, match="symbolic link"):
            store.put(folder)
        link.unlink()
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ArtifactError, match="symbolic link"):
        store.put(folder)
    (folder / "link").unlink()
    good = store.put(folder)
    # planted later, after the content was known to be good
    stored = store.fetch(good)
    (stored / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match="symbolic link"):
        store.fetch(good)
    (tmp_path / "one").write_text("secret")
    single = store.put(tmp_path / "one")
    path = store.fetch(single)
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match="symbolic link"):
        store.fetch(single)
    for uri in ("../secret", "/etc/passwd", "aa/../../secret", ""):
        with pytest.raises(ArtifactError, match="leads out"):
            store.fetch(Artifact(uri=uri, sha256=single.sha256, size=6))


HOSTILE = ("'; DROP TABLE jobs; --", '" OR 1=1 --', "x') OR ('1'='1", '"; DROP TABLE "docs:outputs"; --', "?", "%")


def test_values_are_no_sql(ran: Any) -> None:
    result, first, _ = ran
    store, queue = result.project.job_store(), Queue(result.project.queue_path)
    for text in HOSTILE:
        assert store.query_one({"uuid": text}) is None
        assert [doc["uuid"] for doc in store.query({"uuid": {"$in": [f"{text} ", first]}}, ["uuid"])] == [first]
        assert not list(store.query({text: text}))
        assert queue.is_finished(text)
        assert queue.retry_failed(text) == 0
        store.update({"uuid": text, "index": 1, "name": text, "output": {text: text}})
        assert store.get_output(text) == {text: text}
    assert store.get_output(first) == 1
    assert queue.is_finished(result.run_id)
    with pytest.raises(StoreError, match="use letters"):
        SQLiteStore(result.project.path / "other.db", collection_name='a"; --').connect()
