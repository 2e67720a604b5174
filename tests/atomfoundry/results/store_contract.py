"""What every store of a project promises; run on each kind by test_store_contract.py.

Where mongomock and MongoDB are known to differ, the promise is MongoDB's, and mongomock is excused by name.
"""

from __future__ import annotations

import math
import re
import threading
from datetime import datetime

import numpy as np
import pytest
from maggma.core import StoreError

KEY = ["uuid", "index"]
LINKS = [[], ["a0"], ["a0", "a1"]]


def document(i: int) -> dict:
    return {
        "uuid": f"a{i}",
        "index": 1 + i % 3,
        "name": ["relax", "static", "md", None][i % 4],
        "completed_at": f"2026-01-{1 + i // 2:02d}T00:00:00",
        "metadata": {"stage": ["label", "train"][i % 2]} if i % 5 else {},
        "inputs": [{"uuid": uuid, "index": 1} for uuid in LINKS[i % 3]],
        "output": {
            "@class": ["ModelDoc", "DatasetDoc"][i % 2],
            "energy": -1.5 * i,
            "elements": ["Si", "H", "O"][: i % 4],
            "records": [{"a": i, "b": {"c": i % 3}}, {"a": i + 1}],
            "flag": i % 2 == 0,
            "n": i if i % 2 else float(i),
            "text": f"t{i}",
        },
        "when": datetime(2026, 1, 1 + i, 12, 30, 15, 250_000),
        **({"extra": i} if i % 5 == 0 else {}),
    }


NUMBER = 24
DOCUMENTS = [document(i) for i in range(NUMBER)]


def o(d):
    return d["output"]


