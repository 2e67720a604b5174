"""Walks against a plain reading of all documents, on graphs made at random."""

from __future__ import annotations

import random

import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore

from atomfoundry.results import Project, ResultsDB, open_results
from atomfoundry.results.lineage import LINK_FIELDS, OutputReader, descendants, lineage, walk_back, walk_forward
from atomfoundry.results.lineage_graph import POINTS, READ, REPLACES, SPAWNED, LineageEdge


def reference(uuid):
    return {"@class": "OutputReference", "@module": "jobflow", "uuid": uuid, "attributes": []}


def random_documents(seed: int, n: int = 40) -> list[dict]:
    """Jobs that read, are replaced by flows that they made, detours, additions, and outputs that are lost."""
    rng = random.Random(seed)
    documents: list[dict] = []

    def add(uuid, index=1, output=None, reads=(), maker=None, plain=False):
        inputs = [{"uuid": u, "index": i} for u, i in reads]
        document = {"uuid": uuid, "index": index, "name": uuid, "output": output, "metadata": {}}
        if plain:  # as a store of another kind has it
            document["output"] = {"@class": "BenchmarkDoc", "provenance": {"inputs": inputs}}
        else:
            document["inputs"] = inputs
        if maker:
            document["metadata"]["spawned_by"] = {"uuid": maker[0], "index": maker[1]}
        documents.append(document)

    def some():
        known = [(d["uuid"], d["index"]) for d in documents]
        return rng.sample(known, min(len(known), rng.randint(0, 3)))

    number = 0
    while len(documents) < n:
        number += 1
        uuid = f"job{number}"
        kind = rng.choice(["read", "plain", "replace", "replace", "addition", "list"])
        if kind in ("read", "plain"):
            add(uuid, reads=some(), plain=kind == "plain")
            continue
        children = [f"{uuid}-{part}" for part in range(rng.randint(1, 3))]
        output = {
            "addition": {"value": 1, "more": [reference(children[-1])]},
            "list": [{"@class": "AlignmentDoc", "provenance": {"inputs": []}}],
        }.get(kind)
        add(uuid, reads=some(), output=output)
        for child in children:
            add(child, reads=some(), maker=(uuid, 1))
        if kind == "replace":
            add(uuid, index=2, output=reference(children[-1]), maker=(uuid, 1))
    lost = rng.choice(documents)
    return [document for document in documents if document is not lost]


def all_edges(documents: list[dict]) -> set[LineageEdge]:
    """What came from what, by looking at every document."""
    last: dict[str, int] = {}
    for document in documents:
        last[document["uuid"]] = max(last.get(document["uuid"], 1), document["index"])

    def pointers(value):
        if isinstance(value, dict):
            if value.get("@class") == "OutputReference":
                yield value["uuid"]
            else:
                for part in value.values():
                    yield from pointers(part)
        elif isinstance(value, list):
            for part in value:
                yield from pointers(part)

    edges = {}
    for document in documents:
        key = (document["uuid"], document["index"])
        output = document["output"]
        kept = output.get("provenance", {}).get("inputs", []) if isinstance(output, dict) else []
        found = [((r["uuid"], r["index"]), READ) for r in [*kept, *document.get("inputs", [])]]
        found += [((uuid, last.get(uuid, 1)), POINTS) for uuid in pointers(output)]
        maker = document["metadata"].get("spawned_by")
        if document["index"] > 1:
            found.append(((document["uuid"], document["index"] - 1), REPLACES))
        elif maker:
            found.append(((maker["uuid"], maker["index"]), SPAWNED))
        for parent, how in found:
            if parent != key:
                edges.setdefault((key, parent), LineageEdge(key, parent, how))
    return set(edges.values())


def reached(edges, root, *, forward):
    nodes, queue = {root}, [root]
    while queue:
        key = queue.pop()
        for edge in edges:
            near, far = (edge.parent, edge.child) if forward else (edge.child, edge.parent)
            if near == key and far not in nodes:
                nodes.add(far)
                queue.append(far)
    inside = {e for e in edges if (e.parent in nodes and forward) or (e.child in nodes and not forward)}
    return nodes, inside


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_walks_find_exactly_what_a_reading_of_everything_finds(tmp_path, seed, kind):
    documents = random_documents(seed)
    if kind == "sqlite":
        db = open_results(Project.open_or_create(tmp_path / "p"))
    else:
        db = ResultsDB(JobStore(MemoryStore()))
    db.store.docs_store.update([dict(document) for document in documents], key=["uuid", "index"])
    edges = all_edges(documents)
    for document in documents[::4]:
        key = (document["uuid"], document["index"])
        for walk, forward in ((lineage, False), (descendants, True)):
            graph = walk(db, *key)
            nodes, inside = reached(edges, key, forward=forward)
            assert set(graph.nodes) == nodes
            assert len(graph.edges) == len(set(graph.edges))
            assert set(graph.edges) == inside


def test_a_walk_asks_once_a_generation_and_not_once_a_node(tmp_path, monkeypatch):
    db = open_results(Project.open_or_create(tmp_path / "p"))
    documents = [{"uuid": "root", "index": 1, "name": "root", "output": None, "inputs": []}]
    depth, width = 4, 60
    for level in range(depth):
        for number in range(width):
            parent = "root" if level == 0 else f"{level - 1}-{number}"
            documents.append(
                {
                    "uuid": f"{level}-{number}",
                    "index": 1,
                    "name": "x",
                    "output": None,
                    "inputs": [{"uuid": parent, "index": 1}],
                }
            )
    db.store.docs_store.update(documents, key=["uuid", "index"])
    asked = []
    query = db.store.docs_store.query

    def counting(criteria=None, *args, **kwargs):
        asked.append(criteria)
        return query(criteria, *args, **kwargs)

    monkeypatch.setattr(db.store.docs_store, "query", counting)
    nodes, edges = walk_forward(OutputReader(db), [("root", 1)])
    assert (len(nodes), len(edges)) == (1 + depth * width, depth * width)
    # every generation: its outputs by their uuids, and their children by each of the fields that name them
    assert len(asked) == (depth + 1) * (1 + len(LINK_FIELDS))
    for criteria in asked:
        assert len([field for field in criteria if field in ("uuid", *LINK_FIELDS)]) == 1
    asked.clear()
    nodes, _ = walk_back(OutputReader(db), [(f"{depth - 1}-{number}", 1) for number in range(width)])
    assert len(nodes) == 1 + depth * width
    assert len(asked) == depth + 1
