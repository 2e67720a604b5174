"""Flow files: YAML that names a workflow Maker and its arguments, validated before anything runs.

.. code-block:: yaml

    workflow: FoundationFlowMaker
    preset: quickstart          # optional: start from a shipped preset
    arguments:
      seed: 7
      crystal_labels:
        engine: xtb
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jobflow import Maker
from pydantic import TypeAdapter, ValidationError

from atomfoundry.errors import ConfigurationError

TOP_KEYS = ("workflow", "preset", "arguments")


def list_presets() -> list[str]:
    """Return the names of the shipped flow presets."""
    folder = files("atomfoundry.workflows") / "presets"
    return sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_preset(name: str, overrides: dict[str, Any] | None = None) -> Maker:
    """Build the workflow Maker of a shipped preset.

    Raises
    ------
    ConfigurationError
        If there is no such preset or an override is wrong.
    """
    return build_flow_maker(_read_preset(name), where=f"preset '{name}'", overrides=overrides)


def load_flow_file(path: str | Path, overrides: dict[str, Any] | None = None) -> Maker:
    """Build the workflow Maker that a flow file describes.

    Raises
    ------
    ConfigurationError
        If the file is missing, is not YAML, or has an unknown key or a value of the wrong type; the message names
        the file, the key and the nearest valid name.
    """
    return build_flow_maker(_read_flow_file(Path(path)), where=str(path), overrides=overrides)


def flow_file_arguments(path: str | Path) -> dict[str, Any]:
    """Return the arguments that a flow file itself gives, without those of the preset it starts from.

    Raises
    ------
    ConfigurationError
        If the file is missing or is not YAML.
    """
    document = _read_flow_file(Path(path))
    return dict(document.get("arguments") or {}) if isinstance(document, dict) else {}


def build_flow_maker(document: Any, *, where: str, overrides: dict[str, Any] | None = None) -> Maker:
    """Build a workflow Maker from the parsed content of a flow file."""
    from atomfoundry import workflows

    if not isinstance(document, dict):
        raise ConfigurationError(f"{where} must be a mapping.", remedy=f"Top keys: {', '.join(TOP_KEYS)}.")
    for key in document:
        if key not in TOP_KEYS:
            raise ConfigurationError(f"{where}: unknown key '{key}'.", remedy=nearest(str(key), TOP_KEYS))
    arguments = dict(document.get("arguments") or {})
    name = document.get("workflow")
    if "preset" in document:
        base = _read_preset(str(document["preset"]))
        name = name or base.get("workflow")
        arguments = merge(dict(base.get("arguments") or {}), arguments)
    if overrides:
        arguments = merge(arguments, overrides)
    known = [n for n in workflows.__all__ if n.endswith("Maker")]
    if name not in known:
        raise ConfigurationError(f"{where}: unknown workflow '{name}'.", remedy=nearest(str(name), known))
    return build_maker(getattr(workflows, name), arguments, where=where)


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings: a value of ``top`` wins, and another engine drops the old one's settings."""
    merged = dict(base)
    if "engine" in top and top["engine"] != base.get("engine"):
        merged.pop("engine_settings", None)
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def build_maker(maker_class: type, arguments: dict[str, Any], *, where: str, path: str = "") -> Any:
    """Build a Maker from nested mappings; every key and type is checked against the dataclass fields."""
    fields = {f.name: f for f in dataclasses.fields(maker_class) if f.init}
    hints = typing.get_type_hints(maker_class)
    values: dict[str, Any] = {}
    for key, value in arguments.items():
        location = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise ConfigurationError(
                f"{where}: {maker_class.__name__} has no argument '{location}'.",
                remedy=nearest(str(key), list(fields)),
            )
        nested = _maker_class(hints[key])
        if nested is not None and isinstance(value, dict):
            values[key] = build_maker(nested, value, where=where, path=location)
            continue
        if nested is not None and isinstance(value, list) and all(isinstance(item, dict) for item in value):
            values[key] = [
                build_maker(nested, item, where=where, path=f"{location}[{number}]")
                for number, item in enumerate(value)
            ]
            continue
        try:
            values[key] = TypeAdapter(hints[key], config={"arbitrary_types_allowed": True}).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigurationError(
                f"{where}: '{location}' is {value!r}: {first['msg']}.", remedy=f"Expected: {hints[key]}."
            ) from error
    try:
        return maker_class(**values)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{where}: {path or maker_class.__name__}: {error}.") from error


def nearest(word: str, choices: typing.Iterable[str]) -> str:
    """Return a remedy sentence that names the nearest valid name, else all of them."""
    names = list(choices)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Valid: {', '.join(names)}."


def _maker_class(hint: Any) -> type | None:
    candidates = typing.get_args(hint) or (hint,)
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, Maker):
            return candidate
    return None


def _read_flow_file(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(
            f"Flow file {path} does not exist.", remedy=f"Shipped presets: {', '.join(list_presets())}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Flow file {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"Flow file {path} is not YAML: {' '.join(str(error).split())}.") from error


def _read_preset(name: str) -> dict[str, Any]:
    path = files("atomfoundry.workflows") / "presets" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigurationError(f"No flow preset '{name}' and no such file.", remedy=nearest(name, list_presets()))
    return yaml.safe_load(path.read_text())
