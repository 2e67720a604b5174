"""Extended XYZ in and out, without loss and with the keys of other programs."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomfoundry.datasets.frame import METADATA_KEYS, attach_labels, default_info, labels_of, with_metadata
from atomfoundry.errors import DatasetError

_VOIGT_TO_FULL = [0, 5, 4, 5, 1, 3, 4, 3, 2]
METADATA_FIELD = "atomfoundry_metadata"
"""Field of the comment line that holds the frame's metadata as JSON."""


def _numbers(values: Iterable[float]) -> str:
    return " ".join(repr(float(value)) for value in values)


def _comment(atoms: Atoms, keys: dict[str, str]) -> str:
    energy, forces, stress = labels_of(atoms)
    properties = "species:S:1:pos:R:3" + (f":{keys['forces']}:R:3" if forces is not None else "")
    fields = [f"Properties={properties}"]
    if atoms.cell.any():
        fields.insert(0, f'Lattice="{_numbers(atoms.cell.array.ravel())}"')
    fields.append('pbc="{}"'.format(" ".join("T" if flag else "F" for flag in atoms.pbc)))
    if energy is not None:
        fields.append(f"{keys['energy']}={energy!r}")
    if stress is not None:
        fields.append(f'{keys["stress"]}="{_numbers(stress[_VOIGT_TO_FULL])}"')
    info = {key: atoms.info[key] for key in METADATA_KEYS if atoms.info[key] not in (None, "", [])}
    # One JSON text, because extended XYZ has no way to tell a string from a number or a list.
    text = json.dumps(info, sort_keys=True).replace("\\", "\\\\").replace('"', '\\"')
    fields.append(f'{METADATA_FIELD}="{text}"')
    return " ".join(fields)


def write_extxyz(
    path: str | Path,
    frames: Iterable[Atoms],
    *,
    energy_key: str = "energy",
    forces_key: str = "forces",
    stress_key: str = "stress",
) -> int:
    """Write frames as extended XYZ with all digits, atomically.

    Parameters
    ----------
    path
        File to write; an older one is replaced when the new one is complete.
    frames
        Frames; missing labels are left out.
    energy_key, forces_key, stress_key
        Names of the labels, e.g. ``REF_energy``, ``REF_forces``, ``REF_stress`` for MACE.

    Returns
    -------
    int
        The number of frames written.
    """
    target = Path(path)
    keys = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    number = 0
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            for atoms in frames:
                frame = with_metadata(atoms)
                stream.write(f"{len(frame)}\n{_comment(frame, keys)}\n")
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
    energy_key: str = "energy",
    forces_key: str = "forces",
    stress_key: str = "stress",
    **metadata: Any,
) -> Iterator[Atoms]:
    """Read frames from extended XYZ, one at a time; ``.gz`` and ``.bz2`` files too.

    Parameters
    ----------
    path
        File to read.
    energy_key, forces_key, stress_key
        Names of the labels in the file. Units must be eV, eV/A and eV/A^3 (tension positive).
    **metadata
        Metadata set on every frame, e.g. ``level=...``; others come from the file if we wrote it.

    Raises
    ------
    DatasetError
        If the file cannot be read, or holds no such energy in any frame although ``energy_key`` was given.
    """
    from ase.io import iread

    labels_found = False
    n_read = 0
    try:
        for atoms in iread(str(path), index=":", format="extxyz"):
            results = dict(atoms.calc.results) if atoms.calc is not None else {}

            def label(key: str, standard: str, atoms: Atoms = atoms, results: dict = results) -> Any:
                return results[standard] if key == standard and key in results else atoms.info.get(key)

            energy, stress = label(energy_key, "energy"), label(stress_key, "stress")
            forces = results.get("forces") if forces_key == "forces" else atoms.arrays.get(forces_key)
            labels_found = labels_found or energy is not None or forces is not None
            bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            own = atoms.info.get(METADATA_FIELD, {})
            own = json.loads(own) if isinstance(own, str) else own
            bare.info = default_info() | {"source": Path(path).name} | own | metadata
            n_read += 1
            yield with_metadata(attach_labels(bare, energy, forces, stress))
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        raise DatasetError(
            f"'{path}' cannot be read as extended XYZ after {n_read} frames: {error}.",
            remedy="Check the file with another program.",
        ) from error
    if not labels_found and (energy_key, forces_key) != ("energy", "forces"):
        raise DatasetError(
            f"'{path}' has neither '{energy_key}' nor '{forces_key}' in any frame.",
            remedy="Look at the second line of the file for the names it uses.",
        )
