"""VASP's ``OUTCAR``: by ASE's parsers, which are shown only the lines they read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from atomfoundry.harvest.levels import vasp_level
from atomfoundry.harvest.run import ParseFailure, Run, Step, describe, labelled_step, open_text
from atomfoundry.harvest.vasp import RELAXATIONS, element_of, without_convergence

_HEADER_TAG = re.compile(
    r"\b(GGA|METAGGA|LHFCALC|IVDW|ENCUT|ISPIN|ISMEAR|SIGMA|NELM|NSW|IBRION|AEXX|HFSCREEN|LUSE_VDW|ZAB_VDW"
    r"|LSORBIT|LNONCOLLINEAR|LDAUTYPE)\s*=\s*([^\s;]+)",
    re.IGNORECASE,
)
_TEMPERATURE = re.compile(r"\(temperature\s+([-+\d.Ee]+)\s*K\)")
_ITERATION = re.compile(r"Iteration\s+(\d+)\(\s*(\d+)\)")


class OutcarLines:
    """One pass over an OUTCAR for two readers: ASE gets the lines it looks for, and we note what it leaves out.

    Nine of ten lines are eigenvalues and POTCAR headers that neither wants. ASE counts lines only from a line
    with a table's title, so each title is passed on with as many lines as the table has.

    Parameters
    ----------
    stream
        The file.

    Attributes
    ----------
    tags, titles, hubbard
        What the level of theory needs.
    iterations, converged
        Ionic step -> number of electronic steps; the ionic steps whose electrons converged.
    complete, reached
        The run came to its end; a relaxation met its criterion.
    tables
        Tables of forces and of stress in each ionic step.
    temperatures
        K, of the steps of a dynamics.
    """

    # ASE looks for POSCAR and CONTCAR beside this name, to read constraints we do not want.
    name = "/dev/null/OUTCAR"

    def __init__(self, stream: TextIO) -> None:
        self.tags: dict[str, Any] = {}
        self.titles: list[str] = []
        self.iterations: dict[int, int] = {}
        self.converged: set[int] = set()
        self.complete = self.reached = False
        self.hubbard: list[float] = []
        self.tables: list[tuple[int, int]] = []
        self.temperatures: list[float] = []
        self._current = self._atoms = 0
        self._header = True
        self._forces = self._stresses = 0
        self._lines = self._select(stream)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the lines that ASE reads."""
        return self._lines

    def __next__(self) -> str:
        """Return the next line that ASE reads."""
        return next(self._lines)

    def _select(self, stream: TextIO) -> Iterator[str]:
        left = 0
        for line in stream:
            # One of these letters is in all we look for, and none in a row of numbers.
            if "e" in line or "O" in line or "B" in line or (self._header and "=" in line):
                left = max(left, self._note(line))
            if left:
                left -= 1
                yield line

    def _note(self, line: str) -> int:
        """Take what we need from a line; return how many lines from this one on ASE reads."""
        wanted = 0
        if "Iteration" in line:
            wanted = 1
            if match := _ITERATION.search(line):
                self._current = int(match[1])
                self.iterations[self._current] = int(match[2])
        elif "EDIFF is reached" in line:
            self.converged.add(self._current)
        elif "General timing and accounting" in line:
            self.complete = True
        elif "reached required accuracy" in line:
            self.reached = True
        elif "TOTAL-FORCE (eV/Angst)" in line:
            self._forces += 1
        elif "  in kB  " in line:
            self._stresses += 1
        elif "FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
            self.tables.append((self._forces, self._stresses))
            self._forces = self._stresses = 0
            self._header = False
        elif "EKIN" in line and (match := _TEMPERATURE.search(line)):
            self.temperatures.append(float(match[1]))
        elif self._header and "=" in line and not line.startswith((" |", "|")):
            self._read_tags(line)
        return max(wanted, self._read_by_ase(line))

    def _read_by_ase(self, line: str) -> int:
        if "POSITION          " in line:
            return 2 + self._atoms
        if "FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
            return 5
        if "direct lattice vectors" in line:
            return 4
        if "ions per type" in line:
            try:
                self._atoms = sum(max(0, int(word)) for word in line.split()[4:])
            except ValueError:
                # ASE says so when it reads the line.
                self._atoms = 0
            return 1
        return int("in kB " in line or "POTCAR:" in line)

    def _read_tags(self, line: str) -> None:
        if "TITEL" in line:
            self.titles.append(line.split("=", 1)[1].strip())
        elif "U (eV) for each species" in line or "LDAUU" in line:
            numbers = re.findall(r"-?\d+\.\d+", line.split("=", 1)[-1])
            self.hubbard = [float(number) for number in numbers] or self.hubbard
        else:
            for name, value in _HEADER_TAG.findall(line):
                # A default ("METAGGA=F") is printed after what the user set.
                if name.upper() == "METAGGA" and value == "F" and self.tags.get("METAGGA"):
                    continue
                self.tags[name.upper()] = value

    def number(self, name: str, default: int) -> int:
        """Return a tag as an integer."""
        try:
            return int(float(self.tags.get(name, default)))
        except ValueError:
            return default


