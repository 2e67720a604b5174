"""What ``init cluster`` must know about a cluster: its queue, its database, its environment."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from atomfoundry.errors import ConfigurationError
from atomfoundry.running.cluster.profiles import Word, nearest

SchedulerChoice = Literal["slurm", "pbs", "none"]
Results = Literal["mongodb", "sqlite"]
DEFAULT_PORT = 27017

_URI = re.compile(r"mongodb(\+srv)?://.+")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:,\[\]-]*|\[[0-9A-Fa-f:]+\]")
_DATABASE = re.compile(r"[A-Za-z0-9_-]{1,63}")
_CHOICES = {"scheduler": get_args(SchedulerChoice), "results": get_args(Results)}


def _host(value: str) -> str:
    if "@" in value:
        # not repeated: it holds a password
        raise ValueError("a host holds no user or password; give --user, the password is asked for")
    if "authsource=" in value.lower():
        raise ValueError("authSource is an answer of its own (auth_source)")
    if not _URI.fullmatch(value) and not _HOST.fullmatch(value):
        raise ValueError(f"'{value}' is no host name, list of host:port, or mongodb:// address")
    return value


def _database(value: str) -> str:
    if not _DATABASE.fullmatch(value):
        raise ValueError(f"'{value}' is no name of a database: letters, digits, '_' and '-'")
    return value


def _absolute(value: Path) -> Path:
    path = value.expanduser()
    if not path.is_absolute():
        raise ValueError(f"'{value}' must be an absolute path: jobs run in other folders")
    if any(ord(character) < 32 for character in str(path)) or "$$" in str(path):
        raise ValueError(f"'{value}' holds a control character or '$$'")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class ClusterAnswers(BaseModel):
    """The answers, kept in ``cluster/cluster.yaml``; no password among them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheduler: SchedulerChoice = "slurm"
    host: Annotated[str, AfterValidator(_host)] = "localhost"
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    database_name: Annotated[
        Annotated[str, AfterValidator(_database)], Field(description="Each project's own: 'init cluster' names it so.")
    ] = "atomfoundry"
    user: Annotated[
        Word | None,
        BeforeValidator(lambda value: value or None),
        Field(description="Empty: the database asks nobody who he is (tests alone)."),
    ] = "atomfoundry"
    auth_source: Annotated[
        Annotated[str, AfterValidator(_database)] | None, Field(description="Database that knows the user.")
    ] = None
    replica_set: Word | None = None
    tls: bool = False
    tls_ca_file: AbsolutePath | None = None
    results: Annotated[Results, Field(description="Where outputs and labels go.")] = "mongodb"
    cpu_partition: Word | None = None
    gpu_partition: Annotated[Word | None, Field(description="None: training runs on CPUs.")] = None
    account: Word | None = None
    modules: tuple[Word, ...] = ()
    python: AbsolutePath = Path(sys.executable)

    @model_validator(mode="after")
    def _consistent(self) -> ClusterAnswers:
        if self.scheduler == "pbs" and not self.cpu_partition:
            raise ValueError("PBS needs a queue (cpu_partition)")
        if self.scheduler == "none" and (self.cpu_partition or self.gpu_partition or self.account):
            raise ValueError("without a scheduler there is no partition and no account")
        if self.tls_ca_file and not self.tls:
            raise ValueError("tls_ca_file needs tls")
        if self.is_uri and self.port != DEFAULT_PORT:
            raise ValueError("with a mongodb:// address the port stands in it")
        return self

    @property
    def is_uri(self) -> bool:
        """Whether the host is a connection string."""
        return _URI.fullmatch(self.host) is not None

    def stored(self) -> dict[str, Any]:
        """Return what ``check`` makes the same answers of."""
        return {**self.model_dump(mode="json", exclude_none=True), "user": self.user or ""}

    @classmethod
    def check(cls, values: Mapping[str, Any], *, where: str = "") -> ClusterAnswers:
        """Build the answers.

        Raises
        ------
        ConfigurationError
            If a name or a value is wrong; the message names the nearest valid one.
        """
        prefix = f"{where}: " if where else ""
        for key, value in values.items():
            if key not in cls.model_fields:
                raise ConfigurationError(f"{prefix}unknown answer '{key}'.", remedy=nearest(key, cls.model_fields))
            if key in _CHOICES and value not in _CHOICES[key]:
                raise ConfigurationError(f"{prefix}no {key} '{value}'.", remedy=nearest(str(value), _CHOICES[key]))
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            place = str(first["loc"][0]) if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigurationError(f"{prefix}{f'{place}: ' if place else ''}{message}.") from None

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """Return the answers of an earlier time; empty where there is no file.

        Raises
        ------
        ConfigurationError
            If the file cannot be read, or is not a mapping.
        """
        try:
            content = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path} must be a mapping.", remedy="Remove it and answer again.")
        return content
