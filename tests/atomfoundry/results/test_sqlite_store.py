from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime

import numpy as np
import pytest
from maggma.core import StoreError
from maggma.stores import MemoryStore
from monty.serialization import MontyDecoder

from atomfoundry.results import SQLiteStore

DOCUMENTS = [
    {
        "uuid": f"u{i % 7}",
        "index": i // 7 + 1,
        "name": ["relax", "static", "md", None][i % 4],
        "output": {
            "@class": ["ModelDoc", "DatasetDoc"][i % 2],
            "energy": -1.5 * i,
            "elements": ["Si", "H"][: i % 3],
            "records": [{"a": i, "b": {"c": i % 3}}, {"a": i + 1}],
            "flag": i % 2 == 0,
        },
        "when": datetime(2026, 1, 1 + i),
        **({"extra": i} if i % 5 == 0 else {}),
    }
    for i in range(21)
]

QUERIES = [
    None,
    {},
    {"uuid": "u3"},
    {"uuid": "u3", "index": 2},
    {"uuid": "u3", "index": 2.0},
    {"uuid": {"$in": ["u1", "u2", "nobody"]}},
    {"uuid": {"$in": []}},
    {"uuid": {"$in": ["u1", "u2"]}, "index": 2},
    {"uuid": {"$in": ["u1", "u2"], "$ne": "u1"}},
    {"uuid": {"$in": [re.compile("^u1"), "u2"]}},
    {"uuid": {"$in": ["u1"], "$regex": "x"}},
    {"uuid": ["u1", "u2"]},
    {"uuid": {"$eq": "u1"}},
    {"uuid": {"$ne": "u1"}},
    {"uuid": {"$nin": ["u1", "u2"]}},
    {"uuid": {"$regex": "^u[12]"}},
    {"uuid": re.compile("U3", re.IGNORECASE)},
    {"index": {"$gt": 1}},
    {"index": {"$gte": 2, "$lt": 3}},
    {"index": {"$gt": 1, "$in": [1, 2]}},
    {"name": None},
    {"name": {"$in": [None, "md"]}},
    {"name": {"$exists": False}},
    {"name": "relax"},
    {"name": ["relax"]},
    {"$and": [{"uuid": "u1"}, {"index": 1}]},
    {"$and": [{"uuid": "u1"}, {"$and": [{"index": {"$in": [1, 3]}}]}]},
    {"$or": [{"uuid": "u1"}, {"index": 3}]},
    {"$nor": [{"uuid": "u1"}, {"index": 3}]},
    {"output.@class": "ModelDoc"},
    {"output.@class": {"$not": {"$eq": "ModelDoc"}}},
    {"output.energy": {"$lt": -10}},
    {"output.elements": "Si"},
    {"output.elements": {"$size": 2}},
    {"output.elements": {"$all": ["Si", "H"]}},
    {"output.records.a": 4},
    {"output.records.0.a": 4},
    {"output.records": {"$elemMatch": {"a": 4, "b.c": 1}}},
    {"output.records.b.c": 2},
    {"output.flag": True},
    {"extra": {"$exists": True}},
    {"extra": 10},
    {"extra": {"$type": "int"}},
    {"when": {"$gt": datetime(2026, 1, 10)}},
    {"nothing": None},
    {"uuid": "nobody"},
]

PROJECTIONS = [
    ["uuid", "output.energy"],
    {"uuid": 1, "output.records.b": 1},
    {"output": 0},
    {"output.records.a": 0, "name": 0},
    ["output.elements", "output.@class"],
]


def plain(documents):
    return [{key: value for key, value in document.items() if key != "_id"} for document in documents]


@pytest.fixture
def stores(tmp_path):
    ours = SQLiteStore(tmp_path / "db.sqlite")
    memory = MemoryStore(key="uuid")
    for store in (ours, memory):
        store.connect()
        store.update([dict(document) for document in DOCUMENTS], key=["uuid", "index"])
    yield ours, memory
    ours.close()


@pytest.mark.parametrize("criteria", QUERIES, ids=str)
def test_answers_agree_with_memory_store(stores, criteria):
    ours, memory = stores
    expected = plain(memory.query(criteria))
    assert plain(ours.query(criteria)) == expected
    assert ours.count(criteria) == len(expected)


@pytest.mark.parametrize("properties", PROJECTIONS, ids=str)
def test_projection(stores, properties):
    ours, memory = stores
    assert plain(ours.query({}, properties)) == plain(memory.query({}, properties))


@pytest.mark.parametrize("sort", [{"index": -1, "uuid": 1}, {"name": 1, "output.energy": -1}, {"extra": 1}])
def test_sort_skip_limit(stores, sort):
    ours, memory = stores
    expected = plain(memory.query({}, sort=sort, skip=3, limit=5))
    assert plain(ours.query({}, sort=sort, skip=3, limit=5)) == expected


def test_distinct_and_groupby(stores):
    ours, memory = stores
    for field in ("uuid", "output.elements", "output.records.a", "name", "extra"):
        assert set(ours.distinct(field)) == set(memory.distinct(field))
    assert ours.distinct("uuid", {"index": 3, "uuid": {"$in": ["u0", "u1"]}}) == ["u0", "u1"]
    for keys in ("uuid", ["output.@class", "index"]):
        groups = [(head, plain(group)) for head, group in ours.groupby(keys)]
        expected = [(head, plain(group)) for head, group in memory.groupby(keys)]
        assert [head for head, _ in groups] == [head for head, _ in expected]
        assert [len(group) for _, group in groups] == [len(group) for _, group in expected]


