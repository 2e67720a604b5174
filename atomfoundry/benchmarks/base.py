"""What every benchmark has: settings with a hash, a clock, failures that are kept."""

from __future__ import annotations

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.benchmarks.comparison import compare
from atomfoundry.benchmarks.records import Failure, json_safe
from atomfoundry.documents import BenchmarkDoc

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.checkpoint import Checkpoints


@dataclass(kw_only=True)
class Benchmark(ABC):
    """One property of any ASE calculator.

    The dataclass fields are the settings. `run` never raises because a calculator fails: what failed is in
    the document's ``failures``, with its reason. Wrong settings or structures raise an
    :class:`atomfoundry.errors.InputError`.
    """

    benchmark: ClassVar[str] = ""
    """Name of the property, as in the document."""

    units: ClassVar[dict[str, str]] = {}
    """Unit of every number in the summary."""

    @abstractmethod
    def run(
        self,
        calculator: BaseCalculator,
        atoms: Any,
        *,
        reference: BenchmarkDoc | None = None,
        name: str = "",
        calculator_name: str = "",
        checkpoints: Checkpoints | None = None,
    ) -> BenchmarkDoc:
        """Compute the property with a calculator; what takes long stops and goes on where there are checkpoints."""

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return json_safe(asdict(self))

    @property
    def settings_hash(self) -> str:
        """The sha256 of the class name and all settings."""
        text = json.dumps([type(self).__name__, self.settings()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _document(
        self,
        *,
        started: float,
        calculator: str,
        system: str,
        name: str,
        records: Sequence[dict[str, Any]],
        summary: dict[str, Any],
        n_items: int,
        n_failed: int,
        failures: Sequence[Failure],
        reference: BenchmarkDoc | None,
        earlier_s: float = 0.0,
    ) -> BenchmarkDoc:
        document = BenchmarkDoc(
            benchmark=self.benchmark,
            name=name or f"{self.benchmark} {system}".strip(),
            calculator=calculator,
            system=system,
            records=json_safe(records),
            summary=json_safe(summary),
            settings=self.settings(),
            settings_hash=self.settings_hash,
            n_items=n_items,
            n_failed=n_failed,
            failures=[failure.as_record() for failure in failures],
            wall_time_s=earlier_s + time.perf_counter() - started,
        )
        return document if reference is None else compare(document, reference)


def calculator_label(calculator: Any, name: str = "") -> str:
    """Return a text that names a calculator.

    Parameters
    ----------
    calculator
        Any ASE calculator.
    name
        Taken as it is if not empty.

    Returns
    -------
    str
        The name given, else the calculator's own ``name``, else its class.
    """
    own = getattr(calculator, "name", None)
    return name or (own if isinstance(own, str) and own else type(calculator).__name__)


def system_label(atoms: Atoms) -> str:
    """Return the reduced formula of a structure, e.g. ``"SiO2"``."""
    return str(atoms.get_chemical_formula(mode="metal", empirical=True))
