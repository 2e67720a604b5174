from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pandas
import pytest
from jobflow import JobStore
from typer.testing import CliRunner

from atomfoundry.cli.main import app
from atomfoundry.cli.results import Kind
from atomfoundry.documents import Artifact, FoundryDocument, LabelDoc, ModelDoc, ReportDoc
from atomfoundry.errors import InputError
from atomfoundry.results import FoundryMongoStore, MongoConnection, Project, SQLiteStore, open_results
from atomfoundry.results.database import DOCUMENT_CLASSES, to_pandas
from atomfoundry.results.mongomock_file import MOCK_VARIABLE, save_mock_store

sys.path.insert(0, str(Path(__file__).parent))
from store_contract import KEY, StoreContract, filled

__all__ = ["filled"]

URI_VARIABLE = "ATOMFOUNDRY_TEST_MONGODB_URI"
KINDS = ["sqlite", "mongomock", "mongodb"]


@pytest.fixture
def kind():
    return "sqlite"


@pytest.fixture
def project(kind, tmp_path, monkeypatch):
    """An empty project of a kind."""
    monkeypatch.delenv(MOCK_VARIABLE, raising=False)
    if kind == "sqlite":
        yield Project.open_or_create(tmp_path / "p")
        return
    if kind == "mongomock":
        file = tmp_path / "server.json"
        file.write_text("{}")
        monkeypatch.setenv(MOCK_VARIABLE, str(file))
        connection = MongoConnection(host="localhost", name="contract")
        yield Project.open_or_create(tmp_path / "p", database="mongodb", connection=connection)
        connection.client().drop_database(connection.name)
        save_mock_store(release=True)
        return
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        pytest.skip(f"{URI_VARIABLE} names no MongoDB server")
    connection = MongoConnection(host=uri, name=f"foundry_test_{uuid.uuid4().hex[:12]}")
    yield Project.open_or_create(tmp_path / "p", database="mongodb", connection=connection)
    connection.client().drop_database(connection.name)


@pytest.fixture
def store(project):
    return project.document_store("outputs")


class TestSQLite(StoreContract):
    """The embedded store with its indexes."""


class TestSQLiteWithoutIndexes(StoreContract):
    """The same where no column knows the answer."""

    @pytest.fixture
    def store(self, tmp_path):
        store = SQLiteStore(tmp_path / "db.sqlite", index_fields=())
        store.connect()
        return store


class TestMongomock(StoreContract):
    """FireWorks' mongomock mode."""

    @pytest.fixture
    def kind(self):
        return "mongomock"


class TestMongoDB(StoreContract):
    """A real server."""

    @pytest.fixture
    def kind(self):
        return "mongodb"


