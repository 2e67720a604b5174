"""What sits in the seat of a model: a model of ours or any calculator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atomfoundry.documents import CalculatorSpec, ModelDoc
from atomfoundry.engines.foreign import calculator_of, calculator_spec, engine_of
from atomfoundry.makers.modelling import load_artifact_model

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.models import Allegro

ModelLike = ModelDoc | CalculatorSpec | dict[str, Any]
"""What Makers take as a model: its document, or the description of any calculator (a dictionary of its fields)."""


@dataclass(frozen=True)
class Seat:
    """A calculator and who it is.

    Attributes
    ----------
    calculator
        Ready to compute.
    label
        How documents and reports call it.
    model
        The model behind it; None for a foreign calculator.
    description
        Of a foreign calculator: its description, the id of its level of theory and, where it runs in another
        interpreter, the versions there; empty for a model of ours.
    """

    calculator: BaseCalculator
    label: str
    model: Allegro | None
    description: dict[str, Any]


def take_seat(model: ModelLike, *, head: str | None = None) -> Seat:
    """Return the calculator of a model or of a description.

    Parameters
    ----------
    model
        Either.
    head
        Readout of a model of ours.

    Raises
    ------
    EngineUnavailableError
        If a foreign calculator is not installed or cannot be made.
    ConfigurationError
        If the description is wrong.
    """
    if isinstance(model, ModelDoc):
        from atomfoundry.models import FoundryCalculator

        loaded = load_artifact_model(model)
        calculator = FoundryCalculator(loaded, head=head)
        return Seat(calculator, f"{model.name} [{calculator.head}]", loaded, {})
    spec = calculator_spec(model)
    calculator = calculator_of(spec)
    # a model folder is a model of ours as well, by another way
    own = getattr(calculator, "model", None) if spec.model else None
    description = spec.model_dump(mode="json", exclude_defaults=True) | {"level_id": engine_of(spec).level.id}
    if versions := getattr(calculator, "versions", None):
        description["versions"] = dict(versions)
    return Seat(calculator, spec.label, own, description)
