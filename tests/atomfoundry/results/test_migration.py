from __future__ import annotations

import json
import math
import os
from datetime import datetime

import pytest
from bson import ObjectId
from typer.testing import CliRunner

from atomfoundry.cli.main import app
from atomfoundry.documents import LabelDoc, StructureSetDoc
from atomfoundry.errors import ArtifactError, ProjectError
from atomfoundry.results import FoundryMongoStore, MongoConnection, Project, SQLiteStore, open_results
from atomfoundry.results import migration as migration_module
from atomfoundry.results.migration import MARK_FILE, migrate
from atomfoundry.results.mongomock_file import MOCK_VARIABLE, save_mock_store

KEY = ["uuid", "index"]


@pytest.fixture(params=["mongomock", "mongodb"])
def connection(request, tmp_path, monkeypatch):
    import uuid

    name = f"foundry_test_{uuid.uuid4().hex[:12]}"
    if request.param == "mongomock":
        (tmp_path / "server.json").write_text("{}")
        monkeypatch.setenv(MOCK_VARIABLE, str(tmp_path / "server.json"))
        yield MongoConnection(host="localhost", name=name)
        save_mock_store(release=True)
        return
    monkeypatch.delenv(MOCK_VARIABLE, raising=False)
    uri = os.environ.get("ATOMFOUNDRY_TEST_MONGODB_URI")
    if not uri:
        pytest.skip("ATOMFOUNDRY_TEST_MONGODB_URI names no MongoDB server")
    connection = MongoConnection(host=uri, name=name)
    yield connection
    connection.client().drop_database(name)


@pytest.fixture
def source(tmp_path):
    project = Project.open_or_create(tmp_path / "source")
    store = project.document_store("outputs")
    (tmp_path / "structures").mkdir()
    (tmp_path / "structures" / "a.json").write_text("{}")
    artifact = project.artifacts.put(tmp_path / "structures")
    project.artifacts.put(tmp_path / "structures" / "a.json")
    project.job_store().update(
        {"uuid": "s", "index": 1, "name": "s", "output": StructureSetDoc(name="x", n_structures=1, structures=artifact)}
    )
    for i in range(30):
        output = {
            "nan": math.nan,
            "date": datetime(2026, 1, 1 + i, 1, 2, 3, 456_000),
            "bytes": bytes(range(i)),
            "nested": [[{"é": [1, 2.0, None, True]}]],
            "big": 2**60 + i,
            "id": ObjectId("0" * 24),
        }
        store.update(
            {"uuid": f"u{i}", "index": i % 3, "output": output, "inputs": [{"uuid": "s", "index": 1}]}, key=KEY
        )
    project.labels().put_many(
        LabelDoc(frame_id=f"f{i}", level_id="l", engine="e", status="ok", energy=-float(i)) for i in range(25)
    )
    blobs = SQLiteStore(project.database_path, "data", key="blob_uuid", unique_fields=["blob_uuid"], index_fields=())
    blobs.connect()
    blobs.update([{"blob_uuid": f"b{i}", "data": list(range(i))} for i in range(5)])
    return project


def contents(project: Project, collection: str) -> list[bytes]:
    return sorted(blob for _, blob in migration_module._raw(project, collection))


def test_there_and_back(tmp_path, source, connection):
    before = {name: contents(source, name) for name in ("outputs", "labels", "data")}
    report = migrate(source, tmp_path / "there", connection=connection)
    there = Project.open(tmp_path / "there")
    assert {name: found.count for name, found in report.collections.items()} == {"outputs": 31, "labels": 25, "data": 5}
    assert (report.artifacts, report.artifact_bytes) == (2, 4)
    assert there.database == "mongodb"
    assert there.project_id == source.project_id
    back_report = migrate(tmp_path / "there", tmp_path / "back")
    back = Project.open(tmp_path / "back")
    assert back.database == "sqlite"
    assert back_report.collections == report.collections
    for project in (source, there, back):
        assert {name: contents(project, name) for name in before} == before
        (found,) = open_results(project).structures()
        assert (project.artifacts.fetch(found.document.structures) / "a.json").read_text() == "{}"
        assert len(list(project.job_store().query({"inputs.uuid": "s"}))) == 30
    # a second call finds everything there and compares again
    assert migrate(source, tmp_path / "there").collections == report.collections


