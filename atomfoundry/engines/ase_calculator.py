"""Any ASE calculator as an engine, named by its import path."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.documents import LevelOfTheory
from atomfoundry.documents.calculator import short_name
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.import_path import describe, load_object, make
from atomfoundry.errors import EngineUnavailableError, LabelError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

_KEPT: dict[str, BaseCalculator] = {}
"""The last calculator that was asked to be reused, by what it was made of."""


@dataclass(kw_only=True)
class CalculatorEngine(Engine):
    """What engines around foreign ASE calculators share.

    Parameters
    ----------
    calculator_kwargs
        Arguments of the calculator, plain values. A dict with the key ``calculator_class`` (and
        ``calculator_kwargs``) is made into a calculator first.
    elements
        Symbols it can compute; empty: all.
    packages
        Exact versions the energies depend on, e.g. ``{"mace-torch": "0.3.16"}``: they enter the level of theory,
        and any other installed version is refused.
    level_of_theory
        Fields of the level of theory; empty: made from the settings.
    charge_argument, spin_argument
        Arguments that take the structure's charge and spin multiplicity; None: there are none.
    info_keys
        For calculators that read ``atoms.info``: from our key to theirs, e.g.
        ``{"charge": "charge", "spin_multiplicity": "spin"}``.
    reuse
        Keep the calculator from one structure to the next: for models that take long to load, not for codes that
        start from their last density.
    profile
        Resource profile of its jobs.
    in_process
        False for a calculator that starts a program.
    """

    calculator_kwargs: dict[str, Any] = field(default_factory=dict)
    elements: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    level_of_theory: dict[str, Any] = field(default_factory=dict)
    charge_argument: str | None = None
    spin_argument: str | None = None
    info_keys: dict[str, str] = field(default_factory=dict)
    reuse: bool = False
    profile: str = "light"  # type: ignore[misc]
    in_process: bool = True  # type: ignore[misc]

    @abstractmethod
    def make_calculator(self, arguments: dict[str, Any]) -> BaseCalculator:
        """Make the calculator.

        Parameters
        ----------
        arguments
            Of this structure.

        Raises
        ------
        EngineUnavailableError
            If it cannot be made.
        """

    def level_extra(self) -> dict[str, str | float | bool]:
        """Return what arguments, versions and the passing of charge and spin say about the level."""
        extra = describe(self.calculator_kwargs)
        extra.update({f"package:{name}": version for name, version in self.packages.items()})
        for key in ("charge_argument", "spin_argument"):
            if getattr(self, key):
                extra[key] = getattr(self, key)
        if self.info_keys:
            extra["info_keys"] = json.dumps(self.info_keys, sort_keys=True)
        return extra

    def supported_elements(self) -> set[str]:
        """Return the elements given, or all."""
        from ase.data import chemical_symbols

        return set(self.elements) or set(chemical_symbols[1:])

    def check_packages(self) -> None:
        """Check the installed versions.

        Raises
        ------
        EngineUnavailableError
            If a package is missing or has another version than the level of theory says.
        """
        for name, version in self.packages.items():
            try:
                installed: str | None = metadata.version(name)
            except metadata.PackageNotFoundError:
                installed = None
            if installed != version:
                raise EngineUnavailableError(
                    f"The level of theory needs {name} {version}, installed is {installed or 'none'}.",
                    remedy=f"Run 'pip install {name}=={version}', or correct the setting 'packages'.",
                )

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure.

        Raises
        ------
        LabelError
            With reason ``"no_forces"``, or ``"unsupported"`` for a charge that the calculator is not told.
        EngineUnavailableError
            If the calculator cannot be made.
        """
        from ase.calculators.calculator import PropertyNotImplementedError

        copy = atoms.copy()
        copy.set_constraint()
        arguments = {**self.calculator_kwargs, **self._state(copy)}
        copy.calc = calculator = self._calculator(arguments, directory)
        offered = calculator.implemented_properties
        self._need_forces("forces" in offered, atoms, "it offers none")
        try:
            energy = copy.get_potential_energy(force_consistent="free_energy" in offered or None)
            forces = copy.get_forces()
            stress = copy.get_stress() if atoms.pbc.all() and "stress" in offered else None
        except PropertyNotImplementedError as error:
            self._need_forces(False, atoms, str(error))
            raise
        return SinglePoint(energy, forces, stress)

    def _state(self, copy: Atoms) -> dict[str, Any]:
        """Give charge and spin to the copy's ``info`` and return them as arguments."""
        charge, multiplicity = int(copy.info.get("charge") or 0), copy.info.get("spin_multiplicity")
        if charge and not self.charge_argument and "charge" not in self.info_keys:
            raise LabelError(
                f"{copy.get_chemical_formula()} has charge {charge}, which engine '{self.name}' does not pass on.",
                reason="unsupported",
                remedy="Name the calculator's argument by 'charge_argument', or its key in atoms.info by 'info_keys'.",
            )
        arguments: dict[str, Any] = {self.charge_argument: charge} if self.charge_argument else {}
        if self.spin_argument and multiplicity is not None:
            arguments[self.spin_argument] = int(multiplicity)
        for ours, theirs in self.info_keys.items():
            if copy.info.get(ours) is not None:
                copy.info[theirs] = copy.info[ours]
        return arguments

    def _calculator(self, arguments: dict[str, Any], directory: Path) -> BaseCalculator:
        key = json.dumps([type(self).__name__, self.level.id, arguments], sort_keys=True, default=repr)
        calculator = _KEPT.get(key) if self.reuse else None
        if calculator is None:
            calculator = self.make_calculator(arguments)
            if not callable(getattr(calculator, "get_property", None)):
                raise EngineUnavailableError(
                    f"{self.level.method} is a {type(calculator).__name__}, not an ASE calculator.",
                    remedy="Name a class or function that gives one.",
                )
        if self.reuse:
            # one, because models are large
            _KEPT.clear()
            _KEPT[key] = calculator
        if hasattr(calculator, "directory") and "directory" not in arguments:
            calculator.directory = directory if isinstance(calculator.directory, Path) else str(directory)
        return calculator

    def _need_forces(self, there: bool, atoms: Atoms, why: str) -> None:
        if not there:
            raise LabelError(
                f"{atoms.get_chemical_formula()}: the calculator of {self.level.label} gives no forces: {why}.",
                reason="no_forces",
                remedy="A label needs energy and forces: take another calculator.",
            )


