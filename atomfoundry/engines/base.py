"""What every engine is: something that labels structures at one level of theory."""

from __future__ import annotations

import difflib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import ConfigurationError, InputError, LabelError, UnsupportedElementError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator


@dataclass(frozen=True)
class SinglePoint:
    """Result of one evaluation.

    Attributes
    ----------
    energy
        eV; the energy that the forces are derivatives of (with smearing the free energy).
    forces
        eV/A, shape (n_atoms, 3).
    stress
        eV/A^3, Voigt order xx yy zz yz xz xy, tension positive, shape (6,); None where there is none.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None


@dataclass(kw_only=True)
class Engine(ABC):
    """A code or potential that computes labels.

    Subclasses are dataclasses whose fields are plain settings (numbers, texts, dicts), so that an engine is
    rebuilt anywhere from its name and ``settings()``. They implement ``level``, ``supported_elements``,
    ``check_available`` and ``evaluate``.
    """

    name: ClassVar[str]
    profile: ClassVar[str] = "light"
    """Resource profile of its jobs."""
    in_process: ClassVar[bool] = True
    """Whether ``evaluate`` computes in the calling process, so that a crash of the code is a crash of the caller."""

    @property
    @abstractmethod
    def level(self) -> LevelOfTheory:
        """Level of theory of the labels; made of settings only, so it needs no installed code."""

    @abstractmethod
    def supported_elements(self) -> set[str]:
        """Return the symbols this engine can compute."""

    @abstractmethod
    def check_available(self) -> None:
        """Check that code and data are installed.

        Raises
        ------
        EngineUnavailableError
            If something is missing, with the remedy.
        """

    @abstractmethod
    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        """Compute one structure.

        Parameters
        ----------
        atoms
            The structure; never changed.
        directory
            Existing folder for the files of this calculation.

        Returns
        -------
        SinglePoint
            Energy, forces and, where all three directions are periodic, stress.

        Raises
        ------
        LabelError
            If this one structure cannot be computed.
        """

    def settings(self) -> dict[str, Any]:
        """Return the settings, as ``get_engine`` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}

    def supports(self, elements: Iterable[str]) -> bool:
        """Tell whether all elements can be computed."""
        return set(elements) <= self.supported_elements()

    def settings_for(self, symbols: Iterable[str]) -> dict[str, Any]:
        """Return settings that serve any structure of these elements, where this engine's own were tuned to one.

        Parameters
        ----------
        symbols
            Chemical symbols, repeats allowed.

        Returns
        -------
        dict
            As ``get_engine`` takes them.
        """
        return self.settings()

    def write_inputs(self, atoms: Atoms, directory: Path) -> list[Path]:
        """Write the input files of one structure, for a calculation started by hand.

        Parameters
        ----------
        atoms
            The structure; never changed.
        directory
            Existing folder for the files.

        Returns
        -------
        list of Path
            The files written.

        Raises
        ------
        ConfigurationError
            If this engine's code reads no input files.
        """
        raise ConfigurationError(
            f"Engine '{self.name}' has no input files.", remedy="Its structures can only be labelled by Atomfoundry."
        )

    def check_elements(self, symbols: Iterable[str]) -> None:
        """Check that all elements can be computed.

        Parameters
        ----------
        symbols
            Chemical symbols, repeats allowed.

        Raises
        ------
        UnsupportedElementError
            Naming the elements that cannot.
        """
        supported = self.supported_elements()
        missing = sorted(set(symbols) - supported)
        if missing:
            raise UnsupportedElementError(
                f"Engine '{self.name}' cannot compute {', '.join(missing)}.",
                remedy=f"It supports {len(supported)} elements: {' '.join(sorted(supported))}.",
            )

    def calculator(self, atoms: Atoms | None = None, directory: Path | str | None = None) -> Calculator:
        """Return an ASE calculator of this engine.

        Parameters
        ----------
        atoms
            The structure it is meant for: where it is not periodic in three directions, the calculator has no
            stress.
        directory
            Where files are written; None takes a temporary folder for every evaluation.

        Returns
        -------
        Calculator
            With energy, free energy, forces and, for structures periodic in three directions, stress.
        """
        from atomfoundry.engines.calculator import EngineCalculator

        return EngineCalculator(self, stress=atoms is None or bool(atoms.pbc.all()), directory=directory)

    def single_point(self, atoms: Atoms, directory: Path | str | None = None) -> SinglePoint:
        """Compute one structure and check the result.

        Parameters
        ----------
        atoms
            The structure; never changed.
        directory
            Folder for the files, made if missing; None takes a temporary one.

        Returns
        -------
        SinglePoint
            Finite numbers of the right shape.

        Raises
        ------
        LabelError
            With its reason: ``"unconverged"``, ``"crashed"``, ``"timeout"``, ``"out_of_memory"``,
            ``"unsupported"``, ``"level_changed"``, ``"no_forces"``, ``"nan"``.
        InputError
            If no structure could be computed, e.g. because the code is not installed.
        """
        self.check_elements(atoms.get_chemical_symbols())
        with _folder(directory) as folder:
            try:
                result = self.evaluate(atoms, folder)
            except (LabelError, InputError):
                raise
            except Exception as error:
                # A code's failure has as many exception types as there are codes; it must cost one label
                # only.
                raise LabelError(
                    f"{atoms.get_chemical_formula()}: {type(error).__name__}: {error}", reason="crashed"
                ) from error
        return _checked(result, atoms)

    def compute(self, atoms: Atoms, directory: Path | str | None = None) -> Atoms:
        """Label one structure.

        Parameters
        ----------
        atoms
            The structure; never changed.
        directory
            Folder for the files, made if missing; None takes a temporary one.

        Returns
        -------
        Atoms
            A copy with a ``SinglePointCalculator`` and ``info["level"]`` set.

        Raises
        ------
        LabelError
            If this one structure cannot be computed.
        """
        from ase.calculators.singlepoint import SinglePointCalculator

        result = self.single_point(atoms, directory)
        labelled = atoms.copy()
        labels: dict[str, Any] = {"energy": result.energy, "forces": result.forces}
        if result.stress is not None:
            labels["stress"] = result.stress
        labelled.calc = SinglePointCalculator(labelled, **labels)
        labelled.info["level"] = self.level.id
        return labelled


