"""The ASE calculator whose work is done in another interpreter."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from atomfoundry.documents.calculator import short_name
from atomfoundry.engines.children.messages import atoms_to_message
from atomfoundry.engines.children.process import AnswerTimeoutError, ChildDiedError
from atomfoundry.engines.interpreter.process import InterpreterProcess, find_interpreter
from atomfoundry.errors import EngineUnavailableError, LabelError

PASSED_ON = ("energy", "free_energy", "forces", "stress", "energies", "magmom", "magmoms", "charges", "dipole")
"""Properties that are handed on where the calculator has them; the first four come first."""


class InterpreterCalculator(Calculator):
    """A calculator of a package that needs an environment of its own, e.g. MACE with its pinned e3nn.

    The other environment needs Python 3.8 or later, ASE and the package; Atomfoundry is not installed there. Numbers
    go over a socket, no pickle. The process is kept from one structure to the next, started anew where it has died,
    and ends with this one. A crash, a kill or a hang is a `LabelError` of that one structure.

    Parameters
    ----------
    interpreter
        Python executable, or the folder of its virtual environment.
    calculator_class
        Import path there, e.g. ``"mace.calculators.MACECalculator"``.
    calculator_kwargs
        Arguments: plain values (JSON); nested calculators as for the engine ``ase``.
    environment
        Environment variables of that process, e.g. ``{"CUDA_VISIBLE_DEVICES": "1"}``.
    timeout
        Seconds a structure may take; None: no limit.
    packages
        Exact versions that the other environment must have, e.g. ``{"mace-torch": "0.3.16"}``.
    name
        For reports; default: the class's name.

    Attributes
    ----------
    versions
        Of Python, ASE, NumPy and ``packages`` in the other environment, once it has been asked.

    Raises
    ------
    EngineUnavailableError
        If interpreter, class, versions or arguments are wrong.
    """

    nolabel = True

    def __init__(
        self,
        interpreter: str,
        calculator_class: str,
        calculator_kwargs: Mapping[str, Any] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
        packages: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        super().__init__()
        self.interpreter = find_interpreter(interpreter)
        self.calculator_class = calculator_class
        self.calculator_kwargs = dict(calculator_kwargs or {})
        self.environment = dict(environment or {})
        self.timeout = timeout
        self.packages = dict(packages or {})
        self.versions: dict[str, str] = {}
        self.has_descriptors = False
        self._label = name or short_name(calculator_class)
        self._process: InterpreterProcess | None = None
        self._ready()

    @property
    def name(self) -> str:
        """Name for reports."""
        return self._label

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute everything the calculator offers in one request.

        Raises
        ------
        LabelError
            If this structure cannot be computed: ``"crashed"``, ``"out_of_memory"``, ``"timeout"``.
        EngineUnavailableError
            If the calculator cannot be started again.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        wanted = [name for name in PASSED_ON if name in self.implemented_properties]
        if not self.atoms.pbc.all():
            wanted = [name for name in wanted if name != "stress"]
        values = self._request("compute", self.atoms, {"properties": wanted, "directory": self._folder()})
        self.results = {name: float(value) if value.ndim == 0 else value for name, value in values.items()}
        missing = [name for name in properties if name not in self.results]
        if missing:
            raise PropertyNotImplementedError(f"{self.name} gives no {', '.join(missing)} of this structure.")

    def get_descriptors(self, atoms: Atoms) -> np.ndarray:
        """Return the calculator's own descriptors of the atoms, (N, d); it must have ``get_descriptors``.

        Raises
        ------
        EngineUnavailableError
            If it has none.
        LabelError
            If they cannot be computed.
        """
        self._ready()
        if not self.has_descriptors:
            raise EngineUnavailableError(
                f"{self.calculator_class} has no descriptors.", remedy="Take a calculator with get_descriptors()."
            )
        return self._request("descriptors", atoms, {})["descriptors"]

    def close(self) -> None:
        """End the other process; the next evaluation starts it anew."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def _folder(self) -> str | None:
        return str(Path(self.directory).absolute()) if self.directory not in (".", "") else None

    def _ready(self) -> InterpreterProcess:
        """Return the process with the calculator loaded, a new one where it has ended."""
        if self._process is not None and self._process.is_alive():
            return self._process
        process = InterpreterProcess(self.interpreter, environment=self.environment)
        self.versions = probe(process, self.calculator_class, self.packages)
        reply = _asked(
            process,
            {"kind": "load", "calculator_class": self.calculator_class, "kwargs": self.calculator_kwargs},
            what=f"'{self.calculator_class}' could not be made with {self.calculator_kwargs}",
            remedy="Correct its arguments.",
        )
        self.implemented_properties = list(reply["properties"])
        self.has_descriptors = bool(reply["descriptors"])
        process.forward()
        self._process = process
        return process

    def _request(self, kind: str, atoms: Atoms, more: dict[str, Any]) -> dict[str, np.ndarray]:
        header, arrays = atoms_to_message(atoms)
        header |= {"kind": kind, **more}
        formula = atoms.get_chemical_formula()
        for attempt in (1, 2):
            process = self._ready()
            try:
                reply, values = process.ask(header, arrays, timeout=self.timeout)
            except AnswerTimeoutError as error:
                raise LabelError(
                    f"{formula}: {self.name} did not answer within {self.timeout:g} s{process.last_words()}",
                    reason="timeout",
                    remedy="Raise 'timeout', or use a faster machine.",
                ) from error
            except ChildDiedError as death:
                # Before it began, so no fault of this structure.
                if not death.begun and attempt == 1:
                    continue
                said = f"; it last wrote:\n{death.tail}" if death.tail else "."
                raise LabelError(
                    f"{formula}: the process of {self.name} {death.how}{said}", reason=death.reason
                ) from death
            if reply["kind"] == "failed":
                process.forward()
                raise LabelError(f"{formula}: {self.name}: {reply['message']}", reason=reply["reason"])
            process.forward()
            return values
        raise AssertionError("unreachable")

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def probe(process: InterpreterProcess, calculator_class: str, packages: Mapping[str, str]) -> dict[str, str]:
    """Check that a class can be imported in another interpreter and packages have their versions; return versions.

    Parameters
    ----------
    process
        A process of that interpreter.
    calculator_class
        Import path there.
    packages
        Package -> exact version.

    Raises
    ------
    EngineUnavailableError
        If not.
    """
    reply = _asked(
        process,
        {"kind": "probe", "calculator_class": calculator_class, "packages": list(packages)},
        what=f"'{calculator_class}' cannot be imported by {process.interpreter}",
        remedy=f"Install its package and ASE there: '{process.interpreter} -m pip install ase PACKAGE'.",
    )
    versions = dict(reply["versions"])
    for name, version in packages.items():
        if versions[name] != version:
            process.stop()
            raise EngineUnavailableError(
                f"The level of theory needs {name} {version}, {process.interpreter} has {versions[name] or 'none'}.",
                remedy=f"Run '{process.interpreter} -m pip install {name}=={version}', or correct the setting "
                "'packages'.",
            )
    return versions


def _asked(process: InterpreterProcess, request: dict[str, Any], *, what: str, remedy: str) -> dict[str, Any]:
    """Ask before any structure: whatever goes wrong here goes wrong for all of them."""
    try:
        reply, _ = process.ask(request)
    except ChildDiedError as death:
        raise EngineUnavailableError(
            f"{what}: the process {death.how}: {death.tail or 'it said nothing'}", remedy=remedy
        ) from death
    except AnswerTimeoutError as error:
        raise EngineUnavailableError(f"{what} in good time{process.last_words()}", remedy=remedy) from error
    if reply["kind"] == "failed":
        process.stop()
        raise EngineUnavailableError(f"{what}: {reply['message']}.", remedy=remedy)
    return reply
