"""Cutting a flow into parts: FireWorks rewrites a whole workflow whenever one of its jobs ends, so none may be big."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

WORKFLOW_SIZE = 100
"""Jobs of one workflow; a flow with more is cut into several workflows."""


@dataclass
class Part:
    """Jobs that make one workflow."""

    nodes: list[int]
    """In an order in which parents come before children."""
    needs: dict[int, frozenset[int]] = field(default_factory=dict)
    """Node -> parts that must have ended before it; nodes that need none are left out."""
    exports: list[int] = field(default_factory=list)
    """Nodes that have children in other parts."""


def cut(parents: Sequence[Sequence[int]], size: int = WORKFLOW_SIZE) -> list[Part]:
    """Cut a directed acyclic graph into parts of bounded size.

    Chains and small trees stay together. Nodes with very many parents or children (a harvest of all labels) are set
    apart, and what is connected without them makes one piece; small pieces share a part. A part needs only earlier
    ones.

    Parameters
    ----------
    parents
        Parents of each node.
    size
        At most so many nodes make a part.

    Returns
    -------
    list of Part
        One part where there are no more nodes than ``size``.

    Raises
    ------
    ValueError
        If nodes wait for each other in a circle.
    """
    order = _topological(parents)
    if len(order) <= size:
        return [Part(order)] if order else []
    depth = _depths(parents, order, hub_degree=max(2, size // 2))
    pieces = _pieces(parents, order, depth, size)
    parts: list[Part] = []
    for level in sorted(pieces):
        nodes: list[int] = []
        for piece in pieces[level]:
            if nodes and len(nodes) + len(piece) > size:
                parts.append(Part(nodes))
                nodes = []
            nodes = nodes + piece
        parts.append(Part(nodes))
    place = {node: number for number, part in enumerate(parts) for node in part.nodes}
    exported: dict[int, None] = {}
    for part_number, part in enumerate(parts):
        for node in part.nodes:
            outside = frozenset(place[parent] for parent in parents[node]) - {part_number}
            if outside:
                part.needs[node] = outside
            exported.update(dict.fromkeys(parent for parent in parents[node] if place[parent] != part_number))
    for node in exported:
        parts[place[node]].exports.append(node)
    return parts


def _topological(parents: Sequence[Sequence[int]]) -> list[int]:
    """Order nodes depth first, so that chains stay together; parents before children."""
    children: list[list[int]] = [[] for _ in parents]
    for node, found in enumerate(parents):
        for parent in set(found):
            children[parent].append(node)
    left = [len(set(found)) for found in parents]
    stack = [node for node in range(len(parents) - 1, -1, -1) if left[node] == 0]
    order = []
    while stack:
        node = stack.pop()
        order.append(node)
        for child in reversed(children[node]):
            left[child] -= 1
            if left[child] == 0:
                stack.append(child)
    if len(order) < len(parents):
        raise ValueError("Jobs wait for each other in a circle.")
    return order


def _depths(parents: Sequence[Sequence[int]], order: list[int], *, hub_degree: int) -> list[int]:
    """Count the borders above each node: a hub lies deeper than its parents, and its children deeper than it."""
    n_children = [0] * len(parents)
    for found in parents:
        for parent in set(found):
            n_children[parent] += 1
    is_hub = [
        len(set(found)) > hub_degree or count > hub_degree for found, count in zip(parents, n_children, strict=True)
    ]
    depth = [0] * len(parents)
    for node in order:
        depth[node] = max((depth[p] + (is_hub[p] or is_hub[node]) for p in parents[node]), default=0)
    return depth


def _pieces(
    parents: Sequence[Sequence[int]], order: list[int], depth: list[int], size: int
) -> dict[int, list[list[int]]]:
    """Group nodes of equal depth by connection; a bigger piece is cut in topological order, one level a piece."""
    root = list(range(len(parents)))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for node in order:
        for parent in parents[node]:
            if depth[parent] == depth[node]:
                root[find(parent)] = find(node)
    groups: dict[int, dict[int, list[int]]] = {}
    for node in order:
        groups.setdefault(depth[node], {}).setdefault(find(node), []).append(node)
    made: dict[int, list[list[int]]] = {}
    for level, found in groups.items():
        made[level] = [nodes[start : start + size] for nodes in found.values() for start in range(0, len(nodes), size)]
    return made
