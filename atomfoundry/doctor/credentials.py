"""Credentials: readable by their owner alone, and nowhere but where they belong. None is ever shown."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.doctor.findings import Finding, ok, problem, warning
from atomfoundry.doctor.registry import check
from atomfoundry.results.mongodb import LAUNCHPAD_FILE, PASSWORD_VARIABLE
from atomfoundry.settings import DEFAULT_SETTINGS_FILE

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

PASSWORDS_FILE = "mongodb/passwords.env"
ALLOWED = (LAUNCHPAD_FILE, "jobflow.yaml", PASSWORDS_FILE)
"""The only files of the cluster folder that may hold a credential."""
_KEY = r"[\w.]*(?:password|passwd|secret|token|api_key|project_key)"
PATTERNS = (
    # a URI with user and password
    re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@'\"]+:(?P<secret>[^@\s'\"/]+)@"),
    # NAME_PASSWORD=..., as shells, cron and systemd have it
    re.compile(
        r"(?m)^[^#\n]*?\b[A-Z0-9_]*(?:PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|PROJECT_KEY)=[\"']?(?P<secret>[^\s\"'#,;]+)"
    ),
    # a line 'password: ...' of YAML; prose goes on after the word
    re.compile(rf"(?im)^[ \t]*(?:- )?{_KEY}[ \t]*:[ \t]*[\"']?(?P<secret>[^\s\"'#,}}]+)[\"']?[ \t]*(?:#.*)?$"),
    # the same in JSON
    re.compile(rf"(?i)[\"']{_KEY}[\"'][ \t]*:[ \t]*[\"'](?P<secret>[^\"'\n]+)[\"']"),
)
HARMLESS = re.compile(r"^(?:null|none|~|true|false|\$.*|%.*|<.*>?|\*+|\{\{.*|changeme)$", re.IGNORECASE)
LARGEST = 2**20
MOST = 3000
SHORTEST = 8
"""A shorter password is not looked for by itself: it may be a word."""


def holds_credential(text: str, secrets: Iterable[str] = ()) -> bool:
    """Tell whether a text has a password, a token or a URI with a password.

    References such as ``$PASSWORD`` and empty values are none.

    Parameters
    ----------
    text
        Content of a file.
    secrets
        Passwords that are known: found wherever they stand.
    """
    found = (match.group("secret") for pattern in PATTERNS for match in pattern.finditer(text))
    return any(not HARMLESS.match(secret) for secret in found) or any(secret in text for secret in secrets)


def known_secrets(world: World) -> set[str]:
    """Return the passwords in the files where they belong.

    Parameters
    ----------
    world
        What to look at.
    """
    found = {os.environ.get(PASSWORD_VARIABLE, "")}
    for name in ALLOWED:
        try:
            text = (world.cluster / name).read_text()
        except (OSError, UnicodeDecodeError):
            continue
        found |= {match.group("secret") for pattern in PATTERNS for match in pattern.finditer(text)}
    return {secret for secret in found if len(secret) >= SHORTEST and not HARMLESS.match(secret)}


def _texts(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in islice(sorted(folder.rglob("*")), MOST):
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST:
            try:
                yield path, path.read_text()
            except (OSError, UnicodeDecodeError):
                continue


def _own_settings() -> Path:
    return Path(os.environ.get("ATOMFOUNDRY_SETTINGS_FILE", DEFAULT_SETTINGS_FILE)).expanduser()


def _others_may_read(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


@check("settings-mode", "machine")
def settings_mode(world: World) -> Iterator[Finding]:
    """Check that a settings file with a key in it is readable by its owner alone."""
    path = _own_settings()
    if path.is_file() and _others_may_read(path) and holds_credential(path.read_text(errors="replace")):
        yield problem(f"{path} holds a credential and others may read it.", f"chmod 600 {path}", path=str(path))
    else:
        yield ok("No credential in a settings file that others may read")


@check("file-modes", "cluster")
def file_modes(world: World) -> Iterator[Finding]:
    """Check that files with credentials are readable by their owner alone."""
    bad = []
    looked = 0
    secrets = known_secrets(world)
    for path, text in _texts(world.cluster):
        if not holds_credential(text, secrets):
            continue
        looked += 1
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            bad.append(
                problem(
                    f"{path} holds a credential and has mode {mode:04o}: others may read it.",
                    f"chmod 600 {path}, and change the password if others have accounts here.",
                    path=str(path),
                    mode=f"{mode:04o}",
                )
            )
        elif path.stat().st_uid != os.getuid():
            bad.append(
                warning(
                    f"{path} holds a credential and belongs to user {path.stat().st_uid}, not to you ({os.getuid()}).",
                    f"cp {path} {path}.own && mv {path}.own {path} && chmod 600 {path}",
                )
            )
    yield from bad
    if not bad:
        yield ok(f"{looked} files with credentials, readable by their owner alone")


@check("credentials", "cluster")
def credentials(world: World) -> Iterator[Finding]:
    """Check that credentials are nowhere but in ``my_launchpad.yaml`` and ``jobflow.yaml``."""
    bad = []
    secrets = known_secrets(world)
    for path, text in _texts(world.cluster):
        if path.relative_to(world.cluster).as_posix() in ALLOWED:
            continue
        if holds_credential(text, secrets):
            bad.append(
                problem(
                    f"{path} holds a credential; only {', '.join(ALLOWED)} may.",
                    f"Remove it from {path}, write it into {world.cluster / LAUNCHPAD_FILE} (mode 0600), and change "
                    "the password.",
                    path=str(path),
                )
            )
    record = world.folder / "project.json"
    if record.is_file() and holds_credential(record.read_text(errors="replace")):
        bad.append(
            problem(
                f"{record} holds a credential.", f"Remove it from {record}, and change the password.", path=str(record)
            )
        )
    yield from bad
    if not bad:
        yield ok("No credential where none may be")


def credential_paths(content: Any, *, secrets: set[str], where: str = "") -> Iterator[str]:
    """Find credentials in nested content, such as the spec of a firework.

    Parameters
    ----------
    content
        Dictionaries, lists and values.
    secrets
        Passwords that are known: found wherever they stand.
    where
        Address of the content in the whole.

    Yields
    ------
    str
        Addresses such as ``_tasks.0.job.store.password``.
    """
    if isinstance(content, dict):
        for key, value in content.items():
            name = f"{where}.{key}" if where else str(key)
            filled = isinstance(value, str) and value and not HARMLESS.match(value)
            if filled and re.fullmatch(r"(?i)(?:.*_)?(?:password|passwd|secret_key|api_key|token)", str(key)):
                yield name
            else:
                yield from credential_paths(value, secrets=secrets, where=name)
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from credential_paths(value, secrets=secrets, where=f"{where}.{number}")
    elif isinstance(content, str):
        found = PATTERNS[0].search(content)
        if (found and not HARMLESS.match(found.group("secret"))) or any(secret in content for secret in secrets):
            yield where
