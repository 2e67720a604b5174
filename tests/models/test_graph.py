from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.errors import ModelError
from atomfoundry.models import build_graph, collate
from atomfoundry.models.padding import EdgeLayout

TYPES = ["H", "C", "O", "Al", "Si"]


def all_images(atoms: Atoms, cutoff: float, reach: int) -> set[tuple[int, ...]]:
    """Every pair and image within the cutoff, by trying them all."""
    found = set()
    ranges = [range(-reach, reach + 1) if periodic else (0,) for periodic in atoms.pbc]
    for shift in itertools.product(*ranges):
        vectors = atoms.positions[None] - atoms.positions[:, None] + np.array(shift) @ atoms.cell.array
        for i, j in np.argwhere(np.linalg.norm(vectors, axis=2) < cutoff):
            if i != j or any(shift):
                found.add((int(i), int(j), *shift))
    return found


def small_cell(pbc) -> Atoms:
    cell = [[2.6, 0.0, 0.0], [1.0, 2.9, 0.1], [-0.5, 0.7, 3.4]]
    positions = np.random.default_rng(2).uniform(-3, 6, (4, 3))  # also outside the cell
    return Atoms("SiO2H", positions, cell=cell, pbc=pbc)


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)])
def test_edges_are_all_images(pbc):
    atoms = small_cell(pbc)
    graph = build_graph(atoms, cutoff=4.2, type_names=TYPES)
    rows = torch.cat([graph.edge_index.T, graph.shifts.long()], dim=1).tolist()
    assert len(rows) == len({tuple(row) for row in rows})
    assert {tuple(row) for row in rows} == all_images(atoms, 4.2, reach=7)
    assert rows == sorted(rows)
    vectors = graph.edge_vectors()
    assert float(vectors.norm(dim=1).max()) < 4.2
    i, j = graph.edge_index
    by_hand = graph.positions[j] - graph.positions[i] + graph.shifts @ torch.tensor(atoms.cell.array)
    assert torch.allclose(vectors, by_hand, atol=1e-12)
    assert graph.periodic.tolist() == [all(pbc)]


def test_one_atom_cell_has_self_images():
    graph = build_graph(bulk("Al"), cutoff=5.2, type_names=TYPES)
    assert graph.num_nodes == 1
    assert graph.num_edges == 12 + 6 + 24  # shells of fcc within 5.2 A
    assert (graph.edge_index == 0).all()
    assert graph.types.tolist() == [3]


def test_slab_without_third_vector():
    slab = fcc111("Al", (2, 2, 2))
    assert not slab.cell[2].any()
    graph = build_graph(slab, cutoff=5.0, type_names=TYPES)
    assert not graph.periodic.any()
    assert (graph.shifts[:, 2] == 0).all()
    assert len(all_images(slab, 5.0, reach=3)) == graph.num_edges


def test_isolated_atom_has_no_edges():
    for atoms in (Atoms("H"), Atoms("H", cell=[20] * 3, pbc=True)):
        graph = build_graph(atoms, cutoff=5.0, type_names=TYPES)
        assert graph.num_edges == 0
        assert graph.edge_index.shape == (2, 0)
        assert graph.layout.width == 0


def test_labels():
    atoms = bulk("Al")
    stress = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5, forces=[[0.1, 0.2, 0.3]], stress=stress)
    atoms.info |= {"weight": 2.5, "frame_id": "abc"}
    graph = build_graph(atoms, cutoff=5.2, type_names=TYPES, head=1)
    assert graph.energy.tolist() == [-3.5]
    assert graph.forces.tolist() == [[0.1, 0.2, 0.3]]
    assert graph.stress[0].tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    assert graph.weight.tolist() == [2.5]
    assert graph.head.tolist() == [1]
    assert graph.frame_ids == ["abc"]
    # Missing is NaN, never zero; a live calculator is not asked.
    bare = bulk("Al")
    bare.calc = EMT()
    graph = build_graph(bare, cutoff=5.2, type_names=TYPES)
    for label in (graph.energy, graph.forces, graph.stress):
        assert torch.isnan(label).all()
    # A molecule's or a slab's stress means nothing.
    atoms.pbc = (True, True, False)
    assert torch.isnan(build_graph(atoms, cutoff=5.2, type_names=TYPES).stress).all()


def test_collate():
    structures = [molecule("CH4"), bulk("Si"), Atoms("H"), small_cell(True)]
    graphs = [build_graph(atoms, cutoff=4.0, type_names=TYPES, head=index) for index, atoms in enumerate(structures)]
    batch = collate(graphs)
    assert batch.num_graphs == 4
    assert batch.num_nodes == sum(map(len, structures))
    assert batch.num_edges == sum(graph.num_edges for graph in graphs)
    assert batch.head.tolist() == [0, 1, 2, 3]
    assert batch.periodic.tolist() == [False, True, False, True]
    assert (batch.edge_index[0].diff() >= 0).all()
    assert (batch.batch[batch.edge_index[0]] == batch.batch[batch.edge_index[1]]).all()
    assert torch.equal(batch.edge_vectors(), torch.cat([graph.edge_vectors() for graph in graphs]))
    again = collate([collate(graphs[:2]), collate(graphs[2:])])
    assert torch.equal(again.edge_index, batch.edge_index)
    assert torch.equal(again.batch, batch.batch)
    assert torch.equal(batch.to("cpu").positions, batch.positions)
    with pytest.raises(ModelError, match="at least one"):
        collate([])


def test_bad_structures():
    with pytest.raises(ModelError, match=r"does not know the element Cu, Zn; it knows H, C"):
        build_graph(Atoms("CuZn", [[0, 0, 0], [0, 0, 2]]), cutoff=5, type_names=TYPES)
    with pytest.raises(ModelError, match="atoms 0 and 2 are at the same place"):
        build_graph(Atoms("HCO", [[0, 0, 0], [0, 0, 2], [0, 0, 0]]), cutoff=5, type_names=TYPES)
    with pytest.raises(ModelError, match="no volume"):
        build_graph(Atoms("H", pbc=True), cutoff=5, type_names=TYPES)
    with pytest.raises(ModelError, match="not a finite number"):
        build_graph(Atoms("H", [[np.nan, 0, 0]]), cutoff=5, type_names=TYPES)


@pytest.mark.parametrize("centre", [[0, 0, 1, 2, 2, 2], [0, 0, 1, 1], [], [1, 1, 3]])
def test_layout(centre):
    """Rectangle and list are each other's inverse and each other's derivative."""
    layout = EdgeLayout.of(torch.tensor(centre, dtype=torch.int64), 4)
    rows = torch.randn(len(centre), 2, dtype=torch.float64, requires_grad=True)
    rectangle = layout.spread(rows)
    assert rectangle.shape == (4, layout.width, 2)
    assert torch.equal(layout.collect(rectangle), rows)
    expected = torch.zeros(4, 2, dtype=torch.float64).index_add(0, torch.tensor(centre, dtype=torch.int64), rows)
    assert torch.allclose(layout.sum_over_edges(rows), expected)
    if centre:
        assert torch.autograd.gradcheck(layout.spread, rows)
        assert torch.autograd.gradgradcheck(layout.spread, rows)
        full = torch.randn(rectangle.shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(layout.collect, full)
