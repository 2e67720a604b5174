"""Where the database's password comes from; it is never an argument of a command and never printed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_plus, urlsplit

import yaml

from atomfoundry.errors import ConfigurationError, InputError
from atomfoundry.results.mongodb import PASSWORD_VARIABLE
from atomfoundry.running.cluster.answers import ClusterAnswers
from atomfoundry.running.cluster.layout import ClusterLayout


@dataclass(frozen=True, repr=False)
class Password:
    """A password; no text of it shows it."""

    value: str | None
    generated: bool = False


def find_password(
    layout: ClusterLayout,
    answers: ClusterAnswers,
    *,
    given: str | None = None,
    generate: bool = False,
    ask: Callable[[], str] | None = None,
    force: bool = False,
) -> Password:
    """Return the password: given, of the environment, of the files there are, generated, or asked for.

    Parameters
    ----------
    layout
        Where an earlier file may be.
    answers
        Who asks.
    given
        From Python.
    generate
        Make one where there is none.
    ask
        Asks a person.
    force
        Whether another one than the file's may replace it.

    Raises
    ------
    InputError
        If there is none, or another one than in the file without ``force``.
    ConfigurationError
        If the earlier file cannot be read.
    """
    if answers.user is None:
        return Password(None)
    # the server's own file was written first: after an interruption it alone may be there
    earlier = stored_password(layout.launchpad) or _server_password(layout.mongodb_passwords)
    new = given or os.environ.get(PASSWORD_VARIABLE)
    if new and earlier and new != earlier and not force:
        raise InputError(
            f"The password differs from that in {layout.launchpad}.", remedy="Give --force to replace it there."
        )
    if new or earlier:
        return Password(_checked(new or earlier or ""))
    if generate:
        return Password(secrets.token_urlsafe(32), generated=True)
    if ask is not None:
        return Password(_checked(ask()))
    raise InputError(
        f"The password of database user '{answers.user}' is missing.",
        remedy=f"Set {PASSWORD_VARIABLE}, or give --generate-password for a new server.",
    )


def stored_password(path: Path) -> str | None:
    """Return the password in a ``my_launchpad.yaml``; None where there is none.

    Raises
    ------
    ConfigurationError
        If the file is there and cannot be read.
    """
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text())
        host = str(content.get("host", ""))
        if "://" in host:
            found = urlsplit(host).password
            return unquote_plus(found) if found else None
        found = content.get("password")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, ValueError):
        # the parser's own message may quote the line with the password
        raise ConfigurationError(f"{path} cannot be read.", remedy="Correct it, or remove it and init again.") from None
    return str(found) if found else None


def _server_password(path: Path) -> str | None:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"{path} cannot be read.", remedy="Remove it and init again.") from None
    values = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return values.get("ATOMFOUNDRY_PASSWORD") or None


def _checked(value: str) -> str:
    if not value or any(ord(character) < 32 for character in value):
        raise InputError("The password is empty or holds a control character.", remedy="Choose another one.")
    return value
