"""Moving a project between SQLite and MongoDB: every document, label, blob and artifact, checked by hashes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
from bson import json_util

from atomfoundry.errors import ArtifactError, ProjectError
from atomfoundry.results.project import PROJECT_FILE, DatabaseKind, Project

if TYPE_CHECKING:
    from maggma.core import Store

    from atomfoundry.results.mongodb import MongoConnection

MARK_FILE = "migration.json"
BATCH_DOCUMENTS = 1000
BATCH_BYTES = 16_000_000

_FIREWORKS = {"fireworks", "launches", "workflows", "fw_id_assigner", "offline_runs"}
_SUM = 2**256


@dataclass
class Fingerprint:
    """Number of documents, and a hash that does not depend on their order."""

    count: int = 0
    total: int = 0

    def add(self, blob: bytes) -> None:
        """Add one document.

        Parameters
        ----------
        blob
            Its BSON without ``_id``.
        """
        self.count += 1
        self.total = (self.total + int.from_bytes(hashlib.sha256(blob).digest(), "big")) % _SUM

    @property
    def sha256(self) -> str:
        """The hash: the sum of all documents' sha256, modulo 2^256."""
        return f"{self.total:064x}"


@dataclass
class CollectionReport:
    """What was found on both sides after copying."""

    count: int
    sha256: str
    """Of the documents in the source and, because they are the same, in the target."""


