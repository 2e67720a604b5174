"""What sits in the columns of a SQLite table of documents, and filters said in SQL.

A column holds a copy of one field. Numbers and texts stand for themselves and compare in SQLite as MongoDB
compares them; everything else is a one-byte blob, which SQLite sorts behind all texts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from atomfoundry.results.mongo_language import is_scalar, regex_prefix

NO_VALUE = b"\xfe"
"""The path leads through a list, and none of its members has such a field."""
OTHER = b"\xff"
"""A list, a dictionary, a date, a NaN, ...: the document must be looked at."""
_BOOLEANS = {False: b"\x00", True: b"\x01"}

_RANGE = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_MAX_VALUES = 500
"""SQLite takes some thousand parameters in one statement."""


def encode(value: Any) -> Any:
    """Return how a value sits in a column.

    Parameters
    ----------
    value
        Any value of a document.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return _BOOLEANS[value]
    return value if is_scalar(value) else OTHER


def decode(value: Any) -> Any:
    """Return the value that ``encode`` put into a column.

    Parameters
    ----------
    value
        Content of a column, none of ``NO_VALUE`` and ``OTHER``.
    """
    return value == _BOOLEANS[True] if isinstance(value, bytes) else value


def column_value(document: dict, parts: tuple[str, ...]) -> Any:
    """Return the content of a column.

    Parameters
    ----------
    document
        A document.
    parts
        The field's path, split at the dots.
    """
    value: Any = document
    for position, part in enumerate(parts):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list):
            return OTHER if _any_member(value, parts[position:]) else NO_VALUE
        else:
            return None
    return value if value is None or type(value) is str else encode(value)


def _any_member(value: Any, parts: tuple[str, ...]) -> bool:
    """Return whether MongoDB would find a value under the path, looking into lists."""
    if not parts:
        return True
    if isinstance(value, list):
        # A number may mean a position in the list.
        return parts[0].isdigit() or any(_any_member(item, parts) for item in value if isinstance(item, dict | list))
    return isinstance(value, dict) and parts[0] in value and _any_member(value[parts[0]], parts[1:])


def collect_members(value: Any, parts: tuple[str, ...], found: set) -> None:
    """Collect the texts and numbers under a path, looking into all lists on the way.

    Parameters
    ----------
    value
        A document.
    parts
        The field's path, split at the dots.
    found
        Gets the values.
    """
    for position, part in enumerate(parts):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict | list):
                    collect_members(item, parts[position:], found)
            return
        if value is None:
            return
    if isinstance(value, str):
        found.add(value)
    elif isinstance(value, list):
        found.update(encode(item) for item in value if is_scalar(item))
    elif is_scalar(value):
        found.add(encode(value))


@dataclass
class Condition:
    """A filter in SQL."""

    sql: str = ""
    """Empty: all rows."""
    values: list[Any] = field(default_factory=list)
    exact: bool = True
    """Whether rows that fulfil the SQL fulfil the filter; the other way round always holds."""
    columns: set[str] = field(default_factory=set)
    """Columns that were asked about."""

    def joined(self, other: Condition) -> Condition:
        """Return the condition that both hold.

        Parameters
        ----------
        other
            Another condition.
        """
        return Condition(
            " AND ".join(part for part in (self.sql, other.sql) if part),
            self.values + other.values,
            self.exact and other.exact,
            self.columns | other.columns,
        )


def translate(
    criteria: dict | None,
    columns: Collection[str],
    members: Collection[str] = (),
    *,
    member_table: str = "",
    odd: Mapping[str, bytes] | None = None,
) -> Condition:
    """Say a MongoDB filter in SQL as far as columns can tell.

    Parameters
    ----------
    criteria
        MongoDB filter.
    columns
        Fields that have a column.
    members
        Fields inside lists whose values are in the member table.
    member_table
        Name of that table, with columns ``value`` and ``id``.
    odd
        Columns in which some row holds ``NO_VALUE`` or ``OTHER``, and the greater of them.

    Returns
    -------
    Condition
        Every document that fulfils the filter fulfils it.
    """
    whole = Condition()
    for key, wanted in (criteria or {}).items():
        if key == "$and" and isinstance(wanted, list | tuple):
            parts = [translate(part, columns, members, member_table=member_table, odd=odd) for part in wanted]
            for part in parts:
                whole = whole.joined(part)
        elif key == "$or" and isinstance(wanted, list | tuple) and wanted:
            whole = whole.joined(
                _either([translate(part, columns, members, member_table=member_table, odd=odd) for part in wanted])
            )
        elif key in columns:
            whole = whole.joined(_on_column(key, wanted, odd=(odd or {}).get(key)))
        elif key in members:
            whole = whole.joined(_on_members(member_table, wanted))
        else:
            whole = whole.joined(Condition(exact=False))
    return whole


