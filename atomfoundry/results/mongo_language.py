"""The parts of MongoDB's query language that SQLite does not do for us."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

Scalar = str | int | float

Tree = dict[str, Any]


def is_scalar(value: object) -> bool:
    """Return whether a value can sit in an indexed SQL column and be compared there as MongoDB does.

    Parameters
    ----------
    value
        Any value of a document or a filter.
    """
    if isinstance(value, bool | str):
        return True
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and not math.isnan(value)


def lookup(document: dict, path: str) -> Any:
    """Follow a dotted path through nested dictionaries; None where it ends early.

    Parameters
    ----------
    document
        Nested dictionaries.
    path
        Such as ``"output.@class"``.
    """
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def regex_prefix(pattern: Any) -> str:
    """Return the literal text that every match of a pattern begins with, empty where that is unclear.

    Parameters
    ----------
    pattern
        Regular expression, as text.
    """
    if not isinstance(pattern, str) or not pattern.startswith("^") or "|" in pattern:
        return ""
    match = re.match(r"\^((?:[A-Za-z0-9_ ]|\\[^A-Za-z0-9]|[-/:,;=@#~'\"!%&])*)(.?)", pattern, re.DOTALL)
    if match is None:
        return ""
    literal = re.sub(r"\\(.)", r"\1", match[1])
    # The last character may be left out by what follows it.
    return literal[:-1] if match[2] and match[2] in "*?{" else literal


def _tree(paths: Iterable[str]) -> Tree:
    tree: Tree = {}
    for path in paths:
        node = tree
        *parents, leaf = path.split(".")
        for part in parents:
            child = node.setdefault(part, {})
            if child is True:
                break
            node = child
        else:
            node[leaf] = True
    return tree


def _include(value: Any, tree: Tree) -> Any:
    if isinstance(value, list):
        return [_include(item, tree) for item in value if isinstance(item, dict | list)]
    kept = {}
    for key, item in value.items():
        branch = tree.get(key)
        if branch is True:
            kept[key] = item
        elif branch is not None and isinstance(item, dict | list):
            kept[key] = _include(item, branch)
    return kept


def _exclude(value: Any, tree: Tree) -> Any:
    if isinstance(value, list):
        return [_exclude(item, tree) if isinstance(item, dict | list) else item for item in value]
    kept = {}
    for key, item in value.items():
        branch = tree.get(key)
        if branch is True:
            continue
        kept[key] = _exclude(item, branch) if branch and isinstance(item, dict | list) else item
    return kept


def project(document: dict, properties: dict | list | None) -> dict:
    """Keep only the fields asked for.

    Parameters
    ----------
    document
        A stored document.
    properties
        Dotted paths to keep, or ``{path: 1}``, or ``{path: 0}`` to leave out; None or empty keeps all.
    """
    if not properties:
        return document
    flags = dict(properties) if isinstance(properties, dict) else dict.fromkeys(properties, 1)
    flags.pop("_id", None)
    if not flags:
        return document
    if all(flags.values()):
        return _include(document, _tree(flags))
    if not any(flags.values()):
        return _exclude(document, _tree(flags))
    raise ValueError(f"Projection {properties} both keeps and leaves out fields; do one of the two.")


def sort_documents(documents: list[dict], sort: dict[str, Any]) -> list[dict]:
    """Sort documents by several fields, in MongoDB's order of types.

    Parameters
    ----------
    documents
        Documents.
    sort
        Field -> 1, -1 or a maggma ``Sort``; the first field counts most.
    """
    from mongomock_ng.filtering import resolve_sort_key

    for field, direction in reversed(list(sort.items())):
        descending = getattr(direction, "value", direction) < 0
        documents = sorted(documents, key=partial(resolve_sort_key, field), reverse=descending)
    return documents


def distinct_values(documents: Iterable[dict], field: str) -> list:
    """Collect the different values of a field, members of lists each for itself, in order of appearance.

    Parameters
    ----------
    documents
        Documents.
    field
        Dotted path.
    """
    from mongomock_ng.filtering import NOTHING, iter_key_candidates

    seen: set = set()
    found: list = []
    for document in documents:
        for candidate in iter_key_candidates(field, document):
            if candidate is NOTHING:
                continue
            for value in candidate if isinstance(candidate, list | tuple) else [candidate]:
                key = repr(value) if isinstance(value, dict | list) else value
                if key not in seen:
                    seen.add(key)
                    found.append(value)
    return found


def count_by(store: Any, fields: Iterable[str], criteria: dict | None = None) -> dict[tuple, int]:
    """Count a store's documents by the values of fields, by the store's own means where it has them.

    Parameters
    ----------
    store
        A maggma store.
    fields
        Dotted paths.
    criteria
        MongoDB filter.

    Returns
    -------
    dict[tuple, int]
        Values -> number of documents; None for a field that is absent.
    """
    wanted = list(fields)
    if hasattr(store, "count_by"):
        return store.count_by(wanted, criteria)
    return count_values(store.query(criteria, wanted), wanted)


def count_values(documents: Iterable[dict], fields: Iterable[str]) -> dict[tuple, int]:
    """Count documents by the values of fields, as they are.

    Parameters
    ----------
    documents
        Documents.
    fields
        Dotted paths.

    Returns
    -------
    dict[tuple, int]
        Values -> number of documents; lists and dictionaries as JSON, None for what is absent.
    """
    paths = list(fields)
    found: dict[tuple, int] = {}
    for document in documents:
        key = tuple(plain_key(lookup(document, path)) for path in paths)
        found[key] = found.get(key, 0) + 1
    return found


def plain_key(value: Any) -> Any:
    """Return a value that can be a key: lists and dictionaries as JSON.

    Parameters
    ----------
    value
        A stored value.
    """
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, dict | list) else value