@dataclass
class MigrationReport:
    """What a migration moved; on both sides the same, else it would have failed."""

    source: str
    target: str
    source_database: DatabaseKind
    target_database: DatabaseKind
    collections: dict[str, CollectionReport] = field(default_factory=dict)
    artifacts: int = 0
    artifact_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def migrate(
    source: str | Path | Project,
    target: str | Path,
    *,
    database: DatabaseKind | None = None,
    connection: MongoConnection | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> MigrationReport:
    """Copy a project's outputs, labels, blobs and artifacts into a new project folder of the other kind.

    The source is only read, and nothing may run in it. The queue and the working folders stay: finish runs
    before, or submit their flows again afterwards; what is done is found by its uuid and labels are found by
    frame and level. Interrupted, the same call goes on. At the end both sides are read and compared.

    Parameters
    ----------
    source
        A project, or its folder.
    target
        A new or empty folder, or the one of an interrupted migration of the same source.
    database
        Kind of the target; default: the other one.
    connection
        For "mongodb": where the database is; default: ``cluster/my_launchpad.yaml`` of target or source.
    progress
        Called with what is copied and how many of it are done.

    Returns
    -------
    MigrationReport
        Counts and hashes.

    Raises
    ------
    ProjectError
        If the target has other content, or both sides differ at the end.
    ArtifactError
        If an artifact of the source is not what its hash says.
    """
    origin = source if isinstance(source, Project) else Project.open(source)
    kind: DatabaseKind = database or ("mongodb" if origin.database == "sqlite" else "sqlite")
    goal = _prepare_target(origin, Path(target).expanduser().resolve(), kind, connection)
    report = MigrationReport(str(origin.path), str(goal.path), origin.database, goal.database)
    tell = progress or (lambda what, number: None)
    names = _collections(origin)
    for name in names:
        _copy_collection(origin, goal, name, tell)
    for name in names:
        report.collections[name] = _compare(origin, goal, name)
    report.artifacts, report.artifact_bytes = _copy_artifacts(origin, goal, tell)
    _write_mark(goal, {**_mark(goal), "state": "done", "report": report.as_dict()})
    return report


# -- the target --------------------------------------------------------------------------------------------------


def _prepare_target(origin: Project, path: Path, kind: DatabaseKind, connection: MongoConnection | None) -> Project:
    if path == origin.path:
        raise ProjectError(f"{path} is source and target.", remedy="Give a new folder as the target.")
    if kind == "mongodb" and connection is None and not Project(path).launchpad_path.is_file():
        # Also where the source has it only for FireWorks.
        connection = origin.mongodb()
    is_new = not (path / PROJECT_FILE).is_file()
    goal = Project.open_or_create(path, database=kind, connection=connection if kind == "mongodb" else None)
    mark = _mark(goal)
    if mark:
        if mark["source"] != _identity(origin):
            raise ProjectError(
                f"{path} was migrated from {goal.metadata.get('migrated_from')}.", remedy="Give a new or empty folder."
            )
        if mark["state"] == "done":
            _write_mark(goal, {"source": mark["source"], "state": "copying", "positions": {}})
        return goal
    for name in _collections(origin):
        store = _store(goal, name, origin)
        number = store.count()
        store.close()
        if number:
            if is_new:
                (path / PROJECT_FILE).unlink()
            raise ProjectError(
                f"{store.name} holds {number} documents already.",
                remedy="Give a new or empty folder and database; a migration adds to nothing.",
            )
    record = {**goal.metadata, "migrated_from": str(origin.path)}
    if is_new:
        record["project_id"] = origin.project_id or goal.project_id
    goal._write(record)
    _write_mark(goal, {"source": _identity(origin), "state": "copying", "positions": {}})
    return goal


def _identity(project: Project) -> str:
    return project.project_id or str(project.path)


def _mark(project: Project) -> dict[str, Any]:
    path = project.path / MARK_FILE
    if not path.is_file():
        return {}
    try:
        return json_util.loads(path.read_text())
    except ValueError as error:
        raise ProjectError(f"{path} is damaged: {error}.", remedy="Remove the folder and begin again.") from error


def _write_mark(project: Project, mark: dict[str, Any]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{MARK_FILE}-", dir=project.path)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(json.loads(json_util.dumps(mark)), indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(project.path / MARK_FILE)


# -- documents ---------------------------------------------------------------------------------------------------


def _collections(project: Project) -> list[str]:
    """Return outputs, labels, and the blobs of additional stores."""
    names = ["outputs", "labels"]
    if project.database == "sqlite":
        store = project.document_store("outputs")
        sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'docs:%'"
        found = [row[0].removeprefix("docs:") for row in store._fetch(sql, [])]  # type: ignore[attr-defined]
        store.close()
        return names + sorted(set(found) - set(names))
    database = project.mongodb().database()
    others = set(database.list_collection_names()) - set(names) - _FIREWORKS
    # Other programs may keep theirs in the same database; jobflow's blobs are known by their key.
    return names + sorted(name for name in others if database[name].find_one({"blob_uuid": {"$exists": True}}))


def _store(project: Project, name: str, origin: Project) -> Store:
    """Return the connected store of a collection, made as in the source."""
    if name in ("outputs", "labels"):
        return project.document_store(name)  # type: ignore[arg-type]
    unique = _unique_fields(origin, name)
    store: Store
    if project.database == "mongodb":
        from atomfoundry.results.mongo_store import FoundryMongoStore

        store = FoundryMongoStore(project.launchpad_path, name, key=unique[0], unique_fields=unique)
    else:
        from atomfoundry.results.sqlite_store import SQLiteStore

        store = SQLiteStore(project.database_path, name, key=unique[0], unique_fields=unique, index_fields=())
    store.connect()
    return store


def _unique_fields(origin: Project, name: str) -> list[str]:
    if origin.database == "mongodb":
        return ["blob_uuid"]
    store = origin.document_store("outputs")
    listed = store._fetch(f'PRAGMA index_list("docs:{name}")', [])  # type: ignore[attr-defined]
    own = next(row[1] for row in listed if row[3] == "u")
    fields = [row[2] for row in store._fetch(f'PRAGMA index_info("{own}")', [])]  # type: ignore[attr-defined]
    store.close()
    return fields


def _raw(project: Project, name: str, after: Any = None) -> Iterator[tuple[Any, bytes]]:
    """Yield (position, BSON without ``_id``) of a collection's documents, in order of position."""
    if project.database == "mongodb":
        criteria = {} if after is None else {"_id": {"$gt": after}}
        for document in project.mongodb().database()[name].find(criteria).sort("_id", 1):
            position = document.pop("_id")
            yield position, bson.encode(document)
        return
    store = project.document_store("outputs")
    try:
        position = -1 if after is None else after
        while True:
            sql = f'SELECT id, doc FROM "docs:{name}" WHERE id > ? ORDER BY id LIMIT 200'
            rows = store._fetch(sql, [position])  # type: ignore[attr-defined]
            if not rows:
                return
            yield from rows
            position = rows[-1][0]
    finally:
        store.close()


def _copy_collection(origin: Project, goal: Project, name: str, tell: Callable[[str, int], None]) -> None:
    mark = _mark(goal)
    store = _store(goal, name, origin)
    unique = list(store.unique_fields)  # type: ignore[attr-defined]
    place = mark["positions"].get(name, {})
    number = place.get("number", 0)
    batch: list[dict] = []
    size = 0

    def write(position: Any) -> None:
        nonlocal batch, size, number
        store.update(batch, key=unique)
        number += len(batch)
        batch, size = [], 0
        mark["positions"][name] = {"after": position, "number": number}
        _write_mark(goal, mark)
        tell(name, number)

    position = begin = place.get("after")
    for position, blob in _raw(origin, name, begin):
        batch.append(bson.decode(blob))
        size += len(blob)
        if len(batch) >= BATCH_DOCUMENTS or size >= BATCH_BYTES:
            write(position)
    if batch:
        write(position)
    store.close()


def _fingerprint(project: Project, name: str) -> Fingerprint:
    found = Fingerprint()
    for _, blob in _raw(project, name):
        found.add(blob)
    return found


def _compare(origin: Project, goal: Project, name: str) -> CollectionReport:
    there, here = _fingerprint(origin, name), _fingerprint(goal, name)
    if there != here:
        mark = _mark(goal)
        mark["positions"].pop(name, None)
        _write_mark(goal, mark)
        raise ProjectError(
            f"'{name}' differs after copying: {there.count} documents (sha256 {there.sha256[:16]}...) in "
            f"{origin.path}, {here.count} ({here.sha256[:16]}...) in {goal.path}.",
            remedy="Let what runs in the source end and migrate again, or remove what the target has more.",
        )
    return CollectionReport(there.count, there.sha256)


# -- artifacts ---------------------------------------------------------------------------------------------------


def _copy_artifacts(origin: Project, goal: Project, tell: Callable[[str, int], None]) -> tuple[int, int]:
    """Copy artifacts, each checked against the hash that is its address."""
    if not origin.artifacts.is_local or origin.artifacts.root == goal.artifacts.root:
        # Both projects use the same place (settings: artifacts_url).
        return 0, 0
    number = total = 0
    for path in sorted(origin.artifacts.root.glob("??/*/*")):
        if path.name.startswith(".") or path.parent.name.startswith("."):
            continue  # left by a killed process
        copied = goal.artifacts.put(path)
        if copied.sha256 != path.parent.name:
            raise ArtifactError(
                f"Artifact {path} was altered: its sha256 is {copied.sha256[:16]}....",
                remedy="Restore it from a copy of the project, or remove it; then migrate again.",
            )
        number += 1
        total += copied.size
        tell("artifacts", number)
    return number, total
