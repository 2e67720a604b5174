"""MongoDB and the LaunchPad, on FireWorks' own documents in a stand-in for the server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pymongo
import pytest
import yaml
from bson import ObjectId
from pymongo.errors import OperationFailure

from atomfoundry.doctor import database_access, mongodb
from atomfoundry.doctor.database_access import address, is_local, make_client
from atomfoundry.doctor.launchpad_jobs import takes
from atomfoundry.results.mongodb import MongoConnection

fireworks = pytest.importorskip("fireworks")
mongomock = pytest.importorskip("mongomock_ng")

LOCAL = {"host": "localhost", "port": 27017, "name": "foundry"}


class Stranger:
    """A client without a login, before a server that asks for one."""

    def __getitem__(self, name: str):
        def refuse(*arguments: object, **given: object):
            raise OperationFailure("command find requires authentication", 13)

        return {"fireworks": SimpleNamespace(find_one=refuse)}

    def close(self) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    """A server: its documents, what it says of itself, whether it asks for a login."""
    client = mongomock.MongoClient()
    state = SimpleNamespace(client=client, hello={}, asks=True, connections=[])

    def connect(self: MongoConnection):
        state.connections.append(self)
        return client if self.username or not state.asks else Stranger()

    def command(self, name: str):
        if name == "ping":
            return {"ok": 1.0}
        return {"localTime": datetime.now(UTC).replace(tzinfo=None), **state.hello}

    monkeypatch.setattr(MongoConnection, "client", connect)
    monkeypatch.setattr(type(client["foundry"]), "command", command)
    return state


@pytest.fixture
def launchpad(server, cluster, monkeypatch: pytest.MonkeyPatch):
    """FireWorks' LaunchPad on that server."""
    from fireworks.core import launchpad as module
    from fireworks.utilities import fw_serializers

    monkeypatch.setattr(module, "MongoClient", lambda *a, **k: server.client)
    monkeypatch.setattr(module, "GRIDFS_FALLBACK_COLLECTION", None)
    # else FireWorks imports all its modules to find the class, its own tests with their markers among them
    known = "fireworks.user_objects.firetasks.script_task"
    monkeypatch.setitem(fw_serializers.SAVED_FW_MODULES, "ScriptTask", known)
    made = module.LaunchPad.from_dict({"host": "db.example", "name": "foundry", "strm_lvl": "CRITICAL", "logdir": None})
    made.reset("", require_password=False)
    return made


def add(launchpad, *names: str, project: str | None = "p", **spec: object) -> list[int]:
    """Add a workflow of a project, or of none."""
    from fireworks import Firework, ScriptTask, Workflow

    mark = {} if project is None else {"foundry": {"project_id": project}}
    jobs = [Firework([ScriptTask(script="true")], spec={**mark, **spec}, name=name) for name in names]
    links = {jobs[number]: [jobs[number + 1]] for number in range(len(jobs) - 1)}
    return sorted(launchpad.add_wf(Workflow(jobs, links, metadata=mark)).values())


def start(launchpad, cluster: Path, host: str = "node1") -> int:
    """Let a worker begin a job; return the launch's number."""
    from fireworks import FWorker

    _, number = launchpad.checkout_fw(FWorker(), str(cluster), host=host)
    return number


# -- the server -----------------------------------------------------------------------------------------------


def test_a_server_that_answers(one, cluster, server) -> None:
    found = one("mongodb", cluster.parent)
    assert found.status == "ok"
    assert found.message.startswith("MongoDB on db.example:27017, database 'foundry', answers in")


def test_a_server_far_away(one, cluster, server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongodb, "SLOW_MS", -1.0)
    found = one("mongodb", cluster.parent)
    assert found.status == "warning"
    assert "batch_size" in found.cure


