"""MongoDB's filters, decided document by document where no column tells; by mongomock, with its known errors mended."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from atomfoundry.errors import InputError

FIELD_OPERATORS = (
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"),
    *("$exists", "$type", "$regex", "$options", "$mod", "$size", "$all", "$elemMatch", "$not"),
)
LOGICAL_OPERATORS = ("$and", "$or", "$nor")


def check_filter(criteria: Any, where: str = "the filter") -> None:
    """Refuse what is no filter, on any kind of database alike.

    Parameters
    ----------
    criteria
        MongoDB filter.
    where
        Names it in errors.

    Raises
    ------
    InputError
        If it is not a dictionary, or has an unknown operator or one whose argument is of a wrong kind. ``$where``
        and ``$expr``, which run code, are refused.
    """
    if not isinstance(criteria, Mapping):
        raise InputError(f"{where} is {criteria!r}.", remedy='Give a dictionary such as {"status": "failed"}.')
    for key, wanted in criteria.items():
        if not isinstance(key, str):
            raise InputError(f"{where} has the key {key!r}.", remedy="Keys are field names or operators.")
        if key in LOGICAL_OPERATORS:
            if not isinstance(wanted, list | tuple) or not wanted:
                raise InputError(f"{key} in {where} needs a list of filters, not {wanted!r}.")
            for part in wanted:
                check_filter(part, f"{key} in {where}")
        elif key.startswith("$"):
            _refuse(key, where, LOGICAL_OPERATORS, "A filter's keys are fields and")
        elif isinstance(wanted, Mapping) and any(str(name).startswith("$") for name in wanted):
            _check_operators(key, wanted, where)


def _check_operators(field: str, wanted: Mapping, where: str) -> None:
    for name, value in wanted.items():
        if name not in FIELD_OPERATORS:
            _refuse(str(name), f"'{field}' of {where}", FIELD_OPERATORS, "A field's operators are")
        if name in {"$in", "$nin", "$all"} and not isinstance(value, list | tuple):
            raise InputError(f"{name} of '{field}' in {where} needs a list, not {value!r}.")
        if name == "$not":
            if isinstance(value, Mapping):
                _check_operators(field, value, where)
            elif not isinstance(value, re.Pattern):
                raise InputError(f"$not of '{field}' in {where} needs operators, such as {{'$not': {{'$gt': 1}}}}.")
        if name == "$regex" and isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise InputError(f"$regex of '{field}' in {where}: {value!r} is no pattern ({error}).") from error
        if name == "$mod" and not (isinstance(value, list | tuple) and len(value) == 2 and value[0]):
            raise InputError(f"$mod of '{field}' in {where} needs [divisor, remainder], not {value!r}.")


def _refuse(name: str, where: str, known: tuple[str, ...], what: str) -> None:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    raise InputError(f"Unknown operator '{name}' in {where}.", remedy=f"{hint}{what} {', '.join(known)}.")


def matcher(criteria: dict | None) -> Callable[[dict], bool]:
    """Return a function that decides whether a document fulfils a filter.

    Parameters
    ----------
    criteria
        MongoDB filter.

    Raises
    ------
    InputError
        As in ``check_filter``.
    """
    if not criteria:
        return lambda document: True
    check_filter(criteria)
    explicit = _explicit(criteria)
    filterer = _filterer()
    return lambda document: bool(filterer.apply(explicit, document))


def _explicit(criteria: Mapping) -> dict:
    """Write ``{field: value}`` as ``{field: {"$eq": value}}``."""
    explicit: dict[str, Any] = {}
    for key, wanted in criteria.items():
        if key in LOGICAL_OPERATORS:
            explicit[key] = [_explicit(part) for part in wanted]
        elif isinstance(wanted, re.Pattern):
            explicit[key] = wanted
        elif isinstance(wanted, Mapping) and wanted and all(str(name).startswith("$") for name in wanted):
            explicit[key] = dict(wanted)
        else:
            explicit[key] = {"$eq": wanted}
    return explicit


def _filterer() -> Any:
    from mongomock_ng import filtering

    def same(value: Any, wanted: Any) -> bool:
        # In Python True == 1; in MongoDB they are of different types.
        return isinstance(value, bool) == isinstance(wanted, bool) and filtering.operator_eq(value, wanted)

    def equal(value: Any, wanted: Any) -> bool:
        return same(value, wanted) or (isinstance(value, list | tuple) and any(same(item, wanted) for item in value))

    def one_of(value: Any, wanted: Any) -> bool:
        patterns = [item for item in wanted if isinstance(item, re.Pattern)]
        if patterns and filtering._in_op(value, patterns):
            return True
        return any(equal(value, item) for item in wanted if not isinstance(item, re.Pattern))

    def remainder(value: Any, wanted: Any) -> bool:
        if isinstance(value, list | tuple):
            return any(remainder(item, wanted) for item in value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        # As in C, and of whole numbers.
        return int(math.fmod(math.trunc(value), int(wanted[0]))) == int(wanted[1])

    class Filterer(filtering._Filterer):
        def __init__(self) -> None:
            super().__init__()
            self._operator_map |= {
                "$eq": equal,
                "$ne": lambda value, wanted: not equal(value, wanted),
                "$in": one_of,
                "$nin": lambda value, wanted: not one_of(value, wanted),
                "$mod": remainder,
            }

    return Filterer()
