"""Graphs: an ``ase.Atoms`` becomes directed edges within the cutoff, and several become one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from atomfoundry.errors import ModelError
from atomfoundry.models.padding import EdgeLayout

if TYPE_CHECKING:
    from ase import Atoms

CLOSEST = 1e-6
"""Two atoms nearer than this (A) are at the same place: an error, never an edge."""


@dataclass
class GraphBatch:
    """One or several structures as one graph, labels included.

    Parameters
    ----------
    types
        (N,) int64, index into the model's ``type_names``.
    positions
        (N, 3) float64, A, as given (not wrapped).
    cell
        (B, 3, 3) float64, A, rows = lattice vectors; rows of directions that are not periodic are zero.
    periodic
        (B,) bool, periodic in three directions: such a structure has a stress.
    edge_index
        (2, M) int64, centre and neighbour, sorted by centre; full list, self-images included.
    shifts
        (M, 3) float64, whole cells added to the neighbour.
    batch
        (N,) int64, structure of the atom, ascending.
    head
        (B,) int64, readout head of the structure.
    frame_ids
        One name a structure.
    energy, forces, stress
        Labels (B,) eV, (N, 3) eV/A, (B, 3, 3) eV/A^3 tension positive, float64; NaN where there is none.
    weight
        (B,) float64, weight of the structure in the loss.
    """

    types: Tensor
    positions: Tensor
    cell: Tensor
    periodic: Tensor
    edge_index: Tensor
    shifts: Tensor
    batch: Tensor
    head: Tensor
    frame_ids: list[str]
    energy: Tensor
    forces: Tensor
    stress: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        self._layout: EdgeLayout | None = None

    @property
    def num_graphs(self) -> int:
        """Number of structures B."""
        return self.cell.shape[0]

    @property
    def num_nodes(self) -> int:
        """Number of atoms N."""
        return self.types.shape[0]

    @property
    def num_edges(self) -> int:
        """Number of directed edges M."""
        return self.edge_index.shape[1]

    @property
    def layout(self) -> EdgeLayout:
        """Where each edge lies among the edges of its centre; made once and kept."""
        if self._layout is None:
            self._layout = EdgeLayout.of(self.edge_index[0], self.num_nodes)
        return self._layout

    def to(self, device: str | torch.device) -> GraphBatch:
        """Return the batch on another device."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def edge_vectors(self, positions: Tensor | None = None, cell: Tensor | None = None) -> Tensor:
        """Return r_e = r_j - r_i + s_e C, (M, 3) float64, A.

        Parameters
        ----------
        positions, cell
            Instead of the batch's own, e.g. strained ones that carry a gradient.
        """
        positions = self.positions if positions is None else positions
        cell = self.cell if cell is None else cell
        centre, neighbour = self.edge_index
        if self.num_graphs == 1:
            offsets = self.shifts @ cell[0]
        else:
            offsets = torch.einsum("ma,mab->mb", self.shifts, cell[self.batch[centre]])
        return positions[neighbour] - positions[centre] + offsets


