"""From frames to graphs, and from graphs to batches (ALGORITHMS 3.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from atomfoundry.errors import TrainingError
from atomfoundry.models.graph import GraphBatch, build_graph

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.models.allegro.model import Allegro

Frames = Sequence["Atoms | GraphBatch"]
FramesByHead = Frames | Mapping[str, Frames]


def by_head(model: Allegro, frames: FramesByHead | None) -> dict[int, list[Atoms | GraphBatch]]:
    """Return frames by head index; a plain list belongs to the first head.

    Parameters
    ----------
    model
        Knows its heads.
    frames
        A list, or head name -> list.
    """
    if frames is None:
        return {}
    if isinstance(frames, Mapping):
        return {model.head_index(name): list(entries) for name, entries in frames.items()}
    return {0: list(frames)}


def prepare_graphs(model: Allegro, frames: Frames, *, head: int = 0) -> list[GraphBatch]:
    """Return one graph a frame; neighbour lists are built here and never again.

    Parameters
    ----------
    model
        Gives cutoff and element order.
    frames
        Atoms with labels, or graphs made before (kept as they are, but for the head).
    head
        Index of the head that the labels belong to.

    Raises
    ------
    TrainingError
        If a prebuilt graph holds several structures.
    """
    graphs = []
    for frame in frames:
        if isinstance(frame, GraphBatch):
            if frame.energy.shape[0] != 1:
                raise TrainingError(
                    f"A prebuilt graph of {frame.energy.shape[0]} structures was given.",
                    remedy="Give one graph a structure.",
                )
            graph = frame
            if int(graph.head[0]) != head:
                graph = build_copy_with_head(graph, head)
        else:
            graph = build_graph(frame, cutoff=model.config.cutoff, type_names=model.config.type_names, head=head)
        graphs.append(graph)
    return graphs


def build_copy_with_head(graph: GraphBatch, head: int) -> GraphBatch:
    """Return a graph whose labels belong to another head; tensors are shared.

    Parameters
    ----------
    graph
        One or several structures.
    head
        Index of the new head.
    """
    from dataclasses import replace

    return replace(graph, head=torch.full_like(graph.head, head))


def n_edges(graph: GraphBatch) -> int:
    """Return the number of directed edges."""
    return int(graph.edge_index.shape[1])


def without_isolated(graphs: Sequence[GraphBatch]) -> list[GraphBatch]:
    """Return the graphs that have edges: an isolated atom's energy is its E0 and moves no weight.

    Parameters
    ----------
    graphs
        One structure each.
    """
    return [graph for graph in graphs if n_edges(graph) > 0]


def graph_force_rms(graphs: Sequence[GraphBatch]) -> float:
    """Return the RMS of all labelled force components, eV/A; 0 without any.

    Parameters
    ----------
    graphs
        Labelled structures.
    """
    total, count = 0.0, 0
    for graph in graphs:
        values = graph.forces[torch.isfinite(graph.forces)]
        total += float((values.double() ** 2).sum())
        count += values.numel()
    return (total / count) ** 0.5 if count else 0.0


def plan_batches(
    graphs: Sequence[GraphBatch],
    *,
    batch_size: int,
    max_edges: int | None,
    seed: int,
    epoch: int,
) -> list[list[int]]:
    """Return one epoch's batches as indices into the graphs.

    Each head's frames are shuffled and spread evenly over the epoch, so that every batch mixes the heads in
    the proportion of the whole. A structure larger than `max_edges` forms a batch of its own.

    Parameters
    ----------
    graphs
        One structure each.
    batch_size, max_edges
        Limits of a batch.
    seed, epoch
        Decide the order; nothing else does.
    """
    rng = np.random.default_rng([seed, epoch])
    heads = np.array([int(graph.head[0]) for graph in graphs])
    place = np.empty(len(graphs))
    for head in np.unique(heads):
        members = np.flatnonzero(heads == head)
        place[rng.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((heads, place)).tolist()
    batches: list[list[int]] = []
    edges = 0
    for index in order:
        size = n_edges(graphs[index])
        full = bool(batches) and (
            len(batches[-1]) >= batch_size or (max_edges is not None and edges + size > max_edges)
        )
        if not batches or full:
            batches.append([])
            edges = 0
        batches[-1].append(index)
        edges += size
    return batches


def data_fingerprint(graphs: Sequence[GraphBatch]) -> str:
    """Return a hash of structures, labels, weights and heads, in order.

    Parameters
    ----------
    graphs
        One structure each.
    """
    digest = hashlib.sha256()
    for graph in graphs:
        parts = (
            graph.types, graph.positions, graph.cell, graph.head, graph.energy, graph.forces, graph.stress,
            graph.weight,
        )  # fmt: skip
        for part in parts:
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
