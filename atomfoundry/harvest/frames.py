"""Labelled frames that others collected: extended XYZ, ASE trajectories, AtomProNet's npz, atomate2's documents."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomfoundry.datasets.structure_record import structure_of
from atomfoundry.documents import LevelOfTheory
from atomfoundry.harvest.levels import vasp_level
from atomfoundry.harvest.run import ParseFailure, Run, Step, describe, labelled_step
from atomfoundry.units import KBAR

_ATOMPRONET = ("positions", "symbols", "energies")
_SUSPICIOUS = "all frames carry one and the same virial"


def parse_frames(path: Path) -> Run:
    """Read extended XYZ or an ASE trajectory; ``virial`` (eV, as AtomProNet writes it) becomes a stress."""
    from ase.io import iread

    steps: list[Step] = []
    virials: list[np.ndarray | None] = []
    try:
        for atoms in iread(str(path), index=":"):
            step, virial = _frame(atoms)
            steps.append(step)
            virials.append(virial)
    # ASE's readers raise whatever they stumble over in a broken file.
    except Exception as error:
        if not steps:
            raise ParseFailure("truncated" if isinstance(error, EOFError) else "unreadable", describe(error)) from error
        steps.append(Step(None, "truncated" if isinstance(error, EOFError) else "unreadable", describe(error)))
    _virials_to_stress(steps, virials)
    return Run(steps, states_level=False)


def _frame(atoms: Atoms) -> tuple[Step, np.ndarray | None]:
    results = atoms.calc.results if atoms.calc is not None else {}
    free, energy = results.get("free_energy"), results.get("energy")
    virial = None
    if results.get("stress") is None and "virial" in atoms.info:
        values = np.asarray(atoms.info["virial"], dtype=float)
        virial = values.reshape(3, 3) if values.size == 9 else None
    step = labelled_step(
        atoms,
        free if free is not None else energy,
        results.get("forces"),
        results.get("stress"),
        sigma0=float(energy) if free is not None and energy is not None else None,
    )
    return step, virial


def _virials_to_stress(steps: list[Step], virials: list[np.ndarray | None]) -> None:
    """Attach stresses, unless one virial was written to all frames (a bug of AtomProNet's exporter)."""
    known = [virial for virial in virials if virial is not None]
    if len(known) > 1 and all(np.array_equal(known[0], virial) for virial in known[1:]):
        for step, virial in zip(steps, virials, strict=False):
            if virial is not None and step.atoms is not None:
                step.atoms.info["flags"] = ["same_virial_dropped"]
        return
    for number, (step, virial) in enumerate(zip(steps, virials, strict=False)):
        atoms = step.atoms
        if virial is None or atoms is None or atoms.calc is None or not atoms.cell.volume:
            continue
        results = atoms.calc.results
        # A virial is what pushes outward, times the volume; stress is positive in tension.
        stress = -virial / atoms.cell.volume
        steps[number] = labelled_step(atoms, results.get("energy"), results.get("forces"), stress, sigma0=step.sigma0)


def parse_npz(path: Path) -> Run:
    """Read AtomProNet's npz: positions, lattice, symbols, energies, forces, pressures.

    ``pressures`` are the rows ``Total`` of OUTCAR: eV, order xx yy zz xy yz zx, positive where the cell wants to
    expand.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            data = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ParseFailure("unreadable", describe(error)) from error
    missing = [name for name in _ATOMPRONET if name not in data]
    if missing:
        raise ParseFailure("unknown_format", f"an npz without {', '.join(missing)}")
    try:
        steps = _npz_steps(data)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ParseFailure("unreadable", describe(error)) from error
    return Run(steps, states_level=False)


def _npz_steps(data: Mapping[str, np.ndarray]) -> list[Step]:
    symbols = [str(symbol) for symbol in data["symbols"].ravel()]
    energies = data["energies"].astype(float).ravel()
    shape = (len(energies), len(symbols), 3)
    positions = data["positions"].astype(float).reshape(shape)
    forces = data["forces"].astype(float).reshape(shape) if "forces" in data else None
    cells = data["lattice"].astype(float).reshape(-1, 3, 3) if "lattice" in data else None
    if cells is not None and len(cells) not in (1, len(energies)):
        raise ValueError(f"{len(cells)} cells for {len(energies)} energies")
    virials = data["pressures"].astype(float).reshape(-1, 6) if "pressures" in data else None
    if virials is not None and len(virials) != len(energies):
        raise ValueError(f"{len(virials)} pressures for {len(energies)} energies")
    steps = []
    for number, energy in enumerate(energies):
        cell = None if cells is None else cells[number if len(cells) > 1 else 0]
        atoms = Atoms(symbols, positions[number], cell=cell, pbc=cell is not None)
        stress = None
        if virials is not None and cell is not None:
            stress = -virials[number][[0, 1, 2, 4, 5, 3]] / atoms.cell.volume
        steps.append(labelled_step(atoms, energy, None if forces is None else forces[number], stress))
    return steps


def parse_taskdocs(path: Path) -> Run:
    """Read atomate2's VASP TaskDocs from JSON: one document or a list."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        content = json.loads(raw)
    except (OSError, EOFError, ValueError) as error:
        raise ParseFailure("unreadable", describe(error)) from error
    documents = content if isinstance(content, list) else [content]
    runs = [taskdoc_run(document) for document in documents]
    levels = {run.level.id if run.level else run.level_problem for run in runs}
    if len(levels) > 1:
        raise ParseFailure("unknown_level", f"{len(levels)} levels of theory in one file")
    run = runs[0]
    run.steps = [step for part in runs for step in part.steps]
    return run


def taskdoc_run(document: Mapping[str, Any]) -> Run:
    """Turn one atomate2/emmet VASP TaskDoc into a run.

    Parameters
    ----------
    document
        The document as MongoDB or JSON holds it, with ``calcs_reversed``. Stresses are kbar, VASP's sign.

    Returns
    -------
    Run
        All ionic steps of all calculations, in order of time.

    Raises
    ------
    ParseFailure
        If it is no such document.
    """
    calcs = document.get("calcs_reversed")
    if not isinstance(calcs, list) or not calcs:
        raise ParseFailure("unreadable", "a document without calcs_reversed")
    steps: list[Step] = []
    try:
        for calc in reversed(calcs):
            limit = int((calc.get("input", {}).get("parameters") or {}).get("NELM", 60))
            for record in calc["output"]["ionic_steps"]:
                structure = structure_of(record["structure"])
                atoms = Atoms(
                    [site.specie.Z for site in structure],
                    structure.cart_coords,
                    cell=structure.lattice.matrix,
                    pbc=True,
                )
                stress = record.get("stress")
                electronic = record.get("electronic_steps") or []
                step = labelled_step(
                    atoms,
                    record.get("e_fr_energy"),
                    record.get("forces"),
                    None if stress is None else -np.array(stress, dtype=float) * KBAR,
                    sigma0=_sigma0(record, electronic),
                )
                if len(electronic) >= limit:
                    step.refuse("unconverged_electronic", f"{len(electronic)} electronic steps of at most {limit}")
                steps.append(step)
        level = _taskdoc_level(calcs[0])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ParseFailure("unreadable", describe(error)) from error
    relaxed = None
    parameters = calcs[0].get("input", {}).get("parameters") or {}
    if int(parameters.get("IBRION", -1)) in (1, 2, 3) and int(parameters.get("NSW", 0)) > 0:
        relaxed = bool(calcs[0].get("has_vasp_completed", True)) and len(calcs[0]["output"]["ionic_steps"]) < int(
            parameters["NSW"]
        )
    return Run(
        steps,
        relaxed=relaxed,
        level=None if isinstance(level, str) else level,
        level_problem=level if isinstance(level, str) else "",
    )


def _sigma0(record: Mapping[str, Any], electronic: list[Mapping[str, Any]]) -> float | None:
    """Return the energy at zero smearing; as in ``vasprun.xml``, VASP 5's own of the whole step can be wrong."""
    last = electronic[-1] if electronic else {}
    if "e_0_energy" in last and "e_fr_energy" in last and record.get("e_fr_energy") is not None:
        return float(record["e_fr_energy"]) + float(last["e_0_energy"]) - float(last["e_fr_energy"])
    return record.get("e_0_energy")


def _taskdoc_level(calc: Mapping[str, Any]) -> LevelOfTheory | str:
    given = calc.get("input", {})
    tags = {**(given.get("parameters") or {}), **(given.get("incar") or {})}
    titles = [item.get("titel", "") for item in given.get("potcar_spec") or []]
    return vasp_level(tags, titles)
