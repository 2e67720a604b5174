"""The connection of a project to its MongoDB, in FireWorks' own file format."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, unquote_plus

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer, model_validator

from atomfoundry.errors import ProjectError, StorageError
from atomfoundry.results.mongomock_file import mock_client, mock_file, save_mock_store, share_mock_store

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

CLUSTER_FOLDER = "cluster"
LAUNCHPAD_FILE = "my_launchpad.yaml"
PASSWORD_VARIABLE = "ATOMFOUNDRY_MONGODB_PASSWORD"  # nosec B105 # the name of a variable

WAIT_S = 300.0
"""How long an operation waits for a database that is away, where the file says nothing."""
SOCKET_TIMEOUT_S = 300.0
"""How long one answer may take before the connection counts as dead, as in FireWorks."""
HIDDEN = "**********"

_SECRET = re.compile(r"passw|secret|token|credential", re.IGNORECASE)
_VERBOSE = re.compile(r" \(configured timeouts: |, Timeout: |, Topology Description: |,? full error: ")
"""Where pymongo's words for people end."""
_LOGIN = re.compile(r"//\S*@")
_URI = re.compile(r"(?P<scheme>mongodb(?:\+srv)?://)(?:(?P<user>[^/?]*)@)?(?P<rest>.*)", re.DOTALL)

_CLIENTS: dict[tuple[int, str], Any] = {}
_LOCK = threading.Lock()