def test_a_server_that_is_not_there(ask, cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = cluster / "my_launchpad.yaml"
    path.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": port, "name": "foundry"}))
    monkeypatch.setattr(database_access, "PATIENCE_MS", 300)
    found = ask("database", cluster.parent)
    assert [each.status for each in found if each.check == "mongodb"] == ["problem"]
    assert f"MongoDB on 127.0.0.1:{port} does not answer" in found[0].message
    assert "Connection refused" in found[0].message
    assert found[0].cure.startswith(f"nc -vz 127.0.0.1 {port}; start the server, or correct host and port in {path}")
    # all that need it are one line
    assert [each.status for each in found[1:] if each.check != "mongodb-tls"] == ["skipped"]
    assert "categories" in found[-1].message


@pytest.mark.parametrize(
    ("error", "message", "cure"),
    [
        (OperationFailure("Authentication failed.", 18), "refuses user 'foundry'", "ATOMFOUNDRY_MONGODB_PASSWORD"),
        (OperationFailure("not authorized", 13), "may not read the database 'foundry'", "db.grantRolesToUser"),
        (
            pymongo.errors.ConfigurationError("Server at x reports wire version 6, but requires at least 8"),
            "too old",
            "Update the server",
        ),
        (pymongo.errors.ServerSelectionTimeoutError("SSL handshake failed: x s3cret-x"), "on TLS", "tlsCAFile"),
    ],
)
def test_why_a_server_refuses(one, cluster, monkeypatch: pytest.MonkeyPatch, error, message, cure) -> None:
    def refuse(path):
        raise error

    monkeypatch.setattr(database_access, "open_database", refuse)
    found = one("mongodb", cluster.parent)
    assert found.status == "problem"
    assert message in found.message
    assert cure in found.cure
    assert "s3cret" not in str(found)


def test_a_server_that_hangs_is_waited_for_once(ask, cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from atomfoundry.doctor import world

    monkeypatch.setattr(database_access, "open_database", lambda path: time.sleep(30))
    monkeypatch.setattr(world, "CONNECT_LIMIT_S", 0.3)
    found = {each.status: each for each in ask("database", cluster.parent) if each.check != "mongodb-tls"}
    assert "does not answer: it has not let us in after 0.3 s" in found["problem"].message
    assert "locks" in found["skipped"].message
    assert set(found) == {"problem", "skipped"}


def test_no_launchpad_file(ask, cluster) -> None:
    (cluster / "my_launchpad.yaml").unlink()
    found = next(each for each in ask("mongodb", cluster.parent))
    assert f"{cluster / 'my_launchpad.yaml'} is missing" in found.message
    assert "Write it in FireWorks' format" in found.cure


@pytest.mark.parametrize(
    ("version", "status"),
    [("4.0.28", "problem"), ("4.2.0", "warning"), ("6.0.19", "warning"), ("7.0.5", "ok"), ("8.0.4", "ok")],
)
def test_versions(one, cluster, server, monkeypatch: pytest.MonkeyPatch, version, status) -> None:
    told = {"version": version, "versionArray": [*map(int, version.split(".")), 0]}
    monkeypatch.setattr(type(server.client), "server_info", lambda self: told)
    found = one("mongodb-version", cluster.parent)
    assert found.status == status
    assert "Update the server" in (found.cure or "Update the server")


def test_a_server_open_to_everybody(one, cluster, server) -> None:
    assert one("mongodb-authentication", cluster.parent).status == "ok"
    server.asks = False
    found = one("mongodb-authentication", cluster.parent)
    assert found.status == "problem"
    assert "whoever reaches it can make the workers run their code" in found.message
    assert found.cure == (
        "mongosh: db.getSiblingDB('admin').createUser({user: 'foundry', pwd: passwordPrompt(), roles: [{role: "
        "'readWrite', db: 'foundry'}]}); then 'security: {authorization: enabled}' in mongod.conf, and restart it."
    )
    arguments = server.connections[-1].launchpad_arguments()
    assert arguments["username"] is None
    assert arguments["password"] is None


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"host": "db.example"}, "warning"),
        ({"host": "localhost"}, "ok"),
        ({"host": "db.example", "mongoclient_kwargs": {"tls": True}}, "ok"),
        ({"host": "db.example", "mongoclient_kwargs": {"tls": True, "tlsAllowInvalidCertificates": True}}, "warning"),
        ({"host": "mongodb+srv://db.example/x", "uri_mode": True}, "ok"),
        ({"host": "mongodb://db.example/x?tls=true", "uri_mode": True}, "ok"),
        ({"host": "mongodb://db.example/x", "uri_mode": True}, "warning"),
    ],
)
def test_tls(one, cluster, content, status) -> None:
    (cluster / "my_launchpad.yaml").write_text(yaml.safe_dump(content))
    found = one("mongodb-tls", cluster.parent)
    assert found.status == status
    assert status == "ok" or "tlsCAFile: /path/ca.pem" in found.cure


