"""Complete an engine's settings from its protocol or the defaults, and check them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atomfoundry.engines.espresso.hubbard import PROJECTORS, named_shells
from atomfoundry.engines.espresso.inputs import D3_VERSIONS
from atomfoundry.engines.espresso.magnetism import ORDERS, SPINS
from atomfoundry.engines.espresso.protocols import find_protocol, one_of, smearing_name
from atomfoundry.errors import ConfigurationError
from atomfoundry.units import RYDBERG

if TYPE_CHECKING:
    from atomfoundry.engines.espresso.engine import EspressoEngine

DEFAULT_CUTOFF = 30 * RYDBERG
DEFAULT_KPOINT_SPACING = 0.4
DEFAULT_SMEARING = 0.05
DEFAULT_SCF_TOLERANCE = 1e-7

_POSITIVE = ("ecutwfc", "ecutrho", "kpoint_spacing", "smearing", "vacuum", "scf_tolerance", "timeout")


def take_protocol(engine: EspressoEngine) -> None:
    """Fill in what is not given; a protocol's cutoff is left open, because it depends on the elements.

    Parameters
    ----------
    engine
        The settings, changed in place.

    Raises
    ------
    ConfigurationError
        If there is no such protocol.
    """
    chosen = find_protocol(engine.protocol) if engine.protocol is not None else None
    defaults: dict[str, float | str] = {
        "kpoint_spacing": chosen.kpoint_spacing if chosen else DEFAULT_KPOINT_SPACING,
        "smearing_kind": chosen.smearing_kind if chosen else "gaussian",
        "smearing": chosen.smearing if chosen else DEFAULT_SMEARING,
        "scf_tolerance": chosen.scf_tolerance if chosen else DEFAULT_SCF_TOLERANCE,
    }
    if chosen is None:
        defaults["ecutwfc"] = DEFAULT_CUTOFF
    for key, value in defaults.items():
        if getattr(engine, key) is None:
            setattr(engine, key, value)


def check_settings(engine: EspressoEngine) -> None:
    """Check all settings, and bring those that can be written in several ways into one form.

    Parameters
    ----------
    engine
        The settings, changed in place.

    Raises
    ------
    ConfigurationError
        Naming the setting that is wrong.
    """
    for key in _POSITIVE:
        value = getattr(engine, key)
        if value is not None and not value > 0:
            raise ConfigurationError(f"espresso: {key} is {value}.", remedy="It must be positive.")
    if engine.program not in (None, "PATH", "pip"):
        raise ConfigurationError(f"espresso: program is '{engine.program}'.", remedy="Take 'PATH' or 'pip'.")
    engine.smearing_kind = smearing_name(engine.smearing_kind)
    one_of(engine.hubbard_projectors, PROJECTORS, setting="hubbard_projectors")
    if engine.dispersion is not None:
        one_of(engine.dispersion, D3_VERSIONS, setting="dispersion")
    _check_spin(engine)
    engine.hubbard_u = named_shells(engine.hubbard_u or {}) or None
    engine.elements = sorted(set(engine.elements)) if engine.elements is not None else None
    if engine.kpoints is not None:
        grid = list(engine.kpoints)
        if len(grid) != 3 or any(not isinstance(n, int) or n < 1 for n in grid):
            raise ConfigurationError(
                f"espresso: kpoints is {grid}.", remedy="Give three numbers of points, each 1 or more."
            )
        engine.kpoints = grid


def _check_spin(engine: EspressoEngine) -> None:
    one_of(engine.spin, SPINS, setting="spin")
    orders = [one_of(order, ORDERS, setting="magnetic_orders") for order in engine.magnetic_orders]
    engine.magnetic_orders = orders
    if not orders:
        raise ConfigurationError("espresso: magnetic_orders is empty.", remedy="Name one or more.")
    if engine.spin != "collinear" and (engine.magnetic_moments or orders != ["ferromagnetic"]):
        raise ConfigurationError(
            f"espresso: magnetic moments or orders with spin '{engine.spin}' have no effect.",
            remedy="Set spin to 'collinear'.",
        )
