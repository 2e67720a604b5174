from __future__ import annotations

import json
import os
import pickle
import stat
import threading

import pytest
import yaml
from jobflow import JobStore
from maggma.core import StoreError
from monty.serialization import MontyDecoder

from atomfoundry.documents import LabelDoc
from atomfoundry.errors import ProjectError
from atomfoundry.results import FoundryMongoStore, MongoConnection, Project
from atomfoundry.results import mongodb as mongodb_module
from atomfoundry.results.mongodb import PASSWORD_VARIABLE, close_clients
from atomfoundry.results.mongomock_file import MOCK_VARIABLE, save_mock_store

SECRET = "s3cr@t/%"


@pytest.fixture(autouse=True)
def no_password(monkeypatch):
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    monkeypatch.delenv(MOCK_VARIABLE, raising=False)


@pytest.fixture
def mock(tmp_path, monkeypatch):
    file = tmp_path / "server.json"
    file.write_text("{}")
    monkeypatch.setenv(MOCK_VARIABLE, str(file))
    # FireWorks reads the variable when it is imported, which another test may have done
    import fireworks.core.launchpad
    import mongomock
    from mongomock.gridfs import enable_gridfs_integration

    enable_gridfs_integration()
    monkeypatch.setattr(fireworks.core.launchpad, "MongoClient", mongomock.MongoClient)
    yield file
    save_mock_store(release=True)


@pytest.fixture
def captured(monkeypatch):
    """What pymongo's client is made with."""
    made = []

    class Client:
        def __init__(self, **arguments):
            made.append(arguments)

        def close(self):
            pass

    monkeypatch.setattr("pymongo.MongoClient", Client)
    monkeypatch.setattr(mongodb_module, "_CLIENTS", {})
    return made


def write(path, **content):
    path.write_text(yaml.safe_dump(content))
    return path


def shown(connection: MongoConnection) -> str:
    return " ".join(
        [
            repr(connection),
            str(connection),
            connection.label,
            repr(connection.model_dump()),
            connection.model_dump_json(),
            repr(connection.model_copy()),
            json.dumps(connection.model_dump(mode="json")),
        ]
    )


def test_the_password_is_never_shown(tmp_path):
    plain = MongoConnection(
        host="db", username="u", password=SECRET, mongoclient_kwargs={"tlsCertificateKeyFilePassword": "hush"}
    )
    uri = MongoConnection(host=f"mongodb://u:{'s3cr%40t%2F%25'}@db/x?tlsCertificateKeyFilePassword=hush", name="x")
    for connection in (plain, uri):
        assert connection.password.get_secret_value() == SECRET
        for secret in (SECRET, "s3cr", "hush"):
            assert secret not in shown(connection)
        file = connection.save(tmp_path / "cluster" / "my_launchpad.yaml")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert MongoConnection.load(file) == connection
        store = FoundryMongoStore(file, "labels")
        store.connect()
        for secret in (SECRET, "s3cr", "hush"):
            assert secret not in repr(store.as_dict()) + store.name + repr(vars(store)) + repr(store)
        assert "s3cr" not in connection.save(tmp_path / "open.yaml", with_password=False).read_text()


def test_arguments_of_the_client(tmp_path, captured, monkeypatch):
    file = write(tmp_path / "f.yaml", host="db", port=1, name="n", username="u", authsource="admin", logdir=None)
    monkeypatch.setenv(PASSWORD_VARIABLE, SECRET)
    connection = MongoConnection.load(file)
    client = connection.client()
    assert connection.client() is MongoConnection.load(file).client() is client
    (arguments,) = captured
    assert (arguments["host"], arguments["port"], arguments["username"], arguments["password"]) == (
        "db",
        1,
        "u",
        SECRET,
    )
    assert arguments["authSource"] == "admin"
    assert arguments["retryWrites"] is True
    assert arguments["serverSelectionTimeoutMS"] == 300_000
    own = MongoConnection(host="db", mongoclient_kwargs={"serverSelectionTimeoutMS": 5, "tls": True})
    own.client()
    assert captured[-1]["serverSelectionTimeoutMS"] == 5
    assert captured[-1]["tls"] is True
    assert "username" not in captured[-1]
    assert own.wait_s == 0.005
    close_clients()
    assert connection.client() is not client


