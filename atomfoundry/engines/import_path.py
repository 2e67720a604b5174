"""Things named by their import path, and arguments that hold such things and files."""

from __future__ import annotations

import hashlib
import importlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from atomfoundry.errors import EngineUnavailableError

NESTED = "calculator_class"
"""A dict argument with this key is a calculator of its own, with the arguments under ``calculator_kwargs``."""

OUTPUTS = frozenset({"directory", "label", "log", "logfile", "outfile", "output_file", "trajectory", "txt"})
"""Arguments that say where a calculator writes: they are no part of a level of theory."""


def load_object(path: str) -> Any:
    """Import what a path names.

    Parameters
    ----------
    path
        ``"package.module:name"`` or ``"package.module.name"``; the name may have dots (a class's method).

    Returns
    -------
    Any
        The class or function.

    Raises
    ------
    EngineUnavailableError
        If it cannot be imported, with the path and the reason.
    """
    module, colon, name = path.partition(":")
    candidates = [(module, name)] if colon else _splits(path)
    reason: Exception | None = None
    for module, name in candidates:
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            reason = reason or error
            if colon or not error.name or not _leads_to(error.name, module):
                break
            continue
        except (ImportError, ValueError, TypeError) as error:
            reason = error
            break
        try:
            for part in name.split("."):
                found = getattr(found, part)
        except AttributeError as error:
            reason = error
            break
        return found
    raise EngineUnavailableError(
        f"'{path}' cannot be imported: {reason or 'it names no module'}.",
        remedy="Give the import path of an installed class or function, e.g. 'ase.calculators.emt.EMT' or "
        "'my_package.potentials:make_calculator'; install its package where it is missing.",
    )


def _splits(path: str) -> list[tuple[str, str]]:
    parts = path.split(".")
    return [(".".join(parts[:n]), ".".join(parts[n:])) for n in range(len(parts) - 1, 0, -1)]


def _leads_to(missing: str, module: str) -> bool:
    """Tell a module that is not there from one that is, but lacks what it imports itself."""
    return module == missing or module.startswith(f"{missing}.")


def make(path: str, arguments: dict[str, Any]) -> Any:
    """Call what a path names, nested calculators among the arguments first.

    Parameters
    ----------
    path
        See ``load_object``.
    arguments
        Plain values; see ``NESTED``.

    Returns
    -------
    Any
        What the call returns.

    Raises
    ------
    EngineUnavailableError
        If it cannot be imported or called with these arguments.
    """
    target = load_object(path)
    values = build(arguments)
    try:
        return target(**values)
    except EngineUnavailableError:
        raise
    except Exception as error:
        # A constructor has as many exception types as there are packages; what fails here fails for every
        # structure, so it must not be taken for one bad label.
        raise EngineUnavailableError(
            f"'{path}' could not be made with {arguments}: {type(error).__name__}: {error}.",
            remedy="Correct its arguments (calculator_kwargs).",
        ) from error


def build(value: Any) -> Any:
    """Return arguments with every nested calculator (see ``NESTED``) made."""
    if isinstance(value, dict):
        if NESTED in value:
            return make(value[NESTED], value.get("calculator_kwargs", {}))
        return {key: build(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [build(item) for item in value]
    return value


def describe(arguments: dict[str, Any]) -> dict[str, str | float | bool]:
    """Return what arguments say about a level of theory.

    Parameters
    ----------
    arguments
        Plain values, nested dicts and lists.

    Returns
    -------
    dict
        Files and folders are told by their content, not by their name: a model that was moved is the same
        level, one that was trained on is another. What only says where to write is left out (see ``OUTPUTS``).
    """
    described: dict[str, str | float | bool] = {}
    for key, value in arguments.items():
        if key in OUTPUTS:
            continue
        if isinstance(value, (bool, float)):
            described[key] = value
        elif isinstance(value, (str, Path)):
            described[key] = _content(value) or str(value)
        elif isinstance(value, (dict, list, tuple)):
            described[key] = json.dumps(_with_contents(value), sort_keys=True, default=repr)
        else:
            described[key] = repr(value)
    return described


def _with_contents(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_contents(item) for key, item in value.items() if key not in OUTPUTS}
    if isinstance(value, (list, tuple)):
        return [_with_contents(item) for item in value]
    if isinstance(value, (str, Path)):
        return _content(value) or str(value)
    return value


def _content(value: str | Path) -> str | None:
    path = Path(value).expanduser()
    try:
        if path.is_file():
            return f"sha256:{_hash(path)}"
        # a bare word is a name, even where a folder happens to be called so
        if path.is_dir() and len(path.parts) > 1:
            return f"sha256:{_folder_hash(path)}"
    except (OSError, ValueError):
        # too long or too odd for a path
        return None
    return None


def _hash(path: Path) -> str:
    status = path.stat()
    return _file_hash(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_hash(path: Path, _size: int, _time: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # training state beside a finished model
        if path.is_file() and name.parts[0] != "checkpoint":
            digest.update(f"{name.as_posix()} {_hash(path)}\n".encode())
    return digest.hexdigest()
