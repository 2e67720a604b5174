"""Normal modes from any calculator, and structures displaced along them as at a temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

from atomfoundry.checkpoint.arrays import KeptArrays
from atomfoundry.checkpoint.dynamics import structure_identity
from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sampling.distances import collides
from atomfoundry.units import KB

if TYPE_CHECKING:
    from atomfoundry.checkpoint import Checkpoints

_TRIES = 100

_HBAR = units._hbar * units.J * units.s
"""eV times ASE's unit of time, A sqrt(amu/eV)."""

_PER_CM = 1e2 * units._c * 2 * np.pi / units.s
"""Angular frequency, in one per ASE's unit of time, of a mode of one per centimetre."""


@dataclass(frozen=True)
class NormalModes:
    """Normal modes of a structure without translations (and rotations of a molecule).

    Attributes
    ----------
    frequencies
        ``[m]``, 1/cm, rising; imaginary ones are negative.
    displacements
        ``[m, N, 3]``: change of the positions (A) per unit of mass-weighted amplitude (A sqrt(amu)).
    """

    frequencies: NDArray[np.float64]
    displacements: NDArray[np.float64]


def _rigid_motions(atoms: Atoms) -> NDArray[np.float64]:
    """Return an orthonormal basis ``[k, 3N]`` of mass-weighted translations and, for a molecule, rotations."""
    root = np.sqrt(atoms.get_masses())[:, None]
    motions = [root * axis for axis in np.eye(3)]
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        motions += [root * np.cross(axis, arms) for axis in np.eye(3)]
    left, values, _ = np.linalg.svd(np.array(motions).reshape(len(motions), -1).T, full_matrices=False)
    # A linear molecule has two rotations, an atom none.
    return left[:, values > 1e-6 * values.max()].T


