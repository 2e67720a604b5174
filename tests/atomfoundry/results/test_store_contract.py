from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from jobflow import JobStore

from atomfoundry.documents import LabelDoc
from atomfoundry.results import FoundryMongoStore, MongoConnection, Project, SQLiteStore
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
