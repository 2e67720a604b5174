"""CP2K's input file of one single point."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

Section = Mapping[str, Any]


def kpoint_list(grid: tuple[int, int, int]) -> list[tuple[float, float, float, float]]:
    """Return a Gamma-centred grid without the second of k and -k.

    CP2K's own Monkhorst-Pack scheme has no Gamma-centred grids of even numbers.

    Parameters
    ----------
    grid
        Points along the three reciprocal vectors.

    Returns
    -------
    list of tuple
        Fractional coordinates and weight; the weights sum to one.
    """
    share = 1.0 / (grid[0] * grid[1] * grid[2])
    weights: dict[tuple[int, ...], float] = {}
    for point in itertools.product(*(range(n) for n in grid)):
        opposite = tuple(-i % n for i, n in zip(point, grid, strict=True))
        key = min(point, opposite)
        weights[key] = weights.get(key, 0.0) + share
    return [(key[0] / grid[0], key[1] / grid[1], key[2] / grid[2], weight) for key, weight in sorted(weights.items())]


def subsystem(atoms: Atoms, kinds: Mapping[str, Section]) -> dict[str, Any]:
    """Return the section SUBSYS.

    Parameters
    ----------
    atoms
        A structure periodic in all directions.
    kinds
        Section KIND of every element.
    """
    cell = {axis: _numbers(vector) for axis, vector in zip("ABC", atoms.cell, strict=True)}
    rows = [
        f"{symbol} {_numbers(position)}"
        for symbol, position in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    ]
    return {
        "CELL": cell | {"PERIODIC": "XYZ"},
        "COORD": {"": rows},
        **{f"KIND {element}": kind for element, kind in kinds.items()},
    }


def format_input(sections: Section, *, indent: int = 0) -> str:
    """Write nested sections as CP2K reads them.

    Parameters
    ----------
    sections
        Section or keyword -> content. A mapping is a section, whose name may have a parameter; a list repeats
        a keyword, under the empty name it is plain lines; anything else is a value.
    indent
        Spaces before the lines.

    Returns
    -------
    str
        Text of the input.
    """
    pad, lines = " " * indent, ""
    for key, value in sections.items():
        if isinstance(value, Mapping):
            lines += f"{pad}&{key}\n{format_input(value, indent=indent + 2)}{pad}&END {key.split()[0]}\n"
        else:
            for item in value if isinstance(value, list) else [value]:
                text = ("T" if item else "F") if isinstance(item, bool) else item
                lines += f"{pad}{key} {text}\n" if key else f"{pad}{text}\n"
    return lines


def merged(base: Section, changes: Section) -> dict[str, Any]:
    """Return nested sections with those of the second laid over the first.

    Parameters
    ----------
    base, changes
        Sections; neither is changed.
    """
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _numbers(vector: Any) -> str:
    return " ".join(f"{value:.12f}" for value in vector)
