"""Extended XYZ in and out, without loss and with the keys of other programs."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomfoundry.datasets.conventions import KeyConvention, convention, stress_from_virial
from atomfoundry.datasets.frame import METADATA_KEYS, attach_labels, default_info, labels_of, with_metadata
from atomfoundry.datasets.isolated import ISOLATED_ATOM
from atomfoundry.errors import DatasetError

_VOIGT_TO_FULL = [0, 5, 4, 5, 1, 3, 4, 3, 2]
METADATA_FIELD = "atomfoundry_metadata"
"""Field of the comment line that holds the frame's metadata as JSON."""


def _numbers(values: Iterable[float]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _convention(
    keys: str | KeyConvention, energy_key: str | None, forces_key: str | None, stress_key: str | None
) -> KeyConvention:
    """Return the convention with single names replaced."""
    found = keys if isinstance(keys, KeyConvention) else convention(keys)
    return replace(
        found,
        energy=found.energy if energy_key is None else (energy_key,),
        forces=found.forces if forces_key is None else (forces_key,),
        stress=found.stress if stress_key is None else (stress_key,),
    )


def _comment(atoms: Atoms, keys: KeyConvention) -> str:
    energy, forces, stress = labels_of(atoms)
    properties = "species:S:1:pos:R:3" + (f":{keys.forces[0]}:R:3" if forces is not None else "")
    fields = [f"Properties={properties}"]
    if atoms.cell.any():
        fields.insert(0, f'Lattice="{_numbers(atoms.cell.array.ravel())}"')
    fields.append('pbc="{}"'.format(" ".join("T" if flag else "F" for flag in atoms.pbc)))
    if energy is not None:
        fields.append(f"{keys.energy[0]}={energy!r}")
    if stress is not None:
        full = stress[_VOIGT_TO_FULL]
        if keys.stress:
            fields.append(f'{keys.stress[0]}="{_numbers(full)}"')
        else:
            fields.append(f'{keys.virial[0]}="{_numbers(-atoms.cell.volume * full)}"')
    if keys.isolated_atom:
        kind = keys.isolated_atom if atoms.info["sampling"] == ISOLATED_ATOM else "Default"
        fields.append(f"config_type={kind}")
    if keys.weight:
        fields.append(f"{keys.weight}={float(atoms.info['weight'])!r}")
    info = {key: atoms.info[key] for key in METADATA_KEYS if atoms.info[key] not in (None, "", [])}
    # One JSON text, because extended XYZ has no way to tell a string from a number or a list.
    text = json.dumps(info, sort_keys=True).replace("\\", "\\\\").replace('"', '\\"')
    fields.append(f'{METADATA_FIELD}="{text}"')
    return " ".join(fields)


def write_extxyz(
    path: str | Path,
    frames: Iterable[Atoms],
    *,
    keys: str | KeyConvention = "ase",
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
) -> int:
    """Write frames as extended XYZ with all digits, atomically.

    Parameters
    ----------
    path
        File to write; an older one is replaced when the new one is complete.
    frames
        Frames; missing labels are left out.
    keys
        What labels are called and meant: ``"ase"``, ``"mace"``, ``"nequip"``, ``"atompronet"`` or a
        ``KeyConvention``.
    energy_key, forces_key, stress_key
        Single names that replace those of ``keys``.

    Returns
    -------
    int
        The number of frames written.
    """
    target = Path(path)
    names = _convention(keys, energy_key, forces_key, stress_key)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    number = 0
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            for atoms in frames:
                frame = with_metadata(atoms)
                stream.write(f"{len(frame)}\n{_comment(frame, names)}\n")
                forces = labels_of(frame)[1]
                table = frame.positions if forces is None else np.hstack([frame.positions, forces])
                for symbol, row in zip(frame.symbols, table, strict=True):
                    stream.write(f"{symbol} {_numbers(row)}\n")
                number += 1
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return number


def read_extxyz(
    path: str | Path,
    *,
    keys: str | KeyConvention = "ase",
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    **metadata: Any,
) -> Iterator[Atoms]:
    """Read frames from extended XYZ, one at a time; ``.gz`` and ``.bz2`` files too.

    Parameters
    ----------
    path
        File to read.
    keys
        What labels are called and meant: ``"ase"``, ``"mace"``, ``"nequip"``, ``"atompronet"`` or a
        ``KeyConvention``.
    energy_key, forces_key, stress_key
        Single names that replace those of ``keys``. Units must be eV, eV/A and eV/A^3 (tension positive).
    **metadata
        Metadata set on every frame, e.g. ``level=...``; others come from the file if we wrote it.

    Raises
    ------
    DatasetError
        If the file cannot be read, or holds labels in no frame although names other than ASE's were asked for, or
        all frames carry one and the same virial.
    """
    from ase.io import iread

    names = _convention(keys, energy_key, forces_key, stress_key)
    labels_found = False
    n_read = 0
    virials = _Virials(path)
    try:
        for atoms in iread(str(path), index=":", format="extxyz"):
            energy, forces, stress = _labels(atoms, names, virials)
            labels_found = labels_found or energy is not None or forces is not None
            bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            own = atoms.info.get(METADATA_FIELD)
            own = json.loads(own) if isinstance(own, str) else own
            bare.info = default_info() | {"source": Path(path).name} | (own or _foreign(atoms, names)) | metadata
            n_read += 1
            yield with_metadata(attach_labels(bare, energy, forces, stress))
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        raise DatasetError(
            f"'{path}' cannot be read as extended XYZ after {n_read} frames: {error}.",
            remedy="Check the file with another program.",
        ) from error
    if not labels_found and ("energy" not in names.energy or "forces" not in names.forces):
        raise DatasetError(
            f"'{path}' has neither '{names.energy[0]}' nor '{names.forces[0]}' in any frame.",
            remedy="Look at the second line of the file for the names it uses.",
        )


def _labels(atoms: Atoms, names: KeyConvention, virials: _Virials) -> tuple[Any, Any, Any]:
    results = dict(atoms.calc.results) if atoms.calc is not None else {}

    def first(keys: tuple[str, ...], standard: str, where: dict[str, Any]) -> Any:
        for key in keys:
            if key == standard and key in results:
                return results[key]
            if where.get(key) is not None:
                return where[key]
        return None

    energy = first(names.energy, "energy", atoms.info)
    forces = first(names.forces, "forces", atoms.arrays)
    stress = first(names.stress, "stress", atoms.info)
    virial = first(names.virial, "virial", atoms.info)
    if stress is None and virial is not None:
        stress = stress_from_virial(virial, abs(atoms.cell.volume))
        virials.check(virial, energy)
    return energy, forces, stress


def _foreign(atoms: Atoms, names: KeyConvention) -> dict[str, Any]:
    """Return the metadata that another program keeps in the comment line."""
    found: dict[str, Any] = {}
    if names.weight and names.weight in atoms.info:
        found["weight"] = float(atoms.info[names.weight])
    if names.isolated_atom:
        kind = atoms.info.get("config_type")
        if kind == names.isolated_atom:
            found["sampling"] = ISOLATED_ATOM
        elif kind is not None and kind != "Default":
            found["sampling"] = str(kind)
    return found


class _Virials:
    """Notice files whose frames all carry the virial of the first, as some AtomProNet versions write them."""

    _ENOUGH = 3

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._first: tuple[bytes, Any] | None = None
        self._same = 0
        self._settled = False

    def check(self, virial: Any, energy: Any) -> None:
        """Take note of one frame's virial."""
        if self._settled:
            return
        content = np.asarray(virial, dtype=np.float64).tobytes()
        if self._first is None:
            self._first = (content, energy)
            return
        self._settled = content != self._first[0]
        self._same += content == self._first[0] and energy != self._first[1]
        if self._same >= self._ENOUGH - 1:
            raise DatasetError(
                f"'{self._path}' gives {self._ENOUGH} frames of different energy one and the same virial.",
                remedy="It was written by a faulty tool: read it with `atomfoundry harvest`, which drops the virial.",
            )
