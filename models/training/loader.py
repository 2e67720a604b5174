"""From frames to graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def prepare_graphs(
    model: Allegro, frames: Frames, *, head: int = 0, edge_cache: str | Path | None = None
) -> list[GraphBatch]:
    """Return one graph a frame; neighbour lists are built here and never again.

    Parameters
    ----------
    model
        Gives cutoff and element order.
    frames
        Atoms with labels, or graphs made before (kept as they are, but for the head).
    head
        Index of the head that the labels belong to.
    edge_cache
        Folder that keeps the edges for other trainings on the same structures; None: they are not kept.

    Raises
    ------
    TrainingError
        If a prebuilt graph holds several structures, or the folder cannot be written.
    """
    config = model.config
    build: dict[str, Any] = {"cutoff": config.cutoff, "type_names": config.type_names, "head": head}
    atoms = [frame for frame in frames if not isinstance(frame, GraphBatch)]
    if edge_cache is None:
        built: Iterator[GraphBatch] = (build_graph(frame, **build) for frame in atoms)
    else:
        from atomfoundry.models.training.edge_cache import graphs_with_cache

        built = iter(graphs_with_cache(atoms, folder=edge_cache, **build))
    return [_given(frame, head) if isinstance(frame, GraphBatch) else next(built) for frame in frames]


def _given(graph: GraphBatch, head: int) -> GraphBatch:
    if graph.energy.shape[0] != 1:
        raise TrainingError(
            f"A prebuilt graph of {graph.energy.shape[0]} structures was given.",
            remedy="Give one graph a structure.",
        )
    return graph if int(graph.head[0]) == head else build_copy_with_head(graph, head)


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
