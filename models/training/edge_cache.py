"""Edges kept on disk, so that a second training on the same structures makes no neighbour list.

Structures go in blocks; the name of a block's file is a hash of the cutoff and of the structures' positions, cells
and periodicities, so a changed or longer dataset finds the blocks that are still the same. The file is mapped into
memory: it takes no more of it than is used, and processes of one machine share it. Files are never changed and may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atomfoundry.errors import TrainingError
from atomfoundry.models.graph import GraphBatch, build_graph

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.training.processes import Processes

logger = logging.getLogger(__name__)

FORMAT = "atomfoundry-edges"
VERSION = 1
BLOCK = 512
"""Structures in one file."""

Edges = tuple[Tensor, Tensor]
"""(2, M) int64 pairs and (M, 3) float64 shifts of one structure, as in a graph."""


def graphs_with_cache(
    frames: Sequence[Atoms], *, cutoff: float, type_names: Sequence[str], head: int, folder: str | Path
) -> list[GraphBatch]:
    """Return one graph a frame, their edges from the folder where it has them.

    Parameters
    ----------
    frames
        Structures with labels.
    cutoff, type_names, head
        As for :func:`~atomfoundry.models.graph.build_graph`.
    folder
        Where the edges are kept; made if absent. A damaged file is made again.

    Raises
    ------
    TrainingError
        If the folder cannot be written.
    """
    graphs: list[GraphBatch] = []
    for start in range(0, len(frames), BLOCK):
        block = frames[start : start + BLOCK]
        path = block_path(block, cutoff=cutoff, folder=folder)
        edges = read_block(path, n_frames=len(block))
        if edges is None:
            made = [build_graph(frame, cutoff=cutoff, type_names=type_names, head=head) for frame in block]
            write_block(path, [(graph.edge_index, graph.shifts) for graph in made])
            edges = read_block(path, n_frames=len(block))
            if edges is None:
                raise TrainingError(
                    f"The edges written to {path} cannot be read back.", remedy="Check the disk, or train without."
                )
        graphs += [
            build_graph(frame, cutoff=cutoff, type_names=type_names, head=head, edges=own)
            for frame, own in zip(block, edges, strict=True)
        ]
    return graphs


def fill_cache(
    model: Allegro, frames: Sequence[Atoms | GraphBatch], *, folder: str | Path, processes: Processes
) -> None:
    """Make the blocks that are not there, shared by all processes; return when all have done theirs.

    Parameters
    ----------
    model
        Gives cutoff and element order.
    frames
        As for :func:`~atomfoundry.models.training.loader.prepare_graphs`.
    folder
        One that all processes see.
    processes
        All of them.
    """
    atoms = [frame for frame in frames if not isinstance(frame, GraphBatch)]
    for start in processes.share(range(0, len(atoms), BLOCK)):
        graphs_with_cache(
            atoms[start : start + BLOCK],
            cutoff=model.config.cutoff,
            type_names=model.config.type_names,
            head=0,
            folder=folder,
        )
    processes.wait()


def block_path(frames: Sequence[Atoms], *, cutoff: float, folder: str | Path) -> Path:
    """Return the file of a block of structures.

    Parameters
    ----------
    frames
        Structures, in order.
    cutoff
        A.
    folder
        Of the cache.
    """
    digest = hashlib.sha256(f"{FORMAT} {VERSION} {cutoff!r} {len(frames)}".encode())
    for frame in frames:
        pbc = np.asarray(frame.pbc, dtype=bool)
        cell = np.where(pbc[:, None], frame.cell.array, 0.0)
        digest.update(np.int64(len(frame)).tobytes() + pbc.tobytes() + cell.tobytes())
        digest.update(np.ascontiguousarray(frame.positions, dtype=np.float64).tobytes())
    return Path(folder) / f"edges-{digest.hexdigest()[:40]}.safetensors"


def read_block(path: Path, *, n_frames: int) -> list[Edges] | None:
    """Return the edges of a block, mapped from its file; None if there is none or it is damaged.

    Parameters
    ----------
    path
        The file.
    n_frames
        Structures it must hold.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["edges"])
            counts, pairs, shifts = (file.get_tensor(name) for name in ("counts", "pairs", "shifts"))
        if record != {"version": VERSION, "crc32": _checksum(counts, pairs, shifts)} or len(counts) != n_frames:
            raise ValueError("its content does not match its checksum")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        logger.warning("Edges in %s are damaged (%s) and will be made again", path, error)
        return None
    sizes = counts.tolist()
    return [
        (own.view(2, size), moved)
        for own, moved, size in zip(pairs.split([2 * n for n in sizes]), shifts.split(sizes), sizes, strict=True)
    ]


def write_block(path: Path, edges: Sequence[Edges]) -> None:
    """Write the edges of a block; a reader sees all of it or nothing.

    Parameters
    ----------
    path
        The file; its folder is made if absent.
    edges
        One entry a structure.

    Raises
    ------
    TrainingError
        If it cannot be written.
    """
    tensors = {
        "counts": torch.tensor([shifts.shape[0] for _, shifts in edges], dtype=torch.int64),
        "pairs": torch.cat([pairs.reshape(-1) for pairs, _ in edges]),
        "shifts": torch.cat([shifts for _, shifts in edges]),
    }
    record = {"version": VERSION, "crc32": _checksum(tensors["counts"], tensors["pairs"], tensors["shifts"])}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # no mkstemp: its files are for one user, and a cache may be for several
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            save_file(tensors, scratch, metadata={"format": FORMAT, "edges": json.dumps(record)})
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"Edges cannot be kept in {path.parent}: {error}.", remedy="Give another folder, or train without."
        ) from error


def _checksum(*tensors: Tensor) -> int:
    value = 0
    for tensor in tensors:
        # an array of no size has no memory that could be cast
        value = zlib.crc32(tensor.contiguous().numpy().data.cast("B") if tensor.numel() else b"", value)
    return value
