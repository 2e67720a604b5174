"""Drift of the energy and failure flags of a long NVE run of silicon with a trained model; prints JSON.

    python perf/dynamics.py MODEL [--minutes 10] [--picoseconds 1000] [--timestep 2] [--dtype float64]

64 atoms at 300 K, one thread. The run is as long as asked for, or as fits into the minutes; it is watched as the
benchmark ``nve_drift`` does (temperature, jumps of the energy, distances, numbers that are not finite).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from ase.build import bulk

from atomfoundry.benchmarks.nve_drift import NVEDrift
from atomfoundry.models import Allegro, FoundryCalculator, load_model


def in_precision(model: Allegro, dtype: str) -> Allegro:
    copy = Allegro(model.config.model_copy(update={"dtype": dtype}))
    copy.load_state_dict(model.state_dict())
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--picoseconds", type=float, default=1000.0)
    parser.add_argument("--timestep", type=float, default=2.0, help="fs")
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    calculator = FoundryCalculator(in_precision(load_model(options.model), options.dtype))
    atoms = bulk("Si", cubic=True) * (2, 2, 2)

    def run(picoseconds: float):
        start = time.perf_counter()
        benchmark = NVEDrift(
            temperature=300.0, timestep=options.timestep, duration=1000 * picoseconds, equilibration=1000.0,
            start="langevin",
        )  # fmt: skip
        document = benchmark.run(calculator, atoms.copy())
        return document, time.perf_counter() - start

    trial = 0.5
    _, seconds = run(trial)
    per_picosecond = seconds / (trial + 1.0)
    length = min(options.picoseconds, options.minutes * 60 / per_picosecond - 1.0)
    document, seconds = run(max(length, trial))
    report = {
        "model": str(options.model),
        "dtype": options.dtype,
        "timestep_fs": options.timestep,
        "asked_ps": round(length, 1),
        "us_per_atom_and_step": round(1e3 * per_picosecond * options.timestep / len(atoms), 1),
        "wall_s": round(seconds, 1),
        "summary": document.summary,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
