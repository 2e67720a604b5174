"""What any potential in ``models/`` must pass: ``model(batch)`` and ``forward_positions(batch)`` are all
they use.

Each check takes a float64 model and a structure of its elements, and asserts (ALGORITHMS 2.11).
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from scipy.stats import ortho_group

from atomfoundry.models import GraphBatch, build_graph


def graph_of(model, atoms: Atoms, head: int = 0) -> GraphBatch:
    return build_graph(atoms, cutoff=model.config.cutoff, type_names=model.config.type_names, head=head)


def evaluate(model, atoms: Atoms) -> dict[str, torch.Tensor]:
    return {key: value.detach() for key, value in model(graph_of(model, atoms)).items()}


def close(left, right, tolerance: float) -> None:
    left, right = np.asarray(left), np.asarray(right)
    assert left.shape == right.shape
    assert np.abs(left - right).max(initial=0.0) < tolerance * max(1.0, np.abs(right).max(initial=0.0))


def check_rotations(model, atoms: Atoms, *, n: int = 3, seed: int = 0, tolerance: float = 1e-12) -> None:
    """Energy is invariant, forces and stress turn along, for proper and improper rotations."""
    out = evaluate(model, atoms)
    rng = np.random.default_rng(seed)
    signs = set()
    for trial in range(n):
        rotation = ortho_group.rvs(3, random_state=rng)
        if trial < 2:  # one proper, one improper at least
            rotation[0] *= np.sign(np.linalg.det(rotation)) * (-1) ** trial
        signs.add(round(np.linalg.det(rotation)))
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ rotation.T)
        turned.positions = atoms.positions @ rotation.T
        new = evaluate(model, turned)
        close(new["energy"], out["energy"], tolerance)
        close(new["forces"], out["forces"].numpy() @ rotation.T, tolerance)
        if atoms.pbc.all():
            close(new["stress"][0], rotation @ out["stress"][0].numpy() @ rotation.T, tolerance)
    assert signs == {1, -1}


def check_permutation(model, atoms: Atoms, *, seed: int = 0, tolerance: float = 1e-12) -> None:
    out = evaluate(model, atoms)
    order = np.random.default_rng(seed).permutation(len(atoms))
    new = evaluate(model, atoms[order])
    close(new["energy"], out["energy"], tolerance)
    close(new["forces"], out["forces"][order], tolerance)
    close(new["atomic_energy"], out["atomic_energy"][order], tolerance)


def check_translation(model, atoms: Atoms, *, tolerance: float = 1e-11) -> None:
    """Also out of the cell, one atom by a lattice vector."""
    out = evaluate(model, atoms)
    moved = atoms.copy()
    moved.translate([0.3, -11.2, 5.1])
    if atoms.pbc.any():
        moved.positions[0] += atoms.cell.array[np.flatnonzero(atoms.pbc)].sum(axis=0)
    new = evaluate(model, moved)
    close(new["energy"], out["energy"], tolerance)
    close(new["forces"], out["forces"], tolerance)


def check_supercell(model, crystal: Atoms, *, tolerance: float = 1e-13) -> None:
    out, double = evaluate(model, crystal), evaluate(model, crystal * (2, 1, 1))
    close(double["energy"], 2 * out["energy"], tolerance)
    close(double["forces"], np.tile(out["forces"], (2, 1)), 10 * tolerance)
    close(double["stress"], out["stress"], 10 * tolerance)


def check_isolated_atom(model, element: str, energy: float) -> None:
    """Exactly its isolated-atom energy, no force; in a big cell no stress."""
    for cell in (None, 30.0):
        out = evaluate(model, Atoms(element, cell=[cell] * 3 if cell else None, pbc=cell is not None))
        assert float(out["energy"][0]) == energy
        assert not out["forces"].any()
        assert torch.isnan(out["stress"]).all() if cell is None else not out["stress"].any()


def check_smooth_cutoff(model, elements: tuple[str, str], energy: float, *, scale: float = 1.0) -> None:
    """A dimer's energy beyond that of its atoms falls to zero with its gradient as r -> r_c.

    ``scale`` multiplies the limits, for a radial basis that does not itself vanish at the cutoff.
    """
    previous = np.inf
    for fraction, limit in ((0.9, 1.0), (0.967, 2e-2), (0.997, 2e-6), (0.9997, 2e-10), (1.0001, 1e-30)):
        out = evaluate(model, Atoms(elements, [[0, 0, 0], [0, 0, fraction * model.config.cutoff]]))
        excess = max(abs(float(out["energy"][0]) - energy), 1e-13 * abs(energy)) - 1e-13 * abs(energy)
        limit *= scale
        assert excess < limit
        assert float(out["forces"].abs().max()) < max(30 * limit / (1 - min(fraction, 0.99999)), 1e-30)
        assert excess < previous or excess == 0.0
        previous = excess


def check_third_atom_enters_smoothly(model, elements: tuple[str, str, str]) -> None:
    """An atom that crosses the cutoff of two others changes the energy by no step."""
    energies = []
    for fraction in (1 - 1e-5, 1 + 1e-5):
        r = fraction * model.config.cutoff
        atoms = Atoms(elements, [[0, 0, 0], [0, 0, 1.9], [0, r, 0.0]])
        energies.append(float(evaluate(model, atoms)["energy"][0]))
    assert abs(energies[0] - energies[1]) < 1e-11


def check_finite_differences(
    model, atoms: Atoms, *, h: float = 1e-5, strain: float = 1e-6, seed: int = 0, tolerance: float = 1e-8
) -> None:
    """Forces along a few displacements and all six stresses against central differences."""
    out = evaluate(model, atoms)
    scale = max(1.0, float(out["forces"].abs().max()))
    rng = np.random.default_rng(seed)
    for atom in rng.choice(len(atoms), size=min(3, len(atoms)), replace=False):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * h
                energies.append(float(evaluate(model, moved)["energy"][0]))
            slope = (energies[0] - energies[1]) / (2 * h)
            assert abs(slope + float(out["forces"][atom, axis])) < tolerance * scale
    if not atoms.pbc.all():
        return
    stress = out["stress"][0].numpy()
    assert np.array_equal(stress, stress.T)
    for a in range(3):
        for b in range(a, 3):
            energies = []
            for sign in (1, -1):
                deformation = np.eye(3)
                deformation[a, b] += sign * strain / 2
                deformation[b, a] += sign * strain / 2
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
                energies.append(float(evaluate(model, moved)["energy"][0]))
            slope = (energies[0] - energies[1]) / (2 * strain) / atoms.get_volume()
            assert abs(slope - stress[a, b]) < tolerance * max(1.0, np.abs(stress).max())


def check_paths_agree(model, batch: GraphBatch, *, tolerance: float = 1e-13) -> None:
    """Derivatives by edge vectors and by positions and strain."""
    edges, positions = model(batch), model.forward_positions(batch)
    for key in ("energy", "forces", "stress"):
        close(edges[key].nan_to_num(), positions[key].nan_to_num(), tolerance)
        assert torch.equal(edges[key].isnan(), positions[key].isnan())


def check_linear_readout(model, atoms: Atoms, *, head: str, tolerance: float = 1e-13) -> None:
    """E - sum E0 = w_h . f, also atom by atom."""
    index = model.head_index(head)
    out = model(graph_of(model, atoms, index))
    energies = model.config.heads[index].isolated_energies
    isolated = torch.tensor([energies.get(s, 0.0) for s in atoms.get_chemical_symbols()], dtype=torch.float64)
    weights = model.readout_weights(head)
    close((out["features"] @ weights + isolated.sum()).detach(), out["energy"], tolerance)
    close((out["atomic_features"] @ weights + isolated).detach(), out["atomic_energy"], tolerance)


def check_strict_locality(model, atoms: Atoms) -> None:
    """No atom's energy depends on an edge centred on another: dU_i/dr_e = 0 exactly."""
    batch = graph_of(model, atoms)
    out = model.forward_edges(batch, create_graph=True)
    for atom in range(len(atoms)):
        (gradient,) = torch.autograd.grad(out["atomic_energy"][atom], out["edge_vectors"], retain_graph=True)
        mine = batch.edge_index[0] == atom
        assert not gradient[~mine].any()
        close(gradient[mine], out["edge_gradients"][mine].detach(), 1e-13)