def test_interrupted_migrations_go_on(tmp_path, source, connection, monkeypatch):
    monkeypatch.setattr(migration_module, "BATCH_DOCUMENTS", 4)
    written = []
    update = FoundryMongoStore.update

    def dies(self, docs, key=None):
        if len(written) == 9:
            raise KeyboardInterrupt
        written.append(len(docs))
        update(self, docs, key)

    monkeypatch.setattr(FoundryMongoStore, "update", dies)
    with pytest.raises(KeyboardInterrupt):
        migrate(source, tmp_path / "t", connection=connection)
    assert sum(written) == 31 + 4
    again = []
    monkeypatch.setattr(
        FoundryMongoStore, "update", lambda s, docs, key=None: (again.append(len(docs)), update(s, docs, key))
    )
    report = migrate(source, tmp_path / "t")
    assert sum(again) == 25 - 4 + 5
    assert report.collections["outputs"].count == 31
    assert contents(Project.open(tmp_path / "t"), "labels") == contents(source, "labels")


def test_targets_with_other_content_are_refused(tmp_path, source, connection):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ProjectError, match="not empty"):
        migrate(source, tmp_path / "full", connection=connection)
    other = Project.open_or_create(tmp_path / "other", database="mongodb", connection=connection)
    with pytest.raises(ProjectError, match="source and target"):
        migrate(source, source.path)
    other.document_store("labels").update({"frame_id": "f", "level_id": "l"}, key=["frame_id", "level_id"])
    with pytest.raises(ProjectError, match="#labels holds 1 documents already"):
        migrate(source, tmp_path / "new", connection=connection)
    assert not (tmp_path / "new" / "project.json").exists()
    with pytest.raises(ProjectError, match="#labels holds 1 documents already"):
        migrate(source, other.path)
    other.document_store("labels").remove_docs({})
    # an empty project, such as a new cluster's, is taken as it is
    assert migrate(source, other.path).collections["outputs"].count == 31
    assert Project.open(other.path).project_id == other.project_id != source.project_id
    second = Project.open_or_create(tmp_path / "second")
    with pytest.raises(ProjectError, match="was migrated from"):
        migrate(second, other.path)
    with pytest.raises(ProjectError, match=r"my_launchpad\.yaml is missing"):
        migrate(source, tmp_path / "nowhere")


def test_differences_are_found(tmp_path, source, connection):
    migrate(source, tmp_path / "t", connection=connection)
    target = Project.open(tmp_path / "t").document_store("outputs")
    target.update({"uuid": "more", "index": 1}, key=KEY)
    with pytest.raises(ProjectError, match=r"'outputs' differs after copying: 31 documents .* 32 \("):
        migrate(source, tmp_path / "t")
    target.remove_docs({"uuid": "more"})
    migrate(source, tmp_path / "t")
    assert '"done"' in (tmp_path / "t" / MARK_FILE).read_text()


def test_altered_artifacts_are_found(tmp_path, source, connection):
    (stored,) = source.artifacts.root.glob("*/*/a.json")
    stored.write_text("{1}")
    with pytest.raises(ArtifactError, match=r"a\.json was altered"):
        migrate(source, tmp_path / "t", connection=connection)


@pytest.mark.parametrize("command", [["migrate"], ["results", "migrate"]])
def test_command_line(tmp_path, source, connection, command):
    file = connection.save(tmp_path / "my_launchpad.yaml")
    arguments = [*command, str(source.path), str(tmp_path / "t"), "--launchpad", str(file)]
    result = CliRunner().invoke(app, [*arguments, "--to", "mongodb", "--json"], catch_exceptions=False)
    report = json.loads(result.output)
    assert (report["target_database"], report["artifacts"]) == ("mongodb", 2)
    assert report["collections"]["labels"]["count"] == 25
    text = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert report["collections"]["outputs"]["sha256"] in text.replace("\n", "")
    assert "2 artifacts" in text
