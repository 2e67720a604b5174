"""The level of theory of an engine's settings: everything that moves the energy surface, nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.espresso.cutoffs import functional
from atomfoundry.engines.espresso.pseudopotentials import family_name

if TYPE_CHECKING:
    from atomfoundry.engines.espresso.engine import EspressoEngine


def level_of(engine: EspressoEngine) -> LevelOfTheory:
    """Return the level of theory of an engine.

    Parameters
    ----------
    engine
        The settings. Those that did not exist yet when a label was made do not appear while they have their
        defaults, so that its level keeps its id.
    """
    return LevelOfTheory(
        code="espresso",
        method=functional(engine.elements),
        cutoff=engine.cutoff,
        density_cutoff=engine.density_cutoff,
        pseudopotentials=family_name(),
        kpoint_spacing=engine.kpoint_spacing if engine.kpoints is None else None,
        smearing=f"{engine.smearing_kind} {engine.smearing:g}",
        spin=engine.spin,
        dispersion=engine.dispersion,
        hubbard_u=engine.hubbard_u,
        extra=_extra(engine),
    )


def _extra(engine: EspressoEngine) -> dict[str, str | float | bool]:
    extra: dict[str, str | float | bool] = {}
    if engine.input_data:
        extra["input_data"] = json.dumps(engine.input_data, sort_keys=True)
    extra |= {"vacuum": engine.vacuum, "kpoint_shift": engine.kpoint_shift, "open_shell_atoms": "spherical"}
    if engine.kpoints is not None:
        extra["kpoints"] = " ".join(map(str, engine.kpoints))
    if engine.magnetic_moments:
        extra["magnetic_moments"] = json.dumps(engine.magnetic_moments, sort_keys=True)
    if engine.magnetic_orders != ["ferromagnetic"]:
        extra["magnetic_orders"] = " ".join(sorted(engine.magnetic_orders))
    if engine.hubbard_u:
        extra["hubbard_projectors"] = engine.hubbard_projectors
    if engine.dispersion:
        extra["dispersion_three_body"] = False
    return extra
