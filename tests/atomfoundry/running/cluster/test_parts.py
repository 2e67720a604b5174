"""Cutting flows into parts."""

from __future__ import annotations

import random

import pytest

from atomfoundry.running.cluster.parts import cut


def check(parents: list[list[int]], size: int) -> list:
    """What must hold for any graph: every node once, bounded parts, only earlier parts needed, exact needs."""
    parts = cut(parents, size)
    nodes = [node for part in parts for node in part.nodes]
    assert sorted(nodes) == list(range(len(parents)))
    assert all(0 < len(part.nodes) <= size for part in parts)
    place = {node: number for number, part in enumerate(parts) for node in part.nodes}
    exported = set()
    for number, part in enumerate(parts):
        seen = set()
        for node in part.nodes:
            outside = {place[p] for p in parents[node]} - {number}
            assert all(other < number for other in outside)
            assert part.needs.get(node, frozenset()) == outside
            assert all(p in seen for p in parents[node] if place[p] == number)
            seen.add(node)
            exported |= {p for p in parents[node] if place[p] != number}
    assert {node for part in parts for node in part.exports} == exported
    return parts


def test_a_small_flow_is_one_part() -> None:
    assert [part.nodes for part in check([[], [0], [1], [2]], 4)] == [[0, 1, 2, 3]]
    assert cut([], 4) == []


def test_a_fan_out_is_dealt_and_its_collector_needs_all_of_it() -> None:
    n = 1000
    parents = [[]] + [[0] for _ in range(n)] + [list(range(1, n + 1))] + [[n + 1]]
    parts = check(parents, 100)
    assert len(parts) == 13  # the root, ten of labels, the collector, what comes after
    last = parts[-1]
    assert last.nodes in ([n + 1], [n + 1, n + 2], [n + 2])
    collector = next(part for part in parts if n + 1 in part.nodes)
    assert collector.needs[n + 1] == frozenset(range(1, 11))


def test_chains_stay_together() -> None:
    n = 300
    parents: list[list[int]] = []
    for chain in range(n):
        parents += [[], [3 * chain], [3 * chain + 1]]
    parents.append([3 * chain + 2 for chain in range(n)])
    parts = check(parents, 100)
    assert all(set(part.needs) <= {3 * n} for part in parts)
    assert len(parts) == 11


def test_a_long_chain_is_cut_in_order() -> None:
    parts = check([[]] + [[i] for i in range(249)], 100)
    assert [len(part.nodes) for part in parts] == [100, 100, 50]
    assert parts[1].needs == {100: frozenset({0})}
    assert parts[0].exports == [99]


@pytest.mark.parametrize("seed", range(30))
def test_any_graph(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randrange(2, 400)
    degree = rng.choice([1, 2, 5, 60])
    parents = [sorted(rng.sample(range(i), min(i, rng.randrange(0, degree + 1)))) for i in range(n)]
    check(parents, rng.choice([1, 2, 7, 50]))


def test_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="circle"):
        cut([[1], [0]], 1)
