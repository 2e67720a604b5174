"""Engines by name."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from atomfoundry.engines.base import Engine, build_engine
from atomfoundry.errors import UnknownEngineError

_ENGINES = {
    "abinit": "atomfoundry.engines.abinit:AbinitEngine",
    "ase": "atomfoundry.engines.ase_calculator:AseCalculatorEngine",
    "cp2k": "atomfoundry.engines.cp2k.engine:Cp2kEngine",
    "espresso": "atomfoundry.engines.espresso.engine:EspressoEngine",
    "forcefield": "atomfoundry.engines.force_fields:ForceFieldEngine",
    "gpaw": "atomfoundry.engines.gpaw.engine:GpawEngine",
    "interpreter": "atomfoundry.engines.interpreter.engine:InterpreterEngine",
    "pyscf": "atomfoundry.engines.pyscf.engine:PyscfEngine",
    "vasp": "atomfoundry.engines.vasp.engine:VaspEngine",
    "xtb": "atomfoundry.engines.xtb:XtbEngine",
}


def list_engines() -> list[str]:
    """Return the names of all engines, sorted."""
    return sorted(_ENGINES)


def get_engine(name: str, **settings: Any) -> Engine:
    """Return an engine.

    Parameters
    ----------
    name
        Its name, see ``list_engines``.
    **settings
        Fields of the engine's class.

    Returns
    -------
    Engine
        Ready to compute; whether its code is installed is told by ``check_available``.

    Raises
    ------
    UnknownEngineError
        If there is no engine of that name.
    ConfigurationError
        If a setting is unknown or wrong.
    """
    if name not in _ENGINES:
        near = difflib.get_close_matches(name.lower(), _ENGINES, n=1, cutoff=0.5)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise UnknownEngineError(f"There is no engine '{name}'.", remedy=f"{hint}Engines: {', '.join(list_engines())}.")
    module, kind = _ENGINES[name].split(":")
    return build_engine(getattr(importlib.import_module(module), kind), settings)
