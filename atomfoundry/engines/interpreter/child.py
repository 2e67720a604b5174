"""An ASE calculator in an interpreter of its own. Run as a script by its path; Atomfoundry need not be installed there.

    PYTHON child.py DESCRIPTOR PARENT

The link is a socket of the parent. A message is a little-endian 32-bit length, so many bytes of JSON, then the bytes
of its arrays; nothing read can run code. Only the standard library is imported before the first request, so that a
missing package is an answer and not a crash; then NumPy, ASE and the package of the calculator. Runs on Python 3.8
and later.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import signal
import struct
import sys
import traceback
from importlib import metadata
from multiprocessing.connection import Connection
from typing import Any

LENGTH = struct.Struct("<I")
KINDS = "biuf"
"""NumPy's kinds of plain numbers."""

NESTED = "calculator_class"
"""A dict argument with this key is a calculator of its own."""

NEEDED = ("energy", "free_energy", "forces", "stress")
"""Properties worth a calculation; others are taken where they come along."""

PR_SET_PDEATHSIG = 1


def pack(header: dict[str, Any], arrays: dict[str, Any] | None = None) -> bytes:
    """Write a message."""
    layout, parts = [], []
    for name, array in (arrays or {}).items():
        layout.append([name, array.dtype.str, list(array.shape)])
        parts.append(array.tobytes())
    text = json.dumps({**header, "arrays": layout}).encode()
    return b"".join([LENGTH.pack(len(text)), text, *parts])


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a message; NumPy is loaded where it has arrays."""
    (length,) = LENGTH.unpack_from(message)
    start = LENGTH.size + length
    header = json.loads(message[LENGTH.size : start])
    arrays = {}
    for name, kind, shape in header.pop("arrays"):
        import numpy as np

        dtype = np.dtype(kind)
        if dtype.kind not in KINDS:
            raise ValueError(f"The message has an array of {dtype}.")
        size = int(np.prod(shape))
        arrays[name] = np.frombuffer(message, dtype=dtype, count=size, offset=start).reshape(shape).copy()
        start += size * dtype.itemsize
    return header, arrays


def load_object(path: str) -> Any:
    """Import ``"package.module:name"`` or ``"package.module.name"``."""
    module, colon, name = path.partition(":")
    parts = path.split(".")
    candidates = [(module, name)] if colon else [(".".join(parts[:n]), ".".join(parts[n:])) for n in _counts(parts)]
    reason: Exception = ImportError(f"'{path}' names no module")
    for module, name in candidates:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            reason = error
            if error.name and (module == error.name or module.startswith(f"{error.name}.")):
                continue
            raise
        for part in name.split("."):
            found = getattr(found, part)
        return found
    raise reason


def _counts(parts: list[str]) -> range:
    return range(len(parts) - 1, 0, -1)


def build(value: Any) -> Any:
    """Return arguments with every nested calculator made."""
    if isinstance(value, dict):
        if NESTED in value:
            return load_object(value[NESTED])(**build(value.get("calculator_kwargs", {})))
        return {key: build(item) for key, item in value.items()}
    if isinstance(value, list):
        return [build(item) for item in value]
    return value


class Server:
    """Answers requests, one after the other."""

    def __init__(self) -> None:
        self.calculator: Any = None

    def answer(self, header: dict[str, Any], arrays: dict[str, Any]) -> bytes:
        """Return the answer to a request; whatever goes wrong in foreign code is an answer too."""
        try:
            return getattr(self, f"do_{header['kind']}")(header, arrays)
        except MemoryError as error:
            return pack({"kind": "failed", "reason": "out_of_memory", "message": f"MemoryError: {error}"})
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            return pack({"kind": "failed", "reason": "crashed", "message": f"{type(error).__name__}: {error}"})

    def do_probe(self, header: dict[str, Any], arrays: dict[str, Any]) -> bytes:
        """Import the class, and tell versions."""
        import ase
        import numpy

        load_object(header["calculator_class"])
        versions = {"python": sys.version.split()[0], "ase": ase.__version__, "numpy": numpy.__version__}
        for name in header["packages"]:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                versions[name] = ""
        return pack({"kind": "probed", "versions": versions})

    def do_load(self, header: dict[str, Any], arrays: dict[str, Any]) -> bytes:
        """Make the calculator."""
        calculator = load_object(header["calculator_class"])(**build(header["kwargs"]))
        if not callable(getattr(calculator, "get_property", None)):
            raise TypeError(f"{header['calculator_class']} gives a {type(calculator).__name__}, no ASE calculator")
        self.calculator = calculator
        described = callable(getattr(calculator, "get_descriptors", None))
        return pack({"kind": "loaded", "properties": list(calculator.implemented_properties), "descriptors": described})

    def do_compute(self, header: dict[str, Any], arrays: dict[str, Any]) -> bytes:
        """Compute the properties asked for; those that this structure has not are left out.

        Arrays go out in the precision that the calculator gives, and a stress is put into Voigt's order here as ASE
        would: rounding is then as if the calculator were used directly.
        """
        import numpy as np
        from ase.calculators.calculator import PropertyNotImplementedError
        from ase.stress import full_3x3_to_voigt_6_stress

        atoms = self._atoms(header, arrays)
        if header["directory"] is not None and hasattr(self.calculator, "directory"):
            self.calculator.directory = type(self.calculator.directory)(header["directory"])
        results = {}
        for name in header["properties"]:
            # some calculators offer what they do not have, and compute all anew before they say so
            if name not in NEEDED and name not in getattr(self.calculator, "results", {}):
                continue
            try:
                value = np.asarray(self.calculator.get_property(name, atoms))
            except PropertyNotImplementedError:
                continue
            if name == "stress" and value.shape == (3, 3):
                value = full_3x3_to_voigt_6_stress(value)
            results[name] = value if value.dtype.kind in KINDS else value.astype(float)
        return pack({"kind": "result"}, results)

    def do_descriptors(self, header: dict[str, Any], arrays: dict[str, Any]) -> bytes:
        """Return the calculator's own descriptors of the atoms."""
        import numpy as np

        rows = np.asarray(self.calculator.get_descriptors(self._atoms(header, arrays)), dtype=float)
        return pack({"kind": "result"}, {"descriptors": rows})

    def _atoms(self, header: dict[str, Any], arrays: dict[str, Any]) -> Any:
        from ase import Atoms

        own = {name[6:]: array for name, array in arrays.items() if name.startswith("atoms.")}
        atoms = Atoms(own.pop("numbers"), positions=own.pop("positions"), cell=arrays["cell"], pbc=arrays["pbc"])
        for name, array in own.items():
            atoms.set_array(name, array)
        atoms.info.update(header["info"])
        atoms.info.update({name[5:]: array for name, array in arrays.items() if name.startswith("info.")})
        atoms.calc = self.calculator
        return atoms


def die_with(parent: int) -> None:
    """Ask the kernel to end this process with its parent (Linux; elsewhere the closed link ends it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def main(arguments: list[str]) -> None:
    """Serve until the parent closes the link."""
    descriptor, parent = int(arguments[0]), int(arguments[1])
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - nothing of this folder may be imported
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]  # noqa: PTH100
    die_with(parent)
    faulthandler.enable()
    link, server = Connection(descriptor), Server()
    while True:
        try:
            header, arrays = unpack(link.recv_bytes())
        except EOFError:
            break
        link.send_bytes(pack({"kind": "begun"}))
        reply = server.answer(header, arrays)
        sys.stdout.flush()
        sys.stderr.flush()
        link.send_bytes(reply)
    os._exit(0)  # libraries' own endings may hang


if __name__ == "__main__":
    main(sys.argv[1:])
