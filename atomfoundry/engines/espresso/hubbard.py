"""Hubbard U: which shell, and how each version of pw.x wants to be told.

Rotationally invariant U of S. L. Dudarev et al., Phys. Rev. B 57, 1505 (1998), on atomic orbitals, orthogonalised
(``ortho-atomic``) or not (``atomic``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from atomfoundry.engines.espresso.occupations import group
from atomfoundry.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

PROJECTORS = {"ortho-atomic": "orthogonalised", "atomic": "as in the file"}
CARD_VERSION = (7, 1)
"""From here on U is a card of its own."""

_SHELL = re.compile(r"^([A-Z][a-z]?)(?:-([1-7][spdf]))?$")
_P_ELEMENTS = {"C": "2p", "N": "2p", "O": "2p"}
_D10_ELEMENTS = {"Zn": "3d", "Ga": "3d", "Cd": "4d", "In": "4d"}


def default_shell(symbol: str) -> str | None:
    """Return the shell that U acts on where none is named; None for an element without a usual one.

    Parameters
    ----------
    symbol
        Chemical symbol.
    """
    from ase.data import atomic_numbers

    number = atomic_numbers[symbol]
    if 57 <= number <= 71 or 89 <= number <= 103:
        return "4f" if number < 80 else "5f"
    if symbol in _P_ELEMENTS or symbol in _D10_ELEMENTS:
        return (_P_ELEMENTS | _D10_ELEMENTS)[symbol]
    if group(symbol) in range(3, 12):
        return f"{3 + (number > 36) + (number > 54)}d"
    return None


def named_shells(values: Mapping[str, float]) -> dict[str, float]:
    """Return U with its shells named, ``{"Fe": 4.0}`` -> ``{"Fe-3d": 4.0}``.

    Parameters
    ----------
    values
        U in eV by element (``"Fe"``) or shell (``"Fe-3d"``).

    Returns
    -------
    dict
        Sorted; U of zero is left out.

    Raises
    ------
    ConfigurationError
        If a key is neither, or an element has no usual shell or two.
    """
    from ase.data import atomic_numbers

    named: dict[str, float] = {}
    for key, value in values.items():
        found = _SHELL.match(key)
        shell = found and found[1] in atomic_numbers and (found[2] or default_shell(found[1]))
        if not found or not shell:
            raise ConfigurationError(
                f"espresso: hubbard_u names '{key}'.",
                remedy="Name an element and its shell, e.g. {'Fe-3d': 4.0}.",
            )
        if any(other.startswith(f"{found[1]}-") for other in named):
            raise ConfigurationError(f"espresso: hubbard_u names {found[1]} twice.", remedy="Give one shell a U.")
        if value:
            named[f"{found[1]}-{shell}"] = float(value)
    return dict(sorted(named.items()))


def hubbard_input(
    values: Mapping[str, float],
    labels: Iterable[str],
    *,
    projectors: str,
    version: tuple[int, int],
) -> tuple[dict[str, Any], list[str]]:
    """Return what pw.x must be told.

    Parameters
    ----------
    values
        U in eV, from ``named_shells``.
    labels
        Species of the input in their order, e.g. ``["Fe", "Fe1", "O"]``.
    projectors
        One of ``PROJECTORS``.
    version
        Version of pw.x.

    Returns
    -------
    system : dict
        For the section ``system``.
    cards : list of str
        Lines of the card; empty for a pw.x before 7.1.

    Raises
    ------
    ConfigurationError
        If an old pw.x cannot have U on this shell.
    """
    shells = {key.split("-")[0]: (key.split("-")[1], u) for key, u in values.items()}
    species = [(i, label, re.sub(r"\d", "", label)) for i, label in enumerate(labels, start=1)]
    wanted = [(i, label, symbol) for i, label, symbol in species if symbol in shells]
    if not wanted:
        return {}, []
    if version >= CARD_VERSION:
        lines = [f"U {label}-{shells[symbol][0]} {shells[symbol][1]:.10g}" for _, label, symbol in wanted]
        return {}, [f"HUBBARD ({projectors})", *lines]
    system: dict[str, Any] = {"lda_plus_u": True, "U_projection_type": projectors}
    for i, _, symbol in wanted:
        shell, u = shells[symbol]
        if shell != default_shell(symbol):
            raise ConfigurationError(
                f"espresso: pw.x {version[0]}.{version[1]} cannot have U on {symbol}-{shell}.",
                remedy="Take pw.x 7.1 or later.",
            )
        system[f"Hubbard_U({i})"] = u
    return system, []


def check_orbitals(values: Mapping[str, float], files: Mapping[str, Path]) -> None:
    """Check that the pseudopotentials hold the wave functions that U projects on.

    Parameters
    ----------
    values
        U, from ``named_shells``.
    files
        Element -> UPF file.

    Raises
    ------
    ConfigurationError
        Naming a file that does not.
    """
    from atomfoundry.engines.espresso.upf_header import read_header

    for key in values:
        symbol, shell = key.split("-")
        if symbol in files and shell.upper() not in read_header(files[symbol]).orbitals:
            raise ConfigurationError(
                f"espresso: U on {key} needs this wave function, which {files[symbol].name} does not hold.",
                remedy="Use a pseudopotential with atomic wave functions (SSSP, pslibrary, PseudoDojo), see "
                "ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR; the SPMS family has none.",
            )
