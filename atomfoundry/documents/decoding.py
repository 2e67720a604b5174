"""Which classes a stored document may name: reading a document imports no code but what is trusted.

Job outputs are written by monty: a dictionary with ``@module`` and ``@class`` (or ``@callable``) is turned back into an
object by importing the module it names. Whoever can write a document could so have any importable module run in the
process that merely looks at it. Here such names are checked first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from atomfoundry.errors import UntrustedDocumentError
from atomfoundry.settings import settings

TRUSTED = (
    "atomfoundry",
    "atomate2",
    "bson.dbref",
    "bson.objectid",
    "datetime",
    "emmet.core",
    "jobflow.core.reference",
    "numpy",
    "pandas",
    "pathlib",
    "pymatgen.core",
    "pymatgen.electronic_structure",
    "pymatgen.entries",
    "pymatgen.io.vasp",
    "pymatgen.symmetry",
    "uuid",
)
"""Modules, with all below them, whose classes are made from plain values and do nothing else."""


def check_document(document: Any, *, where: str) -> None:
    """Check that a document names no class or function outside the trusted packages.

    Parameters
    ----------
    document
        Plain values, as a store gives them.
    where
        For the message: what is being read.

    Raises
    ------
    UntrustedDocumentError
        Naming the module: only those of ``TRUSTED`` and of the setting ``trusted_packages`` are allowed, and of
        functions none at all (a class is: references to outputs name their schema so).
    """
    trusted = (*TRUSTED, *settings().trusted_packages)
    for entry in _named(document):
        module, name = entry["@module"], entry.get("@class", entry.get("@callable"))
        if not isinstance(module, str) or not any(module == root or module.startswith(f"{root}.") for root in trusted):
            raise UntrustedDocumentError(
                f"{where} names '{module}.{name}', whose module is not trusted.",
                remedy="If it is a class of your own, name its package in the setting 'trusted_packages' "
                "(ATOMFOUNDRY_TRUSTED_PACKAGES='[\"my_package\"]').",
            )
        if "@class" not in entry and not (entry.get("@bound") is None and _is_class(module, str(name))):
            raise UntrustedDocumentError(
                f"{where} names the function '{module}.{name}'; a result holds values only.",
                remedy="Look at the document's raw content: somebody may have tampered with it.",
            )


def _is_class(module: str, name: str) -> bool:
    try:
        return isinstance(getattr(import_module(module), name, None), type)
    except ImportError:
        return False


def decode(document: Any, *, where: str) -> Any:
    """Turn a stored document into objects, after `check_document`.

    Raises
    ------
    UntrustedDocumentError
        If it names a class or function that is not trusted.
    """
    from monty.json import MontyDecoder

    check_document(document, where=where)
    return MontyDecoder().process_decoded(document)


def _named(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every dictionary that names a class or function, at any depth."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "@module" in value and ("@class" in value or "@callable" in value):
                yield value
                # monty writes a table as JSON inside the document, and reads it the same way
                if str(value["@module"]).startswith("pandas") and isinstance(value.get("data"), str):
                    waiting.append(json.loads(value["data"]))
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
