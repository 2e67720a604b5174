"""What the figures of all subjects say together: ratios, growth with size, threads, first calls."""

from __future__ import annotations

import math
from typing import Any

Results = dict[str, dict[str, dict[str, Any]]]
"""Measurement -> subject -> figures, or {"failed": reason}, or {"left_out": reason}."""

TWO_THREADS = {"train": ("train-64", "train-64-threads-2"), "infer": ("infer-512", "infer-512-threads-2")}
"""Kind of work -> measurements with one thread and with two."""


def subjects(results: Results) -> list[str]:
    """Return the subjects in the order of their first measurement."""
    return list(dict.fromkeys(subject for entries in results.values() for subject in entries))


def clock_of(figures: dict[str, Any]) -> str:
    """Return which time tells what a call costs: CPU time, but of a GPU the wall clock."""
    return "median_s" if "device" in figures else "cpu_s"


def ratios(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Return peer over ours, for each measurement both have."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, entries in results.items():
        ours = entries.get("ours", {})
        keys = {"cpu_s": "cpu", "median_s": "wall"} if "median_s" in ours else {"bytes_per_edge": "memory"}
        if "device" in ours:
            keys.pop("cpu_s", None)
        table[name] = {
            subject: {told: round(figures[key] / ours[key], 3) for key, told in keys.items()}
            for subject, figures in entries.items()
            if subject != "ours" and all(key in figures and ours.get(key, 0) > 0 for key in keys)
        }
    return {name: entries for name, entries in table.items() if entries}


def linearity(results: Results) -> dict[str, dict[str, Any]]:
    """Return CPU microseconds an atom by size, and the exponent of CPU time in the number of atoms from 512 on.

    For a GPU they are of the wall clock.
    """
    found: dict[str, dict[str, Any]] = {}
    for subject in subjects(results):
        inferences = [
            figures
            for entries in results.values()
            if "cpu_s" in (figures := entries.get(subject, {}))
            and figures["kind"] == "infer"
            and figures["threads"] == 1
        ]
        if not inferences:
            continue
        times = {figures["atoms"]: figures[clock_of(figures)] for figures in inferences}
        name = "us_per_atom" if clock_of(inferences[0]) == "median_s" else "cpu_us_per_atom"
        found[subject] = {name: {n: round(1e6 * times[n] / n, 1) for n in sorted(times)}}
        points = [(math.log(n), math.log(time)) for n, time in times.items() if n >= 512]
        if len(points) > 2:
            x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
            slope = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
            found[subject]["exponent_from_512_atoms"] = round(slope, 3)
    return found


def two_threads(results: Results) -> dict[str, dict[str, float]]:
    """Return how many times faster two threads are than one, by medians of the wall clock."""
    found: dict[str, dict[str, float]] = {}
    for kind, (one, two) in TWO_THREADS.items():
        for subject in subjects(results):
            first, second = (results.get(name, {}).get(subject, {}).get("median_s") for name in (one, two))
            if first and second:
                found.setdefault(subject, {})[kind] = round(first / second, 3)
    return found


def first_calls(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what the first call of a fresh process takes: compilation, where there is any."""
    told = ("first_call_s", "first_call_cpu_s", "compile_cache")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, (name, _) in TWO_THREADS.items():
        for subject, figures in results.get(name, {}).items():
            if "first_call_s" in figures:
                entry = {key: figures[key] for key in told}
                ahead = {key: value for key, value in figures["settings"].items() if key == "compile_cpu_s"}
                found.setdefault(subject, {})[kind] = entry | ahead
    return found
