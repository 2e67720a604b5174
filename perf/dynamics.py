"""Drift of the energy and failure flags of a long NVE run of silicon with a trained model; prints JSON.

    python perf/dynamics.py MODEL [--minutes 10] [--picoseconds 1000] [--timestep 2] [--dtype float64]
                                    [--checkpoint DIR]

64 atoms at 300 K, one thread. The run is as long as asked for, or as fits into the minutes; it is watched as the
benchmark ``nve_drift`` does (temperature, jumps of the energy, distances, numbers that are not finite).

With --checkpoint the run may be interrupted: SIGTERM, SIGUSR1, SIGUSR2 or Ctrl-C end it after the step, with exit
code 75; a kill loses a minute at most (ATOMFOUNDRY_CHECKPOINT_INTERVAL, s). The same command goes on, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from ase.build import bulk

from atomfoundry.benchmarks.nve_drift import NVEDrift
from atomfoundry.checkpoint import Checkpoints, write_atomically
from atomfoundry.deadline import STOP_SIGNALS, NoTimeLeftError, stop_signals
from atomfoundry.documents import BenchmarkDoc
from atomfoundry.models import Allegro, FoundryCalculator, load_model


def in_precision(model: Allegro, dtype: str) -> Allegro:
    copy = Allegro(model.config.model_copy(update={"dtype": dtype}))
    copy.load_state_dict(model.state_dict())
    return copy


def drift_of(
    calculator: FoundryCalculator, picoseconds: float, timestep: float, checkpoints: Checkpoints | None = None
) -> BenchmarkDoc:
    """Return the benchmark's document."""
    benchmark = NVEDrift(
        temperature=300.0, timestep=timestep, duration=1000 * picoseconds, equilibration=1000.0, start="langevin"
    )
    return benchmark.run(calculator, bulk("Si", cubic=True) * (2, 2, 2), checkpoints=checkpoints)


def plan(options: argparse.Namespace, calculator: FoundryCalculator) -> dict[str, float]:
    """Return length (ps) and cost (s/ps) of the run; with a checkpoint they are found once and kept."""
    asked = {"picoseconds": options.picoseconds, "minutes": options.minutes, "timestep": options.timestep}
    identity = {**asked, "dtype": options.dtype, "model": digest(options.model)}
    path = None if options.checkpoint is None else options.checkpoint / "plan.json"
    if path is not None and path.exists():
        found = json.loads(path.read_text())
        if found["identity"] != identity:
            raise SystemExit(f"{path} is of another run: give the same options and model, or another folder.")
        return found["plan"]
    trial = 0.5
    start = time.perf_counter()
    drift_of(calculator, trial, options.timestep)
    per_picosecond = (time.perf_counter() - start) / (trial + 1.0)
    length = max(trial, min(options.picoseconds, options.minutes * 60 / per_picosecond - 1.0))
    made = {"length": length, "per_picosecond": per_picosecond}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"identity": identity, "plan": made}).encode())
    return made


def digest(model: Path) -> str:
    """Return a hash of a model folder's weights."""
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


def show(message: str, fraction: float | None) -> None:
    print(f"\r{message} ({fraction or 0.0:.1%})", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--picoseconds", type=float, default=1000.0)
    parser.add_argument("--timestep", type=float, default=2.0, help="fs")
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    parser.add_argument("--checkpoint", type=Path, help="folder that keeps the run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    calculator = FoundryCalculator(in_precision(load_model(options.model), options.dtype))
    made = plan(options, calculator)
    if options.checkpoint is None:
        document = drift_of(calculator, made["length"], options.timestep)
    else:
        checkpoints = Checkpoints(options.checkpoint, report=show if sys.stderr.isatty() else None)
        try:
            with stop_signals((*STOP_SIGNALS, signal.SIGINT)):
                document = drift_of(calculator, made["length"], options.timestep, checkpoints)
        except NoTimeLeftError as error:
            print(error, file=sys.stderr)
            raise SystemExit(os.EX_TEMPFAIL) from None
    report = {
        "model": str(options.model),
        "dtype": options.dtype,
        "timestep_fs": options.timestep,
        "asked_ps": round(made["length"], 1),
        "us_per_atom_and_step": round(1e3 * made["per_picosecond"] * options.timestep / 64, 1),
        "wall_s": round(document.wall_time_s, 1),
        "summary": document.summary,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