def check_batching(model, structures: list[Atoms], *, tolerance: float = 1e-13) -> None:
    """A batch gives what its structures give one by one."""
    from atomfoundry.models import collate

    together = model(collate([graph_of(model, atoms) for atoms in structures]))
    single = [evaluate(model, atoms) for atoms in structures]
    for key in ("energy", "forces", "atomic_energy", "edge_energy", "features"):
        close(together[key].detach(), torch.cat([out[key] for out in single]), tolerance)
    close(together["stress"].nan_to_num(), torch.cat([out["stress"] for out in single]).nan_to_num(), tolerance)


def check_parameter_gradients(model, batch: GraphBatch, *, seed: int = 0, tolerance: float = 1e-6) -> None:
    """The gradient of a loss of energies, forces and stresses against central differences."""

    def loss() -> torch.Tensor:
        out = model.forward_edges(batch, create_graph=True)
        return (
            out["energy"].square().sum()
            + out["forces"].square().sum()
            + 100 * out["stress"].nan_to_num().square().sum()
        )

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        values = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                for parameter, step in zip(parameters, direction, strict=True):
                    parameter += sign * 1e-5 * step
            values.append(float(loss().detach()))
        slope = (values[0] - values[1]) / 2e-5
        exact = float(sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)))
        assert abs(slope - exact) < tolerance * max(1.0, abs(exact))


def check_batched_backward(model, batch: GraphBatch, *, tolerance: float = 1e-12) -> None:
    """Several backward passes at once (vmap) give what they give one by one."""
    out = model.forward_edges(batch, create_graph=True)
    (n_graphs, width), vectors = out["features"].shape, out["edge_vectors"]
    columns = torch.eye(width, dtype=torch.float64)[: min(3, width), None, :].expand(-1, n_graphs, -1)
    (together,) = torch.autograd.grad(
        out["features"], vectors, grad_outputs=columns, is_grads_batched=True, retain_graph=True
    )
    for column, gradient in zip(columns, together, strict=True):
        (alone,) = torch.autograd.grad(out["features"], vectors, grad_outputs=column, retain_graph=True)
        close(gradient, alone, tolerance)
