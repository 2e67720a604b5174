"""What any potential in ``models/`` must pass (ALGORITHMS 2.11).

A `Potential` says how to make the model; each function of `CLAUSES` takes one and asserts. All they use is the
model's configuration, ``model(batch)``, ``model.forward_edges(batch)`` and ``model.forward_positions(batch)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import exp
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from scipy.stats import ortho_group

from atomfoundry.models import GraphBatch, build_graph, collate

ELEMENTS = ["H", "C", "O", "Si"]
CUTOFF = 4.0
ISOLATED = {"H": -0.5, "C": -1.25, "O": -2.0, "Si": -3.5}
"""Small, so that they hide no rounding."""


@dataclass(frozen=True)
class Potential:
    """A kind of model.

    Parameters
    ----------
    make
        Takes changes of the configuration, returns a model: of ELEMENTS, cutoff CUTOFF, float64 and with the
        ISOLATED energies in its first head unless changed.
    mirror
        Whether mirror images must have one energy (True), must differ (False) or need not (None).
    linear_readout
        Whether E - sum E0 = features @ readout_weights.
    smooth_scale
        Factor on the limits near the cutoff, for a radial basis that does not itself vanish there.
    calm
        Whether fresh models start with edge energies of order one, rather than just not dead.
    """

    make: Callable[..., Any]
    mirror: bool | None = True
    linear_readout: bool = True
    smooth_scale: float = 1.0
    calm: bool = True

    @cached_property
    def model(self):
        return self.make()


# Structures -------------------------------------------------------------------------------------------------


def silica(seed: int = 0) -> Atoms:
    """A small skewed cell, smaller than the cutoff: self-images, several images of a pair, ragged degrees."""
    cell = [[3.1, 0.1, 0.0], [-0.4, 3.3, 0.2], [0.5, 0.3, 3.6]]
    atoms = Atoms("SiO2", [[0.1, 0.0, 0.2], [1.6, 1.5, 0.3], [0.2, 1.7, 1.9]], cell=cell, pbc=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.03, seed=1)
    return atoms


def slab() -> Atoms:
    atoms = silica(5)
    atoms.pbc = (True, True, False)
    return atoms


# Tools ------------------------------------------------------------------------------------------------------


def graph_of(model, atoms: Atoms, head: int = 0) -> GraphBatch:
    return build_graph(atoms, cutoff=model.config.cutoff, type_names=model.config.type_names, head=head)


def batch_of(model, *structures: Atoms) -> GraphBatch:
    """One batch, the model's heads in turn."""
    n_heads = len(model.config.heads)
    return collate([graph_of(model, atoms, index % n_heads) for index, atoms in enumerate(structures)])


def evaluate(model, atoms: Atoms, head: int = 0) -> dict[str, torch.Tensor]:
    return {key: value.detach() for key, value in model(graph_of(model, atoms, head)).items()}


def energy_of(model, atoms: Atoms) -> float:
    with torch.no_grad():
        return float(model(graph_of(model, atoms), forces=False, stress=False)["energy"][0])


def close(left, right, tolerance: float) -> None:
    left, right = np.asarray(left), np.asarray(right)
    assert left.shape == right.shape
    assert np.isfinite(left).all()
    assert np.abs(left - right).max(initial=0.0) < tolerance * max(1.0, np.abs(right).max(initial=0.0))


# Symmetries -------------------------------------------------------------------------------------------------


def _turned(atoms: Atoms, rotation: np.ndarray) -> Atoms:
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ rotation.T)
    atoms.positions = atoms.positions @ rotation.T
    return atoms


def rotations(potential: Potential, *, tolerance: float = 1e-12) -> None:
    """Energy is invariant, forces and stress turn along; under improper rotations too where that is promised."""
    rng = np.random.default_rng(0)
    model = potential.model
    for atoms in (silica(), ethanol()):
        out = evaluate(model, atoms)
        for sign in (1, -1):
            rotation = ortho_group.rvs(3, random_state=rng)
            rotation[0] *= sign * np.sign(np.linalg.det(rotation))
            if sign < 0 and potential.mirror is not True:
                continue
            new = evaluate(model, _turned(atoms, rotation))
            close(new["energy"], out["energy"], tolerance)
            close(new["forces"], out["forces"].numpy() @ rotation.T, tolerance)
            if atoms.pbc.all():
                close(new["stress"][0], rotation @ out["stress"][0].numpy() @ rotation.T, tolerance)


def mirror_images(potential: Potential) -> None:
    """A chiral structure and its mirror image have one energy, or visibly two."""
    if potential.mirror is None:
        return
    chiral = Atoms("SiHCOH", [[0, 0, 0], [1.5, 0.1, 0], [-0.6, 1.6, 0.1], [-0.4, -0.7, 1.6], [-0.5, -0.8, -1.3]])
    difference = abs(energy_of(potential.model, chiral) - energy_of(potential.model, _turned(chiral, -np.eye(3))))
    assert difference < 1e-12 if potential.mirror else difference > 1e-9


