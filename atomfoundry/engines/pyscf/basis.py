"""Which elements a Gaussian basis has, and with which core potentials."""

from __future__ import annotations

import difflib
import warnings
from functools import lru_cache

from atomfoundry.errors import ConfigurationError

_LAST_ALL_ELECTRON = 36
"""Krypton: beyond, electrons are relativistic, and a basis without core potentials would be nonsense."""


@lru_cache(maxsize=32)
def elements_of(basis: str) -> dict[str, bool]:
    """Return the elements of a basis.

    Parameters
    ----------
    basis
        As PySCF names it.

    Returns
    -------
    dict
        From symbol to whether the basis comes with a core potential for it.

    Raises
    ------
    ConfigurationError
        If there is no such basis.
    """
    from ase.data import chemical_symbols
    from pyscf.gto.basis import ALIAS

    found: dict[str, bool] = {}
    for number, symbol in enumerate(chemical_symbols[1:104], start=1):
        if _has(basis, symbol, ecp=False):
            core = _has(basis, symbol, ecp=True)
            if core or number <= _LAST_ALL_ELECTRON:
                found[symbol] = core
    if not found:
        near = difflib.get_close_matches(basis.replace("-", ""), ALIAS, n=3)
        raise ConfigurationError(
            f"pyscf: unknown basis '{basis}'.",
            remedy=f"Near: {', '.join(near)}." if near else "Take e.g. 'def2-svp', 'def2-tzvppd', '6-31g*', 'cc-pvtz'.",
        )
    return found


def _has(basis: str, symbol: str, *, ecp: bool) -> bool:
    from pyscf.gto.basis import load, load_ecp

    with warnings.catch_warnings():
        # for each missing one PySCF advises another package
        warnings.simplefilter("ignore", UserWarning)
        try:
            return bool(load_ecp(basis, symbol) if ecp else load(basis, symbol))
        except (RuntimeError, KeyError):
            # not found, or found without the wanted section
            return False
