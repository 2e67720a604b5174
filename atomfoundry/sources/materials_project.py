"""Structures from the Materials Project, by its REST interface.

The requests are those of the official client, mp-api, which a test compares them with. That client is not needed: it
brings boto3 and a database engine for bulk downloads, and leaves time-outs and half answers to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.datasets.structure_record import structure_of
from atomfoundry.errors import ConfigurationError, StructureError
from atomfoundry.settings import settings
from atomfoundry.sources.cells import Cell, standard_cell
from atomfoundry.sources.fetched import Fetched
from atomfoundry.sources.http import DatabaseError, get_json
from atomfoundry.sources.readers import structure_problem

_FIELDS = "material_id,formula_pretty,energy_above_hull,deprecated,structure"


def fetch_materials_project(
    *,
    material_ids: Sequence[str] = (),
    formulas: Sequence[str] = (),
    chemical_systems: Sequence[str] = (),
    max_energy_above_hull: float | None = None,
    max_structures: int = 1000,
    cell: Cell = "as_given",
    symprec: float = 1e-3,
    page_limit: int = 100,
    timeout: float = 60.0,
    retries: int = 4,
    backoff: float = 1.0,
) -> Fetched:
    """Fetch relaxed structures from the Materials Project.

    The key comes from the setting ``materials_project_key`` alone, travels in a header, and is in no message and no
    document.

    Parameters
    ----------
    material_ids
        E.g. ``["mp-149"]``; one that the database does not have is an error.
    formulas
        E.g. ``["Al2O3"]``.
    chemical_systems
        E.g. ``["Al-O"]``: compounds of exactly these elements.
    max_energy_above_hull
        eV/atom; None: all.
    max_structures
        Stop after so many entries of each of the three questions.
    cell, symprec
        As in ``fetch_structures``.
    page_limit
        Entries a page.
    timeout, retries, backoff
        As in ``get_json``.

    Returns
    -------
    Fetched
        ``source`` is ``"mp:ID"``, ``group_id`` the id.

    Raises
    ------
    ConfigurationError
        If there is no key.
    StructureError
        If nothing was asked for.
    DatabaseError
        If the database does not answer, refuses, breaks the protocol, sends less than it announced, or does not have
        one of the ids.
    """
    asked = {"material_ids": material_ids, "formula": formulas, "chemsys": chemical_systems}
    if isinstance(material_ids, str) or isinstance(formulas, str) or isinstance(chemical_systems, str):
        raise StructureError("Ids, formulas and chemical systems are lists.", remedy='E.g. formulas=["Al2O3"].')
    if not any(asked.values()):
        raise StructureError(
            "Nothing was asked of the Materials Project.", remedy="Give material_ids, formulas or chemical_systems."
        )
    key = settings().materials_project_key
    if key is None:
        raise ConfigurationError(
            "The Materials Project needs a key.",
            remedy="Set ATOMFOUNDRY_MATERIALS_PROJECT_KEY, or materials_project_key in ~/.atomfoundry.yaml.",
        )
    base = settings().materials_project_url.rstrip("/")
    entries: dict[str, dict[str, Any]] = {}
    for name, values in asked.items():
        if not values:
            continue
        question: dict[str, Any] = {name: ",".join(values), "deprecated": False}
        if max_energy_above_hull is not None:
            question["energy_above_hull_max"] = max_energy_above_hull
        found, total = 0, None
        while found < max_structures and (total is None or found < total):
            page = {"_fields": _FIELDS, "_limit": min(page_limit, max_structures - found), "_skip": found}
            document = get_json(
                f"{base}/materials/summary/?{urlencode({**question, **page})}",
                headers={"X-API-KEY": key.get_secret_value()},
                timeout=timeout,
                retries=retries,
                backoff=backoff,
            )
            data, meta = document.get("data"), document.get("meta")
            if not isinstance(data, list) or not isinstance(meta, dict) or "total_doc" not in meta:
                raise DatabaseError(
                    f"{base} sent a page without 'data' or 'meta.total_doc'.", remedy="Check materials_project_url."
                )
            total = int(meta["total_doc"])
            if not data and found < total:
                raise DatabaseError(f"{base} sent {found} of {total} entries.", remedy="Try again later.")
            found += len(data)
            for entry in data:
                if not isinstance(entry, dict) or "material_id" not in entry:
                    raise DatabaseError(f"{base} sent an entry without an id.", remedy="Try again later.")
                entries.setdefault(str(entry["material_id"]), entry)
    missing = [name for name in material_ids if name not in entries]
    if missing:
        raise DatabaseError(
            f"The Materials Project has no {', '.join(missing)}.",
            remedy="Check the ids; with max_energy_above_hull, whether they are below it.",
        )
    result = Fetched(n_entries=len(entries))
    for name, entry in sorted(entries.items()):
        try:
            atoms = _structure(entry)
        except StructureError as error:
            result.rejected[name] = error.message
            continue
        atoms = with_metadata(atoms, source=f"mp:{name}", group_id=name)
        result.structures.append(standard_cell(clean_frame(atoms), cell, symprec=symprec))
    result.structures = unique_frames(result.structures)
    return result


def _structure(entry: dict[str, Any]) -> Any:
    from pymatgen.io.ase import AseAtomsAdaptor

    if not isinstance(entry.get("structure"), dict):
        raise StructureError("has no structure")
    try:
        structure = structure_of(entry["structure"])
    except (KeyError, TypeError, ValueError) as error:
        raise StructureError(f"has an unreadable structure ({type(error).__name__})") from None
    if not structure.is_ordered:
        raise StructureError("has partially occupied sites")
    structure.remove_oxidation_states()
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    problem = structure_problem(atoms)
    if problem:
        raise StructureError(f"cannot exist, {problem}")
    return atoms
