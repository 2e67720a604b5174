"""Jobs for flows on Slurm; in a module of their own so that workers can import them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from jobflow import job

from atomfoundry.deadline import NoTimeLeftError, must_stop
from atomfoundry.documents import BenchmarkDoc
from atomfoundry.makers.job import foundry_job
from atomfoundry.results import checkpoint_directory


def allocation() -> dict:
    """Return what this process knows about its batch job."""
    return {
        "partition": os.environ.get("SLURM_JOB_PARTITION"),
        "queue_job": os.environ.get("SLURM_JOB_ID"),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "store": os.environ.get("JOBFLOW_CONFIG_FILE"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "pid": os.getpid(),
    }


@foundry_job(output_schema=BenchmarkDoc)
def where(value, parts=()):
    """Say where this ran."""
    total = value + sum(part.n_items for part in parts)
    return BenchmarkDoc(benchmark="where", calculator="none", n_items=total, records=[allocation()])


@job
def meet(folder, me, other, seconds=60):
    """Return once the other one has started too: only possible in parallel."""
    Path(folder, me).touch()
    end = time.monotonic() + seconds
    while not Path(folder, other).exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{other} never came")
        time.sleep(0.02)
    return allocation()


@job
def steps(n, pause, log, heed=True, hang_at=None):
    """Work step by step with a checkpoint after each.

    ``heed``: end in time when asked to. ``hang_at``: a step that never ends, unless the job began after the first.
    """
    state = checkpoint_directory() / "state.json"
    first = json.loads(state.read_text())["done"] if state.exists() else 0
    for step in range(first, n):
        if heed and must_stop():
            raise NoTimeLeftError(f"{step} of {n} steps are done.")
        time.sleep(600 if step == hang_at and not first else pause)
        state.with_suffix(".new").write_text(json.dumps({"done": step + 1}))
        state.with_suffix(".new").replace(state)
        with Path(log).open("a") as file:
            file.write(f"{step} {os.environ.get('SLURM_JOB_ID')}\n")
    return {"began_at": first, "steps": n, **allocation()}
