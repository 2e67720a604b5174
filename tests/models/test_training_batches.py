"""Plans of an epoch: every structure once, within the limits, balanced, and shared fairly."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from atomfoundry.models.training.batches import Sizes, deal, plan_steps, warn_of_large
from atomfoundry.models.training.settings import TrainingSettings


def sizes(edges, heads=None):
    edges = np.asarray(edges, dtype=np.int64)
    return Sizes(edges, np.zeros(len(edges), dtype=np.int64) if heads is None else np.asarray(heads))


def plan(known, epoch=0, batches_per_step=1, **changes):
    return plan_steps(known, TrainingSettings(**changes), epoch=epoch, batches_per_step=batches_per_step)


def flat(steps):
    return [index for step in steps for members in step for index in members]


def test_shuffled_batches_mix_heads_and_keep_limits():
    known = sizes([90] * 16, [0] * 12 + [1] * 4)
    steps = plan(known, batch_size=4)
    assert sorted(flat(steps)) == list(range(16))
    assert [sum(i >= 12 for i in step[0]) for step in steps] == [1, 1, 1, 1]
    assert steps == plan(known, batch_size=4)
    assert steps != plan(known, batch_size=4, epoch=1)
    assert steps != plan(known, batch_size=4, seed=1)
    assert {len(step[0]) for step in plan(known, batch_size=4, max_edges=180)} == {2}
    assert {len(step[0]) for step in plan(known, batch_size=4, max_edges=89)} == {1}


@pytest.mark.parametrize("batching", ["shuffled", "balanced"])
def test_steps_hold_every_structure_once(batching):
    known = sizes(np.random.default_rng(0).integers(10, 1000, 203))
    steps = plan(known, batching=batching, batch_size=6, max_edges=2000, batches_per_step=4)
    assert sorted(flat(steps)) == list(range(203))
    assert sorted(len(step) for step in steps)[1:] == [4] * (len(steps) - 1)
    for step in steps:
        for members in step:
            assert len(members) <= 6
            assert len(members) == 1 or known.edges[members].sum() <= 2000
    assert steps == plan(known, batching=batching, batch_size=6, max_edges=2000, batches_per_step=4)
    assert steps != plan(known, batching=batching, batch_size=6, max_edges=2000, batches_per_step=4, epoch=1)


def waste(known, steps, processes):
    """Share of the time that processes wait for the slowest, if time is edges."""
    loads = [
        [known.edges[flat([part])].sum() for part in deal(step, known.edges, processes=processes, turn=turn)]
        for turn, step in enumerate(steps)
    ]
    return 1 - sum(sum(load) for load in loads) / sum(processes * max(load) for load in loads)


def test_balanced_steps_leave_nobody_waiting():
    known = sizes(np.random.default_rng(1).lognormal(6, 1.2, 4000).astype(int))
    asked = {"batch_size": 64, "max_edges": 7200, "batches_per_step": 8}
    balanced = waste(known, plan(known, batching="balanced", **asked), 8)
    shuffled = waste(known, plan(known, batching="shuffled", **asked), 8)
    assert balanced < 0.05
    assert shuffled > 0.3


def test_the_order_of_balanced_steps_is_not_that_of_their_size():
    known = sizes(np.random.default_rng(2).integers(10, 1000, 400))
    costs = [known.edges[flat([step])].sum() for step in plan(known, batching="balanced", batch_size=4)]
    assert abs(np.corrcoef(costs, np.arange(len(costs)))[0, 1]) < 0.3


def test_dealing_by_hand():
    edges = np.array([100, 1, 60, 50, 9])
    assert deal([[0, 1], [2]], edges, processes=1) == [[[0, 1], [2]]]
    # fewer batches than processes: structures, the largest first to the least loaded
    assert deal([[0, 1, 2, 3, 4]], edges, processes=2) == [[[0, 4, 1]], [[2, 3]]]
    # a batch for each: whole ones, and the largest goes to the other end in the next turn
    assert deal([[2], [0, 1]], edges, processes=2) == [[[0, 1]], [[2]]]
    assert deal([[2], [0, 1]], edges, processes=2, turn=1) == [[[2]], [[0, 1]]]
    # more batches than processes: each evaluates its own one after the other
    assert deal([[2], [3], [0, 1], [4]], edges, processes=2) == [[[0, 1], [4]], [[2], [3]]]
    assert deal([[3]], edges, processes=3) == [[[3]], [], []]


def test_a_structure_beyond_the_limit_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_large(sizes([10, 500, 700]), 400)
    assert "2 structures have more than max_edges = 400 edges (up to 700)" in caplog.text
    caplog.clear()
    warn_of_large(sizes([10, 500, 700]), None)
    assert not caplog.text
