"""Times as FireWorks and our own files write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def moment(value: Any) -> datetime | None:
    """Return a time in UTC, None where there is none.

    Parameters
    ----------
    value
        A datetime (naive: UTC, as pymongo gives it), ISO text, or seconds since 1970.
    """
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, str):
        try:
            return moment(datetime.fromisoformat(value))
        except ValueError:
            return None
    return None


def age(value: Any) -> float | None:
    """Return how many seconds ago a time was, None where there is none.

    Parameters
    ----------
    value
        See ``moment``.
    """
    found = moment(value)
    return None if found is None else (datetime.now(UTC) - found).total_seconds()


def span(seconds: float) -> str:
    """Return a duration for people.

    Parameters
    ----------
    seconds
        The duration.
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
