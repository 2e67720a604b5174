"""Waiting for a database that is away for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from pymongo.errors import ConnectionFailure

from atomfoundry.deadline import seconds_left

logger = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT_S = 3600.0
"""So long a database may be away before what waits for it gives up."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 15.0
LAST_S = 3.0
"""Near the end of the batch job there is no more waiting."""


def patiently(action: Callable[[], T], what: str, *, limit_s: float = LIMIT_S) -> T:
    """Call ``action`` again while the database cannot be reached.

    Parameters
    ----------
    action
        Called without arguments; must be safe to repeat.
    what
        What it does, for the log.
    limit_s
        Seconds after which the error is raised; earlier where the batch job ends.

    Raises
    ------
    pymongo.errors.ConnectionFailure
        If the database stays away.
    """
    started = time.monotonic()
    pause = FIRST_PAUSE_S
    while True:
        try:
            return action()
        except ConnectionFailure as error:
            waited = time.monotonic() - started
            left = seconds_left()
            if waited + pause > limit_s or (left is not None and left < pause + LAST_S):
                raise
            logger.warning("The database is away (%s): %s is tried again in %.1f s.", _short(error), what, pause)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
