"""The case and the clock, the same for all models. Needs torch and ASE only: it runs in every interpreter.

A driver builds its model and calls :func:`main`, which reads what to measure from the JSON in the first argument and
writes the result where that says. Silicon, rattled by 0.05 A, cutoff 5.2 A: about 28 directed edges an atom.

On a GPU the clock waits for it before and after each call, and memory is what torch allocates there.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator

CUTOFF = 5.2
"""A."""
NEIGHBOURS = 28.0
"""Directed edges an atom."""
WARM_UP = {"cpu": 2, "cuda": 5}
"""Calls that do not count, after the first one: a GPU takes some to raise its clocks and to fill its caches."""


class Model(Protocol):
    """What a driver offers."""

    parameters: int
    settings: dict[str, Any]

    def batch(self, frames: list[Atoms]) -> Any:
        """Return a batch with its neighbour lists."""

    def edges(self, batch: Any) -> int:
        """Return the directed edges of a batch."""

    def training_step(self, batch: Any) -> None:
        """Clear gradients, evaluate energies, forces and stresses, and differentiate a loss of all three."""

    def calculator(self) -> Calculator:
        """Return the ASE calculator."""


def silicon(atoms: int, *, seed: int = 0) -> Atoms:
    """Return rattled silicon: the primitive cell (2 atoms) or cubic cells, as near to a cube as the number allows."""
    if atoms == 2:
        cell = bulk("Si")
    else:
        cells, rest = divmod(atoms, 8)
        if rest or not cells:
            raise ValueError(f"{atoms} atoms are not a whole number of cubic cells of 8")
        shapes = [
            (a, b, cells // (a * b))
            for a in range(1, cells + 1)
            for b in range(a, cells // a + 1)
            if cells % (a * b) == 0
        ]
        cell = bulk("Si", cubic=True) * min(shapes, key=max)
    cell.rattle(0.05, seed=seed)
    return cell


def loss(energy_per_atom: torch.Tensor, forces: torch.Tensor, stress: torch.Tensor) -> torch.Tensor:
    """Return the sum of mean squares: all three derivatives are needed, as in a training."""
    return energy_per_atom.square().mean() + forces.square().mean() + stress.square().mean()


def check_device(device: str) -> None:
    """Refuse a device that this torch does not see.

    Raises
    ------
    RuntimeError
        If it is "cuda" and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} of {sys.executable} sees no CUDA device")


def waiting(work: Callable[[], object], device: str) -> Callable[[], object]:
    """Return work that ends when the device has done it; on a CPU that is the work itself."""
    if device == "cpu":
        return work

    def until_done() -> object:
        result = work()
        torch.cuda.synchronize()
        return result

    return until_done


def clocked(work: Callable[[], object], *, seconds: float, most: int, warm_up: int = 2) -> dict[str, Any]:
    """Time some work that was done once before: a few calls that do not count, then the median of several.

    Of the CPU time the kernel's part is given too: that of memory taken from the system anew at each call.

    Parameters
    ----------
    work
        One call of it is timed.
    seconds
        When so many have passed no further call begins, but there are three at least.
    most
        Calls at most.
    warm_up
        Calls that do not count.
    """
    for _ in range(warm_up):
        work()
    wall: list[float] = []
    begin, cpu, kernel = time.perf_counter(), time.process_time(), os.times().system
    while len(wall) < 3 or (len(wall) < most and time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        work()
        wall.append(time.perf_counter() - start)
    cpu, kernel = time.process_time() - cpu, os.times().system - kernel
    return {
        "median_s": statistics.median(wall),
        "least_s": min(wall),
        "cpu_s": cpu / len(wall),
        "kernel_cpu_s": kernel / len(wall),
        "calls": len(wall),
    }


def memory(device: str = "cpu") -> tuple[int, int]:
    """Return bytes resident (on a GPU: allocated by torch) now and at most since the last :func:`forget_peak`."""
    if device != "cpu":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    values = dict(line.split(":", 1) for line in status.splitlines())
    now, peak = (int(values[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the children that ended, such as compilers."""
    return sum(os.times()[:4])


def forget_peak(device: str = "cpu") -> None:
    """Let the peak of resident memory (Linux), or of the GPU's, begin anew."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    Path("/proc/self/clear_refs").write_text("5")


def first_call(work: Callable[[], object], edges: int, device: str = "cpu") -> dict[str, Any]:
    """Return the seconds of a call and how much the memory at its peak exceeds that before it."""
    forget_peak(device)
    before, _ = memory(device)
    start, cpu = time.perf_counter(), cpu_seconds()
    work()
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    peak = memory(device)[1]
    return {
        "first_call_s": round(seconds, 3),
        "first_call_cpu_s": round(cpu, 3),
        "growth_bytes": peak - before,
        "bytes_per_edge": round((peak - before) / edges),
    }


def stepping(atoms: Atoms, calculator: Calculator) -> Callable[[], object]:
    """Return work that moves the atoms a little and asks for all results, as molecular dynamics does."""
    atoms.calc = calculator

    def work() -> object:
        atoms.rattle(1e-6)
        return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()

    return work


def measure(model: Model, what: dict[str, Any]) -> dict[str, Any]:
    """Carry out one measurement.

    Where memory is asked for, a small structure warms code and libraries up, so that the growth is that of the work;
    otherwise the first call is that of a fresh process, compilation included.
    """
    atoms, number, device = what["atoms"], what["frames"], what["device"]
    if what["kind"] == "train":
        batch = model.batch([silicon(atoms // number, seed=seed) for seed in range(number)])
        small = model.batch([silicon(16, seed=seed) for seed in range(number)])
        edges = model.edges(batch)
        work: Callable[[], object] = partial(model.training_step, batch)
        warm_up: Callable[[], object] = partial(model.training_step, small)
    else:
        edges = model.edges(model.batch([silicon(atoms)]))
        calculator = model.calculator()
        work = stepping(silicon(atoms), calculator)
        warm_up = stepping(silicon(64), calculator)
    work, warm_up = waiting(work, device), waiting(warm_up, device)
    if what["memory"]:
        for _ in range(3):
            warm_up()
    result = {"parameters": model.parameters, "settings": model.settings, "torch": torch.__version__}
    if device != "cpu":
        result["device"] = torch.cuda.get_device_name()
    result |= {"atoms": atoms, "edges": edges, "edges_per_atom": round(edges / atoms, 2)}
    result |= first_call(work, edges, device)
    if not what["memory"]:
        result |= clocked(work, seconds=what["seconds"], most=what["repeat"], warm_up=WARM_UP[device])
    return result


def main(build: Callable[[dict[str, Any]], Model]) -> None:
    """Read what to measure, build the model, measure, write the result."""
    what = json.loads(sys.argv[1])
    torch.set_num_threads(what["threads"])
    torch.manual_seed(0)
    check_device(what["device"])
    Path(what["result"]).write_text(json.dumps(measure(build(what), what)))