@contextmanager
def _folder(directory: Path | str | None) -> Iterator[Path]:
    if directory is not None:
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        yield path.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="atomfoundry-") as name:
        yield Path(name).resolve()


def _checked(result: SinglePoint, atoms: Atoms) -> SinglePoint:
    forces = np.asarray(result.forces, dtype=float)
    formula = atoms.get_chemical_formula()
    if forces.shape != (len(atoms), 3):
        raise LabelError(f"{formula}: forces have shape {forces.shape}, not ({len(atoms)}, 3).", reason="no_forces")
    stress = None if result.stress is None else np.asarray(result.stress, dtype=float)
    values = [np.array([result.energy]), forces.ravel()] + ([] if stress is None else [stress])
    if not np.isfinite(np.concatenate(values)).all():
        raise LabelError(f"{formula}: energy, forces or stress are not finite.", reason="nan")
    return SinglePoint(float(result.energy), forces, stress)


def build_engine(kind: type[Engine], settings: dict[str, Any]) -> Engine:
    """Make an engine of a class from plain settings.

    Parameters
    ----------
    kind
        The engine's class.
    settings
        Its fields.

    Returns
    -------
    Engine
        The engine.

    Raises
    ------
    ConfigurationError
        If a setting is unknown (with the nearest one) or a required one is missing.
    """
    known = {field.name: field for field in fields(kind) if field.init}
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigurationError(
                f"Engine '{kind.name}' has no setting '{key}'.",
                remedy=f"Did you mean '{near[0]}'?" if near else f"It has: {', '.join(sorted(known))}.",
            )
    missing = [
        key
        for key, field in known.items()
        if key not in settings and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise ConfigurationError(
            f"Engine '{kind.name}' needs the setting '{missing[0]}'.",
            remedy="Add it to the engine's settings.",
        )
    return kind(**settings)
