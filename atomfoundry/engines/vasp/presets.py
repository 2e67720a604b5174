"""The presets: atomate2's static Makers by name, changed the way atomate2's powerups change them."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atomfoundry.errors import ConfigurationError

if TYPE_CHECKING:
    from atomate2.vasp.jobs.base import BaseVaspMaker

PRESETS = {
    "static": "atomate2.vasp.jobs.core:StaticMaker",
    "static_pbe": "atomate2.vasp.jobs.mp:MPGGAStaticMaker",
    "static_hse": "atomate2.vasp.jobs.core:HSEStaticMaker",
    "mp_static_r2scan": "atomate2.vasp.jobs.mp:MPMetaGGAStaticMaker",
    "mp24_static_r2scan": "atomate2.vasp.jobs.mp:MP24StaticMaker",
    "matpes_pbe": "atomate2.vasp.jobs.matpes:MatPesGGAStaticMaker",
    "matpes_r2scan": "atomate2.vasp.jobs.matpes:MatPesMetaGGAStaticMaker",
}
"""Preset -> atomate2's Maker. ``static`` is PBEsol at 680 eV, ``static_pbe`` the Materials Project's PBE(+U)."""

_KPOINT_KEYS = ("reciprocal_density", "grid_density", "grid", "shift")


def check_settings(preset: str, incar: Mapping[str, Any], kpoints: Mapping[str, Any]) -> None:
    """Check what a user chose, without importing atomate2.

    Raises
    ------
    ConfigurationError
        If the preset or a k-point setting is unknown, or if an INCAR tag makes more than a single point of it.
    """
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1)
        raise ConfigurationError(
            f"vasp: there is no preset '{preset}'.",
            remedy=f"Did you mean '{near[0]}'?" if near else f"Presets: {', '.join(PRESETS)}.",
        )
    for key in kpoints:
        if key not in _KPOINT_KEYS:
            near = difflib.get_close_matches(key, _KPOINT_KEYS, n=1)
            raise ConfigurationError(
                f"vasp: user_kpoints_settings has '{key}'.",
                remedy=f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(_KPOINT_KEYS)}.",
            )
    for key, value in incar.items():
        if key != key.upper():
            raise ConfigurationError(f"vasp: user_incar_settings has '{key}'.", remedy=f"Write '{key.upper()}'.")
        moving = (key == "NSW" and value) or (key == "IBRION" and value not in (-1, None))
        if moving or (key == "ICHARG" and (value or 0) >= 10) or (key in ("ML_LMLFF", "LEPSILON") and value):
            raise ConfigurationError(
                f"vasp: {key} = {value} is no self-consistent single point.", remedy=f"Leave {key} out."
            )
        if key == "MAGMOM" and not isinstance(value, Mapping):
            raise ConfigurationError(
                "vasp: MAGMOM is a list, which fits one structure only.",
                remedy="Give moments by element, {'MAGMOM': {'Fe': 5}}.",
            )


def build_maker(
    preset: str,
    *,
    incar: Mapping[str, Any],
    kpoints: Mapping[str, Any],
    potcars: Mapping[str, str],
    potcar_functional: str | None,
) -> BaseVaspMaker:
    """Return atomate2's Maker of a preset with a user's changes, made by atomate2's powerups.

    Parameters
    ----------
    preset
        See ``PRESETS``.
    incar
        INCAR tags; None takes a tag out.
    kpoints
        ``{"reciprocal_density": 100}``, ``{"grid_density": 1000}`` or ``{"grid": [4, 4, 4]}``.
    potcars
        POTCAR symbols by element, ``{"Fe": "Fe_pv"}``.
    potcar_functional
        E.g. ``"PBE_54"``; None takes the preset's.

    Returns
    -------
    BaseVaspMaker
        Of its own: nothing of it is shared.
    """
    from atomate2.vasp import powerups

    module, name = PRESETS[preset].split(":")
    maker = getattr(importlib.import_module(module), name)()
    with warnings.catch_warnings():
        # "Overriding POTCARs is not recommended": it was asked for, and the level of theory says so.
        warnings.simplefilter("ignore")
        if potcar_functional:
            maker = powerups.update_user_potcar_functional(maker, potcar_functional)
        if potcars:
            maker = powerups.update_user_potcar_settings(maker, dict(potcars))
        if kpoints:
            maker = powerups.update_user_kpoints_settings(maker, _kpoints(kpoints))
        if incar:
            maker = powerups.update_user_incar_settings(maker, dict(incar))
    return maker


def _kpoints(settings: Mapping[str, Any]) -> Any:
    if "grid" not in settings:
        return dict(settings)
    from pymatgen.io.vasp import Kpoints

    shift = tuple(float(value) for value in settings.get("shift", (0, 0, 0)))
    grid = tuple(int(value) for value in settings["grid"])
    return Kpoints.gamma_automatic(grid, shift)  # type: ignore[arg-type]
