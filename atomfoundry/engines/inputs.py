"""Campaigns run by hand: one folder of input files per structure, and a table that says which is which."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.datasets import frame_id
from atomfoundry.errors import ConfigurationError, LabelError, StructureError

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.engines.base import Engine

RECORD = "atomfoundry.json"
"""In every folder: which structure it is and at which level of theory it is meant to be computed."""

TABLE = "campaign.csv"
"""Beside the folders: all records as a table, made anew from them at every call."""

COLUMNS = (
    "folder",
    "frame_id",
    "formula",
    "n_atoms",
    "charge",
    "spin_multiplicity",
    "group_id",
    "source",
    "format",
    "level_id",
    "level",
)


@dataclass
class Campaign:
    """What ``write_campaign`` did.

    Attributes
    ----------
    written
        Records of the new folders.
    skipped
        Records of structures that had a folder already; nothing in it was touched.
    failed
        ``{"formula", "frame_id", "reason", "message"}`` of structures without input files.
    """

    directory: Path
    written: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)


def write_campaign(structures: Iterable[Atoms], directory: str | Path, *, engine: Engine | None = None) -> Campaign:
    """Write input files, one numbered folder per structure, e.g. ``0001-Si2``.

    A structure that has a folder already is left alone, so the call can be repeated with more structures. Each
    folder appears whole or not at all. After the runs ``atomfoundry harvest DIRECTORY`` names each frame's
    ``source`` by its folder, from which ``structure_of`` finds the structure.

    Parameters
    ----------
    structures
        What to compute; equal structures get one folder.
    directory
        Made if missing.
    engine
        Whose input files; None: a POSCAR only, for which the runner chooses the level of theory.

    Returns
    -------
    Campaign
        What was written, skipped and refused.

    Raises
    ------
    ConfigurationError
        If the engine has no input files, or the folder holds another level of theory.
    UnsupportedElementError
        If the engine lacks an element; then nothing is written.
    """
    frames = list(structures)
    if engine is not None:
        engine.check_elements({symbol for atoms in frames for symbol in atoms.get_chemical_symbols()})
    root = Path(directory)
    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    known = {record["frame_id"]: record for record in read_campaign(root)}
    _check_level(known.values(), engine, root)
    campaign = Campaign(root)
    number = max((int(record["folder"].split("-")[0]) for record in known.values()), default=0)
    digits = max(4, len(str(number + len(frames))))
    seen: set[str] = set()
    try:
        for atoms in frames:
            key = frame_id(atoms)
            if key in seen:
                continue
            seen.add(key)
            if key in known:
                campaign.skipped.append(known[key])
                continue
            record = _record(atoms, key, engine, folder=f"{number + 1:0{digits}d}-{atoms.get_chemical_formula()}")
            try:
                _write_folder(atoms, root, record, engine)
            except (LabelError, StructureError) as error:
                reason = getattr(error, "reason", "unsupported")
                failed = {"formula": record["formula"], "frame_id": key, "reason": reason, "message": str(error)}
                campaign.failed.append(failed)
                continue
            number += 1
            campaign.written.append(record)
    finally:
        _write_table(root)
        if is_new and not any(root.iterdir()):
            root.rmdir()
    return campaign


def read_campaign(directory: str | Path) -> list[dict[str, Any]]:
    """Return the records of a campaign's folders, in their order.

    Parameters
    ----------
    directory
        As given to ``write_campaign``.

    Returns
    -------
    list of dict
        With the keys ``COLUMNS`` and, where a POSCAR had to be sorted, ``order``.

    Raises
    ------
    ConfigurationError
        If a record cannot be read.
    """
    return [_read_record(path) for path in sorted(Path(directory).glob(f"[0-9]*-*/{RECORD}"))]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        return {**{key: record[key] for key in COLUMNS}, **record, "folder": path.parent.name}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read: {type(error).__name__}: {error}.", remedy="Remove its folder."
        ) from error


def structure_of(directory: str | Path, source: str) -> dict[str, Any] | None:
    """Find which structure of a campaign a harvested frame belongs to.

    An output rounds positions, so its own ``frame_id`` is another one than that of the structure asked for.

    Parameters
    ----------
    directory
        As given to ``write_campaign``, and harvested.
    source
        The frame's ``info["source"]``: a path below the directory.

    Returns
    -------
    dict or None
        The record; None for a file outside the numbered folders.
    """
    for part in PurePosixPath(source).parts:
        path = Path(directory) / part / RECORD
        if part[:1].isdigit() and path.is_file():
            return _read_record(path)
    return None


def _check_level(records: Iterable[dict[str, Any]], engine: Engine | None, root: Path) -> None:
    wanted = engine.level.id if engine else ""
    for record in records:
        if record["level_id"] != wanted:
            raise ConfigurationError(
                f"{root} holds input files of {record['level'] or 'no level of theory'} ({record['level_id'] or '-'}), "
                f"not of {engine.level.label if engine else 'no level of theory'} ({wanted or '-'}).",
                remedy="Give each level of theory a folder of its own.",
            )


def _record(atoms: Atoms, key: str, engine: Engine | None, *, folder: str) -> dict[str, Any]:
    multiplicity = atoms.info.get("spin_multiplicity")
    return {
        "folder": folder,
        "frame_id": key,
        "formula": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "charge": int(atoms.info.get("charge") or 0),
        "spin_multiplicity": None if multiplicity is None else int(multiplicity),
        "group_id": str(atoms.info.get("group_id") or ""),
        "source": str(atoms.info.get("source") or ""),
        "format": engine.name if engine else "poscar",
        "level_id": engine.level.id if engine else "",
        "level": engine.level.label if engine else "",
    }


def _write_folder(atoms: Atoms, root: Path, record: dict[str, Any], engine: Engine | None) -> None:
    """Write a folder beside its place and move it there whole."""
    building = Path(tempfile.mkdtemp(prefix=".writing-", dir=root))
    try:
        if engine is None:
            record.update(_write_poscar(atoms, building))
        else:
            engine.write_inputs(atoms.copy(), building)
        _write(building / RECORD, json.dumps(record, indent=2) + "\n")
        building.chmod(0o755)
        building.rename(root / record["folder"])
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_poscar(atoms: Atoms, folder: Path) -> dict[str, Any]:
    from ase.io.vasp import write_vasp

    if not atoms.cell.rank == 3:
        raise StructureError(
            f"{atoms.get_chemical_formula()} has no cell, which a POSCAR needs.",
            remedy="Put the molecule into a box (atoms.center(vacuum=...)).",
        )
    bare = atoms.copy()
    bare.set_constraint()
    changes = int(np.count_nonzero(np.diff(atoms.numbers)))
    order = list(range(len(atoms)))
    if changes >= len(set(atoms.numbers.tolist())):
        # VASP wants the atoms of an element, and its POTCAR, once
        order = np.argsort(atoms.numbers, kind="stable").tolist()
    write_vasp(folder / "POSCAR", bare[order], direct=True, vasp5=True)
    return {"order": order} if order != sorted(order) else {}


def _write_table(root: Path) -> None:
    records = read_campaign(root)
    if not records:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    building = root / f".{TABLE}.{os.getpid()}"
    try:
        _write(building, text.getvalue())
        building.replace(root / TABLE)
    finally:
        building.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
