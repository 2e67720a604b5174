"""Structures of documents that others wrote: pymatgen's dictionaries, without what they might name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Structure

_SPECIES = ("element", "occu", "oxidation_state")


def structure_of(record: Mapping[str, Any]) -> Structure:
    """Return the structure that a dictionary of pymatgen describes: lattice, sites and charge alone.

    ``Structure.from_dict`` decodes site properties with monty, which imports whatever module a property names. A file
    or an answer of a database must not have a say in that, and no property is needed here.

    Parameters
    ----------
    record
        With ``lattice`` and ``sites``.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is none.
    """
    from pymatgen.core import Structure

    lattice = record["lattice"]
    plain = {
        "lattice": {key: lattice[key] for key in ("matrix", "pbc") if key in lattice},
        "sites": [
            {
                "species": [{key: kind[key] for key in _SPECIES if key in kind} for kind in site["species"]],
                "abc": site["abc"],
            }
            for site in record["sites"]
        ],
        "charge": record.get("charge"),
    }
    return Structure.from_dict(plain)