def test_a_client_is_not_shared_over_a_fork_and_is_by_threads(captured):
    connection = MongoConnection(host="db")
    client = connection.client()
    clients = []
    threads = [threading.Thread(target=lambda: clients.append(connection.client())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clients == [client] * 4
    pid = os.fork()
    if pid == 0:
        os._exit(0 if connection.client() is not client else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_fireworks_reads_the_file_and_the_same_arguments(tmp_path, mock):
    from fireworks import LaunchPad

    connection = MongoConnection(host="db", name="n", username="u", password=SECRET, user_indices=["spec.x"])
    launchpad = LaunchPad.from_file(str(connection.save(tmp_path / "my_launchpad.yaml")))
    assert (launchpad.host, launchpad.name, launchpad.username, launchpad.password) == ("db", "n", "u", SECRET)
    assert launchpad.user_indices == ["spec.x"]
    assert LaunchPad(**connection.launchpad_arguments()).password == SECRET
    uri = MongoConnection(host="mongodb://a:b%2F@h1,h2/n?replicaSet=r", name="n")
    assert uri.username == "a"
    assert uri.launchpad_arguments()["host"] == "mongodb://a:b%2F@h1,h2/n?replicaSet=r"
    assert MongoConnection.load(uri.save(tmp_path / "uri.yaml")) == uri


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("host: db\nhots: x\n", "'hots'"),
        ("host: db\nport: many\n", "'port'"),
        ("host: http://db\n", "'host' is a name"),
        ("uri_mode: true\nhost: db\n", "connection string"),
        ("- a\n", "no keys"),
        ("password: 'hidden\n", "not YAML"),
        ("password: [hidden]\n", "'password'"),
        ("", "no keys"),
    ],
)
def test_a_wrong_file_is_refused_without_showing_its_secrets(tmp_path, content, message):
    file = tmp_path / "my_launchpad.yaml"
    file.write_text(content)
    with pytest.raises(ProjectError, match=message) as caught:
        MongoConnection.load(file)
    assert str(file) in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_an_absent_database_is_said_at_once():
    connection = MongoConnection(host="127.0.0.1", port=9, password=SECRET, username="u")
    with pytest.raises(ProjectError, match=r"127\.0\.0\.1:9/fireworks does not answer within 0\.2 s"):
        connection.check(timeout_s=0.2)


def test_operations_give_up_after_the_wait(tmp_path):
    file = write(tmp_path / "f.yaml", host="127.0.0.1", port=9, mongoclient_kwargs={"serverSelectionTimeoutMS": 100})
    store = FoundryMongoStore(file)
    with pytest.raises(StoreError, match="not connected"):
        store.count()
    store.connect()
    for action in (
        lambda: store.count({"a": 1}),
        lambda: store.update({"uuid": "a", "index": 1}),
        lambda: list(store.query()),
    ):
        with pytest.raises(StoreError, match=r"was away for 0\.1 s"):
            action()


def test_a_lost_connection_is_repeated(tmp_path, mock, monkeypatch):
    from mongomock.collection import Collection
    from pymongo.errors import AutoReconnect

    store = FoundryMongoStore(write(tmp_path / "f.yaml", host="db"))
    store.connect()
    store.update({"uuid": "a", "index": 1, "v": 1}, key=["uuid", "index"])
    failures = []
    replace, find = Collection.replace_one, Collection.find

    def unsteady(real):
        def call(*arguments, **options):
            if len(failures) % 2 == 0:
                failures.append(1)
                raise AutoReconnect("gone")
            failures.append(1)
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(Collection, "replace_one", unsteady(replace))
    store.update({"uuid": "a", "index": 1, "v": 2}, key=["uuid", "index"])
    monkeypatch.setattr(Collection, "find", unsteady(find))
    assert [document["v"] for document in store.query()] == [2]
    assert len(failures) == 4


def test_store_is_made_again_from_its_description(tmp_path, mock):
    store = FoundryMongoStore(write(tmp_path / "f.yaml", host="db"))
    store.connect()
    store.update({"uuid": "a", "index": 1})
    for twin in (MontyDecoder().process_decoded(store.as_dict()), pickle.loads(pickle.dumps(store))):
        assert twin == store
        twin.connect()
        assert twin.count() == 1
    jobs = JobStore.from_dict(JobStore(store).as_dict())
    jobs.connect()
    assert jobs.count() == 1
    store.close()
    assert twin.count() == 1


def test_project_on_mongodb(tmp_path, mock):
    connection = MongoConnection(host="db", name="n", username="u", password=SECRET)
    project = Project.open_or_create(tmp_path / "p", database="mongodb", connection=connection)
    assert project.database == Project.open(tmp_path / "p").database == "mongodb"
    assert project.project_id == Project.open_or_create(tmp_path / "p").project_id
    assert stat.S_IMODE(project.launchpad_path.stat().st_mode) == 0o600
    project.job_store().update({"uuid": "a", "index": 1, "output": {"x": 1}})
    assert project.job_store().get_output("a") == {"x": 1}
    project.labels().put(LabelDoc(frame_id="f", level_id="l", engine="e", status="ok", energy=1.0))
    assert project.labels().get("f", "l").energy == 1.0
    project.ensure_indexes()
    assert not project.database_path.exists()
    with pytest.raises(ProjectError, match="in mongodb, not in sqlite"):
        Project.open_or_create(tmp_path / "p", database="sqlite")
    assert set(project.mongodb().database().list_collection_names()) == {"outputs", "labels", "foundry_owner"}


def test_what_cannot_be_a_project(tmp_path):
    with pytest.raises(ProjectError, match="no kind of project 'oracle'"):
        Project.open_or_create(tmp_path / "p", database="oracle")
    with pytest.raises(ProjectError, match="goes with database='mongodb'"):
        Project.open_or_create(tmp_path / "p", connection=MongoConnection())
    project = Project.open_or_create(tmp_path / "p", database="mongodb")
    with pytest.raises(ProjectError, match=r"my_launchpad\.yaml is missing"):
        project.job_store()
    (tmp_path / "q" / "cluster").mkdir(parents=True)
    assert Project.open_or_create(tmp_path / "q", database="mongodb").database == "mongodb"
    (tmp_path / "r" / "cluster").mkdir(parents=True)
    with pytest.raises(ProjectError, match="holds 'cluster'"):
        Project.open_or_create(tmp_path / "r")
    (project.path / "project.json").write_text('{"schema_version": 1, "database": "oracle"}')
    with pytest.raises(ProjectError, match="unknown kind of database 'oracle'"):
        Project.open(project.path)


def test_projects_older_than_ids(tmp_path):
    project = Project.open_or_create(tmp_path / "p")
    record = project.metadata
    assert record["project_id"] == project.project_id
    old = {key: value for key, value in record.items() if key not in ("project_id", "database")}
    (project.path / "project.json").write_text(json.dumps(old))
    assert Project.open(project.path).project_id is None
    assert Project.open(project.path).database == "sqlite"
    given = Project.open_or_create(project.path).project_id
    assert given is not None
    assert Project.open_or_create(project.path).metadata == {**old, "project_id": given}


def test_fireworks_and_stores_share_one_content(tmp_path, mock):
    from fireworks import Firework, LaunchPad, ScriptTask

    connection = MongoConnection(host="db", name="n")
    project = Project.open_or_create(tmp_path / "p", database="mongodb", connection=connection)
    store = project.job_store()
    launchpad = LaunchPad(**project.mongodb().launchpad_arguments())
    launchpad._restart_ids(1, 1)
    launchpad.add_wf(Firework(ScriptTask.from_str("true")))
    store.update({"uuid": "a", "index": 1, "output": 1})
    second = LaunchPad(**project.mongodb().launchpad_arguments())
    assert second.get_fw_ids() == launchpad.get_fw_ids()
    assert len(second.get_fw_ids()) == 1
    assert second.db["outputs"].count_documents({}) == 1
    save_mock_store(release=True)
    assert project.job_store().get_output("a") == 1
    assert project.mongodb().database()["fireworks"].count_documents({}) == 1
