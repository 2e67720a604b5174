"""Where the long computations of a job are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jobflow import CURRENT_JOB

from atomfoundry.checkpoint import Checkpoints
from atomfoundry.results import checkpoint_directory, report_progress


@contextmanager
def job_checkpoints() -> Iterator[Checkpoints | None]:
    """Give the running job's checkpoints; None where there is no job.

    A computation that finds no time left ends with ``NoTimeLeftError``, which a Maker lets through: the runner gives
    the job back, and goes on with it in the same folder.
    """
    job = CURRENT_JOB.job
    if job is None:
        yield None
        return
    with Checkpoints(checkpoint_directory(), report=report_progress, scope=f"{job.uuid}_{job.index}") as checkpoints:
        yield checkpoints
