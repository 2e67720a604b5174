"""What an online database gave: structures, and for every refused entry the reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from ase import Atoms


@dataclass
class Fetched:
    """Structures of a database.

    Attributes
    ----------
    structures
        Bare structures without repetitions.
    rejected
        Id of every entry that is no usable structure, with the reason.
    n_entries
        Entries that the database sent.
    """

    structures: list[Atoms] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    n_entries: int = 0