def permutation(potential: Potential, *, tolerance: float = 1e-12) -> None:
    rng = np.random.default_rng(0)
    for atoms in (silica(), ethanol(), slab()):
        out = evaluate(potential.model, atoms)
        order = rng.permutation(len(atoms))
        new = evaluate(potential.model, atoms[order])
        close(new["energy"], out["energy"], tolerance)
        close(new["forces"], out["forces"][order], tolerance)
        close(new["atomic_energy"], out["atomic_energy"][order], tolerance)


def translation(potential: Potential, *, tolerance: float = 1e-11) -> None:
    """Also out of the cell, one atom by a lattice vector."""
    for atoms in (silica(), ethanol(), slab()):
        out = evaluate(potential.model, atoms)
        moved = atoms.copy()
        moved.translate([0.3, -11.2, 5.1])
        if atoms.pbc.any():
            moved.positions[0] += atoms.cell.array[np.flatnonzero(atoms.pbc)].sum(axis=0)
        new = evaluate(potential.model, moved)
        close(new["energy"], out["energy"], tolerance)
        close(new["forces"], out["forces"], tolerance)


def doubled_cell(potential: Potential, *, tolerance: float = 1e-13) -> None:
    _repeated(potential.model, (2, 1, 1), tolerance)


def self_images(potential: Potential, *, tolerance: float = 1e-13) -> None:
    """A cell smaller than the cutoff against one so large that no atom is its own neighbour."""
    graph = graph_of(potential.model, silica())
    assert (graph.edge_index[0] == graph.edge_index[1]).any()
    graph = graph_of(potential.model, silica() * (3, 3, 3))
    assert not (graph.edge_index[0] == graph.edge_index[1]).any()
    _repeated(potential.model, (3, 3, 3), tolerance)


def _repeated(model, times: tuple[int, int, int], tolerance: float) -> None:
    out, many = evaluate(model, silica()), evaluate(model, silica() * times)
    n_cells = int(np.prod(times))
    close(many["energy"], n_cells * out["energy"], 10 * tolerance)
    close(many["forces"], np.tile(out["forces"], (n_cells, 1)), 10 * tolerance)
    close(many["stress"], out["stress"], 10 * tolerance)


# Limits -----------------------------------------------------------------------------------------------------


def isolated_atoms(potential: Potential) -> None:
    """Exactly the isolated-atom energy, no force; in a big cell no stress."""
    for element in ELEMENTS:
        for cell in (None, 30.0):
            out = evaluate(potential.model, Atoms(element, cell=[cell] * 3 if cell else None, pbc=cell is not None))
            assert float(out["energy"][0]) == ISOLATED[element]
            assert not out["forces"].any()
            assert torch.isnan(out["stress"]).all() if cell is None else not out["stress"].any()


def empty_graphs(potential: Potential, *, tolerance: float = 1e-13) -> None:
    """Structures without a single edge, alone and in company."""
    model = potential.model
    out = model(batch_of(model, Atoms("O"), Atoms("Si", cell=[20] * 3, pbc=True)))
    assert not out["forces"].any()
    assert not out["stress"][1].any()
    assert out["edge_energy"].shape == (0,)
    batching(potential, [Atoms("O"), Atoms("Si", cell=[20] * 3, pbc=True)], tolerance=tolerance)


def smooth_cutoff(potential: Potential) -> None:
    """A dimer's energy beyond that of its atoms falls to zero with its gradient as r -> r_c."""
    model, apart = potential.model, ISOLATED["H"] + ISOLATED["O"]
    previous = np.inf
    for fraction, limit in ((0.9, 1.0), (0.967, 2e-2), (0.997, 2e-6), (0.9997, 2e-10), (1.0001, 1e-30)):
        limit *= potential.smooth_scale
        out = evaluate(model, Atoms("HO", [[0, 0, 0], [0, 0, fraction * CUTOFF]]))
        excess = abs(float(out["energy"][0]) - apart)
        excess = 0.0 if excess < 1e-14 else excess
        assert excess < limit
        assert float(out["forces"].abs().max()) < max(30 * limit / (1 - min(fraction, 0.99999)), 1e-30)
        assert excess < previous or excess == 0.0
        if fraction > 0.95:  # before, it may pass through zero
            previous = excess


def third_atom_enters_smoothly(potential: Potential) -> None:
    """An atom that crosses the cutoff of two others changes the energy by no step."""
    energies = [
        energy_of(potential.model, Atoms("HOC", [[0, 0, 0], [0, 0, 1.9], [0, fraction * CUTOFF, 0]]))
        for fraction in (1 - 1e-5, 1 + 1e-5)
    ]
    assert abs(energies[0] - energies[1]) < 1e-11 * potential.smooth_scale


