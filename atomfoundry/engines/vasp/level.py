"""The level of theory of an input set, read from the set itself; neither VASP nor a POTCAR is needed.

A set writes another INCAR for every structure: +U where oxygen or fluorine is, moments by element, other smearing for
fewer than four k-points. The level records the rule, with its numbers, so that all structures of a campaign have one
level, as their labels come from one rule. Three things follow. ``hubbard_u`` has keys such as ``"Fe with O"``; an
oxide's harvested output says ``{"Fe": 5.3}``. And with +U an oxide and the metal in it lie on different surfaces, as
they do in the Materials Project: for one potential over both, switch it off with ``user_incar_settings={"LDAU":
False}`` or take a MatPES preset. Last, the level that the harvest reads from such a run agrees in code, functional,
cutoff, smearing, dispersion and spin, and is silent on k-points, POTCAR release and symbols, ``PREC``, ``LASPH`` and
rules, none of which one output states; so its id is another. ``harvest(folder, level=engine.level)`` says that folders
written by ``write_inputs`` are of the engine's level.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.vasp.tags import dispersion_name, functional_name, spin_name, surface_tags

if TYPE_CHECKING:
    from pymatgen.io.vasp.sets import VaspInputSet

_NAMED_TAGS = """
GGA METAGGA LHFCALC AEXX HFSCREEN ENCUT ISMEAR SIGMA IVDW LUSE_VDW ZAB_VDW ISPIN LNONCOLLINEAR LSORBIT KSPACING
MAGMOM LDAU LDAUU LDAUJ LDAUL LDAUTYPE
"""
_NAMED = frozenset(_NAMED_TAGS.split())
_TRUE_BY_DEFAULT = frozenset({"GGA_COMPAT", "KGAMMA"})


def level_of(generator: VaspInputSet, *, vacuum: float) -> LevelOfTheory:
    """Return the level of theory of an input set.

    Parameters
    ----------
    generator
        atomate2's or pymatgen's input set, without a structure; not changed.
    vacuum
        Empty space on each side where a structure is not periodic, A.

    Returns
    -------
    LevelOfTheory
        Every INCAR tag that is not known to change only cost is in it, under a field of its own or in ``extra``.
    """
    probe = deepcopy(generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe.structure = _probe()
        tags = surface_tags(probe.incar)
        mesh = probe.kpoints
    configured = _configured(probe)
    extra: dict[str, str | float | bool] = {
        key: _plain(value)
        for key, value in tags.items()
        if key not in _NAMED and value is not (key in _TRUE_BY_DEFAULT)
    }
    ismear, sigma = int(tags.get("ISMEAR", 1)), float(tags.get("SIGMA", 0.2))
    if ismear == -5:
        extra["below_4_kpoints"] = f"ISMEAR=0 SIGMA={sigma:g}"
    if mesh is not None:
        extra["kpoints"] = _mesh_rule(probe, mesh)
    spin = spin_name(tags)
    if spin != "none":
        extra["initial_moments"] = _digest(configured.get("MAGMOM", {}))
    hubbard = _hubbard(configured)
    if hubbard:
        extra["hubbard_rule"] = (
            f"LDAUTYPE={int(configured.get('LDAUTYPE', 2))}, where the named anion is the most electronegative element"
        )
        exchange = _hubbard({**configured, "LDAUU": configured.get("LDAUJ", {})})
        if exchange:
            extra["hubbard_j"] = _text(exchange)
        extra["hubbard_l"] = _digest(configured.get("LDAUL", {}))
    functional = str(probe.user_potcar_functional)
    extra["potcar_symbols"] = _digest(probe._config_dict["POTCAR"])
    extra["vacuum"] = vacuum
    extra["isolated_atoms"] = "ground-state moment, without entropy"
    return LevelOfTheory(
        code="vasp",
        method=functional_name(tags, potcar_functional=functional),
        cutoff=float(tags["ENCUT"]) if "ENCUT" in tags else None,
        pseudopotentials=functional,
        kpoint_spacing=float(tags.get("KSPACING", 0.5)) if mesh is None else None,
        smearing=f"ISMEAR={ismear} SIGMA={sigma:g}",
        dispersion=dispersion_name(tags),
        hubbard_u=hubbard or None,
        spin=spin,
        extra=extra,
    )


def _probe() -> Any:
    """Return a structure that triggers none of the rules by element: the tags that are left hold for all."""
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice.cubic(5.43), ["Si"] * 2, [[0, 0, 0], [0.25, 0.25, 0.25]])


def _configured(generator: Any) -> dict[str, Any]:
    """Return the INCAR part of the set with the user's changes, before any structure is looked at."""
    settings = dict(generator._config_dict["INCAR"])
    for updates in (generator.incar_updates, generator.user_incar_settings):
        for key, value in updates.items():
            if value is None:
                settings.pop(key, None)
            else:
                settings[key] = value
    return settings


def _hubbard(configured: dict[str, Any]) -> dict[str, float]:
    """Flatten +U: ``{"O": {"Fe": 5.3}}`` is "Fe with O", ``{"Fe": 5.3}`` is "Fe" whatever is with it."""
    if not configured.get("LDAU"):
        return {}
    flat: dict[str, float] = {}
    for key, value in (configured.get("LDAUU") or {}).items():
        if isinstance(value, dict):
            flat |= {f"{metal} with {key}": float(u) for metal, u in value.items() if u}
        elif value:
            flat[key] = float(value)
    return dict(sorted(flat.items()))


def _mesh_rule(probe: Any, mesh: Any) -> str:
    style = getattr(mesh.style, "name", str(mesh.style)).lower()
    chosen = probe.user_kpoints_settings or probe.kpoints_updates or probe._config_dict.get("KPOINTS", {})
    if not isinstance(chosen, dict):
        shift = " ".join(f"{value:g}" for value in mesh.kpts_shift)
        return f"{style} {'x'.join(str(int(n)) for n in mesh.kpts[0])} shift {shift}"
    density = next(key for key in ("grid_density", "reciprocal_density") if chosen.get(key))
    centre = "gamma-centred" if probe.force_gamma else "Monkhorst-Pack, gamma-centred where hexagonal"
    return f"{density} {float(chosen[density]):g}, {centre}"


def _digest(table: Any) -> str:
    return hashlib.sha256(_text(table).encode()).hexdigest()[:10]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _plain(value: Any) -> str | float | bool:
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        return float(value)
    return _text(value)