@pytest.mark.parametrize(("ahead", "status"), [(0, "ok"), (30, "warning"), (-7200, "problem")])
def test_the_database_s_clock(one, cluster, server, ahead, status) -> None:
    server.hello = {"localTime": datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=ahead)}
    found = one("mongodb-clock", cluster.parent)
    assert found.status == status
    assert found.details["skew"] == pytest.approx(ahead, abs=1.0)
    assert status == "ok" or "chronyc" in found.cure


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ({}, "One server without replicas"),
        ({"setName": "rs0", "hosts": ["a", "b", "c"]}, "Replica set 'rs0' of 3"),
        ({"setName": "rs0", "hosts": ["a"]}, "does not survive"),
        ({"msg": "isdbgrid"}, "Sharded"),
    ],
)
def test_topology(one, cluster, server, hello, message) -> None:
    server.hello = hello
    assert message in one("mongodb-topology", cluster.parent).message


def test_addresses_show_no_credentials() -> None:
    uri = {"host": "mongodb://me:pw@a.example:27018,b.example/x?tls=true", "uri_mode": True}
    assert address(uri) == "a.example:27018,b.example"
    assert not is_local(uri)
    assert is_local(LOCAL)
    assert is_local({"host": "mongodb://me:pw@127.0.0.1:27017/x", "uri_mode": True})
    assert not is_local({"host": "db", "port": 1})


def test_a_client_with_and_without_login(server, cluster) -> None:
    path = cluster / "my_launchpad.yaml"
    kwargs = {"tls": True, "authMechanism": "SCRAM-SHA-256", "serverSelectionTimeoutMS": 10**6}
    content = yaml.safe_load(path.read_text()) | {"mongoclient_kwargs": kwargs, "authsource": "admin"}
    path.write_text(yaml.safe_dump(content))
    make_client(path)
    arguments = server.connections[-1].launchpad_arguments()
    assert (arguments["username"], arguments["password"], arguments["authsource"]) == ("foundry", "s3cret-x", "admin")
    assert arguments["mongoclient_kwargs"]["authMechanism"] == "SCRAM-SHA-256"
    assert arguments["mongoclient_kwargs"]["serverSelectionTimeoutMS"] == database_access.PATIENCE_MS
    make_client(path, login=False)
    arguments = server.connections[-1].launchpad_arguments()
    assert (arguments["username"], arguments["password"], arguments["authsource"]) == (None, None, None)
    assert arguments["mongoclient_kwargs"]["tls"] is True
    assert "authMechanism" not in arguments["mongoclient_kwargs"]
    path.write_text(yaml.safe_dump({"host": "mongodb://u:s3cret-x@db.example/x", "name": "x"}))
    make_client(path, login=False)
    assert server.connections[-1].launchpad_arguments()["host"] == "mongodb://db.example/x"


# -- what is in it --------------------------------------------------------------------------------------------


def test_a_new_launchpad_is_well(ask, cluster, launchpad) -> None:
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

    FoundryLaunchPad(name="foundry", strm_lvl="CRITICAL").ensure_indexes()
    add(launchpad, "a", _category="light")
    names = ["mongodb-indexes", "mongodb-owner", "mongodb-ids", "categories", "fizzled", "spec-credentials"]
    names += ["heartbeats", "reservations", "locks"]
    assert [each.status for name in names for each in ask(name, cluster.parent)] == ["ok"] * len(names)


def test_missing_indexes(one, cluster, launchpad) -> None:
    launchpad.fireworks.drop_index("spec._category_1")
    launchpad.db.outputs.insert_one({"uuid": "u", "index": 1})
    found = one("mongodb-indexes", cluster.parent)
    assert found.details["missing"] == ["fireworks.spec._category", "outputs.uuid"]
    assert f"p = Project.open('{cluster.parent}'); open_launchpad(p).ensure_indexes(); p.ensure_indexes()" in found.cure


def test_our_own_launchpad_has_all_indexes(one, cluster, launchpad) -> None:
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

    launchpad.connection.drop_database("foundry")
    FoundryLaunchPad(name="foundry", strm_lvl="CRITICAL").ensure_indexes()
    assert one("mongodb-indexes", cluster.parent).message == "Indexes of fireworks, launches, workflows"
    assert one("mongodb-ids", cluster.parent).status == "ok"


