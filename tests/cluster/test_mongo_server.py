"""The tests' own MongoDB server: pymongo sees what a real one shows."""

from __future__ import annotations

import threading
from collections import Counter

import gridfs
import pymongo
import pytest
from mongo_server import MongoServer
from pymongo.errors import BulkWriteError, ConnectionFailure, DuplicateKeyError, OperationFailure


@pytest.fixture
def server():
    with MongoServer() as running:
        yield running


def connect(server, **kwargs):
    return pymongo.MongoClient("127.0.0.1", server.port, **kwargs)


def test_documents(server):
    with connect(server) as client:
        items = client.base.items
        assert items.insert_many([{"n": n, "parts": {"a": n}} for n in range(300)]).inserted_ids
        assert items.count_documents({"n": {"$gte": 100}}) == 200
        assert [item["n"] for item in items.find({}, {"_id": 0}).sort("n", -1).skip(1).limit(2)] == [298, 297]
        assert items.find_one({"parts.a": 3}, {"n": 1, "_id": 0}) == {"n": 3}
        assert items.find_one({"n": -1}) is None
        assert items.update_many({"n": {"$lt": 5}}, {"$set": {"low": True}}).modified_count == 5
        assert items.update_one({"n": 1000}, {"$set": {"low": False}}, upsert=True).upserted_id is not None
        assert items.replace_one({"n": 4}, {"n": 4}).modified_count == 1
        assert items.delete_many({"low": True}).deleted_count == 4
        assert sorted(items.distinct("low")) == [False]
        total = items.aggregate([{"$match": {"n": {"$lt": 10}}}, {"$group": {"_id": None, "sum": {"$sum": "$n"}}}])
        assert [found["sum"] for found in total] == [sum(range(4, 10))]
        assert client.base.list_collection_names() == ["items"]
        client.drop_database("base")
        assert items.count_documents({}) == 0
        with pytest.raises(OperationFailure, match="no such command"):
            client.admin.command("shutdown")


def test_unique_indexes(server):
    with connect(server) as client:
        items = client.base.items
        items.create_index("key", unique=True)
        assert items.index_information()["key_1"]["key"] == [("key", 1)]
        items.insert_one({"key": 1})
        with pytest.raises(DuplicateKeyError):
            items.insert_one({"key": 1})
        with pytest.raises(BulkWriteError):
            items.insert_many([{"key": 2}, {"key": 1}, {"key": 3}])
        assert sorted(items.distinct("key")) == [1, 2]


def test_large_files(server):
    with connect(server) as client:
        files = gridfs.GridFS(client.base)
        assert files.get(files.put(b"x" * 3_000_000)).read() == b"x" * 3_000_000


def test_each_is_claimed_once(server):
    claimed = []

    def claim():
        with connect(server) as client:
            change = {"$set": {"state": "taken"}}
            while found := client.base.items.find_one_and_update({"state": "free"}, change, sort=[("n", 1)]):
                claimed.append(found["n"])

    with connect(server) as client:
        client.base.items.insert_many([{"n": n, "state": "free"} for n in range(60)])
    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(claimed) == Counter(range(60))


@pytest.mark.slow
def test_a_server_that_is_away(server):
    with connect(server, serverSelectionTimeoutMS=3000) as client:
        client.base.items.insert_one({"n": 1})
        server.pause()
        with pytest.raises(ConnectionFailure):
            client.base.items.count_documents({})
        server.resume()
        assert client.base.items.count_documents({}) == 1