class MongoConnection(BaseModel):
    """Where a project's MongoDB is and who asks; the keys are those of FireWorks' ``my_launchpad.yaml``.

    No text of it, nor ``model_dump``, shows a password: one in a connection string is moved into ``password``.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    host: str = Field(default="localhost", description="Host name, or with uri_mode a mongodb:// connection string")
    port: int = Field(default=27017, ge=1, le=65535)
    name: str = Field(default="fireworks", min_length=1, description="Name of the database")
    username: str | None = None
    password: SecretStr | None = Field(default=None, description=f"Default: the variable {PASSWORD_VARIABLE}")
    authsource: str | None = Field(default=None, description="Database that knows the user; default: name")
    uri_mode: bool = False
    mongoclient_kwargs: dict[str, Any] = Field(default_factory=dict, description="More arguments of MongoClient")
    logdir: str | None = Field(default=None, description="FireWorks' folder for logs")
    strm_lvl: str | None = Field(default=None, description="FireWorks' level of logging")
    user_indices: list[str] = Field(default_factory=list, description="FireWorks' own")
    wf_user_indices: list[str] = Field(default_factory=list, description="FireWorks' own")

    @model_validator(mode="before")
    @classmethod
    def _without_empty_values(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {key: value for key, value in data.items() if value is not None}
        host = given.get("host")
        match = _URI.fullmatch(host) if isinstance(host, str) else None
        if match is None:
            return given
        given["uri_mode"] = True
        given["host"] = match["scheme"] + match["rest"]
        if match["user"]:
            user, _, password = match["user"].partition(":")
            given.setdefault("username", unquote_plus(user))
            if password:
                given.setdefault("password", unquote_plus(password))
        return given

    @model_validator(mode="after")
    def _is_possible(self) -> MongoConnection:
        if self.uri_mode and not _URI.fullmatch(self.host):
            raise ValueError(
                "with uri_mode 'host' is a connection string that begins with mongodb:// or mongodb+srv://"
            )
        if not self.uri_mode and "/" in self.host:
            raise ValueError("'host' is a name such as db.example.org, or a mongodb:// string with uri_mode")
        return self

    @field_serializer("host")
    def _hide_host(self, host: str) -> str:
        return _hidden_uri(host)

    @field_serializer("mongoclient_kwargs")
    def _hide_kwargs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {key: HIDDEN if _SECRET.search(f"{key} {value}") else value for key, value in kwargs.items()}

    def __repr__(self) -> str:
        who = f", username={self.username!r}" if self.username else ""
        return f"MongoConnection({self.label!r}{who})"

    __str__ = __repr__

    @property
    def label(self) -> str:
        """Server and database, without who asks."""
        if self.uri_mode:
            return f"{_hidden_uri(self.host).partition('?')[0].rstrip('/')} ({self.name})"
        return f"mongodb://{self.host}:{self.port}/{self.name}"

    @property
    def wait_s(self) -> float:
        """How long an operation waits for a database that is away."""
        return float(self.mongoclient_kwargs.get("serverSelectionTimeoutMS", WAIT_S * 1000)) / 1000

    # -- the file --------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path) -> MongoConnection:
        """Read FireWorks' ``my_launchpad.yaml`` (or JSON).

        Parameters
        ----------
        path
            The file. Its password may be left out for the variable ``ATOMFOUNDRY_MONGODB_PASSWORD``.

        Raises
        ------
        ProjectError
            If the file is missing, unreadable, or has an unknown or wrong key.
        """
        import yaml

        path = Path(path)
        if not path.is_file():
            raise ProjectError(
                f"{path} is missing: it says where the MongoDB of this project is.",
                remedy="Write it in FireWorks' format (host, port, name, username, password), readable by you alone.",
            )
        try:
            content = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise ProjectError(f"{path} cannot be read: {error}.", remedy="Check the file.") from error
        except yaml.YAMLError as error:
            # Its own text quotes the line, which may be the password's.
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f" (line {mark.line + 1})"
            raise ProjectError(f"{path} is not YAML{line}.", remedy="Check the file.") from None
        if not isinstance(content, dict):
            raise ProjectError(f"{path} holds no keys.", remedy="Write at least 'host' and 'name'.")
        try:
            connection = cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ProjectError(f"{path}: '{key}': {first['msg']}.", remedy="Correct the file.") from None
        if mock_file():
            share_mock_store()
        return connection

    def save(self, path: str | Path, *, with_password: bool = True) -> Path:
        """Write FireWorks' ``my_launchpad.yaml``, readable by its owner alone.

        Parameters
        ----------
        path
            The file; replaced if it is there.
        with_password
            Whether the password goes into the file; without, FireWorks' own commands cannot use it.

        Raises
        ------
        ProjectError
            If the file cannot be written.
        """
        import yaml

        path = Path(path)
        content = self.model_dump(exclude={"password", "host", "mongoclient_kwargs"}, exclude_none=True)
        content |= {"host": self.host, "mongoclient_kwargs": self.mongoclient_kwargs}
        if self.uri_mode:
            # FireWorks takes who asks from the connection string alone.
            content.pop("username", None)
            content["host"] = self._uri(with_password=with_password)
        elif with_password and self.password is not None:
            content["password"] = self.password.get_secret_value()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # mkstemp makes the file with mode 0600.
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
            with os.fdopen(descriptor, "w") as file:
                yaml.safe_dump(content, file, sort_keys=False)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except OSError as error:
            raise ProjectError(
                f"{path} cannot be written: {error.strerror}.", remedy="Give a folder you may write to."
            ) from error
        return path

    def _secret(self) -> str | None:
        if self.password is not None:
            return self.password.get_secret_value()
        return os.environ.get(PASSWORD_VARIABLE) or None

    def _uri(self, *, with_password: bool) -> str:
        match = _URI.fullmatch(self.host)
        if match is None or not self.username:
            return self.host
        secret = self._secret() if with_password else None
        who = quote_plus(self.username) + (f":{quote_plus(secret)}" if secret else "")
        return f"{match['scheme']}{who}@{match['rest']}"

    def launchpad_arguments(self) -> dict[str, Any]:
        """Return the arguments of FireWorks' ``LaunchPad``, the password among them: never store them."""
        own = ("name", "authsource", "logdir", "strm_lvl", "user_indices", "wf_user_indices", "uri_mode")
        arguments: dict[str, Any] = {key: getattr(self, key) for key in own}
        arguments["mongoclient_kwargs"] = self._kwargs()
        if self.uri_mode:
            return {**arguments, "host": self._uri(with_password=True)}
        secret = self._secret() if self.username else None
        return {**arguments, "host": self.host, "port": self.port, "username": self.username, "password": secret}

    # -- the client ------------------------------------------------------------------------------------------

    def _kwargs(self) -> dict[str, Any]:
        return {
            "serverSelectionTimeoutMS": int(WAIT_S * 1000),
            "socketTimeoutMS": int(SOCKET_TIMEOUT_S * 1000),
            "connectTimeoutMS": 20_000,
            "retryWrites": True,
            "retryReads": True,
            "appname": "atomfoundry",
            **self.mongoclient_kwargs,
        }

    def _make_client(self, **changes: Any) -> MongoClient:
        from pymongo import MongoClient

        kwargs = {**self._kwargs(), **changes}
        if mock_file():
            return mock_client()
        arguments: dict[str, Any] = {"host": self.host} if self.uri_mode else {"host": self.host, "port": self.port}
        if self.username:
            secret = self._secret()
            arguments["username"] = self.username
            if secret:
                arguments["password"] = secret
            if self.authsource or not self.uri_mode:
                arguments["authSource"] = self.authsource or self.name
        try:
            return MongoClient(**arguments, **kwargs)
        except Exception as error:
            raise ProjectError(
                f"The connection to {self.label} is described wrongly: {self._scrubbed(error)}.",
                remedy=f"Check {LAUNCHPAD_FILE} and, if it holds no password, the variable {PASSWORD_VARIABLE}.",
            ) from None

    def _scrubbed(self, error: Exception) -> str:
        return _words(error, self._secret())

    def client(self) -> MongoClient:
        """Return this process's client: made on first use, shared by all threads, never over a fork.

        It waits for a database that is away (``serverSelectionTimeoutMS``, 300 s unless the file says
        otherwise) and repeats a read or write that a lost connection cut off. In FireWorks' mongomock mode it
        shows the content that FireWorks' own clients show.

        Raises
        ------
        ProjectError
            If the connection is described wrongly.
        """
        arguments = json.dumps(self.launchpad_arguments(), sort_keys=True, default=str)
        kind = mock_file() or hashlib.sha256(arguments.encode()).hexdigest()
        key = (os.getpid(), kind)
        if mock_file():
            # mongomock's clients cost nothing, and the shared content may have been released.
            return self._make_client()
        with _LOCK:
            if key not in _CLIENTS:
                _CLIENTS[key] = self._make_client()
            return _CLIENTS[key]

    def database(self) -> Database:
        """Return the database, which FireWorks' collections and ours share."""
        return self.client()[self.name]

    def brief_client(self, timeout_s: float) -> MongoClient:
        """Return a new client that waits no longer than this for anything.

        Parameters
        ----------
        timeout_s
            How long.
        """
        limits = ("serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS")
        return self._make_client(**dict.fromkeys(limits, int(timeout_s * 1000)))

    def check(self, *, timeout_s: float = 10.0) -> None:
        """Ask the server for a sign of life.

        Parameters
        ----------
        timeout_s
            How long to wait.

        Raises
        ------
        ProjectError
            If it does not answer, or does not know the user.
        """
        from pymongo.errors import OperationFailure, PyMongoError

        if mock_file():
            self.client()
            return
        client = self.brief_client(timeout_s)
        try:
            # 'ping' needs no rights; this one shows whether the user is known and may read.
            client[self.name].command(
                "listCollections", nameOnly=True, authorizedCollections=True, maxTimeMS=int(timeout_s * 1000)
            )
        except OperationFailure as error:
            raise ProjectError(
                f"{self.label} refuses {self.username or 'users without a name'}: {self._scrubbed(error)}.",
                remedy=f"Check username, password and authsource in {LAUNCHPAD_FILE}.",
            ) from None
        except PyMongoError as error:
            raise ProjectError(
                f"{self.label} does not answer within {timeout_s:g} s: {self._scrubbed(error)}.",
                remedy="Start the database, or check host and port and whether this machine may reach it.",
            ) from None
        finally:
            client.close()