def test_an_index_of_ids_that_is_not_unique(one, cluster, launchpad) -> None:
    launchpad.fireworks.drop_index("fw_id_1")
    launchpad.fireworks.create_index("fw_id")
    found = one("mongodb-indexes", cluster.parent)
    assert "fireworks.fw_id are not unique" in found.message
    assert found.cure.startswith("mongosh foundry: db.fireworks.dropIndex({fw_id: 1}); then python -c")


def test_the_index_that_guards_against_doubled_workflows(ask, one, cluster, launchpad) -> None:
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

    FoundryLaunchPad(name="foundry", strm_lvl="CRITICAL").ensure_indexes()
    launchpad.workflows.drop_index("metadata.foundry.part_1")
    assert one("mongodb-indexes", cluster.parent).status == "ok"  # the first 'atomfoundry submit' makes it
    add(launchpad, "a")
    found = one("mongodb-indexes", cluster.parent)
    assert found.status == "problem"
    assert "unique index of workflows.metadata.foundry.part is missing" in found.message
    assert "ensure_indexes()" in found.cure
    launchpad.workflows.create_index("metadata.foundry.part")
    found = one("mongodb-indexes", cluster.parent)
    assert found.details["indexes"] == ["workflows.metadata.foundry.part"]
    assert "db.workflows.dropIndex({'metadata.foundry.part': 1}); then python -c" in found.cure
    launchpad.workflows.drop_index("metadata.foundry.part_1")
    FoundryLaunchPad(name="foundry", strm_lvl="CRITICAL").ensure_indexes()
    launchpad.fireworks.drop_index("spec.foundry.project_id_1_state_1_spec._category_1_spec._priority_-1")
    assert one("mongodb-indexes", cluster.parent).details["missing"] == ["fireworks.spec.foundry.project_id"]


def test_whose_results(one, cluster, launchpad) -> None:
    from atomfoundry.results.ownership import claim_results

    assert one("mongodb-owner", cluster.parent).message == "No results in 'foundry' yet"
    claim_results(launchpad.db, "other", "here")
    found = one("mongodb-owner", cluster.parent)
    assert found.status == "problem"
    assert "results of another project (other)" in found.message
    assert "--database-name NAME" in found.cure
    launchpad.db.foundry_owner.drop()
    claim_results(launchpad.db, "p", "here")
    assert one("mongodb-owner", cluster.parent).message == "The results in 'foundry' are this project's"


def test_other_projects_in_the_database(one, cluster, launchpad) -> None:
    """Nothing that is wrong with their jobs is a finding here, and none of their workers takes ours."""
    from fireworks import FWorker

    add(launchpad, "ready", project="q", _category="gpu")
    silent, failed, reserved = (add(launchpad, name, project="q")[0] for name in ("silent", "failed", "reserved"))
    theirs = FWorker(name="node7", category="gpu", query={"spec.foundry.project_id": "q"})
    _, number = launchpad.checkout_fw(theirs, str(cluster), host="node7", fw_id=silent)
    launchpad.ping_launch(number, ptime=datetime.now(UTC) - timedelta(hours=9))
    since = (datetime.now(UTC) - timedelta(hours=9)).isoformat()
    launchpad.launches.update_one({"launch_id": number}, {"$set": {"state_history.0.created_on": since}})
    launchpad.fireworks.update_one({"fw_id": failed}, {"$set": {"state": "FIZZLED"}})
    old = {"state": "RESERVED", "updated_on": datetime.now(UTC) - timedelta(hours=9)}
    launchpad.fireworks.update_one({"fw_id": reserved}, {"$set": old})
    launchpad.fireworks.update_one({"fw_id": failed}, {"$set": {"spec.store": {"password": "theirs"}}})
    launchpad.workflows.update_one({"nodes": failed}, {"$set": {"locked": True}})
    names = ("categories", "fizzled", "spec-credentials", "heartbeats", "reservations", "locks")
    assert {name: one(name, cluster.parent).status for name in names} == dict.fromkeys(names, "ok")
    assert one("shared-folder", cluster.parent).status == "skipped"
    add(launchpad, "ours", _category="gpu")
    launchpad.checkout_fw(theirs, str(cluster))
    assert one("categories", cluster.parent).status == "problem"
    add(launchpad, "ours, which runs", _category="gpu", _priority=9)
    ours = FWorker(name="node7", category="gpu", query={"spec.foundry.project_id": "p"})
    launchpad.checkout_fw(ours, str(cluster))
    assert one("categories", cluster.parent).status == "ok"


