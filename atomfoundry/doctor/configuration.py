"""The settings file and the ATOMFOUNDRY_* variables."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.doctor.findings import Finding, ok, problem, warning
from atomfoundry.doctor.registry import check
from atomfoundry.settings import DEFAULT_SETTINGS_FILE, AtomfoundrySettings, settings

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

PREFIX = "ATOMFOUNDRY_"
OTHER_VARIABLES = {
    "ATOMFOUNDRY_DEADLINE",
    "ATOMFOUNDRY_DEADLINE_MARGIN",
    "ATOMFOUNDRY_FW_ID",
    "ATOMFOUNDRY_LABEL_PROCESS",
    "ATOMFOUNDRY_MONGODB_PASSWORD",
    "ATOMFOUNDRY_DATABASE",
    "ATOMFOUNDRY_PASSWORD",
    "ATOMFOUNDRY_USER",
    "ATOMFOUNDRY_SETTINGS_FILE",
    "ATOMFOUNDRY_TEST_MONGODB_URI",
    "ATOMFOUNDRY_WORKER",
}
"""Variables that are read but are no settings."""


@check("settings", "machine")
def settings_file(world: World) -> Iterator[Finding]:
    """Check that the settings can be read, and that they name what exists."""
    from atomfoundry.errors import ConfigurationError

    path = Path(os.environ.get("ATOMFOUNDRY_SETTINGS_FILE", DEFAULT_SETTINGS_FILE)).expanduser()
    if "ATOMFOUNDRY_SETTINGS_FILE" in os.environ and not path.is_file():
        yield warning(
            f"ATOMFOUNDRY_SETTINGS_FILE names {path}, which does not exist: defaults are used.",
            "unset ATOMFOUNDRY_SETTINGS_FILE",
        )
    try:
        read = settings()
    except ConfigurationError as error:
        yield problem(error.message, f"{_nearest_key(path)}{error.remedy}", file=str(path))
        return
    bad = []
    for name in ("project", "espresso_pseudo_dir", "lammps", "lammps_mpi_include", "test_data"):
        value = getattr(read, name, None)
        if value is not None and not Path(value).expanduser().exists():
            bad.append(
                warning(
                    f"The setting {name} names {value}, which does not exist.",
                    f"unset {PREFIX}{name.upper()}, or correct '{name}' in {path}",
                )
            )
    yield from bad
    if not bad:
        chosen = sorted(read.model_fields_set)
        source = str(path) if path.is_file() else f"no file {path}"
        yield ok(f"Settings: {', '.join(chosen) or 'all by default'} ({source})", chosen=chosen)


def _nearest_key(path: Path) -> str:
    """Return a hint where the file has a key that nearly is a setting."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    for key in content if isinstance(content, dict) else ():
        if key not in AtomfoundrySettings.model_fields:
            near = difflib.get_close_matches(str(key), AtomfoundrySettings.model_fields, n=1, cutoff=0.5)
            if near:
                return f"Write '{near[0]}' instead of '{key}' in {path}. "
    return ""


@check("variables", "machine")
def variables(world: World) -> Iterator[Finding]:
    """Look for ``ATOMFOUNDRY_*`` variables that nothing reads."""
    known = {f"{PREFIX}{name.upper()}" for name in AtomfoundrySettings.model_fields} | OTHER_VARIABLES
    given = sorted(name for name in os.environ if name.upper().startswith(PREFIX))
    unknown = [name for name in given if name.upper() not in known]
    for name in unknown:
        # without the prefix, which is alike in all
        words = sorted(each.removeprefix(PREFIX) for each in known)
        near = [PREFIX + word for word in difflib.get_close_matches(name.upper().removeprefix(PREFIX), words, n=1)]
        meant = f" Is {near[0]} meant?" if near else ""
        cure = f'export {near[0]}="${name}"; unset {name}' if near else f"unset {name}"
        yield warning(
            f"Nothing reads the variable {name}.{meant}", cure, variable=name, nearest=near[0] if near else None
        )
    if not unknown:
        yield ok(f"Variables: {', '.join(given) or 'none set'}", names=given)
