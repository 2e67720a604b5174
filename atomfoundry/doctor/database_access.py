"""Open the LaunchPad's database from its file, with short patience."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from atomfoundry.errors import ConfigurationError

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

PASSWORD_VARIABLE = "ATOMFOUNDRY_MONGODB_PASSWORD"
MOCK_VARIABLE = "MONGOMOCK_SERVERSTORE_FILE"
"""FireWorks' own variable for a database in a file, for tests."""

PATIENCE_MS = 4000
LOGIN = {"username", "password", "authSource", "authMechanism", "authMechanismProperties"}
KEYS = {
    "host", "port", "name", "username", "password", "logdir", "strm_lvl", "user_indices", "wf_user_indices",
    "authsource", "uri_mode", "mongoclient_kwargs", "ssl", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile",
    "ssl_pem_passphrase",
}  # fmt: skip
"""What FireWorks' ``my_launchpad.yaml`` may hold."""


def read_launchpad_file(path: Path) -> dict[str, Any]:
    """Return the content of a ``my_launchpad.yaml``.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ConfigurationError
        If it is missing or not YAML, or not a mapping.
    """
    remedy = f"Write {path}: 'host', 'port', 'name', 'username', 'password', 'authsource'."
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.", remedy=remedy) from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} is not YAML.", remedy=remedy) from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} holds no settings.", remedy=remedy)
    return content


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


def make_client(content: dict[str, Any], *, login: bool = True) -> MongoClient:
    """Return a client as FireWorks would make it, but one that gives up after some seconds.

    Parameters
    ----------
    content
        Of ``my_launchpad.yaml``; a password may come from ``ATOMFOUNDRY_MONGODB_PASSWORD`` instead.
    login
        Without it user and password are left out.
    """
    given = content.get("mongoclient_kwargs") or {}
    arguments = {
        **{key: value for key, value in given.items() if login or key not in LOGIN},
        "serverSelectionTimeoutMS": PATIENCE_MS,
        "connectTimeoutMS": PATIENCE_MS,
        "socketTimeoutMS": 2 * PATIENCE_MS,
    }
    if content.get("uri_mode"):
        host = str(content["host"])
        if not login:
            scheme, _, rest = host.partition("://")
            host = f"{scheme}://{rest.rpartition('@')[2]}"
        elif PASSWORD_VARIABLE in os.environ:
            arguments["password"] = os.environ[PASSWORD_VARIABLE]
        return _client_class()(host, **arguments)
    if login and content.get("username"):
        arguments["username"] = content["username"]
        arguments["password"] = content.get("password") or os.environ.get(PASSWORD_VARIABLE)
        arguments["authSource"] = content.get("authsource") or content.get("name") or "fireworks"
    return _client_class()(content.get("host") or "localhost", int(content.get("port") or 27017), **arguments)


def _client_class() -> Any:
    if os.environ.get(MOCK_VARIABLE):
        return importlib.import_module("mongomock_persistence").MongoClient
    return importlib.import_module("pymongo").MongoClient


def open_database(path: Path) -> Database:
    """Connect, and make sure that the server answers.

    Parameters
    ----------
    path
        The ``my_launchpad.yaml``.

    Raises
    ------
    ConfigurationError
        If the file is not as it should be.
    Exception
        pymongo's error, if the server does not answer or does not let this user in.
    """
    content = read_launchpad_file(path)
    client = make_client(content)
    database = client[content.get("name") or "fireworks"]
    # 'ping' is answered to anybody; this needs the login.
    client.admin.command("ping")
    database["fw_id_assigner"].find_one({})
    return database