def test_nothing_submitted_yet(one, cluster, server) -> None:
    found = one("mongodb-ids", cluster.parent)
    assert found.status == "skipped"
    assert "atomfoundry submit" in found.message


def test_a_lost_counter_of_ids(one, cluster, launchpad) -> None:
    add(launchpad, "a", "b")
    launchpad.fw_id_assigner.delete_many({})
    found = one("mongodb-ids", cluster.parent)
    assert found.status == "problem"
    assert "db.fw_id_assigner.insertOne({next_fw_id: 3, next_launch_id: 1})" in found.cure


def test_a_counter_that_is_behind(one, cluster, launchpad) -> None:
    add(launchpad, "a", "b", "c")
    launchpad.fw_id_assigner.update_one({}, {"$set": {"next_fw_id": 2}})
    found = one("mongodb-ids", cluster.parent)
    assert "next job 2, largest there 3" in found.message
    assert "updateOne({}, {$set: {next_fw_id: 4, next_launch_id: 1}})" in found.cure
    launchpad.fw_id_assigner.insert_one({"next_fw_id": 9, "next_launch_id": 9})
    assert "There are 2 counters" in one("mongodb-ids", cluster.parent).message


# -- jobs -----------------------------------------------------------------------------------------------------


def test_a_category_without_a_worker(one, cluster, launchpad) -> None:
    add(launchpad, "train", _category="gpu")
    add(launchpad, "train", _category="gpu")
    add(launchpad, "label", _category="light")
    found = one("categories", cluster.parent)
    assert found.status == "problem"
    assert found.message == (
        "Ready jobs of category 'gpu': 2; no worker takes them (categories of known workers: light)."
    )
    assert found.cure.startswith(f"atomfoundry worker --project {cluster.parent} --category gpu")


def test_a_worker_that_a_queue_adapter_starts(one, cluster, launchpad, adapter) -> None:
    add(launchpad, "train", _category="gpu")
    adapter("gpu", rocket_launch="/e/bin/atomfoundry worker --project /p --category md -n 4 --category=gpu")
    assert one("categories", cluster.parent).status == "ok"
    adapter("gpu", rocket_launch="/e/bin/atomfoundry worker --project /p -c md -c dft")
    assert "categories of known workers: light, md, dft" in one("categories", cluster.parent).message
    adapter("gpu", rocket_launch="exec /e/bin/python -m atomfoundry.cli.main worker --category gpu --parallel 1")
    assert one("categories", cluster.parent).status == "ok"
    adapter("gpu", rocket_launch="atomfoundry worker --project /p")  # takes all
    assert one("categories", cluster.parent).status == "ok"


def test_a_worker_that_was_heard_of(one, cluster, launchpad) -> None:
    from fireworks import FWorker

    add(launchpad, "train", _category="gpu")
    add(launchpad, "train", _category="gpu")
    _, number = launchpad.checkout_fw(FWorker(name="by hand", category="gpu"), str(cluster))
    assert one("categories", cluster.parent).status == "ok"
    launchpad.ping_launch(number, ptime=datetime.now(UTC) - timedelta(days=3))
    assert one("categories", cluster.parent).status == "problem"


def test_a_category_that_is_only_needed_later(one, cluster, launchpad) -> None:
    ids = add(launchpad, "label", "train", _category="light")
    launchpad.fireworks.update_one({"fw_id": ids[0]}, {"$set": {"spec._category": "md"}})
    found = one("categories", cluster.parent)
    state = launchpad.fireworks.find_one({"fw_id": ids[0]})["state"]
    assert found.status == {"READY": "problem", "WAITING": "warning"}[state]


@pytest.mark.parametrize("category", ["", "gpu", "__none__", ["gpu", "md"], ["light"]])
@pytest.mark.parametrize("job", [{}, {"_category": "gpu"}, {"_category": "md"}, {"_fworker": "w"}, {"_fworker": "v"}])
def test_which_jobs_a_worker_takes_is_as_in_fireworks(launchpad, category, job) -> None:
    from fireworks import FWorker

    add(launchpad, "a", **job)
    query = FWorker(name="w", category=category).query
    found = launchpad.fireworks.find_one({"state": "READY", **query}) is not None
    assert takes({"name": "w", "category": category}, job.get("_category"), job.get("_fworker")) is found


