"""Open the LaunchPad's database from its file, with short patience."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.results.mongodb import MongoConnection

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

PATIENCE_MS = 4000
LOGIN = {"username", "password", "authSource", "authMechanism", "authMechanismProperties"}
KEYS = set(MongoConnection.model_fields)
"""What ``my_launchpad.yaml`` may hold."""


def address(content: dict[str, Any]) -> str:
    """Return host and port, or the hosts of a URI, without user and password.

    Parameters
    ----------
    content
        Of ``my_launchpad.yaml``.
    """
    host = str(content.get("host") or "localhost")
    if content.get("uri_mode") or "://" in host:
        return host.split("://")[-1].rpartition("@")[2].split("/")[0].split("?")[0]
    return f"{host}:{content.get('port') or 27017}"


def is_local(content: dict[str, Any]) -> bool:
    """Return whether the database is reached on this machine's loopback only.

    Parameters
    ----------
    content
        Of ``my_launchpad.yaml``.
    """
    hosts = [part.rpartition(":")[0] or part for part in address(content).split(",")]
    return all(host in ("localhost", "127.0.0.1", "[::1]", "::1") or host.endswith(".sock") for host in hosts)


def make_client(path: Path, *, login: bool = True) -> MongoClient:
    """Return a client of the project's connection, but one that gives up after some seconds.

    Parameters
    ----------
    path
        The ``my_launchpad.yaml``; a password may come from ``ATOMFOUNDRY_MONGODB_PASSWORD`` instead.
    login
        Without it user, password and certificate are left out.

    Raises
    ------
    ProjectError
        If the file is not as it should be.
    """
    connection = MongoConnection.load(path)
    kwargs = {
        **{key: value for key, value in connection.mongoclient_kwargs.items() if login or key not in LOGIN},
        "serverSelectionTimeoutMS": PATIENCE_MS,
        "connectTimeoutMS": PATIENCE_MS,
        "socketTimeoutMS": 2 * PATIENCE_MS,
    }
    changes: dict[str, Any] = {"mongoclient_kwargs": kwargs}
    if not login:
        changes |= dict.fromkeys(("username", "password", "authsource"))
    return connection.model_copy(update=changes).client()


def open_database(path: Path) -> Database:
    """Connect, and make sure that the server answers.

    Parameters
    ----------
    path
        The ``my_launchpad.yaml``.

    Raises
    ------
    ProjectError
        If the file is not as it should be.
    Exception
        pymongo's error, if the server does not answer or does not let this user in.
    """
    client = make_client(path)
    database = client[MongoConnection.load(path).name]
    # 'ping' is answered to anybody; this needs the login.
    client.admin.command("ping")
    database["fw_id_assigner"].find_one({})
    return database
