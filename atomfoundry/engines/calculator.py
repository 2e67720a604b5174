"""The ASE calculator of an engine."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from atomfoundry.engines.base import Engine


class EngineCalculator(Calculator):
    """Energy, forces and stress of an engine, as ASE asks for them.

    Parameters
    ----------
    engine
        The engine that computes.
    stress
        Whether it offers stress.
    directory
        Where its files go; None takes a temporary folder for every evaluation.
    """

    def __init__(self, engine: Engine, *, stress: bool = True, directory: Path | str | None = None) -> None:
        super().__init__()
        self.implemented_properties = ["energy", "free_energy", "forces"] + ["stress"] * stress
        self.engine = engine
        self._folder = directory

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute all properties at once.

        Raises
        ------
        LabelError
            If this structure cannot be computed.
        PropertyNotImplementedError
            If stress is asked for where there is none.
        """
        super().calculate(atoms, properties, system_changes)
        result = self.engine.single_point(self.atoms, self._folder)
        self.results = {"energy": result.energy, "free_energy": result.energy, "forces": result.forces}
        if result.stress is not None:
            self.results["stress"] = result.stress
        elif properties and "stress" in properties:
            raise PropertyNotImplementedError("There is no stress without three periodic directions.")
