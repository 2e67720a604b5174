"""Structures from any OPTIMADE provider (Andersen et al., Sci. Data 8, 217)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode, urljoin

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sources.cells import Cell, standard_cell
from atomfoundry.sources.fetched import Fetched
from atomfoundry.sources.http import DatabaseError, get_json
from atomfoundry.sources.readers import structure_problem

PROVIDERS = {
    "alexandria": "https://alexandria.icams.rub.de/pbe",
    "alexandria.pbesol": "https://alexandria.icams.rub.de/pbesol",
    "aflow": "https://aflow.org/API/optimade",
    "cod": "https://www.crystallography.net/cod/optimade",
    "jarvis": "https://jarvis.nist.gov/optimade/jarvisdft",
    "mc3d": "https://aiida.materialscloud.org/mc3d/optimade",
    "mp": "https://optimade.materialsproject.org",
    "nmd": "https://nomad-lab.eu/prod/rae/optimade",
    "odbx": "https://optimade.odbx.science",
    "oqmd": "https://oqmd.org/optimade",
    "tcod": "https://www.crystallography.net/tcod/optimade",
    "twodmatpedia": "http://optimade.2dmatpedia.org",
}
"""Short names of some providers and their base addresses; any other is named by its base address."""

_FIELDS = (
    "chemical_formula_reduced,lattice_vectors,cartesian_site_positions,species,species_at_sites,dimension_types,"
    "structure_features,nsites"
)


def fetch_optimade(
    provider: str,
    query: str,
    *,
    max_structures: int = 1000,
    cell: Cell = "as_given",
    symprec: float = 1e-3,
    page_limit: int = 100,
    timeout: float = 30.0,
    retries: int = 4,
    backoff: float = 1.0,
) -> Fetched:
    """Fetch structures from an OPTIMADE provider.

    Parameters
    ----------
    provider
        Base address, e.g. ``"https://optimade.odbx.science"``, or a short name of ``PROVIDERS``.
    query
        OPTIMADE filter, e.g. ``'elements HAS ALL "Al","O" AND nelements=2'``.
    max_structures
        Stop after so many entries.
    cell, symprec
        As in ``fetch_structures``.
    page_limit
        Entries a page.
    timeout, retries, backoff
        As in ``get_json``.

    Returns
    -------
    Fetched
        ``source`` is ``"optimade:PROVIDER:ID"`` and ``group_id`` without the first word; disordered, incomplete and
        impossible entries are rejected with their reason.

    Raises
    ------
    DatabaseError
        If the provider does not answer, refuses the filter, breaks the protocol, or ends before its last page.
    """
    base = PROVIDERS.get(provider, provider).rstrip("/")
    if "://" not in base:
        raise StructureError(
            f"There is no OPTIMADE provider '{provider}'.",
            remedy=f"Give its base address, or one of {', '.join(sorted(PROVIDERS))}.",
        )
    parameters = {"filter": query, "response_fields": _FIELDS, "page_limit": min(page_limit, max_structures)}
    versioned = base if base.rsplit("/", 1)[-1].startswith("v1") else f"{base}/v1"
    url: str | None = f"{versioned}/structures?{urlencode(parameters)}"
    entries: dict[str, dict[str, Any]] = {}
    visited: set[str] = set()
    while url is not None and len(entries) < max_structures:
        if url in visited:
            raise DatabaseError(f"{base} names a page as its own successor.", remedy="Tell the provider.")
        visited.add(url)
        document = get_json(url, timeout=timeout, retries=retries, backoff=backoff)
        data = document.get("data")
        if not isinstance(data, list):
            raise DatabaseError(f"{base} sent a page without a list 'data'.", remedy="Check the base address.")
        for entry in data:
            if not (isinstance(entry, dict) and "id" in entry and isinstance(entry.get("attributes"), dict)):
                raise DatabaseError(f"{base} sent an entry without id or attributes.", remedy="Tell the provider.")
            entries.setdefault(str(entry["id"]), entry["attributes"])
        following = _next(document)
        if following is None and (document.get("meta") or {}).get("more_data_available"):
            raise DatabaseError(
                f"{base} has more than the {len(entries)} entries it sent, but no link to them.",
                remedy="Narrow the filter, or raise page_limit.",
            )
        url = urljoin(url, following) if following is not None else None
    result = Fetched(n_entries=min(len(entries), max_structures))
    for key, attributes in list(entries.items())[:max_structures]:
        try:
            atoms = _structure(attributes)
        except StructureError as error:
            result.rejected[key] = error.message
            continue
        name = f"{provider.split('://')[-1].rstrip('/')}:{key}"
        atoms = with_metadata(atoms, source=f"optimade:{name}", group_id=name)
        result.structures.append(standard_cell(clean_frame(atoms), cell, symprec=symprec))
    result.structures = unique_frames(result.structures)
    return result


def _next(document: dict[str, Any]) -> str | None:
    """Return the link to the next page: a string, or an object with ``href``."""
    link = (document.get("links") or {}).get("next")
    link = link.get("href") if isinstance(link, dict) else link
    return str(link) if link else None


def _structure(attributes: dict[str, Any]) -> Atoms:
    """Return the structure of one entry.

    Raises
    ------
    StructureError
        If it is disordered, incomplete or impossible.
    """
    features = set(attributes.get("structure_features") or []) & {"disorder", "implicit_atoms", "unknown_positions"}
    if features:
        raise StructureError(f"has {', '.join(sorted(features))}")
    elements = {}
    for species in attributes.get("species") or []:
        symbols, shares = species.get("chemical_symbols") or [], species.get("concentration") or [1.0]
        if len(symbols) != 1 or abs(float(shares[0]) - 1) > 1e-6 or species.get("attached"):
            raise StructureError(f"site '{species.get('name')}' is partially occupied")
        if atomic_numbers.get(symbols[0], 0) < 1:
            raise StructureError(f"site '{species.get('name')}' is of unknown element '{symbols[0]}'")
        elements[species.get("name")] = symbols[0]
    sites, positions = attributes.get("species_at_sites"), attributes.get("cartesian_site_positions")
    if not sites or not positions:
        raise StructureError("has no positions")
    try:
        symbols = [elements[site] for site in sites]
        coordinates = np.array(positions, dtype=float)
    except (KeyError, TypeError, ValueError):
        raise StructureError("has sites that are not described") from None
    if coordinates.shape != (len(symbols), 3) or attributes.get("nsites", len(symbols)) != len(symbols):
        raise StructureError(f"has {len(coordinates)} positions for {len(symbols)} sites")
    lattice = attributes.get("lattice_vectors")
    periodic = [bool(flag) for flag in attributes.get("dimension_types") or [lattice is not None] * 3]
    vectors = np.zeros((3, 3))
    for row, vector in enumerate(lattice or []):
        # Where a direction is not periodic, its vector may be nulls.
        if vector is not None and all(value is not None for value in vector):
            vectors[row] = vector
    if any(periodic) and not vectors[periodic].any(axis=1).all():
        raise StructureError("has no lattice vectors")
    atoms = Atoms(symbols, positions=coordinates, cell=vectors, pbc=periodic)
    problem = structure_problem(atoms)
    if problem:
        raise StructureError(f"cannot exist, {problem}")
    return atoms
