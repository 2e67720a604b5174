"""Energy, forces and stress from the output of pw.x."""

from __future__ import annotations

import io
import re
from pathlib import Path

from atomfoundry.engines.base import SinglePoint
from atomfoundry.errors import LabelError
from atomfoundry.units import RYDBERG

_BAND_SIGNS = ("End of self-consistent calculation", "End of band structure calculation")
"""Where ASE begins to read bands; it fails at the occupations that pw.x 7 prints there with U, and labels need none."""


def read_results(output: Path, *, stress: bool, lone_atom: bool = False) -> SinglePoint:
    """Read the output of a converged run.

    Parameters
    ----------
    output
        The file.
    stress
        Whether there must be one.
    lone_atom
        Take the smearing's entropy out of the energy: an atom's open shell is smeared for symmetry only, and
        it has no forces.

    Returns
    -------
    SinglePoint
        The free energy, which the forces are derivatives of.

    Raises
    ------
    LabelError
        With reason ``"no_forces"`` if one of them is not there, ``"crashed"`` if the output cannot be read.
    """
    from ase.io.espresso import read_espresso_out

    text = output.read_text(errors="replace")
    for sign in _BAND_SIGNS:
        text = text.replace(sign, "")
    try:
        found = list(read_espresso_out(io.StringIO(text)))[-1].calc.results
        energy, forces = found["free_energy"], found["forces"]
        tensor = found["stress"] if stress else None
    except KeyError as error:
        raise LabelError(
            f"{output.name} of pw.x holds no {error.args[0]}.", reason="no_forces", remedy="Look at the output."
        ) from error
    except Exception as error:
        # ASE raises whatever its parser trips over.
        raise LabelError(f"{output.name} of pw.x cannot be read: {error}", reason="crashed") from error
    if lone_atom:
        energy -= _entropy_term(text)
    return SinglePoint(energy, forces, tensor)


def _entropy_term(output: str) -> float:
    found = re.findall(r"smearing contrib\. \(-TS\)\s*=\s*(\S+)\s*Ry", output)
    return float(found[-1]) * RYDBERG if found else 0.0