@dataclass(kw_only=True)
class NamedCalculatorEngine(CalculatorEngine):
    """A calculator named by its import path, wherever it runs: where is no part of its level of theory.

    Parameters
    ----------
    calculator_class
        Import path, e.g. ``"ase.calculators.emt.EMT"`` or ``"my_package.potentials:make_calculator"``.
    """

    calculator_class: str

    @property
    def level(self) -> LevelOfTheory:
        """As given, or class, arguments (files by content) and package versions."""
        if self.level_of_theory:
            return LevelOfTheory(**self.level_of_theory)
        path = self.calculator_class.replace(":", ".")
        return LevelOfTheory(code="ase", method=short_name(path), extra={"class": path, **self.level_extra()})


@dataclass(kw_only=True)
class AseCalculatorEngine(NamedCalculatorEngine):
    """A calculator class or factory function of any installed package.

    Parameters
    ----------
    calculator_class
        Import path, e.g. ``"ase.calculators.emt.EMT"`` or ``"my_package.potentials:make_calculator"``.
    """

    name: ClassVar[str] = "ase"

    def check_available(self) -> None:
        """Check that the class can be imported and the packages have their versions.

        Raises
        ------
        EngineUnavailableError
            If not.
        """
        self.check_packages()
        load_object(self.calculator_class)

    def make_calculator(self, arguments: dict[str, Any]) -> BaseCalculator:
        """Call the class or function."""
        return make(self.calculator_class, arguments)
