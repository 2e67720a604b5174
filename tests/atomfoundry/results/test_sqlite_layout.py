from __future__ import annotations

import sqlite3
import subprocess
import sys

import bson
import pytest

from atomfoundry.results import Project, SQLiteStore
from atomfoundry.results import sqlite_layout as layout_module
from atomfoundry.results.mongo_language import regex_prefix


def rows(n):
    for i in range(n):
        yield {
            "uuid": f"u{i}",
            "index": 1,
            "name": ["a", "b", ["b", "c"]][i % 3],
            "completed_at": f"2026-01-{1 + i % 28:02d}",
            "inputs": [{"uuid": f"u{i - 1}", "index": 1}],
            "output": [{"@class": "ModelDoc"}, [1, 2]][i % 2],
        }


def old_file(path, n):
    """A file as it was made before ranges and sorting were done by SQL."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(
        'CREATE TABLE "docs:outputs" (id INTEGER PRIMARY KEY, "uuid" NOT NULL, "index" NOT NULL, doc BLOB NOT NULL, '
        'UNIQUE ("uuid", "index"))'
    )
    for field in ("name", "output.@class"):
        connection.execute(f'ALTER TABLE "docs:outputs" ADD COLUMN "{field}"')
    for field in ("uuid", "index", "name", "output.@class"):
        connection.execute(f'CREATE INDEX "outputs:{field}" ON "docs:outputs" ("{field}")')
    for document in rows(n):
        old_write(connection, document)
    connection.close()


def old_write(connection, document):
    name = document["name"] if isinstance(document["name"], str) else None
    kind = document["output"]["@class"] if isinstance(document["output"], dict) else None
    connection.execute(
        'INSERT INTO "docs:outputs" ("uuid", "index", "name", "output.@class", doc) VALUES (?, ?, ?, ?, ?)',
        [document["uuid"], document["index"], name, kind, bson.encode(document)],
    )


def indexes(store):
    sql = "SELECT name FROM sqlite_master WHERE type = 'index' AND name NOT LIKE 'sqlite%'"
    return {row[0] for row in store._fetch(sql, [])}


def plan(store, criteria, tail=""):
    condition = store._condition(criteria)
    assert condition.exact or "members" in condition.sql
    sql = f"EXPLAIN QUERY PLAN SELECT id FROM {store._table}{condition.sql}{tail}"
    return " ".join(row[-1] for row in store._fetch(sql, condition.values))


def test_old_files_are_brought_up_to_date(tmp_path, monkeypatch):
    monkeypatch.setattr(layout_module, "FILL", 7)
    project = Project.open_or_create(tmp_path / "p")
    old_file(project.database_path, 30)
    store = project.document_store("outputs")
    assert list(store.query()) == list(rows(30))
    assert {d["uuid"] for d in store.query({"inputs.uuid": "u3"})} == {"u4"}
    assert store.count({"name": "b"}) == 20
    assert store.count({"output.@class": "ModelDoc"}) == 15
    assert store.count({"completed_at": {"$gte": "2026-01-20"}}) == 9
    names = indexes(store)
    assert {"outputs:name,completed_at", "outputs:completed_at"} <= names
    assert not {"outputs:uuid", "outputs:index", "outputs:name", "outputs:output.@class"} & names
    # A process of the older version goes on writing.
    with sqlite3.connect(project.database_path) as connection:
        old_write(connection, {**next(rows(1)), "uuid": "late", "completed_at": "2026-02-02", "name": ["b"]})
    assert {d["uuid"] for d in store.query({"completed_at": {"$gt": "2026-02"}})} == {"late"}
    assert store.count({"name": "b"}) == 21
    assert not store._layout.stale(store._collection.connection())


OPEN = """
import sys
from atomfoundry.results import Project
store = Project.open(sys.argv[1]).document_store("outputs")
assert store.count({"completed_at": {"$gte": "2026-01-20"}}) == 36
"""


def test_several_processes_open_an_old_file_at_once(tmp_path):
    project = Project.open_or_create(tmp_path / "p")
    old_file(project.database_path, 112)
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, str(project.path)]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]


def test_stores_with_other_indexes_share_a_file(tmp_path):
    few = SQLiteStore(tmp_path / "db", index_fields=())
    many = SQLiteStore(tmp_path / "db", index_fields=[["name", "completed_at"]], member_fields=["inputs.uuid"])
    few.connect()
    many.connect()
    documents = list(rows(12))
    for position, document in enumerate(documents):
        (few, many)[position % 2].update(document, key=["uuid", "index"])
    for store in (few, many):
        assert store.count({"name": "a"}) == 4
        assert {d["uuid"] for d in store.query({"inputs.uuid": "u3"})} == {"u4"}
    assert few.ensure_index("completed_at")
    many.update({**documents[0], "completed_at": "2027"}, key=["uuid", "index"])
    assert few.count({"completed_at": "2027"}) == 1


def test_typical_questions_are_answered_by_indexes(tmp_path):
    project = Project.open_or_create(tmp_path / "p")
    store = project.document_store("outputs")
    store.update(list(rows(2)), key=["uuid", "index"])
    store.remove_docs({"uuid": "u1"})
    store.update([d for d in rows(12) if isinstance(d["name"], str)], key=["uuid", "index"])
    newest = ' ORDER BY "completed_at" DESC LIMIT 10'
    for criteria, tail, index in (
        ({"uuid": "u1"}, "", "sqlite_autoindex"),
        ({"output.@class": "ModelDoc"}, newest, "outputs:output.@class,completed_at"),
        ({"metadata.stage": "s"}, newest, "outputs:metadata.stage,completed_at"),
        ({"name": "a"}, newest, "outputs:name,completed_at"),
        ({"completed_at": {"$gte": "2026"}}, newest, "outputs:completed_at"),
        ({"inputs.uuid": "u1"}, "", "members:outputs"),
    ):
        found = plan(store, criteria, tail)
        assert index in found
        assert "SCAN docs" not in found
        assert "TEMP B-TREE" not in found
    labels = project.document_store("labels")
    for criteria, index in (
        ({"frame_id": "f", "level_id": "l"}, "sqlite_autoindex"),
        ({"level_id": "l", "status": "ok"}, "labels:level_id,status"),
        ({"status": "failed", "reason": "nan"}, "labels:status,reason"),
        ({"engine": "xtb"}, "labels:engine,status"),
        ({"job_uuid": "j"}, "labels:job_uuid"),
    ):
        assert index in plan(labels, criteria)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        ("^abc", "abc"),
        ("^ab-c\\.d", "ab-c.d"),
        ("^abc?", "ab"),
        ("^abc*d", "ab"),
        ("^abc+d", "abc"),
        ("^ab{2}", "a"),
        ("^ab|c", ""),
        ("^a(b", "a"),
        ("^a\\d", "a"),
        ("abc", ""),
        ("^", ""),
        ("^.a", ""),
        ("^(?i)a", ""),
    ],
)
def test_literal_beginning_of_patterns(pattern, prefix):
    assert regex_prefix(pattern) == prefix
