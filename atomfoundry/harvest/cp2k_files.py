"""What CP2K writes beside its log while atoms move: positions, forces and cells of a project.

``PROJECT-1.stress`` is not read: of a dynamics it contains the ions' motion, which is no property of the structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atomfoundry.harvest.run import open_text

_TITLE = re.compile(r"\bi\s*=\s*(\d+).*?\bE\s*=\s*([-+]?\d+\.\d+(?:[EeDd][-+]?\d+)?)")


@dataclass(frozen=True)
class MotionFrame:
    """One frame of ``PROJECT-pos-1.xyz`` or ``PROJECT-frc-1.xyz``.

    Attributes
    ----------
    number
        CP2K's step.
    energy
        Hartree, as the title of the frame says.
    symbols
        As CP2K names the atoms.
    rows
        ``[N, 3]``, in the unit of the file.
    """

    number: int
    energy: float
    symbols: list[str]
    rows: NDArray[np.float64]


def motion_file(folder: Path, project: str, ending: str) -> Path | None:
    """Return a project's file, packed or not, e.g. with ``ending="-pos-1.xyz"``; None if there is none."""
    if not project or "/" in project:
        return None
    names = (f"{project}{ending}", f"{project}{ending}.gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_motion(path: Path) -> Iterator[MotionFrame]:
    """Yield the frames of an XYZ file of CP2K up to where it is whole.

    Raises
    ------
    ValueError
        If it is none.
    """
    with open_text(path) as stream:
        for line in stream:
            if not line.strip():
                continue
            number_of_atoms = int(line)
            title = _TITLE.search(next(stream, ""))
            lines = [next(stream, "").split() for _ in range(number_of_atoms)]
            if not lines or len(lines[-1]) < 4:
                return
            if title is None:
                raise ValueError(f"{path.name}: a frame whose title tells no step and energy")
            rows = np.array([[float(word) for word in words[1:4]] for words in lines])
            energy = float(title[2].upper().replace("D", "E"))
            yield MotionFrame(int(title[1]), energy, [words[0] for words in lines], rows)


def read_cells(path: Path) -> dict[int, NDArray[np.float64]]:
    """Read ``PROJECT-1.cell``: step -> cell vectors (A)."""
    cells = {}
    with open_text(path) as stream:
        for line in stream:
            words = line.split()
            if line.startswith("#") or len(words) < 11:
                continue
            cells[int(words[0])] = np.array([float(word) for word in words[2:11]]).reshape(3, 3)
    return cells