QUERIES = {
    "none": ({}, lambda d: True),
    "equal": ({"uuid": "a3"}, lambda d: d["uuid"] == "a3"),
    "equal by keys": ({"uuid": "a3", "index": 1}, lambda d: d["uuid"] == "a3" and d["index"] == 1),
    "integer is float": ({"index": 2.0}, lambda d: d["index"] == 2),
    "in": ({"uuid": {"$in": ["a1", "a2", "nobody"]}}, lambda d: d["uuid"] in ("a1", "a2")),
    "in nothing": ({"uuid": {"$in": []}}, lambda d: False),
    "in with none": ({"name": {"$in": [None, "md"]}}, lambda d: d["name"] in (None, "md")),
    "eq": ({"name": {"$eq": "md"}}, lambda d: d["name"] == "md"),
    "ne": ({"name": {"$ne": "md"}}, lambda d: d["name"] != "md"),
    "ne none": ({"name": {"$ne": None}}, lambda d: d["name"] is not None),
    "nin": ({"name": {"$nin": ["md", "relax"]}}, lambda d: d["name"] not in ("md", "relax")),
    "nin with none": ({"name": {"$nin": ["md", None]}}, lambda d: d["name"] in ("relax", "static")),
    "null or absent": ({"metadata.stage": None}, lambda d: "stage" not in d["metadata"]),
    "ne where absent": ({"metadata.stage": {"$ne": "label"}}, lambda d: d["metadata"].get("stage") != "label"),
    "range": ({"index": {"$gt": 1, "$lte": 2}}, lambda d: 1 < d["index"] <= 2),
    "range of texts": (
        {"completed_at": {"$gte": "2026-01-04", "$lt": "2026-01-06"}},
        lambda d: "2026-01-04" <= d["completed_at"] < "2026-01-06",
    ),
    "number is no text": ({"completed_at": {"$gt": 5}}, lambda d: False),
    "text is no number": ({"index": {"$lt": "x"}}, lambda d: False),
    "unindexed number is no text": ({"output.text": {"$gt": 5}}, lambda d: False),
    "range and in": ({"index": {"$gt": 1, "$in": [1, 2]}}, lambda d: d["index"] == 2),
    "true is not one": ({"index": True}, lambda d: False),
    "one is not true": ({"output.flag": 1}, lambda d: False),
    "true": ({"output.flag": True}, lambda d: o(d)["flag"]),
    "regex": ({"uuid": {"$regex": "^a1[0-3]$"}}, lambda d: re.search("^a1[0-3]$", d["uuid"])),
    "regex with options": ({"name": {"$regex": "^REL", "$options": "i"}}, lambda d: d["name"] == "relax"),
    "regex with optional end": ({"uuid": {"$regex": "^a12?$"}}, lambda d: d["uuid"] in ("a1", "a12")),
    "compiled regex": ({"name": re.compile("STAT", re.IGNORECASE)}, lambda d: d["name"] == "static"),
    "and": ({"$and": [{"name": "md"}, {"index": 1}]}, lambda d: d["name"] == "md" and d["index"] == 1),
    "or": ({"$or": [{"name": "md"}, {"uuid": "a0"}]}, lambda d: d["name"] == "md" or d["uuid"] == "a0"),
    "or with other field": (
        {"$or": [{"name": "md"}, {"output.energy": 0}]},
        lambda d: d["name"] == "md" or o(d)["energy"] == 0,
    ),
    "nor": ({"$nor": [{"name": "md"}, {"index": 1}]}, lambda d: d["name"] != "md" and d["index"] != 1),
    "class": ({"output.@class": "ModelDoc"}, lambda d: o(d)["@class"] == "ModelDoc"),
    "not": ({"output.@class": {"$not": {"$eq": "ModelDoc"}}}, lambda d: o(d)["@class"] != "ModelDoc"),
    "unindexed range": ({"output.energy": {"$lt": -10}}, lambda d: o(d)["energy"] < -10),
    "both kinds of field": (
        {"output.@class": "ModelDoc", "output.energy": {"$lt": -10}},
        lambda d: o(d)["@class"] == "ModelDoc" and o(d)["energy"] < -10,
    ),
    "member of list": ({"output.elements": "H"}, lambda d: "H" in o(d)["elements"]),
    "whole list": ({"output.elements": ["Si"]}, lambda d: o(d)["elements"] == ["Si"]),
    "size": ({"output.elements": {"$size": 2}}, lambda d: len(o(d)["elements"]) == 2),
    "all": ({"output.elements": {"$all": ["Si", "O"]}}, lambda d: {"Si", "O"} <= set(o(d)["elements"])),
    "inside list": ({"output.records.a": 4}, lambda d: any(r["a"] == 4 for r in o(d)["records"])),
    "position in list": ({"output.records.0.a": 4}, lambda d: o(d)["records"][0]["a"] == 4),
    "elemMatch": (
        {"output.records": {"$elemMatch": {"a": {"$gte": 4}, "b.c": 1}}},
        lambda d: any(r["a"] >= 4 and r.get("b", {}).get("c") == 1 for r in o(d)["records"]),
    ),
    "indexed list": ({"inputs.uuid": "a1"}, lambda d: any(i["uuid"] == "a1" for i in d["inputs"])),
    "indexed list in": ({"inputs.uuid": {"$in": ["a0", "x"]}}, lambda d: bool(d["inputs"])),
    "indexed list ne": ({"inputs.uuid": {"$ne": "a1"}}, lambda d: all(i["uuid"] != "a1" for i in d["inputs"])),
    "exists": ({"extra": {"$exists": True}}, lambda d: "extra" in d),
    "not exists": ({"metadata.stage": {"$exists": False}}, lambda d: "stage" not in d["metadata"]),
    "none exists": ({"name": {"$exists": True}}, lambda d: True),
    "mod": ({"extra": {"$mod": [10, 0]}}, lambda d: d.get("extra", 1) % 10 == 0),
    "type": ({"output.n": {"$type": "double"}}, lambda d: isinstance(o(d)["n"], float)),
    "date": ({"when": {"$gt": datetime(2026, 1, 10)}}, lambda d: d["when"] > datetime(2026, 1, 10)),
    "nowhere": ({"nothing": None}, lambda d: True),
}
"""Filter, and the same in Python."""

# mongomock takes True for 1, as Python does, and knows neither $mod nor names of types.
EXCUSED = {"mongomock": {"true is not one", "one is not true", "mod", "type"}}


def uuids(documents) -> set[str]:
    return {d["uuid"] for d in documents}


@pytest.fixture
def filled(store):
    store.update([dict(d) for d in DOCUMENTS], key=KEY)
    return store


