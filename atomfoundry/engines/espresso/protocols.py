"""Named sets of numerical settings, and the kinds of smearing."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from atomfoundry.errors import ConfigurationError
from atomfoundry.units import RYDBERG


@dataclass(frozen=True)
class Protocol:
    """How exact a calculation is.

    Attributes
    ----------
    kpoint_spacing
        Largest distance of neighbouring k-points, 1/A with the factor 2 pi.
    cutoff_factor
        Times what the pseudopotentials ask for.
    smearing_kind
        See ``SMEARINGS``.
    smearing
        Width, eV.
    scf_tolerance
        Estimated energy error at which the cycle ends, eV/atom.
    """

    kpoint_spacing: float
    cutoff_factor: float
    smearing_kind: str
    smearing: float
    scf_tolerance: float


PROTOCOLS = {
    "fast": Protocol(0.50, 1.0, "cold", 0.0275 * RYDBERG, 0.4e-9 * RYDBERG),
    "balanced": Protocol(0.15, 1.2, "cold", 0.02 * RYDBERG, 0.2e-9 * RYDBERG),
    "stringent": Protocol(0.10, 1.5, "cold", 0.0125 * RYDBERG, 0.1e-9 * RYDBERG),
}
"""k-points, smearing and tolerance are those of aiida-quantumespresso's protocols (there "fast", "moderate" and
"precise" at first); the factors on what the pseudopotentials ask for are ours."""

SMEARINGS = {"gaussian": "gaussian", "cold": "cold", "methfessel-paxton": "mp", "fermi-dirac": "fd"}
"""Our names and those of pw.x."""

_ALIASES = {
    "gauss": "gaussian",
    "mv": "cold",
    "marzari-vanderbilt": "cold",
    "m-v": "cold",
    "mp": "methfessel-paxton",
    "m-p": "methfessel-paxton",
    "fd": "fermi-dirac",
    "f-d": "fermi-dirac",
}


def find_protocol(name: str) -> Protocol:
    """Return a protocol.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    return PROTOCOLS[one_of(name, PROTOCOLS, setting="protocol")]


def smearing_name(kind: str) -> str:
    """Return our name of a kind of smearing, also for pw.x's own short names.

    Raises
    ------
    ConfigurationError
        If there is no such kind.
    """
    lower = kind.lower()
    return one_of(_ALIASES.get(lower, lower), SMEARINGS, setting="smearing_kind")


def one_of(value: str, known: Mapping[str, object], *, setting: str) -> str:
    """Return a value that is one of those known.

    Raises
    ------
    ConfigurationError
        If it is not, with the nearest one.
    """
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), list(known), n=1)
    raise ConfigurationError(
        f"espresso: {setting} is '{value}'.",
        remedy=f"Did you mean '{near[0]}'?" if near else f"Take one of: {', '.join(known)}.",
    )
