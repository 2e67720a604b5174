"""Which structures make each step of an epoch, and which process works on them (ALGORITHMS 3.6)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from atomfoundry.models.graph import GraphBatch
    from atomfoundry.models.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

WINDOW = 64
"""Batches' worth of shuffled structures that are sorted by size before packing."""

Pack = list[int]
"""Structures of one batch, as indices."""


@dataclass(frozen=True)
class Sizes:
    """What planning needs to know of the training set.

    Parameters
    ----------
    edges, heads
        (B,) int64, directed edges and head index of each structure.
    """

    edges: np.ndarray
    heads: np.ndarray

    @classmethod
    def of(cls, graphs: Sequence[GraphBatch]) -> Sizes:
        """Read them from graphs of one structure each."""
        return cls(
            np.array([graph.edge_index.shape[1] for graph in graphs], dtype=np.int64),
            np.array([int(graph.head[0]) for graph in graphs], dtype=np.int64),
        )


def shuffled(sizes: Sizes, *, seed: int, epoch: int) -> np.ndarray:
    """Return one epoch's order of the structures, (B,) int.

    Each head's structures are shuffled and spread evenly over the epoch, so that every part of it mixes the heads
    in the proportion of the whole.

    Parameters
    ----------
    sizes
        Of the training set.
    seed, epoch
        Decide the order; nothing else does.
    """
    rng = np.random.default_rng([seed, epoch])
    place = np.empty(len(sizes.heads))
    for head in np.unique(sizes.heads):
        members = np.flatnonzero(sizes.heads == head)
        place[rng.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((sizes.heads, place))


def pack(order: Sequence[int], edges: np.ndarray, *, batch_size: int, max_edges: int | None) -> list[Pack]:
    """Fill batches one after the other; a structure larger than `max_edges` forms one of its own.

    Parameters
    ----------
    order
        Indices of the structures.
    edges
        (B,) edges of each structure.
    batch_size, max_edges
        Limits of a batch.
    """
    packs: list[Pack] = []
    filled = 0
    for index in order:
        size = int(edges[index])
        full = bool(packs) and (len(packs[-1]) >= batch_size or (max_edges is not None and filled + size > max_edges))
        if not packs or full:
            packs.append([])
            filled = 0
        packs[-1].append(int(index))
        filled += size
    return packs


def plan_steps(sizes: Sizes, settings: TrainingSettings, *, epoch: int, batches_per_step: int = 1) -> list[list[Pack]]:
    """Return one epoch's steps, each a list of batches.

    With ``batching='shuffled'`` batches follow the shuffled order. With ``'balanced'`` structures of similar size
    come together: windows of 64 batches are sorted by edges before packing, steps are made of batches of similar
    cost, and the steps are shuffled.

    Parameters
    ----------
    sizes
        Of the training set.
    settings
        ``batching``, ``batch_size``, ``max_edges`` and ``seed``.
    epoch
        Counted from 0.
    batches_per_step
        Batches of one step; the last step may have fewer.
    """
    order = shuffled(sizes, seed=settings.seed, epoch=epoch)

    def packed(members: np.ndarray) -> list[Pack]:
        return pack(members.tolist(), sizes.edges, batch_size=settings.batch_size, max_edges=settings.max_edges)

    if settings.batching == "shuffled":
        packs = packed(order)
        return [packs[start : start + batches_per_step] for start in range(0, len(packs), batches_per_step)]
    packs = []
    for start in range(0, len(order), WINDOW * settings.batch_size):
        window = order[start : start + WINDOW * settings.batch_size]
        packs += packed(window[np.argsort(-sizes.edges[window], kind="stable")])
    packs.sort(key=lambda members: -int(sizes.edges[members].sum()))
    steps = [packs[start : start + batches_per_step] for start in range(0, len(packs), batches_per_step)]
    # A third number keeps this shuffle apart from that of the structures.
    turns = np.random.default_rng([settings.seed, epoch, 1]).permutation(len(steps))
    return [steps[turn] for turn in turns]


def deal(step: Sequence[Pack], edges: np.ndarray, *, processes: int, turn: int = 0) -> list[list[Pack]]:
    """Share one step's structures among processes, so that each has as many edges as the others.

    The largest goes first, always to the process with the fewest edges so far. Whole batches are dealt where there
    is at least one a process, single structures otherwise. Equal processes are served in snake order, first to last
    and in the next turn last to first, so that no process has the largest part of every step.

    Parameters
    ----------
    step
        Batches of the step.
    edges
        (B,) edges of each structure.
    processes
        How many share.
    turn
        Number of the step.

    Returns
    -------
    list
        One list of batches a process, which may be empty.
    """
    if processes == 1:
        return [list(step)]
    items = list(step) if len(step) >= processes else [[index] for members in step for index in members]
    cost = [int(edges[members].sum()) for members in items]
    served = list(range(processes)) if turn % 2 == 0 else list(range(processes))[::-1]
    load = [0] * processes
    parts: list[list[Pack]] = [[] for _ in range(processes)]
    for item in sorted(range(len(items)), key=lambda i: -cost[i]):
        to = min(served, key=lambda process: load[process])
        parts[to].append(items[item])
        load[to] += cost[item]
    if len(step) >= processes:
        return parts
    return [[[index for members in part for index in members]] if part else [] for part in parts]


def warn_of_large(sizes: Sizes, max_edges: int | None) -> None:
    """Warn of structures that alone exceed the limit of a batch.

    Parameters
    ----------
    sizes
        Of the training set.
    max_edges
        The limit.
    """
    if max_edges is None:
        return
    n_large = int((sizes.edges > max_edges).sum())
    if n_large:
        logger.warning(
            "%d structures have more than max_edges = %d edges (up to %d); each forms a batch of its own",
            n_large,
            max_edges,
            int(sizes.edges.max()),
        )
