"""A MongoDB server for tests that need several processes: mongomock behind MongoDB's wire protocol.

pymongo talks to it as to a server without replicas. Every command is carried out alone, so that what MongoDB does
atomically is atomic here too. The content lies in memory; ``pause`` takes the server off the network, as a restart
does, and keeps the content.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import Any

import bson
import mongomock
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure, PyMongoError

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
MORE_TO_COME, HAS_CHECKSUM = 2, 1
HEADER = struct.Struct("<iiii")
Document = dict[str, Any]


class MongoServer:
    """A server on a free port of this machine, in threads of this process."""

    def __init__(self) -> None:
        self._client: Any = mongomock.MongoClient()
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self.port = 0
        self.commands: dict[str, int] = {}
        """How often each command came."""
        self.resume()

    def __enter__(self) -> MongoServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pause()

    def pause(self) -> None:
        """Close every connection and accept none."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            for connection in list(self._server.connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server = None

    def resume(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, command: Document) -> Document:
        """Carry out a command.

        Parameters
        ----------
        command
            As pymongo sends it.
        """
        name = next(iter(command))
        with self._lock:
            self.commands[name] = self.commands.get(name, 0) + 1
            action = _ACTIONS.get(name.lower())
            if action is None:
                return {"ok": 0.0, "errmsg": f"no such command: '{name}'", "code": 59, "codeName": "CommandNotFound"}
            try:
                return {**action(self._client[command.get("$db", "admin")], command), "ok": 1.0}
            except (PyMongoError, NotImplementedError) as error:
                details = getattr(error, "details", None) or {}
                code = getattr(error, "code", None) or details.get("code") or 8000
                return {"ok": 0.0, "errmsg": f"{type(error).__name__}: {error}", "code": code}


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], owner: MongoServer) -> None:
        self.owner = owner
        self.connections: set[socket.socket] = set()
        super().__init__(address, _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed in these tests."""


class _Connection(socketserver.BaseRequestHandler):
    server: _Server
    _numbers = count(1)

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.connections.add(self.request)
        try:
            while header := self._read(HEADER.size):
                length, number, _, code = HEADER.unpack(header)
                body = self._read(length - HEADER.size)
                if code == OP_QUERY:  # the first word of a client
                    end = body.index(b"\0", 4) + 1
                    answer = self.server.owner.answer(bson.decode(body[end + 8 :]))
                    self._send(number, OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(answer))
                elif code == OP_MSG:
                    (flags,) = struct.unpack_from("<I", body)
                    answer = self.server.owner.answer(_command(body, 4 if flags & HAS_CHECKSUM else 0))
                    if not flags & MORE_TO_COME:
                        self._send(number, OP_MSG, struct.pack("<IB", 0, 0) + bson.encode(answer))
                else:
                    return
        finally:
            self.server.connections.discard(self.request)

    def _read(self, n: int) -> bytes:
        parts = []
        while n and (part := self.request.recv(n)):
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def _send(self, number: int, code: int, body: bytes) -> None:
        self.request.sendall(HEADER.pack(HEADER.size + len(body), next(self._numbers), number, code) + body)


def _command(body: bytes, checksum: int) -> Document:
    """Put the sections of a message together."""
    command: Document = {}
    more: Document = {}
    at = 4
    while at < len(body) - checksum:
        kind = body[at]
        (size,) = struct.unpack_from("<i", body, at + 1)
        section = body[at + 1 : at + 1 + size]
        if kind == 0:
            command = bson.decode(section)
        else:
            end = section.index(b"\0", 4)
            more[section[4:end].decode()] = bson.decode_all(section[end + 1 :])
        at += 1 + size
    return {**command, **more}


# -- commands ----------------------------------------------------------------------------------------------------


def _hello(database: Any, command: Document) -> Document:
    return {
        "helloOk": True,
        "ismaster": True,
        "isWritablePrimary": True,
        "maxBsonObjectSize": 16 * 1024**2,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "localTime": datetime.now(),
        "minWireVersion": 0,
        "maxWireVersion": 21,
        "readOnly": False,
    }


def _nothing(database: Any, command: Document) -> Document:
    return {}


def _cursor(documents: Any, database: Any, name: str) -> Document:
    return {"cursor": {"id": bson.Int64(0), "ns": f"{database.name}.{name}", "firstBatch": list(documents)}}


def _find(database: Any, command: Document) -> Document:
    cursor = database[command["find"]].find(command.get("filter") or {}, command.get("projection"))
    if command.get("sort"):
        cursor = cursor.sort(list(command["sort"].items()))
    cursor = cursor.skip(command.get("skip") or 0).limit(abs(command.get("limit") or 0))
    return _cursor(cursor, database, command["find"])


def _aggregate(database: Any, command: Document) -> Document:
    return _cursor(database[command["aggregate"]].aggregate(command["pipeline"]), database, command["aggregate"])


def _write(command: Document, items: list[Document], one: Callable[[int, Document], None]) -> Document:
    errors = []
    for number, item in enumerate(items):
        try:
            one(number, item)
        except (DuplicateKeyError, BulkWriteError, OperationFailure) as error:
            code = 11000 if isinstance(error, DuplicateKeyError) else getattr(error, "code", None) or 8000
            errors.append({"index": number, "code": code, "errmsg": str(error)})
            if command.get("ordered", True):
                break
    return {"writeErrors": errors} if errors else {}


def _insert(database: Any, command: Document) -> Document:
    collection, done = database[command["insert"]], []

    def one(number: int, document: Document) -> None:
        done.append(collection.insert_one(document).inserted_id)

    answer = _write(command, command["documents"], one)
    return {**answer, "n": len(done)}


def _update(database: Any, command: Document) -> Document:
    collection, counts = database[command["update"]], {"n": 0, "nModified": 0}
    upserted = []

    def one(number: int, item: Document) -> None:
        change, more = item["u"], {"upsert": item.get("upsert", False)}
        if isinstance(change, dict) and not next(iter(change), "$").startswith("$"):
            done = collection.replace_one(item["q"], change, **more)
        elif item.get("multi"):
            done = collection.update_many(item["q"], change, **more)
        else:
            done = collection.update_one(item["q"], change, **more)
        counts["n"] += done.matched_count or (done.upserted_id is not None)
        counts["nModified"] += done.modified_count or 0
        if done.upserted_id is not None:
            upserted.append({"index": number, "_id": done.upserted_id})

    answer = _write(command, command["updates"], one)
    return {**answer, **counts, **({"upserted": upserted} if upserted else {})}


def _delete(database: Any, command: Document) -> Document:
    collection, counts = database[command["delete"]], {"n": 0}

    def one(number: int, item: Document) -> None:
        method = collection.delete_one if item.get("limit") else collection.delete_many
        counts["n"] += method(item["q"]).deleted_count

    answer = _write(command, command["deletes"], one)
    return {**answer, **counts}


def _find_and_modify(database: Any, command: Document) -> Document:
    collection = database[command.get("findAndModify") or command["findandmodify"]]
    query = command.get("query") or {}
    more: Document = {"projection": command.get("fields"), "sort": list((command.get("sort") or {}).items()) or None}
    if command.get("remove"):
        return {"value": collection.find_one_and_delete(query, **more)}
    change = command["update"]
    more |= {"upsert": command.get("upsert", False), "return_document": bool(command.get("new"))}
    replace = not next(iter(change), "$").startswith("$")
    method = collection.find_one_and_replace if replace else collection.find_one_and_update
    return {"value": method(query, change, **more)}


def _count(database: Any, command: Document) -> Document:
    return {"n": database[command["count"]].count_documents(command.get("query") or {})}


def _distinct(database: Any, command: Document) -> Document:
    return {"values": database[command["distinct"]].distinct(command["key"], command.get("query") or {})}


def _create_indexes(database: Any, command: Document) -> Document:
    for index in command["indexes"]:
        options = {name: index[name] for name in ("name", "unique", "sparse") if index.get(name)}
        database[command["createIndexes"]].create_index(list(index["key"].items()), **options)
    return {}


def _list_indexes(database: Any, command: Document) -> Document:
    found = database[command["listIndexes"]].index_information()
    documents = [{"v": 2, "name": name, "key": dict(index["key"])} for name, index in found.items()]
    return _cursor(documents, database, command["listIndexes"])


def _list_collections(database: Any, command: Document) -> Document:
    documents = [{"name": name, "type": "collection"} for name in database.list_collection_names()]
    return _cursor(documents, database, "$cmd.listCollections")


def _drop(database: Any, command: Document) -> Document:
    database.drop_collection(command["drop"])
    return {}


def _drop_database(database: Any, command: Document) -> Document:
    for name in database.list_collection_names():
        database.drop_collection(name)
    return {}


def _build_info(database: Any, command: Document) -> Document:
    return {"version": "7.0.0", "versionArray": [7, 0, 0, 0]}


_ACTIONS: dict[str, Callable[[Any, Document], Document]] = {
    **dict.fromkeys(("hello", "ismaster"), _hello),
    **dict.fromkeys(("ping", "endsessions", "killcursors"), _nothing),
    "buildinfo": _build_info,
    "find": _find,
    "aggregate": _aggregate,
    "insert": _insert,
    "update": _update,
    "delete": _delete,
    "findandmodify": _find_and_modify,
    "count": _count,
    "distinct": _distinct,
    "createindexes": _create_indexes,
    "listindexes": _list_indexes,
    "listcollections": _list_collections,
    "drop": _drop,
    "dropdatabase": _drop_database,
}
