"""CP2K: the text output, and the trajectory beside it where atoms move.

pymatgen's reader wants the input files too and does not return from some logs.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from ase import Atoms

from atomfoundry.harvest.cp2k_files import MotionFrame, motion_file, read_cells, read_motion
from atomfoundry.harvest.levels import hartree_cutoff, named_level
from atomfoundry.harvest.run import ParseFailure, Run, Step, describe, labelled_step, open_text
from atomfoundry.units import GPA, HARTREE, HARTREE_PER_BOHR

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[EeDd][-+]?\d+)?|Infinity|NaN|nan|inf)"
_VECTOR = re.compile(r"^ CELL\| Vector ([abc]) \[angstrom\]?:?\s+(\S+)\s+(\S+)\s+(\S+)")
_ENERGY = re.compile(r"^ ENERGY\| Total FORCE_EVAL .*energy.*:\s*(\S+)")
_ENSEMBLE = re.compile(r"^ MD(?:_PAR)?\| Ensemble(?: [Tt]ype)?\s+(\S+)")
_TEMPERATURE = re.compile(r"^ (?:MD\| )?T(?:EMPERATURE|emperature) \[K\]\s+=?\s*(\S+)")
_SAME_ENERGY = 2e-9
"""Hartree; the trajectory rounds to ten digits behind the point."""

_SAME_PLACE = 2e-4
"""A; the log rounds coordinates to six digits behind the point, old versions to fewer."""

_STRESS_UNIT = {"GPa": GPA, "bar": GPA * 1e-4, "kbar": GPA * 0.1}


class _Reader:
    """One pass over the lines; each table is read to its end before the next begins."""

    def __init__(self, path: Path) -> None:
        self.cell = np.full((3, 3), np.nan)
        self.symbols: list[str] = []
        self.positions: list[list[float]] = []
        self.energies: list[float] = []
        self.forces: list[list[list[float]]] = []
        self.forces_of: dict[int, list[int]] = {}
        self.stress_of: dict[int, np.ndarray] = {}
        self.repeated_from: int | None = None
        self.project = ""
        self.ensemble = ""
        self.temperatures: list[float] = []
        self.functional = ""
        self.cutoff: float | None = None
        self.run_type = ""
        self.ended = self.optimised = False
        self.failed: list[int] = []
        self.spin = "none"
        self.tables = 0
        with open_text(path) as stream:
            self._lines = iter(stream)
            for line in self._lines:
                self._read(line)

    @property
    def relaxed(self) -> bool | None:
        """Whether a relaxation converged; None for other runs."""
        return self.optimised if self.run_type in ("GEO_OPT", "CELL_OPT", "GEOMETRY_OPTIMIZATION") else None

    def _read(self, line: str) -> None:
        if line.startswith(" CELL| Vector") and (match := _VECTOR.match(line)):
            self.cell["abc".index(match[1])] = [float(match[n]) for n in (2, 3, 4)]
        elif "ATOMIC COORDINATES IN angstrom" in line.replace("ANGSTROM", "angstrom"):
            self._coordinates()
        elif match := _ENERGY.match(line):
            self.energies.append(float(match[1]))
        elif line.startswith((" ATOMIC FORCES in [a.u.]", " FORCES| Atomic forces [hartree/bohr]")):
            self._forces()
        elif "stress tensor [" in line.lower() and "eigen" not in line.lower():
            self._stress(line)
        elif "SCF run NOT converged" in line:
            self.failed.append(len(self.energies))
        elif "FUNCTIONAL|" in line and not self.functional:
            word = line.split("|", 1)[1].strip()
            if word.endswith(":"):
                self.functional = word[:-1]
        elif line.startswith(" QS| Density cutoff [a.u.]"):
            self.cutoff = float(line.split()[-1])
        elif line.startswith(" GLOBAL| Run type"):
            self.run_type = line.split()[-1]
        elif line.startswith(" GLOBAL| Project name"):
            self.project = line.split()[-1]
        elif line.startswith(" MD") and (match := _ENSEMBLE.match(line)):
            self.ensemble = match[1]
        elif "[K]" in line and (match := _TEMPERATURE.match(line)):
            self.temperatures.append(float(match[1]))
        elif "DFT| Spin unrestricted" in line and "UKS" in line:
            self.spin = "polarised"
        elif "GEOMETRY OPTIMIZATION COMPLETED" in line:
            self.optimised = True
        elif "Reevaluating energy at the minimum" in line:
            self.repeated_from = len(self.energies)
        elif "PROGRAM ENDED AT" in line:
            self.ended = True

    def _coordinates(self) -> None:
        symbols, positions = [], []
        for line in self._lines:
            words = line.split()
            if len(words) >= 8 and words[0].isdigit() and words[3].isdigit():
                symbols.append(words[2])
                positions.append([float(word) for word in words[4:7]])
            elif symbols:
                break
        self.symbols, self.positions = symbols, positions
        self.tables += 1

    def _forces(self) -> None:
        rows: list[list[float]] = []
        for line in self._lines:
            words = line.replace("FORCES|", " ").split()
            if len(words) == 6 and words[0].isdigit():
                rows.append([float(word) for word in words[3:6]])
            elif len(words) == 5 and words[0].isdigit():
                rows.append([float(word) for word in words[1:4]])
            elif rows or "ENDED" in line:
                break
        self.forces_of.setdefault(len(self.energies) - 1, []).append(len(self.forces))
        self.forces.append(rows)

    def _stress(self, line: str) -> None:
        unit = re.search(r"\[(\w+)\]", line)
        if unit is None or unit[1] not in _STRESS_UNIT:
            return
        rows: list[list[float]] = []
        for text in self._lines:
            words = text.replace("STRESS|", " ").split()
            if len(words) == 4 and words[0].lower() == "xyz"[len(rows)]:
                rows.append([float(word) for word in words[1:]])
            if len(rows) == 3 or (words and "trace" in text.lower()):
                break
        if len(rows) == 3:
            # CP2K prints the tensor with the sign of a pressure.
            self.stress_of[len(self.energies) - 1] = -np.array(rows) * _STRESS_UNIT[unit[1]]


def parse_cp2k(path: Path) -> Run:
    """Read CP2K's text output; the structures after the first come from the project's trajectory beside it.

    A frame of the trajectory belongs to the energy of the log that its title repeats. Forces come from the log, or
    from ``PROJECT-frc-1.xyz`` with the same step and energy.
    """
    try:
        log = _Reader(path)
    except EOFError as error:
        raise ParseFailure("truncated", describe(error)) from error
    except (ValueError, IndexError) as error:
        raise ParseFailure("unreadable", describe(error)) from error
    if not log.energies:
        if log.failed:
            raise ParseFailure("unconverged_electronic", "SCF run NOT converged")
        reason = "unreadable" if log.ended else "truncated"
        raise ParseFailure(reason, "the output holds no energy")
    if not log.symbols:
        raise ParseFailure("unreadable" if log.ended else "truncated", "the output holds no structure")
    try:
        periodic = bool(np.isfinite(log.cell).all())
        atoms = Atoms(log.symbols, log.positions, cell=log.cell if periodic else None, pbc=periodic)
    except (KeyError, ValueError) as error:
        raise ParseFailure("unreadable", describe(error)) from error
    if len(log.energies) == 1:
        steps = [_single(log, atoms)]
    else:
        steps = _moving(log, atoms, path)
    for number in log.failed:
        if number < len(steps):
            steps[number].refuse("unconverged_electronic", "SCF run NOT converged")
    level = named_level("cp2k", log.functional, density_cutoff=hartree_cutoff(log.cutoff), spin=log.spin)
    return Run(
        steps,
        complete=log.ended,
        level=None if isinstance(level, str) else level,
        level_problem=level if isinstance(level, str) else "",
        relaxed=log.relaxed,
        result=log.repeated_from - 1 if log.repeated_from else None,
        temperatures=log.temperatures if log.run_type == "MD" else [],
    )


def _single(log: _Reader, atoms: Atoms) -> Step:
    forces = np.array(log.forces[0], dtype=float) * HARTREE_PER_BOHR if log.forces and log.forces[0] else None
    stress = next(iter(log.stress_of.values()), None)
    step = labelled_step(atoms, log.energies[0] * HARTREE, forces, stress)
    if len(log.forces) > 1:
        step.refuse("unreadable", f"{len(log.forces)} tables of forces for one energy")
    return step


def _moving(log: _Reader, first: Atoms, path: Path) -> list[Step]:
    """Return one step for each energy of the log."""
    steps = []
    try:
        places = _matched(log, path.parent, "-pos-1.xyz")
        pushes = _matched(log, path.parent, "-frc-1.xyz")
        cells = _cells(log, path.parent)
    except (ValueError, IndexError, OSError, EOFError) as error:
        return [Step(None, "unreadable", describe(error)) for _ in log.energies]
    for number, energy in enumerate(log.energies):
        if log.repeated_from is not None and number >= log.repeated_from:
            steps.append(Step(None, "duplicate", "the last structure's energy is evaluated again"))
            continue
        atoms, problem = _geometry(log, first, number, places.get(number), cells)
        if atoms is None:
            reason = "unreadable" if log.forces or pushes else "no_forces"
            steps.append(Step(None, reason, problem))
            continue
        try:
            forces = _forces_of(log, number, places.get(number), pushes.get(number))
        except ValueError as error:
            steps.append(labelled_step(atoms, energy * HARTREE).refuse("unreadable", str(error)))
            continue
        steps.append(labelled_step(atoms, energy * HARTREE, forces, log.stress_of.get(number)))
    return steps


def _matched(log: _Reader, folder: Path, ending: str) -> dict[int, MotionFrame]:
    """Read a file of the project; give each frame to the energy of the log that it repeats, in order."""
    path = motion_file(folder, log.project, ending)
    if path is None:
        return {}
    found: dict[int, MotionFrame] = {}
    following = 0
    for frame in read_motion(path):
        near = (
            number
            for number in range(following, len(log.energies))
            if abs(log.energies[number] - frame.energy) < _SAME_ENERGY
        )
        number = next(near, None)
        # Frames of another run that appended to the same file are no frames of this log.
        if number is not None:
            found[number], following = frame, number + 1
    return found


def _cells(log: _Reader, folder: Path) -> dict[int, np.ndarray] | None:
    """Return the cells of the steps; None where the cell does not move."""
    if not log.ensemble.upper().startswith(("NP", "RE")) and log.run_type != "CELL_OPT":
        return None
    path = motion_file(folder, log.project, "-1.cell")
    return {} if path is None else read_cells(path)


def _geometry(
    log: _Reader, first: Atoms, number: int, frame: MotionFrame | None, cells: dict[int, np.ndarray] | None
) -> tuple[Atoms | None, str]:
    """Return the structure of a step, or why there is none."""
    if frame is None:
        if number == 0:
            return first, ""
        return None, "neither the log nor a trajectory beside it holds the structure of this step"
    if len(frame.symbols) != len(first) or any(
        re.sub(r"[^A-Za-z].*", "", name) != symbol for name, symbol in zip(frame.symbols, first.symbols, strict=True)
    ):
        return None, "the trajectory has other atoms than the log"
    atoms = first.copy()
    atoms.positions = frame.rows
    if number == 0 and np.abs(first.positions - atoms.positions).max() > _SAME_PLACE:
        return None, "the trajectory begins with other coordinates than the log (another unit?)"
    if cells is not None and number > 0:
        if frame.number not in cells:
            return None, "the cell moves, and no file of cells holds this step's"
        atoms.cell[:] = cells[frame.number]
    return atoms, ""


def _forces_of(log: _Reader, number: int, place: MotionFrame | None, push: MotionFrame | None) -> np.ndarray | None:
    """Return the forces of a step (eV/A); raise ``ValueError`` where they may be another's."""
    tables = log.forces_of.get(number, [])
    if len(tables) > 1:
        raise ValueError(f"{len(tables)} tables of forces for one energy")
    printed = np.array(log.forces[tables[0]], dtype=float) if tables and log.forces[tables[0]] else None
    if push is None:
        return None if printed is None else printed * HARTREE_PER_BOHR
    if place is not None and (place.number != push.number or place.symbols != push.symbols):
        raise ValueError(f"forces of step {push.number} for the structure of step {place.number}")
    if printed is not None and (printed.shape != push.rows.shape or np.abs(printed - push.rows).max() > 1e-5):
        raise ValueError("the log and the file of forces disagree")
    return push.rows * HARTREE_PER_BOHR
