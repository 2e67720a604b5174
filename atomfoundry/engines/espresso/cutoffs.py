"""Cutoffs of wave functions and density, from what the pseudopotentials ask for."""

from __future__ import annotations

from collections.abc import Iterable

from atomfoundry.engines.espresso.pseudopotentials import minimum_cutoff, own_upf_files
from atomfoundry.engines.espresso.upf_header import UpfHeader, read_header
from atomfoundry.errors import ConfigurationError

NORM_CONSERVING_DUAL = 4.0
"""Density cutoff over wave-function cutoff that represents the square of a wave function exactly."""

AUGMENTED_DUAL = 8.0
"""The same for ultrasoft and PAW files that name no cutoffs (pw.x's documentation: 8 to 12)."""


def needed_cutoff(elements: Iterable[str]) -> float:
    """Return the lowest cutoff of the wave functions that all elements can bear, as far as it is known.

    Parameters
    ----------
    elements
        Chemical symbols.

    Returns
    -------
    float
        eV; 0 where own pseudopotential files do not tell.
    """
    wanted = set(elements)
    own = own_upf_files()
    if own is None:
        return minimum_cutoff(wanted)
    return max((read_header(own[e]).wfc_cutoff or 0.0 for e in wanted if e in own), default=0.0)


def suggested_cutoff(elements: Iterable[str], *, factor: float) -> float:
    """Return the cutoff of the wave functions that elements ask for, times a factor.

    Parameters
    ----------
    elements
        Chemical symbols.
    factor
        The protocol's factor.

    Returns
    -------
    float
        eV.

    Raises
    ------
    ConfigurationError
        If a pseudopotential file does not tell.
    """
    wanted = set(elements)
    own = own_upf_files()
    if own is not None:
        silent = sorted(e for e in wanted if e in own and read_header(own[e]).wfc_cutoff is None)
        if silent:
            raise ConfigurationError(
                f"espresso: {own[silent[0]]} does not say which cutoff it needs.",
                remedy="Set ecutwfc, after a convergence study.",
            )
    return factor * needed_cutoff(wanted)


def dual(elements: Iterable[str] | None) -> float:
    """Return the density cutoff as a multiple of the wave functions'.

    Parameters
    ----------
    elements
        Chemical symbols of all structures that shall lie on one energy surface; None: all with a file.

    Returns
    -------
    float
        4 for norm-conserving pseudopotentials, more for ultrasoft and PAW ones.
    """
    own = own_upf_files()
    if own is None:
        return NORM_CONSERVING_DUAL
    wanted = set(own) if elements is None else set(elements)
    headers = [read_header(path) for element, path in own.items() if element in wanted]
    ratio = NORM_CONSERVING_DUAL
    if any(_silent(header) for header in headers):
        ratio = AUGMENTED_DUAL
    waves = max((header.wfc_cutoff or 0.0 for header in headers), default=0.0)
    density = max((header.rho_cutoff or 0.0 for header in headers if header.augmented), default=0.0)
    return max(ratio, round(density / waves, 3) if waves and density else ratio)


def _silent(header: UpfHeader) -> bool:
    return header.augmented and not (header.wfc_cutoff and header.rho_cutoff)


def functional(elements: Iterable[str] | None) -> str:
    """Return the functional of the pseudopotentials, which pw.x computes with.

    Parameters
    ----------
    elements
        As in ``dual``.

    Returns
    -------
    str
        ``"PBE"`` also where the files do not tell.

    Raises
    ------
    ConfigurationError
        If the files differ.
    """
    own = own_upf_files()
    if own is None:
        return "PBE"
    wanted = set(own) if elements is None else set(elements)
    names = {e: read_header(path).functional or "PBE" for e, path in sorted(own.items()) if e in wanted}
    if len(set(names.values())) > 1:
        raise ConfigurationError(
            "espresso: the pseudopotentials are of different functionals: "
            + ", ".join(f"{element} {name}" for element, name in names.items())
            + ".",
            remedy="Take files of one functional, or name the elements that are used in 'elements'.",
        )
    return next(iter(names.values()), "PBE")
