"""One parser a format: the ionic steps of a finished calculation, with force-consistent energies.

The energy is the one whose derivatives the forces are: VASP's free energy, Quantum ESPRESSO's total energy
(with smearing it includes -TS), ASE's ``free_energy`` where there is one.
"""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np
from ase import Atoms

from atomfoundry.datasets import attach_labels
from atomfoundry.units import KBAR

_ITERATION = re.compile(rb"Iteration\s+(\d+)\(\s*(\d+)\)")
_NELM = re.compile(rb"\bNELM\s*=\s*(\d+)")


class ParseFailure(Exception):
    """A file gave no step at all; ``reason`` is the code of the rejection."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Step:
    """One ionic step: a labelled structure, or the reason why it is none."""

    atoms: Atoms
    reason: str | None = None
    message: str = ""
    flags: list[str] = field(default_factory=list)


def read_head(path: Path, size: int = 4096) -> bytes:
    """Return the first bytes of a file, uncompressed; none if it is damaged."""
    try:
        with _open(path) as stream:
            return stream.read(size)
    except (OSError, EOFError):
        return b""


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with _open(path) as stream:
            yield from stream
    except EOFError as error:
        raise ParseFailure("truncated", f"the compressed file ends early: {error}") from error


def _unconverged(step: Step, iterations: int, limit: int) -> Step:
    step.reason = "unconverged_electronic"
    step.message = f"{iterations} electronic steps of at most {limit}, without convergence"
    return step


def parse_vasprun(path: Path) -> list[Step]:
    """Read ``vasprun.xml``."""
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.vasp import Vasprun

    tail = b""
    for line in _lines(path):
        tail = line if line.strip() else tail
    complete = tail.strip().endswith(b"</modeling>")
    try:
        run = Vasprun(
            str(path),
            parse_dos=False,
            parse_eigen=False,
            parse_potcar_file=False,
            exception_on_bad_xml=False,
        )
        limit = int(run.parameters.get("NELM", 60))
        records = run.ionic_steps
    # pymatgen raises whatever it stumbles over in a broken file.
    except Exception as error:
        reason = (
            "unreadable" if complete or not read_head(path).lstrip().startswith(b"<?xml") else "truncated"
        )
        raise ParseFailure(reason, f"{type(error).__name__}: {error}") from error
    if not (records or complete):
        raise ParseFailure("truncated", "the run ended before its first ionic step did")
    steps = []
    for record in records:
        structure = AseAtomsAdaptor.get_atoms(record["structure"], msonable=False)
        stress = record.get("stress")
        atoms = attach_labels(
            Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True),
            record.get("e_fr_energy"),
            record.get("forces"),
            # VASP prints kbar, positive where the cell wants to expand.
            None if stress is None else -np.array(stress, dtype=float) * KBAR,
        )
        step = Step(atoms, flags=[] if complete else ["interrupted"])
        iterations = len(record.get("electronic_steps", []))
        if iterations == 0:
            step.reason, step.message = "no_scf", "the step has no electronic steps (a force field made it)"
        elif iterations >= limit:
            step = _unconverged(step, iterations, limit)
        steps.append(step)
    return steps


def parse_outcar(path: Path) -> list[Step]:
    """Read ``OUTCAR``."""
    limit, iterations, converged, complete, current = 60, {}, set(), False, 0
    for line in _lines(path):
        if b"Iteration" in line and (match := _ITERATION.search(line)):
            current = int(match[1])
            iterations[current] = int(match[2])
        elif b"EDIFF is reached" in line:
            converged.add(current)
        elif b"NELM" in line and (match := _NELM.search(line)):
            limit = int(match[1])
        elif b"General timing and accounting" in line:
            complete = True
    steps = _ase_steps(path, "vasp-out", complete=complete)
    for number, step in enumerate(steps, start=1):
        if number not in converged and iterations.get(number, 0) >= limit:
            _unconverged(step, iterations[number], limit)
    return steps


def parse_espresso(path: Path) -> list[Step]:
    """Read the output of ``pw.x``."""
    complete, failed, error = False, 0, ""
    for line in _lines(path):
        complete = complete or b"JOB DONE" in line
        failed += b"convergence NOT achieved" in line
        if b"Error in routine" in line:
            error = line.decode(errors="replace").strip()
    try:
        steps = _ase_steps(path, "espresso-out", complete=complete)
    except ParseFailure as failure:
        if error:
            raise ParseFailure("crashed", error) from failure
        if failed:
            raise ParseFailure("unconverged_electronic", "convergence NOT achieved") from failure
        raise
    if failed:
        # Only the last cycle can fail: pw.x stops there.
        steps[-1].reason = "unconverged_electronic"
        steps[-1].message = "convergence NOT achieved"
    return steps


def _ase_steps(path: Path, kind: str | None, *, complete: bool = True) -> list[Step]:
    from ase.io import iread

    steps: list[Step] = []
    try:
        for atoms in iread(str(path), index=":", format=kind):
            results = atoms.calc.results if atoms.calc is not None else {}
            bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            bare.info = {key: atoms.info[key] for key in ("charge", "spin_multiplicity") if key in atoms.info}
            energy = results.get("free_energy", results.get("energy"))
            labelled = attach_labels(bare, energy, results.get("forces"), results.get("stress"))
            steps.append(Step(labelled, flags=[] if complete else ["interrupted"]))
    # ASE's readers raise whatever they stumble over in a broken file.
    except Exception as error:
        if complete or not steps:
            reason = "unreadable" if complete else "truncated"
            raise ParseFailure(reason, f"{type(error).__name__}: {error}") from error
    if not (steps or complete):
        raise ParseFailure("truncated", "the run ended before its first ionic step did")
    return steps


def parse_frames(path: Path) -> list[Step]:
    """Read extended XYZ or an ASE trajectory."""
    return _ase_steps(path, None)


def parser_for(path: Path) -> tuple[str, Callable[[Path], list[Step]]] | None:
    """Return a file's kind and parser, None if it is no output we know."""
    name = path.name.lower().removesuffix(".gz")
    if "vasprun" in name:
        return "vasprun", parse_vasprun
    if "outcar" in name:
        return "outcar", parse_outcar
    if name.endswith((".extxyz", ".xyz", ".traj")):
        return "frames", parse_frames
    if name.endswith((".out", ".log", ".pwo")) and b"Program PWSCF" in read_head(path):
        return "espresso", parse_espresso
    return None


def parse(path: Path, parser: Callable[[Path], list[Step]]) -> list[Step]:
    """Run a parser, quietly.

    Raises
    ------
    ParseFailure
        If the file gives no step.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = parser(path)
    if not steps:
        raise ParseFailure("no_steps", "the file holds no finished ionic step")
    return steps
