"""Invariant descriptors of atoms and structures from a model's edge latents (ALGORITHMS 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from atomfoundry.models.training.loader import Frames, prepare_graphs
from atomfoundry.models.training.validation import in_chunks, on_device

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.graph import GraphBatch


def atom_descriptors(model: Allegro, batch: GraphBatch) -> torch.Tensor:
    """Return the mean over an atom's edges of the edge latents; zero for an atom without edges.

    Parameters
    ----------
    model
        The model.
    batch
        Structures with N atoms.

    Returns
    -------
    Tensor
        (N, d) float64, on the CPU.
    """
    moved = on_device(batch, next(model.parameters()).device)
    with torch.no_grad():
        latents = model(moved, forces=False, stress=False)["edge_latents"].double()
        # not index_add_, whose order of summation on a GPU is left to chance
        total = moved.layout.sum_over_edges(latents)
        count = torch.bincount(moved.edge_index[0], minlength=moved.num_nodes).clamp(min=1)
        return (total / count[:, None]).cpu()


def structure_descriptors(model: Allegro, frames: Frames, *, batch_size: int = 32) -> np.ndarray:
    """Return one descriptor a structure: the mean over its elements of the elements' mean atom descriptors.

    Invariant to rotation, translation, permutation and repetition of the cell.

    Parameters
    ----------
    model
        The model.
    frames
        Structures; labels do not matter.
    batch_size
        Structures at a time.

    Returns
    -------
    numpy.ndarray
        (n, d) float64.
    """
    rows = []
    for batch in in_chunks(prepare_graphs(model, frames), batch_size):
        atoms = atom_descriptors(model, batch).numpy()
        owner, types = batch.batch.numpy(), batch.types.numpy()
        for structure in range(batch.energy.shape[0]):
            inside = owner == structure
            present = np.unique(types[inside])
            rows.append(np.mean([atoms[inside & (types == t)].mean(axis=0) for t in present], axis=0))
    return np.array(rows)