def normal_modes(
    atoms: Atoms, calculator: Calculator, *, displacement: float = 0.01, checkpoints: Checkpoints | None = None
) -> NormalModes:
    """Return the normal modes from central differences of forces.

    Parameters
    ----------
    atoms
        A structure near a minimum; periodic cells give the modes at the zone centre.
    calculator
        Any ASE calculator with forces; called 6 N times.
    displacement
        A.
    checkpoints
        Where the forces are kept, so that an interrupted call goes on; None: nowhere.

    Raises
    ------
    StructureError
        If the displacement is not positive, or a force is not finite.
    NoTimeLeftError
        If the process must end; the same call goes on from the checkpoint.
    """
    if not displacement > 0:
        raise StructureError(f"A displacement of {displacement} A is not possible.")
    work = clean_frame(atoms)
    work.calc = calculator
    size = 3 * len(work)
    start = work.positions.copy()

    def row(number: int) -> NDArray[np.float64]:
        forces = []
        for sign in (1, -1):
            work.positions = start
            work.positions[number // 3, number % 3] += sign * displacement
            forces.append(np.array(work.get_forces()).ravel())
        return (forces[1] - forces[0]) / (2 * displacement)

    identity = {"displacement": displacement, "calculator": type(calculator).__name__, **structure_identity(work)}
    kept = KeptArrays(checkpoints, "modes", f"normal modes of {work.get_chemical_formula()}", lambda: identity)
    hessian = np.array(list(kept.each("row", size, row)))
    if not np.isfinite(hessian).all():
        raise StructureError(
            f"The calculator gives no finite forces for {work.get_chemical_formula()}.", remedy="Check the structure."
        )
    work.positions = start
    root = np.repeat(np.sqrt(work.get_masses()), 3)
    weighted = (hessian + hessian.T) / 2 / np.outer(root, root)
    rigid = _rigid_motions(work)
    # The basis of everything that is no rigid motion.
    _, _, basis = np.linalg.svd(rigid, full_matrices=True)
    inner = basis[len(rigid) :]
    values, vectors = np.linalg.eigh(inner @ weighted @ inner.T)
    omegas = np.sign(values) * np.sqrt(np.abs(values))
    return NormalModes(omegas / _PER_CM, ((vectors.T @ inner) / root).reshape(-1, len(work), 3))


def normal_mode_structures(
    atoms: Atoms,
    calculator: Calculator,
    *,
    temperature: float,
    n: int,
    seed: int,
    quantum: bool = False,
    softest: float = 50.0,
    displacement: float = 0.01,
    min_distance_factor: float = 0.6,
) -> list[Atoms]:
    """Return structures displaced along the normal modes as a harmonic system is at a temperature.

    Parameters
    ----------
    atoms, calculator, displacement
        As in ``normal_modes``: 6 N force calls.
    temperature, n, seed, quantum, softest, min_distance_factor
        As in ``displaced_structures``, which takes modes that are known already.
    """
    modes = normal_modes(atoms, calculator, displacement=displacement)
    return displaced_structures(
        atoms,
        modes,
        temperature=temperature,
        n=n,
        seed=seed,
        quantum=quantum,
        softest=softest,
        min_distance_factor=min_distance_factor,
    )


def displaced_structures(
    atoms: Atoms,
    modes: NormalModes,
    *,
    temperature: float,
    n: int,
    seed: int,
    quantum: bool = False,
    softest: float = 50.0,
    min_distance_factor: float = 0.6,
) -> list[Atoms]:
    """Return structures displaced along given normal modes as a harmonic system is at a temperature.

    The mass-weighted amplitude of a mode is normally distributed with variance kT / omega^2, or, with the zero-point
    motion, hbar / (2 omega) coth(hbar omega / 2 kT).

    Parameters
    ----------
    atoms
        The structure whose modes they are.
    modes
        From ``normal_modes``.
    temperature
        K.
    n
        Number of structures.
    seed
        The amplitudes depend on it, the structure, the temperature and the copy's number alone.
    quantum
        With zero-point motion.
    softest
        Modes softer than this (1/cm), imaginary ones too, are displaced as if they had this frequency: the harmonic
        amplitude of a very soft mode would have no bound. ``info["deformation"]["n_soft"]`` counts them.
    min_distance_factor
        Structures with atoms nearer than this times the sum of their covalent radii are drawn again.

    Returns
    -------
    list of ase.Atoms
        ``sampling`` is ``"normal_modes"``, ``group_id`` the parent's.

    Raises
    ------
    StructureError
        If an argument is impossible or no allowed structure is found in 100 draws.
    """
    if n < 0 or not temperature >= 0 or not softest > 0:
        raise StructureError(
            f"{n} structures at {temperature} K with modes of at least {softest} 1/cm are not possible.",
            remedy="Give n >= 0, a temperature >= 0 and softest > 0.",
        )
    base = with_metadata(clean_frame(atoms))
    omegas = np.maximum(modes.frequencies, softest) * _PER_CM
    heat = KB * temperature
    if quantum:
        occupation = 1 / np.tanh(_HBAR * omegas / (2 * heat)) if heat > 0 else np.ones_like(omegas)
        widths = np.sqrt(_HBAR / (2 * omegas) * occupation)
    else:
        widths = np.sqrt(heat) / omegas
    frames = []
    for copy in range(n):
        rng = np.random.default_rng([seed, int(base.info["frame_id"][:16], 16), round(temperature * 1e3), copy])
        for _ in range(_TRIES):
            moved = base.copy()
            moved.positions += np.einsum("m,mij->ij", rng.normal(scale=widths), modes.displacements)
            if not collides(moved, min_distance_factor):
                break
        else:
            raise StructureError(
                f"{base.get_chemical_formula()} at {temperature:g} K has atoms nearer than {min_distance_factor:g} "
                f"times the sum of their covalent radii in each of {_TRIES} draws.",
                remedy="Lower the temperature or min_distance_factor, or raise softest.",
            )
        record = {
            "kind": "normal_modes",
            "temperature": temperature,
            "quantum": quantum,
            "n_soft": int((modes.frequencies < softest).sum()),
            "seed": seed,
            "copy": copy,
        }
        frames.append(with_metadata(moved, sampling="normal_modes", deformation=record))
    return unique_frames(frames)
