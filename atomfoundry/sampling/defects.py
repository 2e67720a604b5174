"""Point defects: vacancies, pairs of them, substitutions and interstitials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sampling.deformation import _as_list
from atomfoundry.sampling.symmetry import inequivalent_pairs, inequivalent_sites


def _check_symbols(atoms: Atoms, symbols: Iterable[str]) -> None:
    absent = sorted(set(symbols) - set(atoms.get_chemical_symbols()))
    if absent:
        raise StructureError(
            f"{atoms.get_chemical_formula()} has no {absent[0]}.",
            remedy=f"Its elements are {', '.join(sorted(set(atoms.get_chemical_symbols())))}.",
        )


def _check_elements(symbols: Iterable[str]) -> None:
    unknown = [symbol for symbol in symbols if atomic_numbers.get(symbol, 0) < 1]
    if unknown:
        raise StructureError(f"There is no element '{unknown[0]}'.")


def _defect(base: Atoms, changed: Atoms, tag: str, record: dict[str, Any]) -> Atoms:
    changed.info = dict(base.info)
    group = base.info["group_id"]
    return with_metadata(changed, sampling=record["kind"], group_id=f"{group}:{tag}", deformation=record)


def _without(base: Atoms, sites: Sequence[int]) -> Atoms:
    changed = base.copy()
    del changed[list(sites)]
    if len(changed) == 0:
        raise StructureError(
            f"{base.get_chemical_formula()} has no atom left without {len(sites)}.", remedy="Use a supercell."
        )
    return changed


def vacancies(
    atoms: Atoms | Iterable[Atoms], *, symbols: Sequence[str] | None = None, symprec: float = 1e-2
) -> list[Atoms]:
    """Return every structure that lacks one atom, one for each class of equivalent sites.

    Parameters
    ----------
    atoms
        One or several structures, supercells as a rule; without three periodic directions every atom is a class.
    symbols
        Elements to take away, e.g. the ``["Al", "O"]`` of the alumina study; by default all.
    symprec
        Symmetry tolerance, A.

    Returns
    -------
    list of ase.Atoms
        Unrelaxed. ``sampling`` is ``"vacancy"``, ``info["deformation"]`` says which site of the parent is empty, and
        each defect is a group of its own.

    Raises
    ------
    StructureError
        If an element is absent or no atom is left.
    """
    frames = []
    for parent in _as_list(atoms):
        base = with_metadata(clean_frame(parent))
        _check_symbols(base, symbols or ())
        for site in inequivalent_sites(base, symprec=symprec):
            symbol = base.symbols[site]
            if symbols is None or symbol in symbols:
                record = {"kind": "vacancy", "symbols": [symbol], "sites": [site]}
                frames.append(_defect(base, _without(base, [site]), f"vacancy_{symbol}_{site}", record))
    return unique_frames(frames)


def vacancy_pairs(
    atoms: Atoms | Iterable[Atoms],
    *,
    pairs: Sequence[tuple[str, str]],
    max_distance: float | None = None,
    max_pairs: int | None = None,
    symprec: float = 1e-2,
) -> list[Atoms]:
    """Return every structure that lacks two atoms, one for each class of equivalent pairs of sites.

    Parameters
    ----------
    atoms
        One or several structures, supercells as a rule.
    pairs
        Elements of the two sites in either order, e.g. ``[("Al", "O")]`` as in the alumina study.
    max_distance
        Only pairs whose (nearest image) distance, A, is not above it.
    max_pairs
        Only so many classes of each pair of elements, the nearest ones.
    symprec
        Symmetry tolerance, A.

    Returns
    -------
    list of ase.Atoms
        By distance, unrelaxed. ``sampling`` is ``"vacancy_pair"``; ``info["deformation"]`` has ``sites`` and
        ``distance`` (A).

    Raises
    ------
    StructureError
        If an element is absent, no atom is left or no pair is that near.
    """
    wanted = {tuple(sorted(pair)) for pair in pairs}
    frames: list[Atoms] = []
    for parent in _as_list(atoms):
        base = with_metadata(clean_frame(parent))
        _check_symbols(base, [symbol for pair in wanted for symbol in pair])
        found = []
        for first, second in inequivalent_pairs(base, symprec=symprec):
            symbols = tuple(sorted((base.symbols[first], base.symbols[second])))
            distance = float(base.get_distance(first, second, mic=bool(base.pbc.any())))
            if symbols in wanted and (max_distance is None or distance <= max_distance + symprec):
                record = {
                    "kind": "vacancy_pair",
                    "symbols": list(symbols),
                    "sites": [first, second],
                    "distance": distance,
                }
                tag = f"vacancy_{symbols[0]}-{symbols[1]}_{first}-{second}"
                found.append((round(distance, 6), _defect(base, _without(base, [first, second]), tag, record)))
        if not found:
            raise StructureError(
                f"{base.get_chemical_formula()} has no such pair of sites within {max_distance} A.",
                remedy="Raise max_distance, or use a supercell.",
            )
        kept: Counter[tuple[str, ...]] = Counter()
        for _, frame in sorted(found, key=lambda item: item[0]):
            kind = tuple(frame.info["deformation"]["symbols"])
            kept[kind] += 1
            if max_pairs is None or kept[kind] <= max_pairs:
                frames.append(frame)
    return unique_frames(frames)


def alumina_defects(atoms: Atoms, *, max_distance: float = 2.0, symprec: float = 1e-2) -> list[Atoms]:
    """Return the four structures of the alumina study: as given, without Al, without O, without a bonded Al-O pair.

    Parameters
    ----------
    atoms
        A supercell of alumina; the study's has 80 atoms. Any structure of Al and O does.
    max_distance
        Largest Al-O distance of the pair, A; of several classes the nearest is taken.
    symprec
        Symmetry tolerance, A.

    Returns
    -------
    list of ase.Atoms
        Four structures; of several classes of Al or O sites the first counts (corundum has one of each).
    """
    base = with_metadata(clean_frame(atoms))
    return [
        base,
        vacancies(base, symbols=["Al"], symprec=symprec)[0],
        vacancies(base, symbols=["O"], symprec=symprec)[0],
        vacancy_pairs(base, pairs=[("Al", "O")], max_distance=max_distance, max_pairs=1, symprec=symprec)[0],
    ]


def substitutions(
    atoms: Atoms | Iterable[Atoms], *, replacements: Mapping[str, str | Sequence[str]], symprec: float = 1e-2
) -> list[Atoms]:
    """Return every structure with one atom replaced, one for each class of equivalent sites.

    Parameters
    ----------
    atoms
        One or several structures.
    replacements
        Element of the structure to the elements that take its place, e.g. ``{"Al": ["Ti", "Cr"]}``; ``{"Al": "O",
        "O": "Al"}`` are the antisites.
    symprec
        Symmetry tolerance, A.

    Returns
    -------
    list of ase.Atoms
        Unrelaxed; ``sampling`` is ``"substitution"``.

    Raises
    ------
    StructureError
        If an element is absent or unknown.
    """
    table = {old: [new] if isinstance(new, str) else list(new) for old, new in replacements.items()}
    _check_elements(symbol for new in table.values() for symbol in new)
    frames = []
    for parent in _as_list(atoms):
        base = with_metadata(clean_frame(parent))
        _check_symbols(base, table)
        for site in inequivalent_sites(base, symprec=symprec):
            old = base.symbols[site]
            for new in table.get(old, []):
                if new == old:
                    continue
                changed = base.copy()
                changed.symbols[site] = new
                record = {"kind": "substitution", "symbols": [old, new], "sites": [site]}
                frames.append(_defect(base, changed, f"{new}_on_{old}_{site}", record))
    return unique_frames(frames)


def random_defects(
    atoms: Atoms | Iterable[Atoms],
    *,
    n: int,
    seed: int,
    remove: Mapping[str, int] | None = None,
    replace: Mapping[str, Mapping[str, int]] | None = None,
) -> list[Atoms]:
    """Return structures with several vacancies and substitutions at random sites.

    Parameters
    ----------
    atoms
        One or several structures.
    n
        Structures of each; fewer come back where chance, or a small cell, repeats one.
    seed
        The sites depend on it, the structure and the copy's number alone.
    remove
        Number of atoms to take away of each element, e.g. ``{"O": 3}``.
    replace
        Numbers of atoms to replace, e.g. ``{"Al": {"Ti": 2, "Cr": 1}}``.

    Returns
    -------
    list of ase.Atoms
        ``sampling`` is ``"random_defects"``; each is a group of its own.

    Raises
    ------
    StructureError
        If there are not so many atoms, or an element is unknown.
    """
    taken = dict(remove or {})
    swapped = {old: dict(new) for old, new in (replace or {}).items()}
    _check_elements(symbol for new in swapped.values() for symbol in new)
    if (
        n < 0
        or not (taken or swapped)
        or min([*taken.values(), *(m for new in swapped.values() for m in new.values())]) < 0
    ):
        raise StructureError(
            f"{n} structures with remove={taken} and replace={swapped} are not possible.",
            remedy="Name elements and numbers >= 0 in 'remove' or 'replace'.",
        )
    frames = []
    for parent in _as_list(atoms):
        base = with_metadata(clean_frame(parent))
        _check_symbols(base, [*taken, *swapped])
        symbols = np.array(base.get_chemical_symbols())
        for copy in range(n):
            rng = np.random.default_rng([seed, int(base.info["frame_id"][:16], 16), copy])
            changed, gone = base.copy(), []
            for old in sorted({*taken, *swapped}):
                sites = rng.permutation(np.flatnonzero(symbols == old)).tolist()
                needed = taken.get(old, 0) + sum(swapped.get(old, {}).values())
                if needed > len(sites):
                    raise StructureError(
                        f"{base.get_chemical_formula()} has {len(sites)} {old} atoms, not the {needed} to change.",
                        remedy="Change fewer atoms, or use a supercell.",
                    )
                gone += [sites.pop() for _ in range(taken.get(old, 0))]
                for new, count in sorted(swapped.get(old, {}).items()):
                    for _ in range(count):
                        changed.symbols[sites.pop()] = new
            if gone:
                changed = _without(changed, gone)
            record = {
                "kind": "random_defects",
                "remove": taken,
                "replace": swapped,
                "sites": sorted(gone),
                "seed": seed,
                "copy": copy,
            }
            frames.append(_defect(base, changed, f"defects_{seed}_{copy}", record))
    return unique_frames(frames)
