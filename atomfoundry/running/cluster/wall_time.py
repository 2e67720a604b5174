"""Wall times as queues write them."""

from __future__ import annotations

import re

_FORM = re.compile(r"(?:(?P<days>\d+)-)?(?:(?P<hours>\d+):)?(?P<minutes>\d{1,2}):(?P<seconds>\d{2})")


def parse_wall_time(value: object) -> int:
    """Return a wall time in seconds.

    Parameters
    ----------
    value
        Seconds, or text ``"HH:MM:SS"``, ``"D-HH:MM:SS"`` or ``"MM:SS"`` (Slurm's forms). Unquoted ``24:00:00`` in
        a YAML file is the number 86400, which is the same.

    Raises
    ------
    ValueError
        If it is neither, or not positive.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a wall time is seconds or 'HH:MM:SS'")
    text = str(value).strip()
    if text.isdigit():
        seconds = int(text)
    else:
        found = _FORM.fullmatch(text)
        parts = {name: int(part) for name, part in found.groupdict(default="0").items()} if found else {}
        # with days or hours before them, minutes run to 59
        if not parts or parts["seconds"] > 59 or (text.count(":") == 2 and parts["minutes"] > 59):
            raise ValueError(f"'{text}' is no wall time; write seconds or 'HH:MM:SS'")
        if parts["days"] and text.count(":") != 2:
            raise ValueError(f"'{text}' is no wall time; write 'D-HH:MM:SS'")
        seconds = ((parts["days"] * 24 + parts["hours"]) * 60 + parts["minutes"]) * 60 + parts["seconds"]
    if seconds <= 0:
        raise ValueError("a wall time is positive")
    return seconds


def format_wall_time(seconds: int) -> str:
    """Return ``HH:MM:SS`` (hours may pass 24), which Slurm and PBS both read."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest:02d}"
