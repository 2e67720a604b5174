"""FHI-aims, CASTEP, ORCA and GPAW by ASE's readers, with the checks those leave out."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ase import Atoms

from atomfoundry.documents import LevelOfTheory
from atomfoundry.harvest.levels import named_level
from atomfoundry.harvest.run import ParseFailure, Run, Step, describe, labelled_step, open_text


def _text(path: Path) -> str:
    try:
        with open_text(path) as stream:
            return stream.read()
    except EOFError as error:
        raise ParseFailure("truncated", f"the compressed file ends early: {error}") from error


def _images(read: Callable[[], Any], *, complete: bool) -> list[Step]:
    """Run one of ASE's readers and turn what it gives into steps."""
    try:
        images: Iterable[Atoms] | Atoms = read()
        listed = [images] if isinstance(images, Atoms) else list(images)
    # ASE's readers raise whatever they stumble over in a broken file.
    except Exception as error:
        raise ParseFailure("unreadable" if complete else "truncated", describe(error)) from error
    if not listed:
        raise ParseFailure("unreadable" if complete else "truncated", "the file holds no finished ionic step")
    return [_step(atoms) for atoms in listed]


def _step(atoms: Atoms) -> Step:
    results = atoms.calc.results if atoms.calc is not None else {}
    free, energy = results.get("free_energy"), results.get("energy")
    sigma0 = float(energy) if free is not None and energy is not None else None
    return labelled_step(
        atoms,
        free if free is not None else energy,
        results.get("forces"),
        results.get("stress"),
        sigma0=sigma0,
    )


def _run(steps: list[Step], level: LevelOfTheory | str, *, complete: bool, relaxed: bool | None) -> Run:
    return Run(
        steps,
        complete=complete,
        relaxed=relaxed,
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


def parse_aims(path: Path) -> Run:
    """Read FHI-aims' output."""
    from ase.io.aims import read_aims_output

    text = _text(path)
    complete = "Have a nice day" in text
    if "Self-consistency cycle not converged" in text or "SCF cycle not converged" in text:
        raise ParseFailure("unconverged_electronic", "the self-consistency cycle did not converge")
    steps = _images(
        lambda: read_aims_output(io.StringIO(text), slice(None), non_convergence_ok=True), complete=complete
    )
    relaxing = "Geometry relaxation:" in text or "Geometry optimization:" in text
    level = named_level(
        "fhi-aims",
        _found(r"^\s{1,4}xc\s+(\S+)", text),
        spin="polarised" if _found(r"^\s{1,4}spin\s+(\S+)", text) == "collinear" else "none",
    )
    return _run(steps, level, complete=complete, relaxed="Present geometry is converged" in text if relaxing else None)


def parse_castep(path: Path) -> Run:
    """Read a ``.castep`` file."""
    from ase.io.castep import read_castep_castep

    text = _text(path)
    complete = bool(re.search(r"^Total time\s+=", text, re.MULTILINE))
    steps = _images(lambda: read_castep_castep(io.StringIO(text), slice(None)), complete=complete)
    if "has not reached the groundstate" in text:
        for step in steps:
            step.refuse("unconverged_electronic", "the electrons did not reach the ground state")
    kind = _found(r"type of calculation\s*:\s*(.+)$", text)
    level = named_level(
        "castep",
        _found(r"using functional\s*:\s*(.+)$", text).lower(),
        cutoff=_number(r"plane wave basis set cut-off\s*:\s*(\S+)", text),
        spin="polarised" if "treating system as spin-polarized" in text else "none",
    )
    relaxed = "Geometry optimization completed successfully" in text if "geometry" in kind else None
    return _run(steps, level, complete=complete, relaxed=relaxed)


def parse_orca(path: Path) -> Run:
    """Read ORCA's output."""
    from ase.io import read as ase_read

    text = _text(path)
    complete = "ORCA TERMINATED NORMALLY" in text
    steps = _images(lambda: ase_read(io.StringIO(text), index=":", format="orca-output"), complete=complete)
    charge = _number(r"Total Charge\s+Charge\s+\.+\s*(-?\d+)", text)
    multiplicity = _number(r"Multiplicity\s+Mult\s+\.+\s*(\d+)", text)
    for step in steps:
        if step.atoms is not None:
            step.atoms.info["charge"] = int(charge or 0)
            step.atoms.info["spin_multiplicity"] = None if multiplicity is None else int(multiplicity)
    if "SCF NOT CONVERGED" in text:
        steps[-1].refuse("unconverged_electronic", "SCF NOT CONVERGED")
    relaxing = "GEOMETRY OPTIMIZATION CYCLE" in text
    run = _run(steps, _orca_level(text), complete=complete, relaxed="HURRAY" in text if relaxing else None)
    if run.relaxed and "FINAL ENERGY EVALUATION AT THE STATIONARY POINT" in text and len(steps) > 1:
        last = steps[-1].atoms
        if last is not None and last.calc is not None and "forces" not in last.calc.results:
            # That evaluation has no gradient; the cycle that converged before it has its own energy and gradient.
            run.result = len(steps) - 2
    return run


def _orca_level(text: str) -> LevelOfTheory | str:
    from atomfoundry.harvest.levels import _OTHER

    words = " ".join(re.findall(r"^\|\s*\d+>\s*!\s*(.+)$", text, re.MULTILINE)).lower().split()
    methods = [word for word in words if word in _OTHER["orca"]]
    if len(methods) != 1:
        return f"the keywords '{' '.join(words)}' name {len(methods) or 'no'} known method(s)"
    basis = [word for word in words if re.match(r"(ma-)?def2-|(aug-)?cc-p|6-31|sto-|pc-?seg", word) and "/" not in word]
    dispersion = next((word.upper() for word in words if word in ("d3", "d3bj", "d3zero", "d4", "nl")), None)
    return named_level("orca", methods[0], basis=basis[0] if basis else None, dispersion=dispersion)


def parse_gpaw(path: Path) -> Run:
    """Read a ``.gpw`` file; no GPAW is needed."""
    from ase.io.gpw import read_gpw
    from ase.io.ulm import open as open_ulm

    steps = _images(lambda: read_gpw(str(path)), complete=True)
    try:
        reader = open_ulm(str(path))
        parameters = reader.parameters.asdict() if "parameters" in reader else {}
        reader.close()
    except Exception as error:  # ulm raises whatever it stumbles over in a broken file
        raise ParseFailure("unreadable", describe(error)) from error
    mode = parameters.get("mode", {})
    mode = {"name": mode} if isinstance(mode, str) else dict(mode)
    xc = parameters.get("xc", "LDA")
    xc = xc.get("name", "") if isinstance(xc, dict) else str(xc)
    cutoff = mode.get("ecut")
    level = named_level(
        "gpaw",
        xc.upper(),
        basis=None if mode.get("name") == "pw" else str(mode.get("name", "fd")),
        cutoff=float(cutoff) if isinstance(cutoff, int | float) else None,
        spin="polarised" if parameters.get("spinpol") else "none",
    )
    return _run(steps, level, complete=True, relaxed=None)


def parse_gpaw_text(path: Path) -> Run:
    """Read GPAW's text log."""
    from ase.io import read as ase_read

    text = _text(path)
    complete = "Memory usage:" in text or "Total:" in text
    if "Did not converge" in text:
        raise ParseFailure("unconverged_electronic", "Did not converge!")
    steps = _images(lambda: ase_read(io.StringIO(text), index=":", format="gpaw-out"), complete=complete)
    level = named_level("gpaw", _found(r"^\s*xc:\s*(\w+)", text).upper())
    return _run(steps, level, complete=complete, relaxed=None)
