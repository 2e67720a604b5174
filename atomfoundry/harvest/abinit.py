"""ABINIT's main output: one structure by ASE's reader, every step of moving atoms from the blocks ``OUTPUT``."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.harvest.levels import hartree_cutoff, named_level
from atomfoundry.harvest.run import ParseFailure, Run, Step, describe, labelled_step, open_text
from atomfoundry.units import BOHR, HARTREE, HARTREE_PER_BOHR

_ROW = r"[ \t]*\S+[ \t]+\S+[ \t]+\S+[ \t]*\n"
_VECTOR = re.compile(r"^ R\((\d)\)=\s*(\S+)\s+(\S+)\s+(\S+)\s+G\(\d\)", re.MULTILINE)
_SIGMA = re.compile(r"^  sigma\((\d) \1\)=\s*(\S+)\s+sigma\((\d) (\d)\)=\s*(\S+)", re.MULTILINE)
_CYCLE = re.compile(r"^ ETOT\s*\d+\s+(\S+)", re.MULTILINE)
_UNCONVERGED = re.compile(r"(nstep=\s*\d+ was not enough SCF cycles to converge)")
_MOVING = re.compile(r"^-+OUTPUT-+\s*$", re.MULTILINE)
_NO_RELAXATION = (0, 1, 6, 8, 9, 12, 13, 14, 16, 25)
"""Values of ionmov that are no relaxation: resting atoms and molecular dynamics."""

_SAME_ENERGY = 1e-7
"""Hartree; the table of SCF cycles and the block agree better."""


def parse_abinit(path: Path) -> Run:
    """Read ABINIT's main output: all steps of a relaxation or dynamics, else the one structure."""
    try:
        with open_text(path) as stream:
            text = stream.read()
    except EOFError as error:
        raise ParseFailure("truncated", f"the compressed file ends early: {error}") from error
    complete = "Calculation completed" in text
    blocks = _MOVING.split(text)
    try:
        if len(blocks) > 1 and text.count("== DATASET") == 1:
            steps = _moving(blocks, _elements(text))
        else:
            steps = [_single(text)]
    # ASE's reader raises whatever it stumbles over in a broken file, an assertion among them.
    except Exception as error:
        raise ParseFailure("unreadable" if complete else "truncated", describe(error)) from error
    level = named_level(
        "abinit",
        _found(r"^\s*ixc\s+(-?\d+)", text, "1"),
        cutoff=hartree_cutoff(_number(r"^\s*ecut\s+(\S+) Hartree", text)),
        spin="polarised" if _found(r"nsppol\s*=\s*(\d)", text) == "2" else "none",
    )
    return Run(
        steps,
        complete=complete,
        relaxed=_relaxed(text) if len(blocks) > 1 else None,
        level=None if isinstance(level, str) else level,
        level_problem=level if isinstance(level, str) else "",
    )


def _found(pattern: str, text: str, default: str = "") -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1].strip() if match else default


def _number(pattern: str, text: str) -> float | None:
    try:
        return float(_found(pattern, text).upper().replace("D", "E"))
    except ValueError:
        return None


def _relaxed(text: str) -> bool | None:
    if int(_number(r"\bionmov\s*=?\s*(\d+)", text) or 0) in _NO_RELAXATION:
        return None
    return "gradients are converged" in text


def _cell(text: str) -> NDArray[np.float64] | None:
    """Return the last primitive vectors (A) that are printed; ASE takes them without their lengths ``acell``."""
    vectors: dict[str, list[float]] = {}
    for match in _VECTOR.finditer(text):
        vectors[match[1]] = [float(match[n]) for n in (2, 3, 4)]
    return np.array([vectors[n] for n in "123"]) * BOHR if set(vectors) == set("123") else None


