"""Energies, forces and stress of a structure from any ASE calculator, or the reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from atomfoundry.deadline import NoTimeLeftError, ended_by_stop, reason_to_stop
from atomfoundry.errors import CheckpointError, InputError, LabelError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator


@contextmanager
def calculator_boundary(what: str) -> Iterator[None]:
    """Turn whatever a calculator raises into a `LabelError` with a reason.

    Parameters
    ----------
    what
        What is being computed, for the message.

    Raises
    ------
    LabelError
        With reason ``"crashed"``, or the calculator's own `LabelError`.
    InputError
        Passed on unchanged: an unsupported element is the user's matter, not one item's.
    NoTimeLeftError
        Passed on unchanged; also if the end of this process has ended the calculation.
    """
    try:
        yield
    except (InputError, NoTimeLeftError, CheckpointError):
        raise
    except Exception as error:  # a calculator is foreign code and may raise anything
        if ended_by_stop(error):
            raise NoTimeLeftError(f"{what}: interrupted, because {reason_to_stop()}.") from error
        if isinstance(error, LabelError):
            raise
        raise LabelError(f"{what}: {type(error).__name__}: {error}", reason="crashed") from error


def consistent_energy(atoms: Atoms) -> float:
    """Return the energy that the forces are derivatives of.

    Parameters
    ----------
    atoms
        A structure with a calculator.

    Returns
    -------
    float
        ``free_energy`` where the calculator gives one (electronic smearing), else ``energy``; eV.
    """
    energy = atoms.get_potential_energy()
    results = getattr(atoms.calc, "results", {})
    free_energy = results.get("free_energy")
    return float(energy if free_energy is None else free_energy)


def single_point(atoms: Atoms, calculator: BaseCalculator, *, what: str = "single point") -> Atoms:
    """Label one structure.

    Parameters
    ----------
    atoms
        The structure; it is not changed.
    calculator
        Any ASE calculator.
    what
        Name of the item, for messages.

    Returns
    -------
    Atoms
        A copy with energy (eV), forces (eV/A) and, for periodic structures where the calculator has one,
        stress (eV/A^3, Voigt, tension positive) in a `SinglePointCalculator`.

    Raises
    ------
    LabelError
        With reason ``"crashed"`` or ``"nan"``.
    """
    frame = atoms.copy()
    with calculator_boundary(what):
        frame.calc = calculator
        energy = consistent_energy(frame)
        forces = np.array(frame.get_forces(), dtype=float)
        stress = _stress(frame)
    values = [np.array([energy]), forces] + ([] if stress is None else [stress])
    if not all(np.isfinite(value).all() for value in values):
        raise LabelError(f"{what}: the calculator returned NaN or infinity.", reason="nan")
    labels = {"energy": energy, "forces": forces}
    if stress is not None:
        labels["stress"] = stress
    frame.calc = SinglePointCalculator(frame, **labels)
    return frame


def _stress(frame: Atoms) -> np.ndarray | None:
    if not frame.pbc.all():
        return None
    try:
        return np.array(frame.get_stress(voigt=True), dtype=float)
    except PropertyNotImplementedError:
        return None


def relax(
    atoms: Atoms,
    calculator: BaseCalculator,
    *,
    cell: bool = False,
    fmax: float = 0.01,
    max_steps: int = 500,
    what: str = "relaxation",
) -> tuple[Atoms, int]:
    """Relax a structure with FIRE and label it.

    Where symmetry makes all forces vanish this costs a single calculation.

    Parameters
    ----------
    atoms
        The structure; it is not changed.
    calculator
        Any ASE calculator.
    cell
        Relax the cell as well (`FrechetCellFilter`).
    fmax
        Largest remaining force, eV/A.
    max_steps
        Steps after which the relaxation counts as failed.
    what
        Name of the item, for messages.

    Returns
    -------
    tuple of (Atoms, int)
        The relaxed and labelled structure, and the number of steps.

    Raises
    ------
    LabelError
        With reason ``"unconverged"``, ``"crashed"`` or ``"nan"``.
    """
    moving = atoms.copy()
    with calculator_boundary(what):
        moving.calc = calculator
        optimizer = FIRE(FrechetCellFilter(moving) if cell else moving, logfile=None)
        converged = optimizer.run(fmax=fmax, steps=max_steps)
    frame = single_point(moving, calculator, what=what)
    if not converged:
        raise LabelError(f"{what}: forces above {fmax} eV/A after {max_steps} steps.", reason="unconverged")
    return frame, int(optimizer.nsteps)


def stress_of(frame: Atoms) -> np.ndarray | None:
    """Return the stress label of a frame.

    Parameters
    ----------
    frame
        A labelled frame.

    Returns
    -------
    ndarray of shape (6,) or None
        eV/A^3, Voigt; None where the frame has none.
    """
    stress = None if frame.calc is None else frame.calc.results.get("stress")
    if stress is None:
        return None
    stress = np.asarray(stress, dtype=float)
    if stress.shape == (3, 3):
        return stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return stress


def energy_of(frame: Atoms) -> float | None:
    """Return the energy label of a frame in eV, or None where the frame has none."""
    energy = None if frame.calc is None else frame.calc.results.get("energy")
    return None if energy is None else float(energy)


def forces_of(frame: Atoms) -> np.ndarray | None:
    """Return the force labels of a frame, (N, 3) in eV/A, or None where the frame has none."""
    forces = None if frame.calc is None else frame.calc.results.get("forces")
    return None if forces is None else np.asarray(forces, dtype=float)
