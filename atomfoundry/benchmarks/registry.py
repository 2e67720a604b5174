"""Benchmarks by name, for flow files and the command line."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from atomfoundry.benchmarks.base import Benchmark
from atomfoundry.benchmarks.diatomic import Diatomic
from atomfoundry.benchmarks.elasticity import Elasticity
from atomfoundry.benchmarks.equation_of_state import EquationOfState
from atomfoundry.benchmarks.nve_drift import NVEDrift
from atomfoundry.benchmarks.parity import Parity
from atomfoundry.errors import ConfigurationError

BENCHMARKS: dict[str, type[Benchmark]] = {
    cls.benchmark: cls for cls in (EquationOfState, Elasticity, NVEDrift, Diatomic, Parity)
}
"""Name of the property -> class."""


def get_benchmark(name: str, **settings: Any) -> Benchmark:
    """Return a benchmark by the name of its property.

    Parameters
    ----------
    name
        A key of `BENCHMARKS`.
    **settings
        Fields of the class.

    Returns
    -------
    Benchmark
        Ready to run.

    Raises
    ------
    ConfigurationError
        For an unknown name or setting, with the nearest valid one.
    """
    if name not in BENCHMARKS:
        raise ConfigurationError(f"There is no benchmark '{name}'.", remedy=_hint(name, list(BENCHMARKS)))
    cls = BENCHMARKS[name]
    known = [field.name for field in fields(cls)]
    for key in settings:
        if key not in known:
            raise ConfigurationError(f"Benchmark '{name}' has no setting '{key}'.", remedy=_hint(key, known))
    return cls(**settings)


def _hint(word: str, known: list[str]) -> str:
    nearest = get_close_matches(word, known, n=1)
    return f"Did you mean '{nearest[0]}'?" if nearest else f"Valid: {', '.join(known)}."