def label(frame: str, **changes) -> LabelDoc:
    return LabelDoc(**{"frame_id": frame, "level_id": "l", "engine": "e", "status": "ok", "energy": -1.0, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_labels(project):
    labels = project.labels()
    labels.put_many([label(f"f{i}", energy=float(i)) for i in range(200)])
    labels.put(label("f1", level_id="other", status="failed", reason="unconverged", job_uuid="j"))
    labels.put(label("f1", energy=7.0))
    assert labels.count() == 201
    found = labels.get_many([f"f{i}" for i in range(1, 400, 2)], "l")
    assert len(found) == 100
    assert found["f1"].energy == 7.0
    assert labels.get("absent", "l") is None
    assert [item.frame_id for item in labels.query({"status": "failed"})] == ["f1"]
    assert [item.reason for item in labels.query({"job_uuid": "j"})] == ["unconverged"]
    assert labels.count_by("status", "reason") == {("ok", None): 200, ("failed", "unconverged"): 1}
    assert [item.energy for item in labels.query(sort={"energy": -1}, limit=2)] == [199.0, 198.0]


@pytest.mark.parametrize("kind", KINDS)
def test_blobs_in_additional_stores(project):
    if project.database == "sqlite":
        blobs = SQLiteStore(
            project.database_path, "blobs", key="blob_uuid", unique_fields=["blob_uuid"], index_fields=()
        )
    else:
        blobs = FoundryMongoStore(project.launchpad_path, "blobs", key="blob_uuid")
    store = JobStore(project.document_store("outputs"), additional_stores={"data": blobs})
    store.connect()
    store.update({"uuid": "a", "index": 1, "output": {"big": list(range(1000))}}, save={"data": "big"})
    assert store.get_output("a", load=True) == {"big": list(range(1000))}
    assert store.query_one({"uuid": "a"})["output"]["big"]["store"] == "data"
    store.remove_docs({"uuid": "a"})
    assert store.additional_stores["data"].count() == 0


WRITER = """
import sys
from atomfoundry.results import Project
store = Project.open(sys.argv[1]).document_store("outputs")
for i in range(30):
    store.update({"uuid": sys.argv[2], "index": i, "output": list(range(50))}, key=["uuid", "index"])
    store.update({"uuid": "shared", "index": i, "name": sys.argv[2]}, key=["uuid", "index"])
"""


@pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
def test_processes_write_at_once(project):
    command = [sys.executable, "-c", WRITER, str(project.path)]
    processes = [subprocess.Popen([*command, f"w{i}"]) for i in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    store = project.document_store("outputs")
    assert store.count() == 90
    assert store.count({"uuid": "shared"}) == 30
    assert store.count({"uuid": "w1"}) == 30


@pytest.mark.parametrize("kind", KINDS)
def test_unique_fields_of_outputs_are_unique_for_the_database_too(project):
    store = project.document_store("outputs")
    store.update({"uuid": "a", "index": 1}, key=KEY)
    project.ensure_indexes()
    for again in (project, Project.open(project.path)):
        again.document_store("outputs").update({"uuid": "a", "index": 1, "n": 2}, key=KEY)
    assert store.count() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_results(project):
    store = project.job_store()
    for n in range(1, 6):
        artifact = Artifact(uri="a", sha256="0" * 64, size=n)
        doc = ModelDoc(
            name=f"m{n}", architecture="allegro", n_parameters=10 * n, elements=["Si"], heads=[], model=artifact
        )
        job = {"uuid": f"u{n}", "index": 1, "name": "train", "completed_at": f"2026-01-0{6 - n}", "output": doc}
        store.update({**job, "metadata": {"stage": f"s{n % 2}"}})
    project.labels().put_many(
        label(
            f"f{i}", status="failed" if i % 3 else "ok", reason=["nan", "crashed"][i % 2] if i % 3 else None, n_atoms=i
        )
        for i in range(12)
    )
    db = open_results(project.path)

    def found(*arguments, **choice):
        return [result.uuid for result in db.models(*arguments, **choice)]

    assert found() == ["u5", "u4", "u3", "u2", "u1"]
    assert found(newest=True, limit=2) == ["u1", "u2"]
    assert found(sort="-n_parameters", limit=2) == ["u5", "u4"]
    assert found({"n_parameters": {"$gte": 30}}, sort="name") == ["u3", "u4", "u5"]
    assert found({"uuid": "u2"}) == found({"job.uuid": "u2"}) == ["u2"]
    assert found({"metadata.stage": "s0"}) == found({"job.metadata.stage": "s0"}) == ["u4", "u2"]
    assert found({"$or": [{"name": "m1"}, {"job.name": "nobody"}]}) == ["u1"]
    assert found({"name": "train"}) == []
    assert db.count(ModelDoc) == 5
    assert db.count(ModelDoc, {"n_parameters": {"$lt": 30}}) == 2
    assert db.count(LabelDoc, {"status": "ok"}) == 4
    assert db.count_labels("status") == {("failed",): 8, ("ok",): 4}
    assert db.count_labels("reason", where={"status": "failed"}) == {("crashed",): 4, ("nan",): 4}
    assert [r.document.frame_id for r in db.labels({"status": "ok"}, sort="-n_atoms", limit=2)] == ["f9", "f6"]
    assert db.find_uuid("u4") == "u4"
    table = to_pandas(db.models(newest=True))
    assert list(table["n_parameters"]) == [10, 20, 30, 40, 50]
    assert list(table["model.size"]) == [1, 2, 3, 4, 5]
    assert list(to_pandas(db.datasets()).columns) == ["uuid", "index", "job", "completed_at", "stale"]
    for ask in (db.models, db.labels):
        with pytest.raises(InputError, match=r"Unknown operator '\$gth' in 'n'.*Did you mean '\$gt"):
            ask({"n": {"$gth": 1}})
        with pytest.raises(InputError, match=r"Unknown operator '\$where'"):
            ask({"$where": "1"})
        with pytest.raises(InputError, match="needs a list"):
            ask({"n": {"$in": 1}})
        with pytest.raises(InputError, match="different orders"):
            ask(sort="n", newest=True)


def test_every_kind_of_document_can_be_asked_for(project):
    db = open_results(project)
    for cls in DOCUMENT_CLASSES.values():
        if cls not in (FoundryDocument, LabelDoc):
            assert db.find(cls) == []
            assert db.count(cls) == 0
    for kind in Kind:
        assert getattr(db, kind.value)({"schema_version": 1}, newest=True, limit=1) == []
    assert len(Kind) == len(DOCUMENT_CLASSES) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_command_line(project):
    store = project.job_store()
    for n in range(3):
        doc = ReportDoc(title=f"r{n}", html=Artifact(uri="a", sha256="0" * 64, size=n))
        store.update(
            {"uuid": f"u{n}", "index": 1, "name": "report", "completed_at": f"2026-01-0{n + 1}", "output": doc}
        )
    project.labels().put_many(label(f"f{i}", status=["ok", "failed"][i % 2]) for i in range(4))

    def ask(*arguments):
        result = CliRunner().invoke(app, ["results", *arguments, "--project", str(project.path)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    found = json.loads(
        ask("reports", "--where", '{"title": {"$in": ["r0", "r2"]}}', "--newest", "--limit", "1", "--json")
    )
    assert [(item["uuid"], item["document"]["title"]) for item in found] == [("u2", "r2")]
    assert [item["uuid"] for item in json.loads(ask("reports", "--where", "uuid=u1", "--json"))] == ["u1"]
    table = pandas.read_csv(io.StringIO(ask("reports", "--sort", "-title", "--csv")))
    assert list(table["title"]) == ["r2", "r1", "r0"]
    table = pandas.read_csv(io.StringIO(ask("labels", "--where", "status=failed", "--csv")))
    assert sorted(table["frame_id"]) == ["f1", "f3"]
    assert "r1" in ask("reports")
    with pytest.raises(InputError, match=r"Unknown operator '\$near'"):
        ask("labels", "--where", '{"energy": {"$near": 1}}')
    with pytest.raises(InputError, match="exclude each other"):
        ask("labels", "--csv", "--json")
