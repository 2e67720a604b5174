"""FireWorks' own settings file, FW_config.yaml."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from atomfoundry.doctor.cluster_files import nearest
from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

FILE = "FW_config.yaml"
SPECIAL = {"ADD_USER_PACKAGES", "ECHO_TEST"}
TIMES = ("PING_TIME_SECS", "RUN_EXPIRATION_SECS", "RAPIDFIRE_SLEEP_SECS")
DEFAULT_PING_S = 3600
DEFAULT_EXPIRATION_S = 4 * 3600
DEFAULT_SLEEP_S = 60
LONGEST_SLEEP_S = 15
LONGEST_PING_S = 1800


@lru_cache
def known_keys() -> frozenset[str]:
    """Return the keys that the installed FireWorks takes; empty where it is not installed.

    FireWorks' source is read, not imported: with a bad file in the way the import itself fails.
    """
    try:
        path = metadata.distribution("fireworks").locate_file("fireworks/fw_config.py")
        tree = ast.parse(Path(str(path)).read_text())
    except (metadata.PackageNotFoundError, OSError, SyntaxError):
        return frozenset()
    names = set()
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name) and not target.id.startswith("__")}
    return frozenset(names | SPECIAL)


def seconds(content: dict[str, Any], key: str, default: float) -> float:
    """Return a number of the settings.

    Parameters
    ----------
    content, key, default
        Content of the file, key, and what FireWorks takes where it is absent.
    """
    value = content.get(key, default)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float(default)


def expiration(world: World) -> float:
    """Return after how many seconds of silence FireWorks takes a job for lost.

    Parameters
    ----------
    world
        What to look at.
    """
    return seconds(world.document(FILE), "RUN_EXPIRATION_SECS", DEFAULT_EXPIRATION_S)


@check("fw-config", "cluster")
def fw_config(world: World) -> Iterator[Finding]:
    """Check that FireWorks reads the project's ``FW_config.yaml``, and that its times are sensible."""
    path = world.cluster / FILE
    bad = list(_competitors(path))
    if not path.is_file():
        bad.append(
            warning(
                f"{path} is missing: rlaunch and lpad have FireWorks' defaults, wait {DEFAULT_SLEEP_S} s between jobs "
                f"and notice a dead worker after {DEFAULT_EXPIRATION_S // 3600} h.",
                f"atomfoundry init cluster {world.folder}, or write 'PING_TIME_SECS: 60', 'RUN_EXPIRATION_SECS: 900' "
                f"and 'RAPIDFIRE_SLEEP_SECS: 1' into {path}.",
            )
        )
        yield from bad
        return
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, ValueError, yaml.YAMLError):
        yield skipped(f"{path} cannot be read (see 'cluster-files')")
        return
    if not isinstance(content, dict):
        yield problem(f"{path} holds no settings: FireWorks cannot be imported with it.", f"Write {path} again.")
        return
    bad += _keys(path, content)
    bad += _times(path, content)
    yield from bad
    if not bad:
        ping, lost = seconds(content, "PING_TIME_SECS", DEFAULT_PING_S), expiration(world)
        yield ok(f"{path}: a job is heard of every {ping:g} s, lost after {lost:g} s", settings=content)


def _competitors(path: Path) -> Iterator[Finding]:
    """Name files that FireWorks reads instead: it takes the first of several."""
    for folder in (Path.cwd(), Path("~/.fireworks").expanduser()):
        other = folder / FILE
        if other.is_file() and other.resolve() != path.resolve():
            yield warning(
                f"FireWorks reads {other} before the project's {path}.",
                f"mv {other} {other}.old (or make it the same: cp {path} {other})",
                path=str(other),
            )
    named = os.environ.get("FW_CONFIG_FILE")
    if named and not Path(named).exists():
        yield problem(f"FW_CONFIG_FILE names {named}, which does not exist.", f"export FW_CONFIG_FILE={path}")


def _keys(path: Path, content: dict[str, Any]) -> Iterator[Finding]:
    known = known_keys()
    for key in content:
        if known and key not in known:
            near = nearest(str(key), known)
            cure = f"Write '{near}' instead of '{key}' in {path}." if near else f"Remove '{key}' from {path}."
            yield problem(
                f"{path} has the unknown key '{key}': FireWorks cannot be imported with it.", cure, key=str(key)
            )


def _times(path: Path, content: dict[str, Any]) -> Iterator[Finding]:
    for key in TIMES:
        if key in content and seconds(content, key, -1.0) <= 0:
            yield problem(
                f"{path}: {key} is {content[key]!r}, which is no time in s.", f"Write '{key}: 300' in {path}."
            )
            return
    ping = seconds(content, "PING_TIME_SECS", DEFAULT_PING_S)
    lost = seconds(content, "RUN_EXPIRATION_SECS", DEFAULT_EXPIRATION_S)
    sleep = seconds(content, "RAPIDFIRE_SLEEP_SECS", DEFAULT_SLEEP_S)
    if lost < 2 * ping:
        yield problem(
            f"{path}: a running job is heard of every {ping:g} s, and is taken for lost after {lost:g} s of silence: "
            "healthy jobs will be run twice.",
            f"Write 'RUN_EXPIRATION_SECS: {4 * ping:g}' in {path} (FireWorks does not derive it from PING_TIME_SECS).",
            PING_TIME_SECS=ping,
            RUN_EXPIRATION_SECS=lost,
        )
    elif ping > LONGEST_PING_S:
        yield warning(
            f"{path}: a running job is heard of every {ping:g} s only: a dead worker is noticed after "
            f"{lost / 3600:.1f} h.",
            f"Write 'PING_TIME_SECS: 300' and 'RUN_EXPIRATION_SECS: 3600' in {path}.",
            PING_TIME_SECS=ping,
        )
    if sleep > LONGEST_SLEEP_S:
        yield warning(
            f"{path}: an idle worker sleeps {sleep:g} s before it looks for a job again.",
            f"Write 'RAPIDFIRE_SLEEP_SECS: 5' in {path}.",
            RAPIDFIRE_SLEEP_SECS=sleep,
        )
