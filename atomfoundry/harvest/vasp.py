"""VASP: ``vasprun.xml`` by pymatgen, ``OUTCAR`` by ASE, and what both leave to be judged."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomfoundry.harvest.levels import vasp_level
from atomfoundry.harvest.run import (
    ParseFailure,
    Run,
    ScannedLines,
    Step,
    describe,
    labelled_step,
    open_text,
    read_head,
)
from atomfoundry.units import KBAR

_RELAXATIONS = (1, 2, 3)
_POST_SCF = 1e-5
_HEADER_TAG = re.compile(
    r"\b(GGA|METAGGA|LHFCALC|IVDW|ENCUT|ISPIN|ISMEAR|SIGMA|NELM|NSW|IBRION|AEXX|HFSCREEN|LUSE_VDW|ZAB_VDW"
    r"|LSORBIT|LNONCOLLINEAR|LDAUTYPE)\s*=\s*([^\s;]+)",
    re.IGNORECASE,
)
_ITERATION = re.compile(r"Iteration\s+(\d+)\(\s*(\d+)\)")


def parse_vasprun(path: Path) -> Run:
    """Read ``vasprun.xml``; one pass."""
    from pymatgen.io.vasp import Vasprun

    complete = True
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = Vasprun(
                str(path),
                parse_dos=False,
                parse_eigen=False,
                parse_potcar_file=False,
                exception_on_bad_xml=False,
            )
        complete = not any("XML is malformed" in str(item.message) for item in caught)
        parameters, records = run.parameters, run.ionic_steps
        limit = int(parameters.get("NELM", 60))
        ibrion, nsw = int(parameters.get("IBRION", -1)), int(parameters.get("NSW", 0))
    # pymatgen raises whatever it stumbles over in a broken file.
    except Exception as error:
        broken = isinstance(error, EOFError) or (not complete and read_head(path).lstrip().startswith(b"<?xml"))
        raise ParseFailure("truncated" if broken or _cut(path) else "unreadable", describe(error)) from error
    if not (records or complete):
        raise ParseFailure("truncated", "the run ended before its first ionic step did")
    steps, post_scf = [], False
    for record in records:
        step, correction = _vasprun_step(record, limit)
        post_scf = post_scf or abs(correction) > _POST_SCF
        steps.append(step)
    relaxed: bool | None = None
    if ibrion in _RELAXATIONS and nsw > 0:
        relaxed = (complete and len(records) < nsw) or _forces_small(steps, parameters)
    tags: dict[str, Any] = {**parameters, **run.incar}
    if post_scf and not tags.get("IVDW"):
        tags["IVDW"] = _twin_ivdw(path)
    tags["hubbard_u"] = _hubbard(run) if tags.get("LDAU") else None
    level = vasp_level(tags, run.potcar_symbols, post_scf=post_scf)
    return Run(
        steps,
        complete=complete,
        relaxed=relaxed,
        level=None if isinstance(level, str) else level,
        level_problem=level if isinstance(level, str) else "",
        potentials={_element(title): title for title in run.potcar_symbols},
        kpoints=_mesh(run),
    )


def _cut(path: Path) -> bool:
    """Tell whether an XML file lacks its end."""
    tail = b""
    head = read_head(path).lstrip()
    if not head.startswith(b"<?xml"):
        return False
    from atomfoundry.harvest.run import open_binary

    try:
        with open_binary(path) as stream:
            while block := stream.read(1 << 20):
                tail = (tail + block)[-200:]
    except (OSError, EOFError):
        return True
    return not tail.strip().endswith(b"</modeling>")


def _vasprun_step(record: dict[str, Any], limit: int) -> tuple[Step, float]:
    """Return a step and what was added to its energy after the electronic steps (eV)."""
    structure = record.get("structure")
    if structure is None:
        return Step(None, "unreadable", "an ionic step without a structure"), 0.0
    electronic = record.get("electronic_steps", [])
    last = electronic[-1] if electronic else {}
    energy = record.get("e_fr_energy")
    correction, sigma0 = 0.0, None
    if energy is not None and "e_fr_energy" in last:
        correction = float(energy) - float(last["e_fr_energy"])
        if "e_0_energy" in last:
            # The final block of VASP 5 has a wrong e_0_energy; the last electronic step's lacks dispersion.
            sigma0 = float(energy) + float(last["e_0_energy"]) - float(last["e_fr_energy"])
    stress = record.get("stress")
    atoms = Atoms([site.specie.Z for site in structure], structure.cart_coords, cell=structure.lattice.matrix, pbc=True)
    # VASP prints kbar, positive where the cell wants to expand.
    tensor = None if stress is None else -np.array(stress, dtype=float) * KBAR
    step = labelled_step(atoms, energy, record.get("forces"), tensor, sigma0=sigma0)
    if not electronic:
        step.refuse("no_scf", "the step has no electronic steps (a force field made it)")
    elif len(electronic) >= limit:
        step.refuse("unconverged_electronic", _without_convergence(len(electronic), limit))
    return step, correction if np.isfinite(correction) else 0.0


def _without_convergence(steps: int, limit: int) -> str:
    return f"{steps} electronic steps of at most {limit}, without convergence"


def _forces_small(steps: list[Step], parameters: dict[str, Any]) -> bool:
    """Tell whether the last step met EDIFFG, where that is a force; VASP may end exactly at NSW."""
    criterion = float(parameters.get("EDIFFG", 0.0))
    if criterion >= 0 or not steps or steps[-1].atoms is None or steps[-1].atoms.calc is None:
        return False
    forces = steps[-1].atoms.calc.results.get("forces")
    return forces is not None and bool(np.linalg.norm(forces, axis=1).max(initial=0.0) < -criterion)


def _hubbard(run: Any) -> dict[str, float] | None:
    values = run.parameters.get("LDAUU") or run.incar.get("LDAUU") or []
    titles = run.potcar_symbols
    named = {_element(title): float(value) for title, value in zip(titles, values, strict=False)}
    return {element: value for element, value in sorted(named.items()) if value}


def _element(title: str) -> str:
    words = title.split()
    return words[1].split("_")[0].rstrip("0123456789.") if len(words) > 1 else title


def _mesh(run: Any) -> str | None:
    kpoints = getattr(run, "kpoints", None)
    if kpoints is None or not len(kpoints.kpts):
        return None
    style = getattr(kpoints.style, "name", str(kpoints.style))
    if len(kpoints.kpts) > 1:
        return f"{len(kpoints.kpts)} points"
    return f"{style} {'x'.join(str(int(n)) for n in kpoints.kpts[0])}"


def _twin_ivdw(path: Path) -> int | None:
    """Look into the OUTCAR of the same run: VASP 5 writes IVDW there and not into ``vasprun.xml``."""
    name = path.name.replace("vasprun", "OUTCAR").replace(".xml", "")
    for twin in {path.with_name(name), path.with_name(name.removesuffix(".gz")), path.with_name(f"{name}.gz")}:
        if not twin.is_file():
            continue
        try:
            with open_text(twin) as stream:
                for line in stream:
                    if "IVDW" in line and (match := re.search(r"\bIVDW\s*=\s*(\d+)", line)):
                        return int(match[1])
                    if "FREE ENERGIE" in line:
                        break
        except (OSError, EOFError):
            continue
    return None


class _OutcarScan:
    """What ASE leaves out of an OUTCAR: convergence, the end of the run, the level of theory."""

    def __init__(self) -> None:
        self.tags: dict[str, Any] = {}
        self.titles: list[str] = []
        self.iterations: dict[int, int] = {}
        self.converged: set[int] = set()
        self.complete = self.reached = False
        self.hubbard: list[float] = []
        self.current = 0
        self.tables: list[tuple[int, int]] = []
        self._header = True
        self._forces = self._stresses = 0

    def __call__(self, line: str) -> None:
        if "Iteration" in line and (match := _ITERATION.search(line)):
            self.current = int(match[1])
            self.iterations[self.current] = int(match[2])
        elif "EDIFF is reached" in line:
            self.converged.add(self.current)
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
        elif self._header and "=" in line and not line.startswith((" |", "|")):
            self._read_tags(line)

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
    scan = _OutcarScan()
    steps: list[Step] = []
    failure: Exception | None = None
    try:
        with open_text(path) as stream:
            for chunk in ase_parsers.outcarchunks(ScannedLines(stream, scan), step_parser, header_parser):
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
            step.refuse("unconverged_electronic", _without_convergence(scan.iterations[number], limit))
    relaxing = scan.number("IBRION", -1) in _RELAXATIONS and scan.number("NSW", 0) > 0
    if any(scan.hubbard):
        named = zip((_element(title) for title in scan.titles), scan.hubbard, strict=False)
        scan.tags["hubbard_u"] = {element: value for element, value in sorted(named) if value}
    level = vasp_level(scan.tags, scan.titles)
    return Run(
        steps,
        complete=scan.complete and failure is None,
        relaxed=scan.reached if relaxing else None,
        level=None if isinstance(level, str) else level,
        level_problem=level if isinstance(level, str) else "",
        potentials={_element(title): title for title in scan.titles},
    )
