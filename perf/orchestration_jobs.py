"""Jobs of perf/orchestration.py; in a module of their own so that worker processes can import them."""

from __future__ import annotations

import hashlib

from jobflow import Flow, job


@job
def add(a: float, b: float) -> float:
    return a + b


@job
def spin(number: int, rounds: int) -> str:
    """Use one core, about a second for a million rounds."""
    return hashlib.pbkdf2_hmac("sha256", str(number).encode(), b"salt", rounds).hex()


def independent(n: int) -> Flow:
    return Flow([add(i, 1) for i in range(n)], name="independent")


def chained(n: int) -> Flow:
    jobs = [add(0, 1)]
    for _ in range(n - 1):
        jobs.append(add(jobs[-1].output, 1))
    return Flow(jobs, name="chained")


def spinning(n: int, rounds: int) -> Flow:
    return Flow([spin(i, rounds) for i in range(n)], name="spinning")