def _stress(text: str) -> NDArray[np.float64] | None:
    """Return the last stress tensor (Voigt, eV/A^3, tension positive) that is printed in atomic units."""
    diagonal: dict[str, float] = {}
    rest: dict[str, float] = {}
    for match in _SIGMA.finditer(text):
        diagonal[match[1]] = float(match[2])
        rest[match[3] + match[4]] = float(match[5])
    if set(diagonal) != set("123") or set(rest) != {"32", "31", "21"}:
        return None
    return np.array([*(diagonal[n] for n in "123"), rest["32"], rest["31"], rest["21"]]) * HARTREE / BOHR**3


def _single(text: str) -> Step:
    from ase.io.abinit import read_abinit_out

    results = read_abinit_out(io.StringIO(text))
    atoms = results["atoms"]
    cell = _cell(text)
    if cell is None:
        return Step(None, "unreadable", "the output names no primitive vectors")
    atoms.cell[:] = cell
    step = labelled_step(atoms, results.get("energy"), results.get("forces"), results.get("stress"))
    if match := _UNCONVERGED.search(text):
        step.refuse("unconverged_electronic", match[1])
    return step


def _elements(text: str) -> NDArray[np.int64]:
    """Read the atoms from the echo of the input."""
    natom = int(_found(r"^[-P ]*\s*natom\s+(\d+)\s*$", text))
    charges = [float(word) for word in _list("znucl", text)]
    types = [int(word) for word in _list("typat", text)]
    if len(types) != natom or any(charge != int(charge) for charge in charges):
        raise ValueError(f"{len(types)} types of {natom} atoms, nuclei of {charges}")
    return np.array([int(charges[number - 1]) for number in types])


def _list(name: str, text: str) -> list[str]:
    """Return the numbers behind the first echo of a variable, which may go on over lines."""
    match = re.search(rf"^[-P ]*\s*{name}((?:[ \t]+[-+.\dEeDd]+|[ \t]*\n(?=[ \t]+[-+.\d]))+)", text, re.MULTILINE)
    return match[1].split() if match else []


def _table(title: str, block: str, rows: int) -> NDArray[np.float64] | None:
    match = re.search(rf"^ {re.escape(title)}[^\n]*\n((?:{_ROW}){{{rows}}})", block, re.MULTILINE)
    return None if match is None else np.array(match[1].split(), dtype=float).reshape(rows, 3)


def _moving(parts: list[str], numbers: NDArray[np.int64]) -> list[Step]:
    """Return a step for each block ``OUTPUT``; the electronic cycles before a block are its own."""
    steps = []
    for number in range(1, len(parts)):
        before = parts[number - 1]
        # A block ends where the next iteration begins.
        if number > 1:
            before = before[max(0, before.find("--- Iteration:")) :]
        block = parts[number].split("--- Iteration:")[0]
        steps.append(_block_step(before, block, numbers, _cell("".join(parts[:number]))))
    return steps


def _block_step(before: str, block: str, numbers: NDArray[np.int64], cell: NDArray[np.float64] | None) -> Step:
    places = _table("Cartesian coordinates (xcart) [bohr]", block, len(numbers))
    forces = _table("Cartesian forces (fcart) [Ha/bohr]", block, len(numbers))
    vectors = _table("Real space primitive translations (rprimd) [bohr]", block, 3)
    energy = _number(r"^ Total energy \(etotal\) \[Ha\]=\s*(\S+)", block)
    cell = cell if vectors is None else vectors * BOHR
    if places is None or cell is None:
        return Step(None, "unreadable", "a step without positions or primitive vectors")
    step = labelled_step(
        Atoms(numbers=numbers, positions=places * BOHR, cell=cell, pbc=True),
        None if energy is None else energy * HARTREE,
        None if forces is None else forces * HARTREE_PER_BOHR,
        _stress(before),
    )
    cycles = _CYCLE.findall(before)
    if energy is not None and (not cycles or abs(float(cycles[-1]) - energy) > _SAME_ENERGY):
        step.refuse("unreadable", "the energy of the step is not that of the electronic cycles before it")
    if match := _UNCONVERGED.search(before):
        step.refuse("unconverged_electronic", match[1])
    return step