def test_failed_jobs(one, cluster, launchpad) -> None:
    (number,) = add(launchpad, "label Si")
    launchpad.fireworks.update_one({"fw_id": number}, {"$set": {"state": "FIZZLED"}})
    found = one("fizzled", cluster.parent)
    assert found.message == f"Failed jobs: 1; the last is 'label Si' ({number})."
    assert f"atomfoundry retry --project {cluster.parent}" in found.cure


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ({"store": {"password": "other-one"}}, "store.password"),
        ({"store": {"host": "mongodb://u:pw@db/x"}}, "store.host"),
        ({"note": "it is s3cret-x"}, "note"),
    ],
)
def test_a_password_in_a_spec(one, cluster, launchpad, spec, key) -> None:
    add(launchpad, "clean")
    (number,) = add(launchpad, "leaky", **spec)
    found = one("spec-credentials", cluster.parent)
    assert found.status == "problem"
    assert found.details["jobs"] == [{"fw_id": number, "key": key}]
    assert "store=None" in found.cure
    assert not any(word in str(found) for word in ("other-one", ":pw@", "s3cret"))


# -- leftovers ------------------------------------------------------------------------------------------------


def test_a_job_without_a_heartbeat(one, cluster, launchpad) -> None:
    add(launchpad, "a")
    number = start(launchpad, cluster, host="node7")
    assert one("heartbeats", cluster.parent).details == {"n_running": 1}
    launchpad.ping_launch(number, ptime=datetime.now(UTC) - timedelta(hours=2))
    found = one("heartbeats", cluster.parent)
    assert found.status == "warning"
    assert "on node7 for 2 h" in found.message
    assert found.cure == f"atomfoundry sweep --project {cluster.parent}"


def test_how_long_a_job_may_be_silent_is_fireworks_setting(one, cluster, launchpad) -> None:
    add(launchpad, "a", project=None)
    number = start(launchpad, cluster)
    launchpad.ping_launch(number, ptime=datetime.now(UTC) - timedelta(hours=2))
    (cluster / "FW_config.yaml").write_text("RUN_EXPIRATION_SECS: 14400\n")
    assert one("heartbeats", cluster.parent).status == "ok"
    (cluster / "FW_config.yaml").unlink()  # FireWorks' own default is 4 h as well
    assert one("heartbeats", cluster.parent).status == "ok"
    launchpad.fireworks.update_many(
        {}, {"$set": {"spec.foundry": {"project_id": "p"}}}
    )  # ours is heard of every minute
    assert one("heartbeats", cluster.parent).status == "warning"


def test_a_reservation_without_a_launch(one, cluster, launchpad) -> None:
    (number,) = add(launchpad, "a")
    launchpad._get_a_fw_to_run(fw_id=number)  # what a worker does first; here it is killed
    assert one("reservations", cluster.parent).status == "ok"  # it may be between the two steps
    old = datetime.now(UTC) - timedelta(hours=1)
    launchpad.fireworks.update_one({"fw_id": number}, {"$set": {"updated_on": old}})
    found = one("reservations", cluster.parent)
    assert found.details["jobs"][0]["fw_id"] == number
    assert found.cure == f"atomfoundry sweep --project {cluster.parent}"


def test_a_reservation_in_the_queue_is_none(one, cluster, launchpad) -> None:
    from fireworks import FWorker

    (number,) = add(launchpad, "a")
    job = launchpad.get_fw_by_id(number)
    launchpad.reserve_fw(FWorker(), str(cluster), fw_id=job.fw_id)
    launchpad.fireworks.update_one({"fw_id": number}, {"$set": {"updated_on": "2020-01-01T00:00:00"}})
    assert one("reservations", cluster.parent).status == "ok"


def test_a_workflow_locked_for_ever(one, cluster, launchpad, monkeypatch: pytest.MonkeyPatch) -> None:
    from atomfoundry.doctor import launchpad_leftovers

    monkeypatch.setattr(launchpad_leftovers, "LOCK_S", 0.01)
    (number,) = add(launchpad, "a")
    launchpad.workflows.update_one({"nodes": number}, {"$set": {"locked": True}})
    found = one("locks", cluster.parent)
    assert found.status == "warning"
    assert found.details == {"fw_ids": [number]}
    assert found.cure == f"atomfoundry sweep --project {cluster.parent}"


