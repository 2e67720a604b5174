"""VASP: ``vasprun.xml`` by pymatgen, and what it leaves to be judged."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomfoundry.harvest.levels import vasp_level
from atomfoundry.harvest.run import ParseFailure, Run, Step, describe, labelled_step, open_text, read_head
from atomfoundry.units import KBAR

RELAXATIONS = (1, 2, 3)
"""Values of IBRION that move atoms towards a minimum."""

_POST_SCF = 1e-5


def parse_vasprun(path: Path) -> Run:
    """Read ``vasprun.xml``; one pass."""
    from atomfoundry.harvest.vasprun import FrameVasprun

    complete = True
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = FrameVasprun(
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
    if ibrion in RELAXATIONS and nsw > 0:
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
        potentials={element_of(title): title for title in run.potcar_symbols},
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
    atoms = Atoms(numbers=structure.numbers, positions=structure.positions, cell=structure.cell, pbc=True)
    # VASP prints kbar, positive where the cell wants to expand.
    tensor = None if stress is None else -np.array(stress, dtype=float) * KBAR
    step = labelled_step(atoms, energy, record.get("forces"), tensor, sigma0=sigma0)
    if not electronic:
        step.refuse("no_scf", "the step has no electronic steps (a force field made it)")
    elif len(electronic) >= limit:
        step.refuse("unconverged_electronic", without_convergence(len(electronic), limit))
    return step, correction if np.isfinite(correction) else 0.0


def without_convergence(steps: int, limit: int) -> str:
    """Say that a step used up its electronic steps."""
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
    named = {element_of(title): float(value) for title, value in zip(titles, values, strict=False)}
    return {element: value for element, value in sorted(named.items()) if value}


def element_of(title: str) -> str:
    """Return the element of a POTCAR by its title, e.g. ``PAW_PBE Fe_pv 02Aug2007``."""
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
