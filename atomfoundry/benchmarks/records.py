"""Plain values for documents: no numpy types, no NaN, failures as records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One item that has no result, and why.

    Parameters
    ----------
    item
        Which item, e.g. ``"strain +0.0500"``.
    reason
        Reason code as in :class:`atomfoundry.errors.LabelError`, e.g. ``"crashed"``, ``"nan"``,
        ``"unconverged"``, ``"missing"``.
    message
        The full story.
    """

    item: str
    reason: str
    message: str = ""

    def as_record(self) -> dict[str, str]:
        """Return the failure as it is stored in a document."""
        return {"item": self.item, "reason": self.reason, "message": self.message}


def json_safe(value: Any) -> Any:
    """Turn a value into plain Python types that JSON can hold.

    Parameters
    ----------
    value
        Numbers, strings, arrays, and mappings or iterables of them.

    Returns
    -------
    Any
        The same value of ``bool``, ``int``, ``float``, ``str``, ``list`` and ``dict``; NaN and infinities are
        ``None``.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, np.ndarray):
        return json_safe(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): json_safe(entry) for key, entry in value.items()}
    if isinstance(value, Iterable):
        return [json_safe(entry) for entry in value]
    raise TypeError(f"A document cannot hold a {type(value).__name__}: {value!r}.")
