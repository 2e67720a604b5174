"""Any ASE calculator as an engine, named by its import path."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.errors import EngineUnavailableError

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(kw_only=True)
class AseCalculatorEngine(Engine):
    """A calculator class of any installed package.

    Parameters
    ----------
    calculator_class
        Import path, e.g. ``"ase.calculators.emt.EMT"``.
    calculator_kwargs
        Its arguments, plain values.
    elements
        Symbols it can compute; empty: all.
    level_of_theory
        Fields of the level of theory; empty: class and arguments.
    """

    name: ClassVar[str] = "ase"

    calculator_class: str
    calculator_kwargs: dict[str, Any] = field(default_factory=dict)
    elements: list[str] = field(default_factory=list)
    level_of_theory: dict[str, Any] = field(default_factory=dict)

    @property
    def level(self) -> LevelOfTheory:
        """As given, or class and arguments."""
        if self.level_of_theory:
            return LevelOfTheory(**self.level_of_theory)
        extra: dict[str, str | float | bool] = {
            key: value if isinstance(value, (str, float, bool)) else repr(value)
            for key, value in self.calculator_kwargs.items()
        }
        return LevelOfTheory(
            code="ase",
            method=self.calculator_class.rpartition(".")[2],
            extra={"class": self.calculator_class, **extra},
        )

    def supported_elements(self) -> set[str]:
        """Return the elements given, or all."""
        from ase.data import chemical_symbols

        return set(self.elements) or set(chemical_symbols[1:])

    def check_available(self) -> None:
        """Check that the class can be imported.

        Raises
        ------
        EngineUnavailableError
            If it cannot.
        """
        self._class()

    def _class(self) -> Any:
        module, _, name = self.calculator_class.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise EngineUnavailableError(
                f"The ASE calculator '{self.calculator_class}' cannot be imported: {error}.",
                remedy="Give the import path of an installed class, e.g. 'ase.calculators.emt.EMT'.",
            ) from error

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure with a fresh calculator."""
        copy = atoms.copy()
        copy.set_constraint()
        copy.calc = self._class()(**self.calculator_kwargs)
        energy = copy.get_potential_energy(force_consistent="free_energy" in copy.calc.implemented_properties or None)
        stress = None
        if atoms.pbc.all() and "stress" in copy.calc.implemented_properties:
            stress = copy.get_stress()
        return SinglePoint(energy, copy.get_forces(), stress)
