"""Which resources a job needs, as the description of its calculator says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from atomfoundry.documents.calculator import KINDS, CalculatorSpec


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
