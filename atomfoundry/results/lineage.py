"""Where a result came from, and what came of it: walks over the stored outputs, one query a generation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atomfoundry.results.lineage_graph import (
    POINTS,
    READ,
    REPLACES,
    SPAWNED,
    Key,
    LineageEdge,
    LineageGraph,
    LineageNode,
    node_of,
    references_in,
)

if TYPE_CHECKING:
    from atomfoundry.results.database import ResultsDB

LINK_FIELDS = ("inputs.uuid", "output.provenance.inputs.uuid", "metadata.spawned_by.uuid")
"""Fields of a stored job document that name what it came from; a walk to descendants asks for them."""

BATCH = 400
"""uuids in one query; an embedded database looks up at most 500 values by an index."""

_HEAVY = (
    "element_metrics",
    "failures",
    "history",
    "points",
    "records",
    "reference_records",
    "rejected",
    "trajectories",
)
"""Long lists of documents that say nothing about lineage."""

LEAVE_OUT = {f"output.{name}": 0 for name in _HEAVY}
"""Projection of a stored job document to what a walk needs."""


@dataclass(frozen=True)
class Record:
    """A stored output as a walk sees it."""

    node: LineageNode
    links: tuple[tuple[str, int | None, str], ...]
    """uuid, index (None: the last one there is) and kind of what it came from."""
    spawner: str = ""
    """uuid of the job that made this job while it ran."""


def _record(document: dict) -> Record:
    output = document.get("output")
    node = node_of(document)
    reads = [*(node.provenance.get("inputs") or []), *(document.get("inputs") or [])]
    links: list[tuple[str, int | None, str]] = [(read["uuid"], read["index"], READ) for read in reads]
    links += [(uuid, None, POINTS) for uuid in references_in(output)]
    maker = (document.get("metadata") or {}).get("spawned_by") or {}
    if document["index"] > 1:
        links.append((document["uuid"], document["index"] - 1, REPLACES))
    elif maker:
        links.append((maker["uuid"], maker["index"], SPAWNED))
    return Record(node, tuple(dict.fromkeys(links)), maker.get("uuid", ""))


class OutputReader:
    """Stored outputs, read in batches and remembered for the length of one walk.

    Parameters
    ----------
    db
        The results.
    """

    def __init__(self, db: ResultsDB) -> None:
        self.db = db
        # without jobflow's wrapper: nothing of an additional store is needed
        self.store = db.store.docs_store
        self._known: dict[str, dict[int, Record]] = {}

    def load(self, uuids: Iterable[str]) -> None:
        """Read all outputs of some jobs that have not been read yet."""
        missing = [uuid for uuid in dict.fromkeys(uuids) if uuid not in self._known]
        for uuid in missing:
            self._known[uuid] = {}
        for document in self._query("uuid", missing):
            self._known[document["uuid"]][document["index"]] = _record(document)

    def _query(self, field: str, values: list[str], more: dict | None = None) -> Iterator[dict]:
        for start in range(0, len(values), BATCH):
            criteria = {field: {"$in": values[start : start + BATCH]}, **(more or {})}
            yield from self.store.query(criteria, dict(LEAVE_OUT))

    def record(self, key: Key) -> Record | None:
        """Return an output, or None if there is none."""
        self.load([key[0]])
        return self._known[key[0]].get(key[1])

    def last_index(self, uuid: str) -> int:
        """Return the index of a job's last output; 1 if it has none."""
        self.load([uuid])
        return max(self._known[uuid], default=1)

    def parents(self, record: Record) -> Iterator[tuple[Key, str]]:
        """Yield what an output came from, each once."""
        seen = {record.node.key}
        for uuid, index, how in record.links:
            key = (uuid, self.last_index(uuid) if index is None else index)
            if key not in seen:
                seen.add(key)
                yield key, how

    def children(self, keys: Iterable[Key]) -> Iterator[LineageEdge]:
        """Yield how what came of some outputs directly came of them: one query a field and batch of outputs.

        Parameters
        ----------
        keys
            Outputs of one generation.
        """
        wanted = set(keys)
        uuids = list(dict.fromkeys(uuid for uuid, _ in keys))
        self.load(uuids)
        found = {record.node.key: record for uuid in uuids for record in self._known[uuid].values()}
        for field in LINK_FIELDS:
            # what a job read stands in its provenance as well; asked only where a store of another kind kept it
            more = {"inputs": {"$exists": False}} if field.startswith("output.") else {}
            for document in self._query(field, uuids, more):
                record = _record(document)
                found.setdefault(record.node.key, record)
        # A job that was replaced by a flow holds references to jobs of that flow, which it has made itself.
        spawners = dict.fromkeys(r.spawner for uuid in uuids for r in self._known[uuid].values() if r.spawner)
        self.load(spawners)
        for uuid in spawners:
            for record in self._known[uuid].values():
                found.setdefault(record.node.key, record)
        for child, record in found.items():
            seen = {child}
            for uuid, index, how in record.links:
                # those that lead elsewhere need not be looked up
                if uuid in self._known:
                    parent = (uuid, self.last_index(uuid) if index is None else index)
                    if parent in wanted and parent not in seen:
                        seen.add(parent)
                        yield LineageEdge(child, parent, how)

    def node(self, key: Key) -> LineageNode:
        """Return an output's node, one that says it is missing if there is none."""
        record = self.record(key)
        return record.node if record else LineageNode(*key, name="", kind="", missing=True)


