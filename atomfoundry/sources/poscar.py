"""The scale factors of POSCAR files, which pymatgen reads only in part."""

from __future__ import annotations

import math

import numpy as np

from atomfoundry.errors import StructureError


def _numbers(line: str) -> list[float]:
    """Return the numbers that a line begins with; what follows is comment."""
    found = []
    for word in line.split():
        try:
            found.append(float(word.replace("D", "E").replace("d", "e")))
        except ValueError:
            break
    return found


def _is_plain(line: str) -> bool:
    """Tell whether Python, and so pymatgen, reads the line as one number."""
    try:
        float(line)
    except ValueError:
        return False
    return True


def apply_scale(text: str) -> str:
    """Return a POSCAR whose scale factor is 1, where it was anything but one positive number.

    VASP takes one factor, a negative one as the volume of the cell, or three positive ones for the Cartesian x, y and
    z of lattice vectors and Cartesian positions. pymatgen refuses three, and multiplies Cartesian positions by the
    negative number.

    Parameters
    ----------
    text
        Content of the file.

    Raises
    ------
    StructureError
        If the scale is zero, not finite, or three factors are not all positive.
    """
    lines = text.splitlines()
    if len(lines) < 8:
        return text
    scale = _numbers(lines[1])[:3]
    scale = scale if len(scale) == 3 else scale[:1]
    if not scale:
        return text
    if not all(math.isfinite(value) for value in scale) or 0 in scale or (len(scale) == 3 and min(scale) < 0):
        raise StructureError(
            f"has the scale '{lines[1].strip()}'", remedy="Give one number other than 0, or three positive ones."
        )
    if len(scale) == 1 and scale[0] > 0 and _is_plain(lines[1]):
        return text
    lattice = np.array([_numbers(line)[:3] for line in lines[2:5]])
    if lattice.shape != (3, 3):
        return text
    if scale[0] < 0:
        factors = np.full(3, (-scale[0] / abs(float(np.linalg.det(lattice)))) ** (1 / 3))
    else:
        factors = np.broadcast_to(np.array(scale), 3)
    lines[1] = "1.0"
    lines[2:5] = [" ".join(repr(float(value)) for value in row * factors) for row in lattice]
    first, count = _positions(lines)
    if lines[first - 1].lstrip()[:1] in tuple("cCkK"):
        for index in range(first, min(first + count, len(lines))):
            scaled = [repr(float(value)) for value in np.array(_numbers(lines[index])[:3]) * factors]
            lines[index] = " ".join([*scaled, *lines[index].split()[3:]])
    return "\n".join(lines) + "\n"


def _positions(lines: list[str]) -> tuple[int, int]:
    """Return the line of the first position and the number of positions; (1, 0) where no counts are found."""
    at = next((i for i in range(5, len(lines)) if lines[i].split() and _is_counts(lines[i])), None)
    if at is None:
        return 1, 0
    total = 0
    while at < len(lines) and _is_counts(lines[at]):
        total += sum(int(word) for word in lines[at].split())
        at += 1
    if at < len(lines) and lines[at].lstrip()[:1] in ("s", "S"):
        at += 1
    return at + 1, total


def _is_counts(line: str) -> bool:
    words = line.split()
    return bool(words) and all(word.isdigit() for word in words)