def strict_locality(potential: Potential) -> None:
    """No atom's energy depends on an edge centred on another: dU_i/dr_e = 0 exactly."""
    batch = graph_of(potential.model, silica())
    out = potential.model.forward_edges(batch, create_graph=True)
    for atom in range(batch.num_nodes):
        (gradient,) = torch.autograd.grad(out["atomic_energy"][atom], out["edge_vectors"], retain_graph=True)
        mine = batch.edge_index[0] == atom
        assert not gradient[~mine].any()
        close(gradient[mine], out["edge_gradients"][mine].detach(), 1e-13)


# Derivatives ------------------------------------------------------------------------------------------------


def finite_differences(potential: Potential) -> None:
    for atoms in (silica(), ethanol(), slab()):
        check_derivatives(potential.model, atoms)


def check_derivatives(model, atoms: Atoms, *, h: float = 1e-5, strain: float = 1e-6, tolerance: float = 1e-8) -> None:
    """Forces and stress against central differences, along random directions and all six strains."""
    rng = np.random.default_rng(0)
    out = evaluate(model, atoms)
    forces = out["forces"].numpy()
    for _ in range(2):
        direction = rng.normal(size=forces.shape)
        direction /= np.linalg.norm(direction)
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * h * direction
            energies.append(energy_of(model, moved))
        slope = (energies[0] - energies[1]) / (2 * h)
        assert abs(slope + (forces * direction).sum()) < tolerance * max(1.0, np.abs(forces).max())
    if not atoms.pbc.all():
        assert torch.isnan(out["stress"]).all()
        return
    stress = out["stress"][0].numpy()
    assert np.array_equal(stress, stress.T)
    for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            deformation = np.eye(3)
            deformation[a, b] += sign * strain / 2
            deformation[b, a] += sign * strain / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
            energies.append(energy_of(model, moved))
        slope = (energies[0] - energies[1]) / (2 * strain) / atoms.get_volume()
        assert abs(slope - stress[a, b]) < tolerance * max(1.0, np.abs(stress).max())


def paths_agree(potential: Potential, *, tolerance: float = 1e-13) -> None:
    """Derivatives by edge vectors and by positions and strain."""
    model = potential.model
    for batch in (batch_of(model, silica(), ethanol(), slab()), graph_of(model, silica())):
        edges, positions = model(batch), model.forward_positions(batch)
        for key in ("energy", "forces", "stress"):
            close(edges[key].nan_to_num(), positions[key].nan_to_num(), tolerance)
            assert torch.equal(edges[key].isnan(), positions[key].isnan())


def parameter_gradients(potential: Potential, *, tolerance: float = 1e-6) -> None:
    """The gradient of a loss of energies, forces and stresses against central differences."""
    model = potential.make()
    batch = batch_of(model, silica(), ethanol())

    def loss() -> torch.Tensor:
        out = model(batch, create_graph=True)
        return (
            out["energy"].square().sum()
            + out["forces"].square().sum()
            + 100 * out["stress"].nan_to_num().square().sum()
        )

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    assert all(gradient.any() for gradient in gradients)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    values, place = {}, 0
    for step in (-2, -1, 1, 2):  # of 1e-5 along the direction; four points leave an error of fourth order
        with torch.no_grad():
            for parameter, along in zip(parameters, direction, strict=True):
                parameter += (step - place) * 1e-5 * along
        place = step
        values[step] = float(loss().detach())
    slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / 12e-5
    exact = float(sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)))
    assert abs(slope - exact) < tolerance * max(1.0, abs(exact))


def batched_backward(potential: Potential, *, tolerance: float = 1e-12) -> None:
    """Several backward passes at once (vmap) give what they give one by one."""
    model = potential.model
    out = model.forward_edges(batch_of(model, silica(), ethanol()), create_graph=True)
    (n_graphs, width), vectors = out["features"].shape, out["edge_vectors"]
    columns = torch.eye(width, dtype=torch.float64)[: min(3, width), None, :].expand(-1, n_graphs, -1)
    (together,) = torch.autograd.grad(
        out["features"], vectors, grad_outputs=columns, is_grads_batched=True, retain_graph=True
    )
    for column, gradient in zip(columns, together, strict=True):
        (alone,) = torch.autograd.grad(out["features"], vectors, grad_outputs=column, retain_graph=True)
        close(gradient, alone, tolerance)


# Batches, heads, precision ----------------------------------------------------------------------------------


