"""Where the nodes of a layered graph stand: order and positions in each layer."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Place:
    """A node, or a bend of a long edge, in one layer."""

    key: tuple[str, int]
    layer: int
    width: float
    x: float = 0.0
    above: list[Place] = field(default_factory=list, repr=False)
    below: list[Place] = field(default_factory=list, repr=False)


def build(
    layers: dict[int, int], edges: list[tuple[int, int]], *, width: float, bend_width: float
) -> tuple[list[list[Place]], list[list[Place]]]:
    """Return the places of each layer, and for each edge the places it passes (ends included).

    Parameters
    ----------
    layers
        Node -> layer, counted from 0.
    edges
        (parent, child), the child in a later layer.
    width, bend_width
        Of a node and of a bend, in the unit of the drawing.
    """
    rows: list[list[Place]] = [[] for _ in range(max(layers.values()) + 1)]
    nodes = {}
    for node, layer in layers.items():
        nodes[node] = Place(("node", node), layer, width)
        rows[layer].append(nodes[node])
    routes = []
    # Edges from one parent share their bends: a trunk that branches late, instead of parallel lines.
    trunks: dict[tuple[int, int], Place] = {}
    for parent, child in edges:
        route = [nodes[parent]]
        for layer in range(layers[parent] + 1, layers[child]):
            if (parent, layer) not in trunks:
                bend = Place(("bend", len(trunks)), layer, bend_width)
                trunks[(parent, layer)] = bend
                rows[layer].append(bend)
            route.append(trunks[(parent, layer)])
        route.append(nodes[child])
        for upper, lower in itertools.pairwise(route):
            if lower not in upper.below:
                upper.below.append(lower)
                lower.above.append(upper)
        routes.append(route)
    return rows, routes


def arrange(rows: list[list[Place]], *, width: float, gap: float, sweeps: int = 12) -> float:
    """Order the places of every layer, set their centres ``x`` and return the width that was needed.

    Ordering by the mean of the neighbours (Sugiyama, Tagawa, Toda, IEEE Trans. SMC 11, 109, 1981); positions
    by least squares under the order, solved exactly by pooling neighbours that would overlap.
    """
    width = max([width, *(sum(p.width for p in row) + gap * (len(row) - 1) for row in rows)])
    for row in rows:
        _pack(row, [width * (i + 1) / (len(row) + 1) for i in range(len(row))], width, gap)
    for sweep in range(sweeps):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            wanted: dict[int, float] = {}
            for place in row:
                near = place.above if downwards else place.below
                wanted[id(place)] = sum(p.x for p in near) / len(near) if near else place.x
            row.sort(key=lambda p: wanted[id(p)])
            _pack(row, [wanted[id(p)] for p in row], width, gap)
    for row in rows:
        wanted_row = []
        for place in row:
            near = place.above + place.below
            wanted_row.append(sum(p.x for p in near) / len(near) if near else place.x)
        _pack(row, wanted_row, width, gap)
    return width


def _pack(row: list[Place], wanted: list[float], width: float, gap: float) -> None:
    """Set the centres closest to ``wanted`` that keep the order, the gaps and the borders."""
    offsets, left = [], 0.0
    for place in row:
        offsets.append(left + place.width / 2)
        left += place.width + gap
    room = width - (left - gap)
    blocks: list[list[float]] = []  # sum, count
    for target, offset in zip(wanted, offsets, strict=True):
        blocks.append([target - offset, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + last[0], blocks[-1][1] + last[1]]
    shifts = [min(max(total / n, 0.0), room) for total, n in blocks for _ in range(int(n))]
    for place, offset, shift in zip(row, offsets, shifts, strict=True):
        place.x = offset + shift


def split_wide_layers(depths: dict[int, int], per_row: int) -> dict[int, int]:
    """Return node -> layer where no layer holds more than ``per_row`` nodes; order of depths is kept."""
    members: dict[int, list[int]] = defaultdict(list)
    for node, depth in depths.items():
        members[depth].append(node)
    layers, row = {}, 0
    for depth in sorted(members):
        nodes = members[depth]
        rows_needed = -(-len(nodes) // per_row)
        share = -(-len(nodes) // rows_needed)
        for i, node in enumerate(nodes):
            layers[node] = row + i // share
        row += rows_needed
    return layers
