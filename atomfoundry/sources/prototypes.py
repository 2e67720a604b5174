"""Crystals of well-known structure types."""

from __future__ import annotations

from collections.abc import Sequence

from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.neighborlist import neighbor_list

from atomfoundry.datasets import with_metadata
from atomfoundry.errors import StructureError

_ASE = {
    "sc": 1,
    "fcc": 1,
    "bcc": 1,
    "hcp": 1,
    "diamond": 1,
    "zincblende": 2,
    "rocksalt": 2,
    "cesiumchloride": 2,
    "wurtzite": 2,
}
"""Prototypes that ``ase.build.bulk`` builds, and their number of elements."""

_SPACE_GROUP: dict[str, tuple[int, list[tuple[float, float, float]], list[int]]] = {
    # space group, sites, number of the element on each
    "fluorite": (225, [(0, 0, 0), (0.25, 0.25, 0.25)], [0, 1]),
    "antifluorite": (225, [(0.25, 0.25, 0.25), (0, 0, 0)], [0, 1]),
    "perovskite": (221, [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], [0, 1, 2]),
    "l12": (221, [(0, 0, 0), (0.5, 0.5, 0)], [0, 1]),
    "a15": (223, [(0, 0, 0), (0.25, 0, 0.5)], [0, 1]),
    "heusler": (225, [(0.25, 0.25, 0.25), (0, 0, 0), (0.5, 0.5, 0.5)], [0, 1, 2]),
}
"""Cubic prototypes by space group: A, B, C are the elements in the order of the formula (ABX3 perovskite: A, B, X;
A2BC Heusler: A, B, C; l12 and A15: the element on the corner first)."""


def prototype_names() -> list[str]:
    """Return the names that ``prototype`` takes."""
    return sorted([*_ASE, *_SPACE_GROUP])


def prototype(
    name: str,
    species: str | Sequence[str],
    *,
    a: float | None = None,
    c: float | None = None,
    conventional: bool = False,
) -> Atoms:
    """Return a crystal of a structure type.

    Parameters
    ----------
    name
        See ``prototype_names``; ``"element"`` is the reference state that ASE knows of one element.
    species
        Elements, e.g. ``["Ca", "Ti", "O"]`` of a perovskite.
    a, c
        Lattice constants, A. Without ``a`` the nearest atoms touch: their distance is the sum of their covalent radii.
        Without ``c`` a hexagonal cell has the ideal ratio.
    conventional
        The cubic cell where there is one, instead of the primitive cell.

    Raises
    ------
    StructureError
        If the prototype or an element is unknown, their numbers do not fit, or a lattice constant is not positive.
    """
    elements = [species] if isinstance(species, str) else list(species)
    for symbol in elements:
        if atomic_numbers.get(symbol, 0) < 1:
            raise StructureError(f"There is no element '{symbol}'.")
    needed = 1 if name == "element" else _ASE.get(name) or len(_SPACE_GROUP.get(name, (0, [], []))[1])
    if not needed:
        raise StructureError(
            f"There is no prototype '{name}'.", remedy=f"Prototypes: element, {', '.join(prototype_names())}."
        )
    if len(elements) != needed:
        raise StructureError(f"A {name} has {needed} elements, not {len(elements)} ({', '.join(elements)}).")
    if any(value is not None and not value > 0 for value in (a, c)):
        raise StructureError(f"Lattice constants a = {a}, c = {c} A are not possible.")
    atoms = _built(name, elements, a=a or 5.0, c=c if a is not None else None, cubic=conventional)
    if a is None and name != "element":
        first, second, lengths = neighbor_list("ijd", atoms, 6.0)
        radii = covalent_radii[atoms.numbers]
        atoms.set_cell(atoms.cell.array / (lengths / (radii[first] + radii[second])).min(), scale_atoms=True)
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    label = f"{name}:{'-'.join(elements)}"
    return with_metadata(bare, source=f"prototype:{label}", group_id=label)


def _built(name: str, elements: list[str], *, a: float, c: float | None, cubic: bool) -> Atoms:
    from ase.build import bulk
    from ase.spacegroup import crystal

    if name in _SPACE_GROUP:
        group, sites, order = _SPACE_GROUP[name]
        return crystal(
            [elements[index] for index in order],
            sites,
            spacegroup=group,
            cellpar=[a, a, a, 90, 90, 90],
            primitive_cell=not cubic,
        )
    hexagonal = name in ("hcp", "wurtzite")
    try:
        if name == "element":
            return bulk(elements[0])
        return bulk(
            "".join(elements),
            name,
            a=a,
            c=(c or a * (8 / 3) ** 0.5) if hexagonal else None,
            cubic=cubic and not hexagonal and name != "sc",
        )
    except (ValueError, RuntimeError) as error:
        raise StructureError(f"No {name} of {', '.join(elements)} can be built: {error}.") from error
