"""Which resources a job needs: what its calculator asks for, else what its Maker names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from atomfoundry.documents.calculator import KINDS, CalculatorSpec
from atomfoundry.errors import AtomfoundryError


def profile_of_job(arguments: Iterable[Any], own: str | None) -> str | None:
    """Return the resource profile of a job; None where nothing names one, which means ``"light"``.

    Parameters
    ----------
    arguments
        Of the job.
    own
        What its Maker names; counts unless a calculator asks for more than ``"light"``.
    """
    asked = profile_of(arguments)
    return asked if asked not in (None, "light") or own is None else own


def profile_of_training(maker: Any, *_: Any, **__: Any) -> str:
    """Return the resource profile of a training: ``"gpu"``, unless its Maker's `device` rules a GPU out."""
    return "md" if maker.device == "cpu" else "gpu"


def profile_of_engine(engine: str, settings: Mapping[str, Any], *, least: str) -> str:
    """Return the resource profile of a job that computes with a label engine.

    Parameters
    ----------
    engine, settings
        The engine. Where it cannot be made `least` counts: the job will say what is wrong.
    least
        Profile where the engine is a ``"light"`` one.
    """
    from atomfoundry.engines import get_engine

    try:
        profile = get_engine(engine, **settings).profile
    except AtomfoundryError:
        return least
    return least if profile == "light" else profile


def profile_of(arguments: Iterable[Any]) -> str | None:
    """Return the resource profile that descriptions of calculators ask for; None where there is none.

    Parameters
    ----------
    arguments
        Arguments of a job, lists of descriptions among them. Of several profiles the first that is not ``"light"``
        counts.
    """
    found: str | None = None
    for value in arguments:
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, CalculatorSpec):
                profile = item.profile
            elif isinstance(item, dict) and is_description(item):
                profile = str(item.get("profile", "light"))
            else:
                continue
            if found in (None, "light"):
                found = profile
    return found


def is_description(values: dict[str, Any]) -> bool:
    """Tell whether a dictionary holds nothing but fields of a calculator's description."""
    return any(kind in values for kind in KINDS) and set(values) <= set(CalculatorSpec.model_fields)
