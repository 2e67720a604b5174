"""From the description of a calculator to the calculator, or to the engine that labels with it: the one place."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from atomfoundry.documents.calculator import CalculatorSpec
from atomfoundry.engines.ase_calculator import CalculatorEngine
from atomfoundry.engines.force_fields import ForceFieldEngine
from atomfoundry.engines.interpreter.engine import InterpreterEngine
from atomfoundry.engines.registry import get_engine
from atomfoundry.errors import ConfigurationError

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.engines.base import Engine

OUR_CALCULATOR = "atomfoundry.models.FoundryCalculator"


def calculator_spec(value: CalculatorSpec | Mapping[str, Any], *, where: str = "calculator") -> CalculatorSpec:
    """Return a description from plain values.

    Parameters
    ----------
    value
        Fields of `CalculatorSpec`.
    where
        For messages.

    Raises
    ------
    ConfigurationError
        Naming the key that is wrong.
    """
    if isinstance(value, CalculatorSpec):
        return value
    try:
        return CalculatorSpec.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{where}: {f'{key!r}: ' if key else ''}{first['msg']}.",
            remedy=f"E.g. {{'calculator_class': 'ase.calculators.emt.EMT'}}; it has: "
            f"{', '.join(CalculatorSpec.model_fields)}.",
        ) from error


def read_calculator_spec(text: str) -> CalculatorSpec:
    """Return the description that a word of the command line stands for.

    Parameters
    ----------
    text
        Folder of a model of ours; a JSON, TOML or YAML file of a description; an import path, such as
        ``"ase.calculators.emt.EMT"``; or the name of one of atomate2's force fields, such as ``"CHGNet"``.

    Raises
    ------
    ConfigurationError
        If it is none of these.
    """
    path = Path(text)
    if path.is_dir():
        return CalculatorSpec(model=text)
    if path.suffix in (".json", ".toml", ".yaml", ".yml"):
        return calculator_spec(read_mapping(path), where=text)
    if "/" not in text and (":" in text or "." in text):
        return CalculatorSpec(calculator_class=text)
    if "/" in text or path.exists():
        raise ConfigurationError(
            f"'{text}' is {'a file' if path.exists() else 'not there'}, no model.",
            remedy="Give a model folder, a JSON, TOML or YAML file that describes a calculator, an import path such "
            "as 'ase.calculators.emt.EMT', or a force field's name such as 'CHGNet'.",
        )
    return CalculatorSpec(force_field=ForceFieldEngine(calculator_meta=text).calculator_meta)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a mapping from a JSON, TOML or YAML file, by its suffix.

    Raises
    ------
    ConfigurationError
        If it is missing, of another kind, or broken.
    """
    import yaml

    readers = {".json": json.loads, ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}
    if path.suffix not in readers:
        raise ConfigurationError(f"'{path}' is no {', '.join(sorted(readers))} file.", remedy="Rename it.")
    try:
        content = readers[path.suffix](path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"'{path}' cannot be read: {error.strerror}.", remedy="Check the path.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"'{path}' is broken: {error}.", remedy="Correct it.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"'{path}' holds a {type(content).__name__}, no mapping.", remedy="Correct it.")
    return content


def engine_settings(spec: CalculatorSpec | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and settings of the engine that labels with a calculator, as `LabelMaker` takes them.

    Parameters
    ----------
    spec
        The description.

    Raises
    ------
    ConfigurationError
        If it is wrong.
    """
    spec = calculator_spec(spec)
    if spec.engine:
        return spec.engine, dict(spec.kwargs)
    settings: dict[str, Any] = {"calculator_kwargs": dict(spec.kwargs), "profile": spec.profile}
    if spec.packages:
        settings["packages"] = dict(spec.packages)
    if spec.elements:
        settings["elements"] = list(spec.elements)
    if spec.force_field:
        return "forcefield", {"calculator_meta": spec.force_field, **settings}
    if spec.model:
        settings["calculator_kwargs"]["model"] = spec.model
        return "ase", {"calculator_class": OUR_CALCULATOR, "reuse": True, **settings}
    settings["calculator_class"] = spec.calculator_class
    if spec.interpreter:
        settings |= {"interpreter": spec.interpreter, "environment": dict(spec.environment), "timeout": spec.timeout}
        return "interpreter", settings
    return "ase", settings


def engine_of(spec: CalculatorSpec | Mapping[str, Any]) -> Engine:
    """Return the engine that labels with a calculator.

    Parameters
    ----------
    spec
        The description.

    Raises
    ------
    InputError
        If it is wrong, or there is no such engine.
    """
    name, settings = engine_settings(spec)
    return get_engine(name, **settings)


def calculator_of(spec: CalculatorSpec | Mapping[str, Any]) -> BaseCalculator:
    """Return the calculator that a description stands for.

    Parameters
    ----------
    spec
        The description.

    Returns
    -------
    BaseCalculator
        The class's own object where it is one; engines and force fields behind an engine's calculator.

    Raises
    ------
    EngineUnavailableError
        If its package, interpreter or program is not there, or it cannot be made.
    ConfigurationError
        If the description is wrong.
    """
    engine = engine_of(spec)
    if not isinstance(engine, CalculatorEngine) or isinstance(engine, ForceFieldEngine):
        engine.check_available()
        return engine.calculator()
    # making it tells what is missing as well as a check would; another interpreter checks its own versions
    if not isinstance(engine, InterpreterEngine):
        engine.check_packages()
    return engine.make_calculator(dict(engine.calculator_kwargs))
