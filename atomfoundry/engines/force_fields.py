"""atomate2's force fields as an engine: by their short name, or by the import path of a calculator."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.ase_calculator import CalculatorEngine
from atomfoundry.engines.base import SinglePoint
from atomfoundry.engines.import_path import build, load_object
from atomfoundry.errors import ConfigurationError, EngineUnavailableError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

_MODULES = {
    "Allegro": ("nequip", "nequip-allegro"),
    "CHGNet": ("chgnet or matgl", "matgl"),
    "DeepMD": ("deepmd", "deepmd-kit"),
    "FAIRChem": ("fairchem.core", "fairchem-core"),
    "GAP": ("quippy", "quippy-ase"),
    "M3GNet": ("matgl", "matgl"),
    "MACE": ("mace", "mace-torch"),
    "MACE-MP-0": ("mace", "mace-torch"),
    "MACE-MPA-0": ("mace", "mace-torch"),
    "MACE-MP-0b3": ("mace", "mace-torch"),
    "MatPES-PBE": ("matgl", "matgl"),
    "MatPES-r2SCAN": ("matgl", "matgl"),
    "MatterSim": ("mattersim", "mattersim"),
    "NEP": ("calorine", "calorine"),
    "Nequip": ("nequip", "nequip"),
    "SevenNet": ("sevenn", "sevenn"),
    "UPET": ("upet", "upet"),
}
"""From atomate2's name to the modules it can take, and the package that brings them."""


@dataclass(kw_only=True)
class ForceFieldEngine(CalculatorEngine):
    """A force field as atomate2's Makers take it, with atomate2's default arguments.

    What a short name stands for changes with atomate2 and the model's package: pin both by ``packages``.

    Parameters
    ----------
    calculator_meta
        A name of atomate2's ``MLFF``, e.g. ``"MACE-MPA-0"``, or an import path, e.g.
        ``"ase.calculators.emt.EMT"``.
    reuse
        Here true by default: models take long to load.
    """

    name: ClassVar[str] = "forcefield"

    calculator_meta: str
    reuse: bool = True

    def __post_init__(self) -> None:
        self.calculator_meta = self.calculator_meta.removeprefix("MLFF.").replace(":", ".")
        if not self._is_path and self.calculator_meta not in _MODULES:
            near = difflib.get_close_matches(self.calculator_meta, _MODULES, n=1, cutoff=0.4)
            raise ConfigurationError(
                f"forcefield: there is no '{self.calculator_meta}'.",
                remedy=(f"Did you mean '{near[0]}'? " if near else "")
                + f"Names: {', '.join(_MODULES)}; or an import path such as 'ase.calculators.emt.EMT'.",
            )

    @property
    def _is_path(self) -> bool:
        return "." in self.calculator_meta

    @property
    def level(self) -> LevelOfTheory:
        """As given, or name, arguments (files by content) and package versions."""
        if self.level_of_theory:
            return LevelOfTheory(**self.level_of_theory)
        method = self.calculator_meta.rpartition(".")[2] if self._is_path else self.calculator_meta
        extra = {"calculator_meta": self.calculator_meta, **self.level_extra()}
        return LevelOfTheory(code="atomate2", method=method, extra=extra)

    def check_available(self) -> None:
        """Check that the force field's package is installed, in the version asked for.

        Raises
        ------
        EngineUnavailableError
            If not.
        """
        self.check_packages()
        if self._is_path:
            load_object(self.calculator_meta)
            return
        modules, package = _MODULES[self.calculator_meta]
        reason: ImportError | None = None
        for module in modules.split(" or "):
            try:
                importlib.import_module(module)
            except ImportError as error:
                reason = error
            else:
                return
        raise EngineUnavailableError(
            f"Force field '{self.calculator_meta}' needs the package {package}: {reason}.",
            remedy=f"Run 'pip install {package}', in an environment of its own where it asks for other versions of "
            "torch or e3nn than this one's.",
        ) from reason

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure; torch's default precision stays as it was."""
        from atomate2.forcefields.utils import revert_default_dtype

        with revert_default_dtype():
            return super().evaluate(atoms, directory)

    def make_calculator(self, arguments: dict[str, Any]) -> BaseCalculator:
        """Let atomate2 make it."""
        from atomate2.forcefields.jobs import ForceFieldStaticMaker

        self.check_available()
        # Named as calculator_meta a force field would lose its default arguments, matgl's stress unit with them.
        which = (
            {"calculator_meta": self.calculator_meta} if self._is_path else {"force_field_name": self.calculator_meta}
        )
        try:
            calculator: BaseCalculator = ForceFieldStaticMaker(
                **which, calculator_kwargs=build(arguments)
            )._get_calculator()
        except Exception as error:
            # As many exception types as there are force fields; what fails here fails for every structure.
            raise EngineUnavailableError(
                f"Force field '{self.calculator_meta}' could not be made with {arguments}: "
                f"{type(error).__name__}: {error}.",
                remedy="Correct its arguments (calculator_kwargs), or fetch its model first.",
            ) from error
        return calculator