def _start(reader: OutputReader, uuid: str) -> str:
    return reader.db.find_uuid(uuid)


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
    reader = OutputReader(db)
    uuid = _start(reader, uuid)
    root = (uuid, reader.last_index(uuid) if index is None else index)
    nodes, edges = walk_back(reader, [root])
    return LineageGraph(root, nodes, edges)


def walk_back(reader: OutputReader, roots: Iterable[Key]) -> tuple[dict[Key, LineageNode], list[LineageEdge]]:
    """Collect outputs and all that they came from, generation by generation.

    Parameters
    ----------
    reader
        Reads the outputs.
    roots
        Where to start.
    """
    nodes: dict[Key, LineageNode] = {}
    edges: list[LineageEdge] = []
    generation = dict.fromkeys(roots)
    while generation:
        reader.load(uuid for uuid, _ in generation)
        records = [record for key in generation if (record := reader.record(key))]
        # where references lead is asked for all of them at once
        reader.load(uuid for record in records for uuid, index, _ in record.links if index is None)
        following: dict[Key, Any] = {}
        for key in generation:
            nodes[key] = reader.node(key)
        for record in records:
            for parent, how in reader.parents(record):
                edges.append(LineageEdge(record.node.key, parent, how))
                if parent not in nodes:
                    following[parent] = None
        generation = following
    return nodes, edges


def descendants(db: ResultsDB, uuid: str, index: int | None = None) -> LineageGraph:
    """Walk from an output forward to everything that came of it.

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
    reader = OutputReader(db)
    root = (_start(reader, uuid), 1 if index is None else index)
    nodes, edges = walk_forward(reader, [root])
    return LineageGraph(root, nodes, edges, towards_parents=False)


def walk_forward(reader: OutputReader, roots: Iterable[Key]) -> tuple[dict[Key, LineageNode], list[LineageEdge]]:
    """Collect outputs and all that came of them, generation by generation.

    Parameters
    ----------
    reader
        Reads the outputs.
    roots
        Where to start.
    """
    nodes: dict[Key, LineageNode] = {}
    edges: list[LineageEdge] = []
    generation = dict.fromkeys(roots)
    while generation:
        reader.load(uuid for uuid, _ in generation)
        for key in generation:
            nodes[key] = reader.node(key)
        following: dict[Key, Any] = {}
        for edge in reader.children(list(generation)):
            edges.append(edge)
            if edge.child not in nodes:
                following[edge.child] = None
        generation = following
    return nodes, edges