def neighbour_pairs(
    positions: np.ndarray, *, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find all directed pairs nearer than the cutoff, periodic images of the same atom included.

    Parameters
    ----------
    positions, cell, pbc
        (N, 3) A, (3, 3) A, (3,) bool.
    cutoff
        A.

    Returns
    -------
    pairs, shifts
        (2, M) int64 and (M, 3) int64, sorted by centre, then neighbour, then shift.

    Raises
    ------
    ModelError
        If a periodic direction has no lattice vector, or a position or the cell is not finite.
    """
    from vesin import NeighborList

    pbc = np.asarray(pbc, dtype=bool)
    if not np.isfinite(positions).all() or not np.isfinite(cell).all():
        raise ModelError("A position or the cell is not a finite number.", remedy="Check the structure.")
    box = np.where(pbc[:, None], cell, 0.0)
    if np.linalg.matrix_rank(box) < pbc.sum():
        raise ModelError(
            f"The cell {cell.tolist()} has no volume in its periodic directions (pbc {pbc.tolist()}).",
            remedy="Give a cell, or set pbc to False.",
        )
    finder = NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    centre, neighbour, shifts = finder.compute(
        points=np.ascontiguousarray(positions, dtype=np.float64),
        box=np.ascontiguousarray(box, dtype=np.float64),
        periodic=pbc,
        quantities="ijS",
    )
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], neighbour, centre))
    pairs = np.stack([centre, neighbour]).astype(np.int64)[:, order]
    return pairs, shifts[order].astype(np.int64)


def _labels(atoms: Atoms) -> dict[str, np.ndarray | float]:
    """Read the labels stored with the frame; a live calculator is never asked to compute."""
    from ase.calculators.singlepoint import SinglePointCalculator

    if not isinstance(atoms.calc, SinglePointCalculator):
        return {}
    return {key: value for key, value in atoms.calc.results.items() if value is not None}


def build_graph(
    atoms: Atoms,
    *,
    cutoff: float,
    type_names: Sequence[str],
    head: int = 0,
    edges: tuple[Tensor, Tensor] | None = None,
) -> GraphBatch:
    """Build the graph of one structure.

    Parameters
    ----------
    atoms
        Molecule, slab, wire or crystal. Labels are read from a ``SinglePointCalculator``, the weight from
        ``atoms.info["weight"]``, the name from ``atoms.info["frame_id"]``.
    cutoff
        Radius of the neighbour list, A; as many periodic images as it reaches.
    type_names
        The model's elements, in its order.
    head
        Index of the readout head.
    edges
        ``edge_index`` and ``shifts`` of an earlier graph of the same structure and cutoff; None: find them.

    Raises
    ------
    ModelError
        If an element is not among the model's, two atoms coincide or the cell has no volume.
    """
    from ase.stress import voigt_6_to_full_3x3_stress

    index_of = {name: index for index, name in enumerate(type_names)}
    symbols = atoms.get_chemical_symbols()
    unknown = sorted(set(symbols) - set(index_of))
    name = str(atoms.info.get("frame_id", ""))
    if unknown:
        raise ModelError(
            f"Structure {name or atoms.get_chemical_formula()}: the model does not know the element "
            f"{', '.join(unknown)}; it knows {', '.join(type_names)}.",
            remedy="Use a model trained on this element, or train one.",
        )
    pbc = np.asarray(atoms.pbc, dtype=bool)
    cell = np.where(pbc[:, None], atoms.cell.array, 0.0)
    if edges is None:
        pairs, shifts = neighbour_pairs(atoms.positions, cell=cell, pbc=pbc, cutoff=cutoff)
        vectors = atoms.positions[pairs[1]] - atoms.positions[pairs[0]] + shifts @ cell
        near = np.flatnonzero((vectors**2).sum(axis=1) < CLOSEST**2)
        if len(near):
            raise ModelError(
                f"Structure {name or atoms.get_chemical_formula()}: atoms {pairs[0, near[0]]} and "
                f"{pairs[1, near[0]]} are at the same place.",
                remedy="Remove one of them.",
            )
        edges = torch.from_numpy(pairs), torch.from_numpy(shifts.astype(np.float64))
    labels = _labels(atoms)
    forces = np.asarray(labels.get("forces", np.full((len(atoms), 3), np.nan)), dtype=np.float64)
    stress = np.full((3, 3), np.nan)
    if pbc.all() and "stress" in labels:
        stress = np.asarray(labels["stress"], dtype=np.float64)
        stress = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress
    return GraphBatch(
        types=torch.tensor([index_of[symbol] for symbol in symbols], dtype=torch.int64),
        positions=torch.tensor(atoms.positions, dtype=torch.float64),
        cell=torch.tensor(cell, dtype=torch.float64)[None],
        periodic=torch.tensor([bool(pbc.all())]),
        edge_index=edges[0],
        shifts=edges[1],
        batch=torch.zeros(len(atoms), dtype=torch.int64),
        head=torch.tensor([head], dtype=torch.int64),
        frame_ids=[name],
        energy=torch.tensor([float(labels.get("energy", np.nan))], dtype=torch.float64),
        forces=torch.tensor(forces),
        stress=torch.tensor(stress)[None],
        weight=torch.tensor([float(atoms.info.get("weight", 1.0))], dtype=torch.float64),
    )


def collate(graphs: Sequence[GraphBatch]) -> GraphBatch:
    """Join graphs into one batch, in the order given.

    Raises
    ------
    ModelError
        If there is no graph.
    """
    if not graphs:
        raise ModelError("A batch needs at least one structure.", remedy="Give a frame.")
    atom_starts = np.cumsum([0, *(graph.num_nodes for graph in graphs)])
    graph_starts = np.cumsum([0, *(graph.num_graphs for graph in graphs)])

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(graph, name) for graph in graphs])

    return GraphBatch(
        types=joined("types"),
        positions=joined("positions"),
        cell=joined("cell"),
        periodic=joined("periodic"),
        edge_index=torch.cat(
            [graph.edge_index + int(start) for graph, start in zip(graphs, atom_starts, strict=False)], dim=1
        ),
        shifts=joined("shifts"),
        batch=torch.cat([graph.batch + int(start) for graph, start in zip(graphs, graph_starts, strict=False)]),
        head=joined("head"),
        frame_ids=[name for graph in graphs for name in graph.frame_ids],
        energy=joined("energy"),
        forces=joined("forces"),
        stress=joined("stress"),
        weight=joined("weight"),
    )