def test_a_workflow_being_written_is_not_locked_for_ever(
    one, cluster, launchpad, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atomfoundry.doctor import launchpad_leftovers

    (number,) = add(launchpad, "a")
    launchpad.workflows.update_one({"nodes": number}, {"$set": {"locked": True}})

    def release(seconds: float) -> None:
        launchpad.workflows.update_one({"nodes": number}, {"$unset": {"locked": ""}})

    monkeypatch.setattr(launchpad_leftovers, "time", SimpleNamespace(sleep=release))
    assert one("locks", cluster.parent).status == "ok"


# -- hosts ----------------------------------------------------------------------------------------------------


def test_worker_clocks_against_the_database(ask, cluster, launchpad) -> None:
    for host, ahead in (("node1", 0), ("node2", 120), ("node3", -600)):
        add(launchpad, "a")
        number = start(launchpad, cluster, host=host)
        launch = launchpad.launches.find_one({"launch_id": number})
        # the id is the server's; the stand-in's clock is this machine's
        launchpad.launches.delete_one({"launch_id": number})
        made = datetime.now(UTC) - timedelta(seconds=ahead)
        launchpad.launches.insert_one({**launch, "_id": ObjectId.from_datetime(made)})
    found = {each.details["host"]: each for each in ask("launch-clocks", cluster.parent)}
    assert set(found) == {"node2", "node3"}
    assert found["node2"].details["skew"] == pytest.approx(119.0, abs=2.0)
    assert "The clock of node3 is 10 min behind the database" in found["node3"].message
    assert found["node3"].cure.startswith("ssh node3 chronyc tracking")


def test_launches_of_reservations_tell_no_worker_s_clock(one, cluster, launchpad) -> None:
    from fireworks import FWorker

    (number,) = add(launchpad, "a")
    launchpad.reserve_fw(FWorker(), str(cluster), fw_id=number)
    assert one("launch-clocks", cluster.parent).status == "skipped"


def running_elsewhere(launchpad, cluster: Path, minutes: float = 10) -> None:
    add(launchpad, "a", foundry={"project_id": "p", "uuid": "abc", "index": 2})
    number = start(launchpad, cluster, host="node9")
    since = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()
    launchpad.launches.update_one({"launch_id": number}, {"$set": {"state_history.0.created_on": since}})


def test_a_folder_that_is_not_shared(one, cluster, launchpad) -> None:
    running_elsewhere(launchpad, cluster)
    found = one("shared-folder", cluster.parent)
    assert found.status == "problem"
    assert (
        f"runs on node9 since 10 min, but its folder {cluster.parent / 'work' / 'abc_2'} is not here" in found.message
    )
    assert found.cure.startswith(f"ssh node9 ls -ld {cluster.parent}")
    (cluster.parent / "work" / "abc_2").mkdir(parents=True)
    assert one("shared-folder", cluster.parent).message == "node9 work in this folder"


def test_a_job_that_only_just_began_proves_nothing(one, cluster, launchpad) -> None:
    running_elsewhere(launchpad, cluster, minutes=0.1)
    assert one("shared-folder", cluster.parent).status == "skipped"


# -- FireWorks' own stand-in, through the command -------------------------------------------------------------


def test_the_command_on_fireworks_database_in_a_file(cluster, tmp_path) -> None:
    pytest.importorskip("mongomock_persistence")
    store = tmp_path / "mongo.json"
    store.write_text("{}")
    environment = {**os.environ, "MONGOMOCK_SERVERSTORE_FILE": str(store), "OMP_NUM_THREADS": "1"}
    code = (
        "from fireworks import LaunchPad, Firework, ScriptTask\n"
        "pad = LaunchPad(host='db.example', name='foundry', strm_lvl='CRITICAL')\n"
        "pad.reset('', require_password=False)\n"
        "mark = {'project_id': 'p'}\n"
        "pad.add_wf(Firework([ScriptTask(script='true')], spec={'_category': 'gpu', 'foundry': mark}, name='train'))\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=tmp_path, capture_output=True)
    words = ["-m", "atomfoundry.cli.main", "doctor", "--project", str(cluster.parent), "--only", "database"]
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Ready jobs of category 'gpu': 1; no worker takes them" in done.stdout
    assert "stand-in" in done.stdout
    assert "s3cret" not in done.stdout
