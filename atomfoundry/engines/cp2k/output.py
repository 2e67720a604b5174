"""What CP2K's output tells: energy, forces, stress and how it ended. Units and signs are proven by tests."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from atomfoundry.units import GPA, HARTREE, HARTREE_PER_BOHR

_ENERGY = re.compile(r"ENERGY\| Total FORCE_EVAL .*?:\s+(\S+)")
_ENTROPY = re.compile(r"Electronic entropic energy:\s+(\S+)")
_FORCE = re.compile(r"^\s+\d+\s+\d+\s+[A-Z][a-z]?\s+(\S+)\s+(\S+)\s+(\S+)\s*$", re.MULTILINE)
_STRESS = re.compile(r"^ STRESS\|\s+[xyz]\s+(\S+)\s+(\S+)\s+(\S+)\s*$", re.MULTILINE)
_ABORT = re.compile(r"\[ABORT\](.*?)(?:\n\s*\*{10,}|===== Routine|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Cp2kResults:
    """Numbers of one single point.

    Attributes
    ----------
    energy
        Free energy, eV.
    entropy_term
        -TS, eV.
    forces
        eV/A, shape (n_atoms, 3).
    stress
        eV/A^3, Voigt order, tension positive, shape (6,); None where it was not computed.
    """

    energy: float
    entropy_term: float
    forces: np.ndarray
    stress: np.ndarray | None


def finished(text: str) -> bool:
    """Tell whether CP2K came to its own end."""
    return "PROGRAM ENDED AT" in text


def converged(text: str) -> bool:
    """Tell whether the self-consistency cycle converged."""
    return "SCF run converged in" in text and "SCF run NOT converged" not in text


def parse_results(text: str, n_atoms: int) -> Cp2kResults:
    """Read the numbers of a finished run.

    Parameters
    ----------
    text
        CP2K's output.
    n_atoms
        Number of atoms.

    Returns
    -------
    Cp2kResults
        The numbers.

    Raises
    ------
    ValueError
        If energy or forces are missing.
    """
    energies = _ENERGY.findall(text)
    table = text.rpartition("ATOMIC FORCES in [a.u.]")[2].partition("SUM OF ATOMIC FORCES")[0]
    forces = np.array(_FORCE.findall(table), dtype=float)
    if not energies or forces.shape != (n_atoms, 3):
        raise ValueError(f"{len(energies)} energies and {len(forces)} forces of {n_atoms} atoms in the output")
    rows = np.array(_STRESS.findall(text.rpartition("Analytical stress tensor [GPa]")[2])[:3], dtype=float)
    stress = None
    if rows.shape == (3, 3):
        # CP2K prints the pressure tensor.
        full = -0.5 * (rows + rows.T) * GPA
        stress = full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    entropy = _ENTROPY.findall(text)
    return Cp2kResults(
        float(energies[-1]) * HARTREE,
        float(entropy[-1]) * HARTREE if entropy else 0.0,
        forces * HARTREE_PER_BOHR,
        stress,
    )


def abort_reason(text: str) -> str | None:
    """Return the message of CP2K's abort, or None where there is none."""
    found = _ABORT.findall(text)
    if not found:
        return None
    words = " ".join(re.sub(r"[*\\/|]|\b[Oo] ", " ", line).strip() for line in found[-1].splitlines())
    return " ".join(words.split()) or None
