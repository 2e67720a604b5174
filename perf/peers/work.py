"""Who is measured by ``perf/allegro.py``, and in what: subjects, pieces of work, and which of them fit a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class Subject:
    """A model in one mode: which driver runs it, what that is told, and which kinds of work it has."""

    driver: str
    environment: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("train", "infer")
    devices: tuple[str, ...] = ("cpu", "cuda")


def nequip(mode: str, *, coupled: bool, kinds: tuple[str, ...], triton: bool = False) -> Subject:
    options = {"mode": mode, "coupled": coupled} | ({"triton": True} if triton else {})
    return Subject("run_nequip.py", "nequip", options, kinds, ("cuda",) if triton else ("cpu", "cuda"))


SUBJECTS = {
    "ours": Subject("run_ours.py"),
    "ours-eager": Subject("run_ours.py", devices=("cpu",)),
    "ours-compiled": Subject("run_ours.py", options={"compiled": True}, kinds=("train",), devices=("cuda",)),
    "nequip-eager": nequip("eager", coupled=True, kinds=("train", "infer")),
    "nequip-compiled": nequip("compiled", coupled=True, kinds=("train",)),
    "nequip-aoti": nequip("aoti", coupled=True, kinds=("infer",)),
    "nequip-uncoupled-eager": nequip("eager", coupled=False, kinds=("train", "infer")),
    "nequip-uncoupled-compiled": nequip("compiled", coupled=False, kinds=("train",)),
    "nequip-uncoupled-aoti": nequip("aoti", coupled=False, kinds=("infer",)),
    "nequip-aoti-triton": nequip("aoti", coupled=True, kinds=("infer",), triton=True),
    "nequip-uncoupled-aoti-triton": nequip("aoti", coupled=False, kinds=("infer",), triton=True),
    "mace-16x0e-16x1o": Subject("run_mace.py", "mace", {"hidden": "16x0e+16x1o", "max_ell": 2}),
    "mace-64x0e": Subject("run_mace.py", "mace", {"hidden": "64x0e", "max_ell": 2}),
}


@dataclass(frozen=True)
class Measurement:
    """One piece of work."""

    kind: str
    atoms: int
    frames: int = 1
    threads: int = 1
    memory: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")


MEASUREMENTS = {
    "train-64": Measurement("train", 64, frames=2),
    "infer-512": Measurement("infer", 512),
    "train-64-threads-2": Measurement("train", 64, frames=2, threads=2, devices=("cpu",)),
    "infer-512-threads-2": Measurement("infer", 512, threads=2, devices=("cpu",)),
    "train-64-one-frame": Measurement("train", 64),
    "train-16-eight-frames": Measurement("train", 16, frames=8),
    "memory-train-1024": Measurement("train", 1024, frames=2, memory=True),
    "memory-infer-1000": Measurement("infer", 1000, memory=True),
    "infer-64": Measurement("infer", 64),
    "infer-216": Measurement("infer", 216),
    "infer-1000": Measurement("infer", 1000),
    "infer-4096": Measurement("infer", 4096),
    "infer-10000": Measurement("infer", 10000),
    "train-1024": Measurement("train", 1024, frames=16, devices=("cuda",)),
    "train-8192": Measurement("train", 8192, frames=128, devices=("cuda",)),
    "infer-32768": Measurement("infer", 32768, devices=("cuda",)),
    "infer-110592": Measurement("infer", 110592, devices=("cuda",)),
}


def chosen(patterns: list[str], *, ours_eager: bool, device: str = "cpu") -> list[tuple[str, str]]:
    """Return (measurement, subject) pairs of a device, all subjects of a measurement one after the other.

    Raises
    ------
    SystemExit
        If a pattern fits nothing.
    """
    pairs = [
        (measurement, subject)
        for measurement, work in MEASUREMENTS.items()
        for subject, entry in SUBJECTS.items()
        if work.kind in entry.kinds and (ours_eager or subject != "ours-eager")
        if device in work.devices and device in entry.devices
    ]
    if not patterns:
        return pairs

    def fits(pair: tuple[str, str], pattern: str) -> bool:
        subject, _, measurement = pattern.partition(":")
        return fnmatchcase(pair[1], subject) and fnmatchcase(pair[0], measurement or "*")

    for pattern in patterns:
        if not any(fits(pair, pattern) for pair in pairs):
            raise SystemExit(f"--only {pattern}: there is no such measurement; --list shows them.")
    return [pair for pair in pairs if any(fits(pair, pattern) for pattern in patterns)]
