"""Messages between a process and its child: JSON and raw numbers, so that nothing read can run code.

A message is a little-endian 32-bit length, so many bytes of JSON, then the bytes of its arrays, one after the
other. Floating-point numbers arrive exactly, in JSON too.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

_LENGTH = struct.Struct("<I")
_KINDS = "biuf"
"""NumPy's kinds of plain numbers."""


def pack(header: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> bytes:
    """Write a message.

    Parameters
    ----------
    header
        JSON-like content; ``arrays`` is not free as a key.
    arrays
        Arrays of plain numbers.

    Returns
    -------
    bytes
        The message.
    """
    parts = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    layout = [[name, array.dtype.str, array.shape] for name, array in parts.items()]
    text = json.dumps({**header, "arrays": layout}).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *(array.tobytes() for array in parts.values())])


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a message.

    Parameters
    ----------
    message
        As ``pack`` wrote it.

    Returns
    -------
    tuple
        Header and arrays.

    Raises
    ------
    ValueError
        If it is no such message.
    """
    if len(message) < _LENGTH.size:
        raise ValueError("The message is too short.")
    (length,) = _LENGTH.unpack_from(message)
    start = _LENGTH.size + length
    header = json.loads(message[_LENGTH.size : start])
    arrays = {}
    for name, kind, shape in header.pop("arrays"):
        dtype = np.dtype(kind)
        if dtype.kind not in _KINDS:
            raise ValueError(f"The message has an array of {dtype}.")
        size = math.prod(shape)
        arrays[name] = np.frombuffer(message, dtype=dtype, count=size, offset=start).reshape(shape).copy()
        start += size * dtype.itemsize
    return header, arrays


def atoms_to_message(atoms: Atoms) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Take a structure apart; constraints and calculator stay behind, as no label depends on them.

    Parameters
    ----------
    atoms
        The structure.

    Returns
    -------
    tuple
        Header and arrays for ``pack``.

    Raises
    ------
    InputError
        If ``atoms.info`` holds something that is neither plain data nor an array of numbers.
    """
    arrays = {f"atoms.{name}": array for name, array in atoms.arrays.items() if array.dtype.kind in _KINDS}
    arrays["cell"] = atoms.cell.array
    arrays["pbc"] = np.asarray(atoms.pbc)
    plain = {}
    for key, value in atoms.info.items():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
            arrays[f"info.{key}"] = value
            continue
        try:
            json.dumps({key: value})
        except (TypeError, ValueError) as error:
            raise InputError(
                f"atoms.info['{key}'] is a {type(value).__name__}, which cannot be handed to another process.",
                remedy="Keep numbers, texts, lists, dictionaries and arrays of numbers there.",
            ) from error
        plain[key] = value
    return {"info": plain}, arrays


def atoms_from_message(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Atoms:
    """Put a structure together again.

    Parameters
    ----------
    header, arrays
        From ``atoms_to_message``.

    Returns
    -------
    Atoms
        Equal numbers, positions, cell, arrays and info.
    """
    from ase import Atoms

    own = {name.removeprefix("atoms."): array for name, array in arrays.items() if name.startswith("atoms.")}
    atoms = Atoms(own.pop("numbers"), positions=own.pop("positions"), cell=arrays["cell"], pbc=arrays["pbc"])
    for name, array in own.items():
        atoms.set_array(name, array)
    atoms.info.update(header["info"])
    for name, array in arrays.items():
        if name.startswith("info."):
            atoms.info[name.removeprefix("info.")] = array
    return atoms