def test_upsert_replaces_and_keeps_position(stores):
    ours, memory = stores
    for store in stores:
        store.update({"uuid": "u3", "index": 2, "name": "again"}, key=["uuid", "index"])
        store.update({"uuid": "new", "index": 1, "name": "more"}, key=["uuid", "index"])
        store.update({"uuid": "u3", "index": 3, "name": "by name", "output": 1}, key=["uuid", "index"])
        store.update({"uuid": "new", "index": 5, "name": "more"}, key="name")
    assert plain(ours.query()) == plain(memory.query())
    assert ours.count({"name": "again"}) == 1


def test_update_is_all_or_nothing_and_says_what_is_wrong(stores):
    ours, _ = stores
    before = ours.count()
    with pytest.raises(StoreError, match="key field 'index'"):
        ours.update([{"uuid": "x", "index": 1}, {"uuid": "y"}], key=["uuid", "index"])
    with pytest.raises(StoreError, match="same uuid, index"):
        ours.update([{"uuid": "z", "index": 1, "name": "q"}, {"uuid": "u1", "index": 1, "name": "w"}], key="name")
    assert ours.count() == before


def test_remove_docs(stores):
    for store in stores:
        store.remove_docs({"output.energy": {"$lt": -10}})
    assert plain(stores[0].query()) == plain(stores[1].query())
    stores[0].remove_docs({})
    assert stores[0].count() == 0


def test_objects_are_sanitised_and_lists_in_indexed_fields_found(tmp_path):
    store = SQLiteStore(tmp_path / "db.sqlite", index_fields=("name",))
    store.connect()
    store.update({"uuid": "a", "index": np.int64(1), "name": ["x", "y"], "v": np.arange(3.0)})
    assert store.query_one({"name": "y"})["v"] == [0.0, 1.0, 2.0]
    assert store.query_one({"uuid": "a", "index": 1}) is not None


def test_ensure_index_fills_old_rows_and_tolerates_writers_that_do_not_know_it(stores, tmp_path):
    ours, _ = stores
    other = SQLiteStore(tmp_path / "db.sqlite")
    other.connect()
    assert ours.ensure_index("output.energy")
    assert not ours.ensure_index("output.energy", unique=True)
    other.update({"uuid": "late", "index": 1, "output": {"energy": -3.0}}, key=["uuid", "index"])
    assert {d["uuid"] for d in ours.query({"output.energy": -3.0})} == {"u2", "late"}
    reopened = SQLiteStore(tmp_path / "db.sqlite", index_fields=("extra",))
    reopened.connect()
    assert reopened.count({"extra": 10}) == 1


def test_writing_while_reading(stores):
    ours, _ = stores
    for document in ours.query():
        ours.remove_docs({"uuid": document["uuid"], "index": document["index"]})
    assert ours.count() == 0


def test_serialises(stores):
    ours, _ = stores
    twin = MontyDecoder().process_decoded(ours.as_dict())
    assert twin == ours
    twin.connect()
    assert twin.count() == len(DOCUMENTS)


def test_errors(tmp_path):
    with pytest.raises(StoreError, match="Collection name"):
        SQLiteStore(tmp_path / "a", 'x"; drop')
    with pytest.raises(StoreError, match="Create it first"):
        SQLiteStore(tmp_path / "no" / "a").connect()
    with pytest.raises(StoreError, match=r"connect\(\)"):
        SQLiteStore(tmp_path / "a").count()


def test_not_shared_over_fork(stores):
    ours, _ = stores
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.update({"uuid": "child", "index": 1}, key=["uuid", "index"])
            status = 0 if ours.count() == len(DOCUMENTS) + 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ours.count({"uuid": "child"}) == 1
    ours.update({"uuid": "parent", "index": 1}, key=["uuid", "index"])


WRITER = """
import sys
from atomfoundry.results import SQLiteStore
store = SQLiteStore(sys.argv[1])
store.connect()
who, count = sys.argv[2], int(sys.argv[3])
for i in range(count):
    store.update({"uuid": who, "index": i, "output": list(range(50))}, key=["uuid", "index"])
    print(i, flush=True)
"""


def writer(path, who, count):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), who, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_four_processes_keep_everything_even_on_a_concurrent_first_open(tmp_path):
    path = tmp_path / "db.sqlite"
    processes = [writer(path, f"w{i}", 40) for i in range(4)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    store = SQLiteStore(path)
    store.connect()
    assert store.count() == 160


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_nothing_acknowledged_is_lost_by_kill(tmp_path, kills):
    path = tmp_path / "db.sqlite"
    for k in range(kills):
        process = writer(path, f"w{k}", 10**7)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.02 * k)
        process.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in process.stdout.read().split("\n")[:-1]]
        process.wait()
        store = SQLiteStore(path)
        store.connect()
        assert store.count({"uuid": f"w{k}"}) >= len(acknowledged) + 1
        check = store._collection.connection().execute("PRAGMA integrity_check").fetchone()[0]
        assert check == "ok"
        store.close()
