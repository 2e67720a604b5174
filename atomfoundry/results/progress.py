"""What a running job may tell the runner, and where it keeps what must survive a kill."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

Sink = Callable[[str, float | None], None]

INTERVAL_S = 0.5
CHECKPOINT_FOLDER = "checkpoint"


class _Reporter:
    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.last = -INTERVAL_S


_REPORTER = _Reporter()


def set_progress_sink(sink: Sink | None) -> None:
    """Say where messages go; the local runner's worker calls this around each job.

    Parameters
    ----------
    sink
        Called with message and fraction; None ends it.
    """
    _REPORTER.sink = sink
    _REPORTER.last = -INTERVAL_S


def report_progress(message: str, fraction: float | None = None) -> None:
    """Show a short message beside the running job; at most two a second go through.

    Does nothing where no runner listens, so that plain functions and notebooks may call it.

    Parameters
    ----------
    message
        Such as ``"epoch 12, loss 0.031"``.
    fraction
        How much is done, 0 to 1.
    """
    now = time.monotonic()
    if _REPORTER.sink is None or now - _REPORTER.last < INTERVAL_S:
        return
    _REPORTER.last = now
    _REPORTER.sink(message, fraction)


def checkpoint_directory() -> Path:
    """Return the folder ``checkpoint`` in the job's working folder, made if missing.

    The local runner gives a job that was killed an empty working folder again, except for this one, and
    removes it when the job is done.
    """
    path = Path.cwd() / CHECKPOINT_FOLDER
    path.mkdir(exist_ok=True)
    return path