def _either(parts: list[Condition]) -> Condition:
    columns = set().union(*(part.columns for part in parts))
    if not all(part.sql for part in parts):
        return Condition(exact=all(part.exact for part in parts), columns=columns)
    sql = " OR ".join(f"({part.sql})" for part in parts)
    values = [value for part in parts for value in part.values]
    return Condition(f"({sql})", values, all(part.exact for part in parts), columns)


def _on_column(name: str, wanted: Any, *, odd: bytes | None) -> Condition:
    column = f'"{name}"'
    if not isinstance(wanted, dict):
        conditions = [_comparison(column, "$eq", wanted)]
    elif wanted and all(operator.startswith("$") for operator in wanted):
        conditions = [_comparison(column, operator, value, wanted) for operator, value in wanted.items()]
    else:
        conditions = [Condition(exact=False)]
    whole = Condition()
    for condition in conditions:
        if odd == OTHER or (odd and "NULL" in condition.sql):
            # A list may hold what is asked for, and its members may each fulfil one of several conditions;
            # whether something is absent, members of lists decide among themselves.
            condition.exact = False
            if condition.sql:
                condition.sql = f"({condition.sql} OR {column} >= x'fe')"
        whole = whole.joined(condition)
    whole.columns.add(name)
    return whole


def _comparison(column: str, operator: str, value: Any, others: dict | None = None) -> Condition:
    if operator == "$eq":
        return _one_of(column, [value])
    if operator == "$in" and isinstance(value, list | tuple):
        return _one_of(column, list(value))
    if operator == "$ne":
        return _none_of(column, [value])
    if operator == "$nin" and isinstance(value, list | tuple):
        return _none_of(column, list(value))
    if operator in _RANGE and is_scalar(value) and not isinstance(value, bool):
        sql = f"{column} {_RANGE[operator]} ?"
        # Only values of the same type compare: numbers come before '', texts before x'' and from '' on.
        if isinstance(value, str):
            sql += f" AND {column} < x''" if operator in {"$gt", "$gte"} else f" AND {column} >= ''"
        elif operator in {"$gt", "$gte"}:
            sql += f" AND {column} < ''"
        return Condition(sql, [value])
    if operator == "$regex" and others is not None and "$options" not in others:
        prefix = regex_prefix(value)
        if prefix:
            return Condition(f"{column} >= ? AND {column} < ?", [prefix, prefix + "\U0010ffff"], exact=False)
    return Condition(exact=False)


def _one_of(column: str, wanted: list) -> Condition:
    scalars = [encode(value) for value in wanted if is_scalar(value)]
    if len(scalars) + wanted.count(None) < len(wanted) or len(scalars) > _MAX_VALUES:
        return Condition(exact=False)
    sql = f"{column} IN ({', '.join('?' * len(scalars))})"
    if None in wanted:
        sql = f"({sql} OR {column} IS NULL)" if scalars else f"{column} IS NULL"
    return Condition(sql, scalars)


def _none_of(column: str, unwanted: list) -> Condition:
    condition = _one_of(column, unwanted)
    if not condition.sql:
        return condition
    if None in unwanted:
        sql = f"NOT {condition.sql}" if condition.values else f"{column} IS NOT NULL"
        # The list's comparison is unknown, neither true nor false, for an empty column.
        return Condition(f"({sql} AND {column} IS NOT NULL)", condition.values)
    return Condition(f"(NOT {condition.sql} OR {column} IS NULL)", condition.values)


def _on_members(table: str, wanted: Any) -> Condition:
    values: Any = [wanted]
    if isinstance(wanted, dict):
        values = [wanted["$eq"]] if "$eq" in wanted else wanted.get("$in")
    if not isinstance(values, list | tuple) or not 0 < len(values) <= _MAX_VALUES:
        return Condition(exact=False)
    if not all(is_scalar(value) for value in values):
        return Condition(exact=False)
    marks = ", ".join("?" * len(values))
    sql = f"id IN (SELECT id FROM {table} WHERE value IN ({marks}))"
    return Condition(sql, [encode(value) for value in values], exact=False)
