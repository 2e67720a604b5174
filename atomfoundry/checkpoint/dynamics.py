"""The whole state of a molecular dynamics run, so that it goes on bit for bit as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.checkpoint.files import Saved
from atomfoundry.errors import CheckpointError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.md.md import MolecularDynamics

_OWN_STATE: dict[str, tuple[str, ...]] = {
    "VelocityVerlet": (),
    "Langevin": (),
    # its force on the cell is that of the momenta before the last half step: it cannot be computed again
    "LangevinBAOAB": ("accel", "force_eps", "p_eps", "gamma_mod"),
}
"""Integrator -> what it carries from step to step beside positions, momenta, cell and generator."""


def structure_identity(atoms: Atoms) -> dict[str, Any]:
    """Return what a run's outcome depends on in its structure, for a fingerprint.

    Parameters
    ----------
    atoms
        The start.
    """
    return {
        "numbers": atoms.numbers,
        "masses": atoms.get_masses(),
        "positions": atoms.positions,
        "momenta": atoms.get_momenta(),
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "charges": atoms.get_initial_charges(),
        "magmoms": atoms.get_initial_magnetic_moments(),
        "tags": atoms.get_tags(),
    }


def dynamics_state(dynamics: MolecularDynamics) -> Saved:
    """Return all that an integrator of ASE needs to go on bit for bit.

    Positions, momenta, cell, number of steps, the generator's state, what the integrator carries, and the structures
    that the calculator's neighbour lists were made for: the order of a list decides about the last bit of the forces.
    A calculator that is otherwise no function of the structure alone (a self-consistent one that starts from its
    last density) goes on within its own accuracy.

    Parameters
    ----------
    dynamics
        ``VelocityVerlet``, ``Langevin`` or ``LangevinBAOAB``, between two steps.

    Raises
    ------
    CheckpointError
        If the integrator is another one or its generator cannot be saved.
    """
    atoms = dynamics.atoms
    # copies: the next step writes into these very arrays
    arrays = {"positions": atoms.positions.copy(), "momenta": atoms.get_momenta(), "cell": atoms.cell.array.copy()}
    for name in _own_state(dynamics):
        arrays[f"integrator/{name}"] = np.array(getattr(dynamics, name), dtype=np.float64)
    for index, listed in enumerate(_listed_structures(atoms.calc)):
        arrays[f"list/{index}/positions"], arrays[f"list/{index}/cell"] = listed
    rng = getattr(dynamics, "rng", None)
    return Saved(arrays, {"nsteps": dynamics.nsteps, "rng": None if rng is None else _generator(rng).state})


def restore_dynamics(dynamics: MolecularDynamics, saved: Saved) -> None:
    """Put an integrator where `dynamics_state` found it.

    Parameters
    ----------
    dynamics
        Made anew with the same settings for the same atoms, with their calculator.
    saved
        What `dynamics_state` gave.

    Raises
    ------
    CheckpointError
        If the state is of another structure or integrator.
    """
    atoms, arrays = dynamics.atoms, saved.arrays
    own = _own_state(dynamics)
    missing = {"positions", "momenta", "cell", *(f"integrator/{name}" for name in own)} - set(arrays)
    if missing or arrays["positions"].shape != atoms.positions.shape:
        raise CheckpointError(
            f"The checkpoint is not of a {type(dynamics).__name__} run of {atoms.get_chemical_formula()}.",
            remedy="Remove it to begin from the start.",
        )
    _remake_lists(atoms, arrays)
    atoms.set_cell(arrays["cell"])
    atoms.positions = arrays["positions"]
    atoms.arrays["momenta"] = np.array(arrays["momenta"])  # exactly these: set_momenta would apply constraints
    for name in own:
        value = arrays[f"integrator/{name}"]
        setattr(dynamics, name, value.copy() if value.ndim else float(value))
    dynamics.nsteps = int(saved.state["nsteps"])
    if saved.state["rng"] is not None:
        _generator(dynamics.rng).state = saved.state["rng"]


def steps_of(dynamics: MolecularDynamics, n: int, *, continued: bool = False) -> Iterator[int]:
    """Run, and yield the number of every step after it was made; 0 first, before any, as ASE's ``irun`` does.

    Parameters
    ----------
    dynamics
        The integrator.
    n
        Steps in all.
    continued
        The run was restored: the step it stands at has been yielded before.
    """
    if not continued:
        yield dynamics.nsteps
    while dynamics.nsteps < n:
        dynamics.step()
        dynamics.nsteps += 1
        yield dynamics.nsteps


def describe_step(what: str, step: int, steps: int, temperature: float, picoseconds: float) -> str:
    """Return where a run is, for people: step, temperature (K), time (ps)."""
    return f"{what}: step {step}/{steps}, {temperature:.0f} K, {picoseconds:.3g} ps"


def _own_state(dynamics: MolecularDynamics) -> tuple[str, ...]:
    kind = type(dynamics).__name__
    if kind not in _OWN_STATE:
        raise CheckpointError(
            f"A run of {kind} cannot go on from a checkpoint.", remedy=f"Use {', '.join(_OWN_STATE)}."
        )
    return tuple(name for name in _OWN_STATE[kind] if hasattr(dynamics, name))


def _generator(rng: Any) -> Any:
    generator = getattr(rng, "bit_generator", None)
    if generator is None:
        raise CheckpointError(
            f"The state of a {type(rng).__name__} cannot be saved.", remedy="Use numpy.random.default_rng(seed)."
        )
    return generator


def _listed_structures(calculator: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return positions and cell that each neighbour list with a skin was last made for."""
    primitives = [found.nl for found in _neighbour_lists(calculator) if found.nl.nupdates]
    places = [getattr(each, "coordinates", None) for each in primitives]
    places = [each.positions if place is None else place for each, place in zip(primitives, places, strict=True)]
    return [(np.array(place), np.array(each.cell)) for each, place in zip(primitives, places, strict=True)]


def _neighbour_lists(calculator: Any, depth: int = 3) -> list[Any]:
    """Find the lists of a calculator and of those it is made of."""
    from ase.calculators.calculator import BaseCalculator
    from ase.neighborlist import NeighborList

    found: list[Any] = []
    for value in vars(calculator).values() if hasattr(calculator, "__dict__") else ():
        if isinstance(value, NeighborList):
            found.append(value)
        elif depth and (isinstance(value, BaseCalculator) or type(value).__name__ == "Mixer"):
            found += _neighbour_lists(value, depth - 1)
        elif depth and isinstance(value, list | tuple):
            parts = (part for part in value if isinstance(part, BaseCalculator))
            found += [each for part in parts for each in _neighbour_lists(part, depth - 1)]
    return found


def _remake_lists(atoms: Atoms, arrays: dict[str, np.ndarray]) -> None:
    """Let the calculator make its lists where it made them before; it keeps them until atoms leave the skin."""
    index = 0
    while f"list/{index}/positions" in arrays:
        there = atoms.copy()
        there.set_cell(arrays[f"list/{index}/cell"])
        there.positions = arrays[f"list/{index}/positions"]
        atoms.calc.get_property("forces", there)
        index += 1
