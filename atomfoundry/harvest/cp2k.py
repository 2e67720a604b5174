"""CP2K: the text output. pymatgen's reader wants the input files too and does not return from some logs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from ase import Atoms

from atomfoundry.harvest.levels import hartree_cutoff, named_level
from atomfoundry.harvest.run import ParseFailure, Run, Step, describe, labelled_step, open_text
from atomfoundry.units import GPA, HARTREE, HARTREE_PER_BOHR

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[EeDd][-+]?\d+)?|Infinity|NaN|nan|inf)"
_VECTOR = re.compile(r"^ CELL\| Vector ([abc]) \[angstrom\]?:?\s+(\S+)\s+(\S+)\s+(\S+)")
_ENERGY = re.compile(r"^ ENERGY\| Total FORCE_EVAL .*energy.*:\s*(\S+)")
_STRESS_UNIT = {"GPa": GPA, "bar": GPA * 1e-4, "kbar": GPA * 0.1}


class _Reader:
    """One pass over the lines; each table is read to its end before the next begins."""

    def __init__(self, path: Path) -> None:
        self.cell = np.full((3, 3), np.nan)
        self.symbols: list[str] = []
        self.positions: list[list[float]] = []
        self.energies: list[float] = []
        self.forces: list[list[list[float]]] = []
        self.stress: np.ndarray | None = None
        self.functional = ""
        self.cutoff: float | None = None
        self.run_type = ""
        self.ended = False
        self.failed: list[int] = []
        self.spin = "none"
        self.tables = 0
        with open_text(path) as stream:
            self._lines = iter(stream)
            for line in self._lines:
                self._read(line)

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
        elif "DFT| Spin unrestricted" in line and "UKS" in line:
            self.spin = "polarised"
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
            self.stress = -np.array(rows) * _STRESS_UNIT[unit[1]]


def parse_cp2k(path: Path) -> Run:
    """Read CP2K's text output: single points whole; of other runs the log lacks the later structures."""
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
    single = len(log.energies) == 1
    forces = None
    if log.forces:
        forces = np.array(log.forces[0], dtype=float) * HARTREE_PER_BOHR if log.forces[0] else None
    steps = [labelled_step(atoms, log.energies[0] * HARTREE, forces, log.stress if single else None)]
    if single and len(log.forces) > 1:
        steps[0].refuse("unreadable", f"{len(log.forces)} tables of forces for one energy")
    if log.failed and log.failed[0] == 0:
        steps[0].refuse("unconverged_electronic", "SCF run NOT converged")
    steps += [
        Step(None, "no_forces" if not log.forces else "unreadable", "the log does not hold the structure of this step")
        for _ in log.energies[1:]
    ]
    level = named_level("cp2k", log.functional, density_cutoff=hartree_cutoff(log.cutoff), spin=log.spin)
    return Run(
        steps,
        complete=log.ended,
        level=None if isinstance(level, str) else level,
        level_problem=level if isinstance(level, str) else "",
    )
