"""A calculator in another interpreter as an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atomfoundry.engines.ase_calculator import NamedCalculatorEngine
from atomfoundry.engines.interpreter.calculator import InterpreterCalculator, probe
from atomfoundry.engines.interpreter.process import InterpreterProcess
from atomfoundry.errors import ConfigurationError

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator


@dataclass(kw_only=True)
class InterpreterEngine(NamedCalculatorEngine):
    """A calculator class or factory function of another Python environment.

    The level of theory is that of the same class and arguments here: where it runs is no part of it. Pin the
    versions by ``packages``.

    Parameters
    ----------
    interpreter
        Python executable of the other environment, or the folder of its virtual environment.
    calculator_class
        Import path there, e.g. ``"mace.calculators.MACECalculator"``.
    environment
        Environment variables of its process.
    timeout
        Seconds a structure may take.
    reuse
        Here true by default: models take long to load.
    in_process
        Always false: a crash there is no crash here.
    """

    name: ClassVar[str] = "interpreter"

    interpreter: str
    environment: dict[str, str] = field(default_factory=dict)
    timeout: float | None = None
    reuse: bool = True
    in_process: bool = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        if self.in_process:
            raise ConfigurationError(
                "interpreter: in_process is true, but it computes in a process of its own.", remedy="Leave it out."
            )
        if self.timeout is not None and not self.timeout > 0:
            raise ConfigurationError(f"interpreter: timeout is {self.timeout}.", remedy="It must be positive.")

    def check_available(self) -> None:
        """Check that the other interpreter can import the class and its packages have their versions.

        Raises
        ------
        EngineUnavailableError
            If not.
        """
        process = InterpreterProcess(self.interpreter, environment=self.environment)
        try:
            probe(process, self.calculator_class, self.packages)
        finally:
            process.stop()

    def _calculator(self, arguments: dict[str, Any], directory: Path) -> BaseCalculator:
        calculator = super()._calculator(arguments, directory)
        # a kept one may be of an engine with another limit
        calculator.timeout = self.timeout
        return calculator

    def make_calculator(self, arguments: dict[str, Any]) -> BaseCalculator:
        """Start the other interpreter and make the calculator there."""
        return InterpreterCalculator(
            self.interpreter,
            self.calculator_class,
            arguments,
            environment=self.environment,
            timeout=self.timeout,
            packages=self.packages,
        )