def batching(potential: Potential, structures: list[Atoms] | None = None, *, tolerance: float = 1e-13) -> None:
    """A batch of structures of all heads gives what its structures give one by one."""
    model = potential.model
    structures = structures or [silica(), ethanol(), Atoms("H"), slab(), silica(2)]
    together = model(batch_of(model, *structures))
    n_heads = len(model.config.heads)
    single = [evaluate(model, atoms, index % n_heads) for index, atoms in enumerate(structures)]
    for key in ("energy", "forces", "atomic_energy", "edge_energy", "features"):
        close(together[key].detach(), torch.cat([out[key] for out in single]), tolerance)
    close(together["stress"].nan_to_num(), torch.cat([out["stress"] for out in single]).nan_to_num(), tolerance)


def linear_readout(potential: Potential, *, tolerance: float = 1e-13) -> None:
    """E - sum E0 (- ZBL) = w_h . f, also atom by atom, for each head."""
    if not potential.linear_readout:
        return
    model = potential.model
    for index, head in enumerate(model.config.heads):
        for atoms in (silica(), ethanol()):
            out = model(graph_of(model, atoms, index))
            isolated = [head.isolated_energies.get(symbol, 0.0) for symbol in atoms.get_chemical_symbols()]
            rest = torch.tensor(isolated, dtype=torch.float64) + out.get("zbl_energy", 0.0)
            weights = model.readout_weights(head.name)
            close((out["features"] @ weights + rest.sum()).detach(), out["energy"], tolerance)
            close((out["atomic_features"] @ weights + rest).detach(), out["atomic_energy"], tolerance)


def initial_statistics(potential: Potential) -> None:
    """Latents and edge energies of fresh models of ordinary width start neither dead nor wild."""
    rms = []
    for seed in range(12):
        model = potential.make(
            seed=seed, num_channels=16, two_body_dims=[16, 32, 64], latent_dims=[64, 64], edge_energy_dims=[64]
        )
        batch = graph_of(model, ethanol())
        out = model(batch, forces=False, stress=False)
        scale = model.readouts.scales[0][batch.types[batch.edge_index[0]]] * model.config.edge_sum_norm
        values = (out["edge_latents"], out["edge_energy"] / scale)
        rms.append([float(value.detach().square().mean()) for value in values])
    latent, energy = np.sqrt(np.mean(rms, axis=0))
    highest = 2 if potential.calm else np.inf
    assert 0.2 < latent < highest
    assert 0.2 < energy < highest


def single_precision(potential: Potential, *, tolerance: float = 1e-5) -> None:
    """Both precisions agree to ``tolerance`` of what is summed: edge energies and their gradients may cancel."""
    double, single = potential.model, potential.make(dtype="float32")
    for atoms in (silica(), ethanol()):
        left, right = evaluate(single, atoms), evaluate(double, atoms)
        assert left["energy"].dtype == left["forces"].dtype == left["features"].dtype == torch.float64
        assert single.forward_edges(graph_of(single, atoms))["edge_latents"].dtype == torch.float32
        summed = {"energy": right["edge_energy"].abs().sum(), "forces": right["edge_gradients"].norm(dim=1).max()}
        for key, size in summed.items():
            assert float((left[key] - right[key]).abs().max()) < tolerance * max(1.0, float(size))


def core_repulsion(potential: Potential) -> None:
    """With ZBL: nothing else changes, a close pair gets the published curve, beyond the covalent radii nothing."""
    with_zbl, without = potential.make(zbl=True), potential.make(zbl=False)
    without.load_state_dict(with_zbl.state_dict())
    for r in (0.2, 0.6, 1.1, 3.0):
        pair = Atoms("CO", [[0, 0, 0], [0, 0.6 * r, 0.8 * r]])
        left, right = evaluate(with_zbl, pair), evaluate(without, pair)
        r_max = covalent_radii[6] + covalent_radii[8]
        x = r * (6**0.3 + 8**0.3) / (0.4543 * 0.529)
        factors, decays = (0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016)
        screening = sum(c * exp(-d * x) for c, d in zip(factors, decays, strict=True))
        t = min(r / r_max, 1.0)
        expected = 14.3996 * 48 / r * screening * (1 - 28 * t**6 + 48 * t**7 - 21 * t**8)
        assert abs(float(left["energy"][0] - right["energy"][0]) - expected) < 1e-6 * max(expected, 1.0)
        close(left["edge_energy"], right["edge_energy"], 1e-15)
    dimer = Atoms("CO", [[0, 0, 0], [0, 0, 0.05]])
    assert energy_of(with_zbl, dimer) > 1000


CLAUSES = [
    rotations,
    mirror_images,
    permutation,
    translation,
    doubled_cell,
    self_images,
    isolated_atoms,
    empty_graphs,
    smooth_cutoff,
    third_atom_enters_smoothly,
    strict_locality,
    finite_differences,
    paths_agree,
    parameter_gradients,
    batched_backward,
    batching,
    linear_readout,
    initial_statistics,
    single_precision,
    core_repulsion,
]