class StoreContract:
    """Needs the fixtures ``store`` (connected, empty) and ``kind`` ('sqlite', 'mongomock', 'mongodb')."""

    @pytest.mark.parametrize("name", QUERIES)
    def test_queries(self, filled, kind, name):
        if name in EXCUSED.get(kind, ()):
            pytest.skip("known difference between mongomock and MongoDB")
        criteria, holds = QUERIES[name]
        expected = [d for d in DOCUMENTS if holds(d)]
        found = list(filled.query(criteria))
        assert len(found) == len(expected)
        assert uuids(found) == uuids(expected)
        assert filled.count(criteria) == len(expected)
        assert uuids(filled.query(criteria, ["uuid", "index"])) == uuids(expected)

    def test_documents_come_back_as_they_are(self, filled):
        for expected in DOCUMENTS:
            found = filled.query_one({"uuid": expected["uuid"]})
            assert found == expected
            assert type(found["output"]["n"]) is type(expected["output"]["n"])

    @pytest.mark.parametrize(
        ("properties", "expected"),
        [
            (["uuid", "output.energy"], {"uuid": "a4", "output": {"energy": -6.0}}),
            (["uuid"], {"uuid": "a4"}),
            ({"index": 1}, {"index": 2}),
            ({"output.records.b": 1}, {"output": {"records": [{"b": {"c": 1}}, {}]}}),
            (["nothing"], {}),
            (["metadata.stage"], {"metadata": {"stage": "label"}}),
        ],
    )
    def test_projection(self, filled, properties, expected):
        assert filled.query_one({"uuid": "a4"}, properties) == expected

    def test_projection_that_leaves_out(self, filled):
        found = filled.query_one({"uuid": "a4"}, {"output.records": 0, "when": 0})
        expected = document(4)
        del expected["when"], expected["output"]["records"]
        assert found == expected

    @pytest.mark.parametrize(
        ("sort", "order"),
        [
            ({"completed_at": -1, "uuid": 1}, lambda d: (-int(d["completed_at"][8:10]), d["uuid"])),
            ({"output.energy": 1}, lambda d: d["output"]["energy"]),
            ({"index": 1, "uuid": -1}, lambda d: (d["index"], [-ord(c) for c in d["uuid"].ljust(3)])),
            ({"output.@class": -1, "when": 1}, lambda d: (d["output"]["@class"] != "ModelDoc", d["when"])),
        ],
    )
    def test_sort_skip_limit(self, filled, sort, order):
        expected = [d["uuid"] for d in sorted(DOCUMENTS, key=order)]
        assert [d["uuid"] for d in filled.query({}, sort=sort)] == expected
        assert [d["uuid"] for d in filled.query({}, sort=sort, skip=3, limit=5)] == expected[3:8]
        assert [d["uuid"] for d in filled.query({}, sort=sort, skip=20)] == expected[20:]
        some = [u for u in expected if document(int(u[1:]))["name"] == "md"]
        found = filled.query({"name": "md"}, ["uuid"], sort=sort, skip=1, limit=2)
        assert [d["uuid"] for d in found] == some[1:3]
        decoded = filled.query({"name": "md", "output.energy": {"$lte": 0}}, sort=sort, skip=1, limit=2)
        assert [d["uuid"] for d in decoded] == some[1:3]

    def test_absent_values_sort_first(self, filled):
        found = [d.get("extra") for d in filled.query({}, sort={"extra": 1})]
        assert found == [None] * 19 + [0, 5, 10, 15, 20]
        stages = [d["metadata"].get("stage") for d in filled.query({}, sort={"metadata.stage": -1})]
        assert stages == sorted((d["metadata"].get("stage") or "" for d in DOCUMENTS), reverse=True)[:19] + [None] * 5

    def test_limit_without_sort(self, filled):
        assert len(list(filled.query({"name": "md"}, limit=2))) == 2
        assert len(list(filled.query({}, skip=20))) == 4
        assert filled.query_one({"uuid": "nobody"}) is None

    def test_distinct(self, filled):
        assert sorted(filled.distinct("uuid")) == sorted(uuids(DOCUMENTS))
        assert sorted(filled.distinct("output.elements")) == ["H", "O", "Si"]
        assert sorted(filled.distinct("inputs.uuid")) == ["a0", "a1"]
        assert sorted(filled.distinct("metadata.stage")) == ["label", "train"]
        assert set(filled.distinct("name")) == {"relax", "static", "md", None}
        assert sorted(filled.distinct("output.@class", {"index": 2, "name": "md"})) == ["ModelDoc"]

    def test_groupby(self, filled):
        groups = {head["output"]["@class"]: uuids(docs) for head, docs in filled.groupby("output.@class")}
        assert groups == {
            name: uuids(d for d in DOCUMENTS if o(d)["@class"] == name) for name in ("ModelDoc", "DatasetDoc")
        }
        two = {
            (head["index"], head["output"]["@class"]): len(docs)
            for head, docs in filled.groupby(["index", "output.@class"])
        }
        assert two == {(i, name): 4 for i in (1, 2, 3) for name in ("ModelDoc", "DatasetDoc")}

    def test_count_by(self, filled):
        assert filled.count_by(["name"]) == {("relax",): 6, ("static",): 6, ("md",): 6, (None,): 6}
        assert filled.count_by(["metadata.stage"], {"output.@class": "ModelDoc"}) == {("label",): 9, (None,): 3}
        assert filled.count_by(["output.flag", "index"], {"output.energy": {"$gt": -3}}) == {
            (True, 1): 1,
            (False, 2): 1,
        }

    def test_replace_by_several_keys(self, filled):
        filled.update({"uuid": "a3", "index": 1, "name": "again"}, key=KEY)
        assert filled.query_one({"uuid": "a3"}) == {"uuid": "a3", "index": 1, "name": "again"}
        filled.update([{"uuid": "a3", "index": 2, "name": "second"}, {"uuid": "new", "index": 1}], key=KEY)
        assert sorted(d["index"] for d in filled.query({"uuid": "a3"})) == [1, 2]
        assert filled.count() == NUMBER + 2
        # the indexes follow
        assert filled.count({"name": "again"}) == 1
        assert "a3" not in uuids(filled.query({"output.@class": "DatasetDoc"}))
        filled.update({"uuid": "a4", "index": 2, "inputs": [{"uuid": "zz"}]}, key=KEY)
        assert uuids(filled.query({"inputs.uuid": "zz"})) == {"a4"}
        assert "a4" not in uuids(filled.query({"inputs.uuid": "a0"}))

    def test_replace_by_another_key(self, filled):
        filled.update({"uuid": "a5", "index": 3, "name": "only"}, key=KEY)
        filled.update({"uuid": "b5", "index": 9, "name": "only", "output": 1}, key="name")
        assert filled.query_one({"name": "only"}) == {"uuid": "b5", "index": 9, "name": "only", "output": 1}
        assert filled.count({"uuid": "a5"}) == 0
        assert filled.count() == NUMBER

    def test_what_cannot_be_written_changes_nothing(self, filled):
        with pytest.raises(StoreError, match="key field 'index'"):
            filled.update([{"uuid": "x", "index": 1}, {"uuid": "y"}], key=KEY)
        with pytest.raises(StoreError, match="lacks the key field 'name'"):
            filled.update([{"uuid": "x", "index": 1}], key="name")
        with pytest.raises(StoreError, match="same uuid, index exists"):
            filled.update([{"uuid": "a1", "index": 2, "name": "w"}], key="name")
        assert filled.count() == NUMBER
        assert filled.query_one({"uuid": "a1"}) == DOCUMENTS[1]

    def test_remove_docs(self, filled):
        filled.remove_docs({"output.energy": {"$lt": -10}})
        assert uuids(filled.query()) == {f"a{i}" for i in range(7)}
        filled.remove_docs({"name": {"$in": ["relax", "md"]}})
        assert uuids(filled.query()) == {"a1", "a3", "a5"}
        filled.remove_docs({})
        assert filled.count() == filled.count({"uuid": "a1"}) == 0

    def test_values(self, store):
        content = {
            "nan": math.nan,
            "infinite": [math.inf, -math.inf],
            "big": 2**62,
            "tiny": 5e-324,
            "minus_zero": -0.0,
            "grüße": {"日本": "Å°–\U0001f9ea", "": "empty key"},
            "date": datetime(1969, 12, 31, 23, 59, 59, 999_000),
            "bytes": b"\x00\xff",
            "nested": [[1, [2.5, [None, True]]], []],
            "none": None,
            "empty": {},
            "array": np.arange(3.0),
            "integer": np.int64(7),
        }
        store.update({"uuid": "v", "index": 1, "output": content}, key=KEY)
        found = store.query_one({"uuid": "v"})["output"]
        assert math.isnan(found.pop("nan"))
        assert math.copysign(1, found["minus_zero"]) == -1
        content.pop("nan")
        expected = {**content, "array": [0.0, 1.0, 2.0], "integer": 7}
        assert found == expected
        assert list(found) == list(expected)
        assert store.count({"output.grüße.日本": {"$regex": "Å"}}) == 1
        assert store.count({"output.infinite": math.inf}) == 1

    @pytest.mark.parametrize("value", [2**70, {"deep": [-(2**64)]}])
    def test_values_that_cannot_be_stored(self, store, value):
        with pytest.raises(StoreError, match=r"uuid='v', index=1 cannot be stored"):
            store.update({"uuid": "v", "index": 1, "output": [value]}, key=KEY)
        assert store.count() == 0

    def test_odd_values_in_indexed_fields(self, store):
        names = ["x", ["x", "y"], {"x": 1}, math.nan, datetime(2026, 1, 1), True, 5, None, "z", b"x"]
        outputs = [
            {"@class": "A"},
            [1, {"@class": "A"}],
            [1, 2],
            [{"@class": "B"}],
            [],
            7,
            None,
            {"@class": ["A", "B"]},
        ]
        for i, name in enumerate(names):
            store.update({"uuid": f"n{i}", "index": 1, "name": name}, key=KEY)
        for i, output in enumerate(outputs):
            store.update({"uuid": f"o{i}", "index": 1, "name": "o", "output": output}, key=KEY)
        assert uuids(store.query({"name": "x"})) == {"n0", "n1"}
        assert uuids(store.query({"name": {"$in": ["y", "z"]}})) == {"n1", "n8"}
        assert uuids(store.query({"name": ["x", "y"]})) == {"n1"}
        assert uuids(store.query({"name": {"x": 1}})) == {"n2"}
        assert uuids(store.query({"name": {"$gt": "w"}})) == {"n0", "n1", "n8"}
        assert uuids(store.query({"name": {"$gt": 4}})) == {"n6"}
        assert uuids(store.query({"name": datetime(2026, 1, 1)})) == {"n4"}
        assert uuids(store.query({"output.@class": "A"})) == {"o0", "o1", "o7"}
        assert uuids(store.query({"output.@class": {"$in": ["B"]}})) == {"o3", "o7"}
        assert store.count({"output.@class": "A"}) == 3
        assert uuids(store.query({"output.@class": {"$ne": "A"}, "name": "o"})) == {"o2", "o3", "o4", "o5", "o6"}
        assert store.count_by(["name"], {"name": {"$in": ["z", "o"]}}) == {("z",): 1, ("o",): 8}

    def test_big_documents(self, store):
        store.update({"uuid": "big", "index": 1, "output": b"x" * 15_000_000}, key=KEY)
        assert len(store.query_one({"uuid": "big"})["output"]) == 15_000_000
        with pytest.raises(StoreError, match=r"uuid='huge', index=1 has 17\.0 MB; a document may have 16\.7 MB"):
            store.update({"uuid": "huge", "index": 1, "output": b"x" * 17_000_000}, key=KEY)
        many = [{"uuid": f"m{i}", "index": 1, "output": b"x" * 6_000_000} for i in range(7)]
        store.update(many, key=KEY)
        assert store.count() == 8

    def test_indexes(self, filled):
        assert filled.ensure_index("output.energy")
        assert uuids(filled.query({"output.energy": -3.0})) == {"a2"}
        assert [d["uuid"] for d in filled.query({"output.energy": {"$gte": -3}}, sort={"output.energy": 1})] == [
            "a2",
            "a1",
            "a0",
        ]

    def test_threads_write_at_once(self, store):
        problems = []

        def write(who: int) -> None:
            try:
                for i in range(10):
                    store.update({"uuid": f"t{who}", "index": i, "name": "mine"}, key=KEY)
                    store.update({"uuid": "shared", "index": i, "name": f"t{who}"}, key=KEY)
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert store.count() == 50
        assert store.count({"name": "mine"}) == 40
        assert store.count({"uuid": "shared"}) == 10
