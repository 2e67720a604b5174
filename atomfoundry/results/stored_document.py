"""What a document must be to be stored, the same in SQLite and in MongoDB."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bson
from maggma.core import StoreError
from monty.json import jsanitize

from atomfoundry.results.mongo_language import is_scalar, lookup

MAX_BYTES = 16 * 1024 * 1024
"""MongoDB's limit of one document, with the ``_id`` that it adds."""
_ID_BYTES = 17


def prepare(document: dict, *, unique_fields: Iterable[str], store: str) -> tuple[dict, bytes]:
    """Make a document plain and encode it as BSON; ``_id`` is left out.

    Parameters
    ----------
    document
        numpy values, enumerations and MSONable objects become plain values.
    unique_fields
        Fields that it must have as a text or number.
    store
        Names the store in errors.

    Returns
    -------
    tuple[dict, bytes]
        The plain document and its BSON.

    Raises
    ------
    StoreError
        If a value cannot be stored, it is over 16 MB, or a unique field is missing.
    """
    plain: dict[str, Any] = {name: value for name, value in document.items() if name != "_id"}
    try:
        blob = bson.encode(plain)
    except (bson.errors.InvalidDocument, OverflowError):
        # numpy values, enumerations, MSONable objects: rare, and sanitising every document costs more.
        plain = jsanitize(plain, allow_bson=True, recursive_msonable=True)
        try:
            blob = bson.encode(plain)
        except (bson.errors.InvalidDocument, OverflowError) as error:
            raise StoreError(f"{store}: {_named(plain, unique_fields)} cannot be stored: {error}.") from error
    if len(blob) > MAX_BYTES - _ID_BYTES:
        raise StoreError(
            f"{store}: {_named(plain, unique_fields)} has {len(blob) / 1e6:.1f} MB; a document may have 16.7 MB. "
            "Store large arrays as an artifact or in an additional store."
        )
    for field in unique_fields:
        if not is_scalar(lookup(plain, field)):
            raise StoreError(f"{store}: a document has no text or number in its key field '{field}'.")
    return plain, blob


def _named(document: dict, fields: Iterable[str]) -> str:
    return "document " + ", ".join(f"{field}={lookup(document, field)!r}" for field in fields)