def parse_outcar(path: Path) -> Run:
    """Read ``OUTCAR``; one pass."""
    from ase.io.vasp_parsers import vasp_outcar_parsers as ase_parsers

    # Only what a frame needs: ASE's other tables stumble over overflowing numbers of no interest here.
    in_step = (ase_parsers.Cell, ase_parsers.PositionsAndForces, ase_parsers.Stress, ase_parsers.Energy)
    in_header = (ase_parsers.SpeciesTypes, ase_parsers.IonsPerSpecies)
    step_parser = ase_parsers.OutcarChunkParser(parsers=ase_parsers.DefaultParsersContainer(*in_step).make_parsers())
    header_parser = ase_parsers.OutcarHeaderParser(
        parsers=ase_parsers.DefaultParsersContainer(*in_header).make_parsers()
    )
    steps: list[Step] = []
    failure: Exception | None = None
    with open_text(path) as stream:
        scan = OutcarLines(stream)
        try:
            for chunk in ase_parsers.outcarchunks(scan, step_parser, header_parser):
                try:
                    atoms = chunk.build()
                # ASE raises whatever it stumbles over in a broken step; the other steps may be good.
                except Exception as error:
                    steps.append(Step(None, "unreadable", describe(error)))
                    continue
                results = atoms.calc.results
                energy = results.get("free_energy")
                step = labelled_step(
                    atoms, energy, results.get("forces"), results.get("stress"), sigma0=results.get("energy")
                )
                if energy is None:
                    step.refuse("no_energy", "the step has no free energy")
                steps.append(step)
        except Exception as error:
            failure = error
    if not any(step.atoms is not None for step in steps):
        reason = "unreadable" if scan.complete else "truncated"
        message = describe(failure) if failure else (steps[-1].message if steps else "no ionic step was finished")
        raise ParseFailure(reason, message)
    limit = scan.number("NELM", 60)
    for number, step in enumerate(steps, start=1):
        forces, stresses = scan.tables[number - 1]
        if forces != 1 or stresses > 1:
            # A line of another step is missing or doubled, so the tables may belong to different structures.
            step.refuse("unreadable", f"{forces} tables of forces and {stresses} of stress in one ionic step")
        if number not in scan.converged and scan.iterations.get(number, 0) >= limit:
            step.refuse("unconverged_electronic", without_convergence(scan.iterations[number], limit))
    relaxing = scan.number("IBRION", -1) in RELAXATIONS and scan.number("NSW", 0) > 0
    if any(scan.hubbard):
        named = zip((element_of(title) for title in scan.titles), scan.hubbard, strict=False)
        scan.tags["hubbard_u"] = {element: value for element, value in sorted(named) if value}
    level = vasp_level(scan.tags, scan.titles)
    return Run(
        steps,
        complete=scan.complete and failure is None,
        relaxed=scan.reached if relaxing else None,
        level=None if isinstance(level, str) else level,
        level_problem=level if isinstance(level, str) else "",
        potentials={element_of(title): title for title in scan.titles},
        temperatures=scan.temperatures,
    )
