"""One class a property, on any ASE calculator: ``run(calculator, atoms) -> BenchmarkDoc``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.benchmarks.base import Benchmark
    from atomfoundry.benchmarks.comparison import compare
    from atomfoundry.benchmarks.diatomic import Diatomic
    from atomfoundry.benchmarks.elasticity import Elasticity
    from atomfoundry.benchmarks.equation_of_state import EquationOfState
    from atomfoundry.benchmarks.grid import GridBenchmark
    from atomfoundry.benchmarks.nve_drift import NVEDrift
    from atomfoundry.benchmarks.parity import Parity
    from atomfoundry.benchmarks.registry import BENCHMARKS, get_benchmark
    from atomfoundry.benchmarks.scaling_law import ScalingLaw, fit_scaling_law

_HOMES = {
    "BENCHMARKS": "registry",
    "Benchmark": "base",
    "Diatomic": "diatomic",
    "Elasticity": "elasticity",
    "EquationOfState": "equation_of_state",
    "GridBenchmark": "grid",
    "NVEDrift": "nve_drift",
    "Parity": "parity",
    "ScalingLaw": "scaling_law",
    "compare": "comparison",
    "fit_scaling_law": "scaling_law",
    "get_benchmark": "registry",
}

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Diatomic",
    "Elasticity",
    "EquationOfState",
    "GridBenchmark",
    "NVEDrift",
    "Parity",
    "ScalingLaw",
    "compare",
    "fit_scaling_law",
    "get_benchmark",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; ASE and SciPy wait until then."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