def database_trouble(error: Exception) -> StorageError | None:
    """Return the error of a database as one of ours, without its addresses in full and without who asks.

    Parameters
    ----------
    error
        Any.

    Returns
    -------
    StorageError or None
        None if it is not of pymongo, nor of a store on it.
    """
    pymongo, maggma = sys.modules.get("pymongo.errors"), sys.modules.get("maggma.core.store")
    words = _words(error, os.environ.get(PASSWORD_VARIABLE))
    if maggma is not None and isinstance(error, maggma.StoreError):
        return StorageError(words, remedy="Repeat the command when the database can be used.")
    if pymongo is None or not isinstance(error, pymongo.PyMongoError):
        return None
    name = type(error).__name__
    if isinstance(error, pymongo.ConnectionFailure):
        return StorageError(
            f"The database went away: {words} ({name}).",
            remedy="Repeat the command when it answers; 'atomfoundry doctor' examines it.",
        )
    return StorageError(
        f"The database refused what was asked of it: {words} ({name}).",
        remedy="'atomfoundry doctor' examines it and the rights of its user.",
    )


def close_clients() -> None:
    """Close this process's clients; stores make new ones when they are used again."""
    save_mock_store()
    pid = os.getpid()
    with _LOCK:
        for key in [key for key in _CLIENTS if key[0] == pid]:
            _CLIENTS.pop(key).close()


def _words(error: Exception, secret: str | None) -> str:
    """Return the first words of an error, without a password."""
    text = str(error)
    for hidden in (secret, quote_plus(secret)) if secret else ():
        text = text.replace(hidden, HIDDEN)
    text = _LOGIN.sub("//", _VERBOSE.split(text, maxsplit=1)[0])
    return " ".join(text[:300].split()).rstrip(".,")


def _hidden_uri(host: str) -> str:
    """Hide the values of secret options in a connection string."""
    head, sign, options = host.partition("?")
    if not sign:
        return host
    shown = []
    for option in options.split("&"):
        key, _, value = option.partition("=")
        shown.append(f"{key}={HIDDEN}" if _SECRET.search(option) else f"{key}={value}")
    return f"{head}?{'&'.join(shown)}"


def _new_lock() -> None:
    global _LOCK
    _LOCK = threading.Lock()


# A lock that another thread held at the fork would stay locked in the child.
os.register_at_fork(after_in_child=_new_lock)
