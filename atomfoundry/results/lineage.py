"""Where a result came from, and what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.results.database import ResultsDB

Key = tuple[str, int]
"""uuid and index of a job output."""

READ = "read"
POINTS = "points to"
REPLACES = "replaces"
SPAWNED = "made by"


@dataclass(frozen=True)
class LineageNode:
    """One job output."""

    uuid: str
    index: int
    name: str
    kind: str
    """Document class, or an empty text."""
    completed_at: str = ""
    missing: bool = False
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)
    artifacts: dict[str, str] = field(default_factory=dict, compare=False)
    """Field of the document -> sha256."""

    @property
    def key(self) -> Key:
        """The uuid and index."""
        return self.uuid, self.index

    @property
    def label(self) -> str:
        """Short text for people."""
        what = f"{self.name} ({self.kind})" if self.kind else self.name
        number = f"/{self.index}" if self.index > 1 else ""
        return f"{what} {self.uuid[:8]}{number}" + (" missing" if self.missing else "")


@dataclass(frozen=True)
class LineageEdge:
    """One output came from another."""

    child: Key
    parent: Key
    how: str
    """'read', 'points to', 'replaces' or 'made by'."""


@dataclass(frozen=True)
class LineageGraph:
    """Outputs and how they came from each other."""

    root: Key
    nodes: dict[Key, LineageNode]
    edges: list[LineageEdge]
    towards_parents: bool = True
    """Whether the root is the last descendant (ancestors were walked) or the first ancestor."""

    def neighbours(self, key: Key) -> list[tuple[LineageNode, str]]:
        """Return the next outputs away from the root, and how they are joined.

        Parameters
        ----------
        key
            An output of this graph.
        """
        if self.towards_parents:
            return [(self.nodes[edge.parent], edge.how) for edge in self.edges if edge.child == key]
        return [(self.nodes[edge.child], edge.how) for edge in self.edges if edge.parent == key]

    def of_kind(self, kind: str) -> list[LineageNode]:
        """Return the outputs of one document class.

        Parameters
        ----------
        kind
            Such as ``"StructureSetDoc"``.
        """
        return [node for node in self.nodes.values() if node.kind == kind]


def references_in(value: Any) -> list[str]:
    """List the uuids of the unresolved references in stored content, in order.

    Parameters
    ----------
    value
        Stored content.
    """
    found: dict[str, None] = {}

    def walk(item: Any) -> None:
        if isinstance(item, dict):
            if item.get("@class") == "OutputReference" and "uuid" in item:
                found[item["uuid"]] = None
                return
            for part in item.values():
                walk(part)
        elif isinstance(item, list):
            for part in item:
                walk(part)

    walk(value)
    return list(found)


def _artifacts(output: dict) -> dict[str, str]:
    return {
        name: value["sha256"]
        for name, value in output.items()
        if isinstance(value, dict) and {"uri", "sha256", "size"} <= set(value)
    }


def _node(document: dict) -> LineageNode:
    output = document.get("output")
    content = output if isinstance(output, dict) else {}
    return LineageNode(
        uuid=document["uuid"],
        index=document["index"],
        name=document.get("name") or "",
        kind="" if content.get("@class") == "OutputReference" else content.get("@class", ""),
        completed_at=document.get("completed_at") or "",
        provenance=content.get("provenance") or {},
        artifacts=_artifacts(content),
    )


def _parents(document: dict, last_index: Any) -> Iterator[tuple[Key, str]]:
    """Yield what a stored document came from."""
    output = document.get("output")
    provenance = (output.get("provenance") if isinstance(output, dict) else None) or {}
    for reference in [*(provenance.get("inputs") or []), *(document.get("inputs") or [])]:
        yield (reference["uuid"], reference["index"]), READ
    for uuid in references_in(output):
        yield (uuid, last_index(uuid)), POINTS
    if document["index"] > 1:
        yield (document["uuid"], document["index"] - 1), REPLACES
    else:
        maker = (document.get("metadata") or {}).get("spawned_by")
        if maker:
            yield (maker["uuid"], maker["index"]), SPAWNED


class _Walker:
    def __init__(self, db: ResultsDB) -> None:
        self.db = db
        self._last: dict[str, int] = {}

    def last_index(self, uuid: str) -> int:
        if uuid not in self._last:
            found = self.db.store.query_one({"uuid": uuid}, ["index"], sort={"index": -1})
            self._last[uuid] = found["index"] if found else 1
        return self._last[uuid]

    def document(self, key: Key) -> dict | None:
        return self.db.store.query_one({"uuid": key[0], "index": key[1]})

    def start(self, uuid: str, index: int | None) -> Key:
        uuid = self.db.find_uuid(uuid)
        return uuid, self.last_index(uuid) if index is None else index


def lineage(db: ResultsDB, uuid: str, index: int | None = None) -> LineageGraph:
    """Walk from an output back to everything it came from.

    Breadth first, over what each job read, over references that an output still holds (of jobs that were
    replaced by a flow), and from what a job made while it ran to that job.

    Parameters
    ----------
    db
        The results.
    uuid
        The job, or the beginning of its uuid.
    index
        Which of its outputs, default the last.

    Raises
    ------
    ProjectError
        If there is no such output.
    """
    walker = _Walker(db)
    root = walker.start(uuid, index)
    nodes: dict[Key, LineageNode] = {}
    edges: dict[tuple[Key, Key], LineageEdge] = {}
    queue = deque([root])
    while queue:
        key = queue.popleft()
        if key in nodes:
            continue
        document = walker.document(key)
        if document is None:
            nodes[key] = LineageNode(*key, name="", kind="", missing=True)
            continue
        nodes[key] = _node(document)
        for parent, how in _parents(document, walker.last_index):
            if parent != key:
                edges.setdefault((key, parent), LineageEdge(key, parent, how))
                queue.append(parent)
    return LineageGraph(root, nodes, list(edges.values()))


def descendants(db: ResultsDB, uuid: str, index: int | None = None) -> LineageGraph:
    """Walk from an output forward to everything that came of it; reads all documents once.

    Parameters
    ----------
    db
        The results.
    uuid
        The job, or the beginning of its uuid.
    index
        Which of its outputs, default the first.

    Raises
    ------
    ProjectError
        If there is no such output.
    """
    walker = _Walker(db)
    root = walker.start(uuid, 1 if index is None else index)
    known: dict[Key, LineageNode] = {}
    children: dict[Key, dict[Key, str]] = {}
    for document in db.store.query({}):
        key = (document["uuid"], document["index"])
        known[key] = _node(document)
        for parent, how in _parents(document, walker.last_index):
            children.setdefault(parent, {}).setdefault(key, how)
    nodes: dict[Key, LineageNode] = {}
    edges = []
    queue = deque([root])
    while queue:
        key = queue.popleft()
        if key in nodes:
            continue
        nodes[key] = known.get(key) or LineageNode(*key, name="", kind="", missing=True)
        for child, how in children.get(key, {}).items():
            if child != key:
                edges.append(LineageEdge(child, key, how))
                queue.append(child)
    return LineageGraph(root, nodes, edges, towards_parents=False)
