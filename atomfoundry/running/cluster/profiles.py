"""Resource profiles: what a job of a kind gets from the queue, overridden by job name where that is not enough.

.. code-block:: yaml

    profiles:
      gpu: {queue: a100, gpus: 1, cores: 16, wall_time: "24:00:00"}
      dft_large: {queue: cpu, nodes: 2, cores: 48, wall_time: "48:00:00"}
    jobs:
      "label supercell *": {profile: dft_large}
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from atomfoundry.errors import ConfigurationError
from atomfoundry.running.cluster.queue_script import queue_parameters
from atomfoundry.running.cluster.wall_time import parse_wall_time

Scheduler = Literal["slurm", "pbs"]
SCHEDULERS: tuple[str, ...] = get_args(Scheduler)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+@:=,-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ValueError(f"'{value}' holds a character that no queue, account or module has")
    return value


def _line(value: str) -> str:
    # FireWorks drops every line of a script in which '$$' is left
    if any(ord(character) < 32 for character in value) or "$$" in value:
        raise ValueError("a value is one line without '$$'")
    return value


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise ValueError(f"'{value}' is no name of a variable")
    return value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Word = Annotated[str, AfterValidator(_word)]
Line = Annotated[str, AfterValidator(_line)]
Variable = Annotated[str, AfterValidator(_variable)]


class Profile(BaseModel):
    """What one allocation of the queue gets, and how many jobs share it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=rf"^{_NAME.pattern}$", max_length=40)]
    category: Annotated[Word, Field(description="FireWorks category of its jobs; the profile's name by default.")] = ""
    queue: Annotated[Word | None, Field(description="Slurm partition or PBS queue.")] = None
    nodes: Annotated[int, Field(ge=1)] = 1
    cores: Annotated[int, Field(ge=1, description="Cores on each node.")] = 1
    cores_per_job: Annotated[int | None, Field(ge=1, description="Cores of one job; all of them by default.")] = None
    threads: Annotated[int, Field(ge=1, description="Threads of one process (MPI rank): OMP_NUM_THREADS.")] = 1
    gpus: Annotated[int, Field(ge=0, description="GPUs on each node; each runs one job.")] = 0
    gpu_type: Annotated[Word | None, Field(description="e.g. 'a100', where the queue tells types apart.")] = None
    memory_mb: Annotated[int | None, Field(ge=1, description="Memory of each node (MB).")] = None
    wall_time: Annotated[int, BeforeValidator(parse_wall_time), Field(description="s, or 'HH:MM:SS'.")] = 4 * 3600
    signal_before: Annotated[int, Field(ge=30, description="Slurm sends SIGUSR1 so many seconds before the end.")] = 120
    max_queued: Annotated[int, Field(ge=1, description="Allocations in the queue at the same time.")] = 10
    account: Word | None = None
    modules: Annotated[tuple[Word, ...], Field(description="Environment modules to load.")] = ()
    environment: Annotated[
        dict[Variable, Annotated[Line, BeforeValidator(_text)]], Field(description="Variables; '$NAME' is expanded.")
    ] = {}
    extra: Annotated[
        dict[str, Line | int | float | None], Field(description="Raw keys of the queue's template; null drops one.")
    ] = {}

    @model_validator(mode="before")
    @classmethod
    def _category(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("category") and values.get("name"):
            return {**values, "category": values["name"]}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if self.cores % self.threads:
            raise ValueError(f"threads ({self.threads}) must divide cores ({self.cores})")
        if self.cores_per_job is not None and not self.threads <= self.cores_per_job <= self.cores:
            raise ValueError(
                f"cores_per_job ({self.cores_per_job}) must be at least threads ({self.threads}) and at most "
                f"cores ({self.cores})"
            )
        if self.nodes > 1 and (self.cores_per_job is not None or self.gpus > 1):
            raise ValueError("an allocation of several nodes runs one job: no cores_per_job, at most one GPU a node")
        if self.gpu_type and not self.gpus:
            raise ValueError("gpu_type needs gpus")
        if self.signal_before >= self.wall_time:
            raise ValueError(f"signal_before ({self.signal_before} s) must be below wall_time ({self.wall_time} s)")
        return self

    @property
    def jobs_at_once(self) -> int:
        """Jobs that one allocation runs at the same time: one a GPU, else as many as its cores allow."""
        if self.nodes > 1:
            return 1
        by_cores = self.cores // (self.cores_per_job or self.cores)
        return self.gpus if self.gpus and self.cores_per_job is None else max(1, min(by_cores, self.gpus or by_cores))

    def queue_parameters(self, scheduler: str, *, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the keys of FireWorks' queue adapter: those of a ``my_qadapter.yaml`` or of ``_queueadapter``.

        Parameters
        ----------
        scheduler
            ``"slurm"`` (keys of FireWorks' own template) or ``"pbs"`` (keys of ours, which knows ``select``).
        environment
            Further variables to export; those of the profile win.

        Raises
        ------
        ConfigurationError
            If there is no such scheduler, or ``extra`` has a key that its template lacks.
        """
        if scheduler not in SCHEDULERS:
            raise ConfigurationError(f"No scheduler '{scheduler}'.", remedy=nearest(scheduler, SCHEDULERS))
        parameters, known = queue_parameters(self, scheduler, environment=environment or {})
        for key in self.extra:
            if key not in known:
                raise ConfigurationError(
                    f"Profile '{self.name}': the template of {scheduler} has no key '{key}'.",
                    remedy=nearest(key, known),
                )
        parameters.update(self.extra)
        return {key: value for key, value in parameters.items() if value is not None}


DEFAULTS: dict[str, dict[str, Any]] = {
    "light": {"cores": 4, "cores_per_job": 1, "memory_mb": 16000, "wall_time": 4 * 3600, "max_queued": 2},
    "dft": {"cores": 16, "memory_mb": 64000, "wall_time": 24 * 3600},
    "gpu": {"cores": 8, "threads": 8, "gpus": 1, "memory_mb": 64000, "wall_time": 24 * 3600, "max_queued": 2},
    "md": {"cores": 8, "threads": 8, "memory_mb": 16000, "wall_time": 24 * 3600, "max_queued": 4},
}
"""The profiles that the Makers name: queries and collections, first-principles labels, training, dynamics."""


class Profiles:
    """The profiles of a project.

    Parameters
    ----------
    profiles
        Fields by profile name; those of ``light``, ``dft``, ``gpu`` and ``md`` count on top of the defaults.
    jobs
        Overrides by a glob of job names: ``profile`` and any field of one. Of several that match, a later one wins.
    scheduler
        ``"slurm"`` or ``"pbs"``: jobs then carry what their profile asks of its queue.
    where
        What errors name, e.g. the file.

    Raises
    ------
    ConfigurationError
        If a key is unknown, a value wrong, a profile not there, or two profiles have the same category; the message
        names the nearest valid name.
    """

    def __init__(
        self,
        profiles: Mapping[str, Mapping[str, Any]] | None = None,
        jobs: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        scheduler: str | None = None,
        where: str = "profiles",
    ) -> None:
        self._where = where
        if scheduler is not None and scheduler not in SCHEDULERS:
            raise ConfigurationError(
                f"{where}: there is no scheduler '{scheduler}'.", remedy=nearest(str(scheduler), SCHEDULERS)
            )
        self.scheduler = scheduler
        given = {str(name): _mapping(fields, f"{where}: profile '{name}'") for name, fields in (profiles or {}).items()}
        merged = {name: {**DEFAULTS.get(name, {}), **given.get(name, {})} for name in {**DEFAULTS, **given}}
        self.profiles = {name: self._build(name, fields, f"profile '{name}'") for name, fields in merged.items()}
        self._refuse_shared_categories()
        self._adapter_keys: dict[tuple[str, str], list[str]] = {}
        self._jobs = {str(glob): _mapping(fields, f"{where}: job '{glob}'") for glob, fields in (jobs or {}).items()}
        for glob, fields in self._jobs.items():
            self._check_override(fields, glob)

    @classmethod
    def load(cls, path: str | Path) -> Profiles:
        """Read ``profiles.yaml``; the defaults where the file is missing.

        Raises
        ------
        ConfigurationError
            If the file cannot be read, is not YAML, or something in it is wrong.
        """
        try:
            document = yaml.safe_load(Path(path).read_text())
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}.") from error
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
        sections = _mapping(document, str(path))
        for key in sections:
            if key not in ("scheduler", "profiles", "jobs"):
                raise ConfigurationError(
                    f"{path}: unknown key '{key}'.", remedy=nearest(str(key), ("scheduler", "profiles", "jobs"))
                )
        return cls(
            _mapping(sections.get("profiles"), f"{path}: profiles"),
            _mapping(sections.get("jobs"), f"{path}: jobs"),
            scheduler=sections.get("scheduler"),
            where=str(path),
        )

    def __getitem__(self, name: str) -> Profile:
        if name not in self.profiles:
            raise ConfigurationError(
                f"{self._where}: there is no resource profile '{name}'.", remedy=nearest(name, self.profiles)
            )
        return self.profiles[name]

    def __iter__(self) -> Iterator[Profile]:
        return iter(self.profiles.values())

    def for_job(self, name: str, profile: str = "light") -> Profile:
        """Return the profile of a job.

        Parameters
        ----------
        name
            The job's name, which the globs of ``jobs`` are compared with (upper and lower case differ).
        profile
            The profile that its Maker named.

        Raises
        ------
        ConfigurationError
            If there is no such profile.
        """
        chosen = self[profile]
        for glob, fields in self._jobs.items():
            if fnmatchcase(name, glob):
                chosen = self._override(chosen, fields, glob)
        return chosen

    def _refuse_shared_categories(self) -> None:
        """Refuse two profiles of one category: each one's launcher would send allocations for the same jobs."""
        by_category: dict[str, str] = {}
        for profile in self:
            first = by_category.setdefault(profile.category, profile.name)
            if first != profile.name:
                raise ConfigurationError(
                    f"{self._where}: the profiles '{first}' and '{profile.name}' have the same category "
                    f"'{profile.category}': both would send allocations for the same jobs, and a job would get the "
                    "resources of either.",
                    remedy="Leave 'category' out, or give each its own. For a second partition write "
                    "'queue: first,second' (Slurm).",
                )

    def job_parameters(
        self, profile: Profile, scheduler: str, *, environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return what an allocation made for one job asks of the queue: ``_queueadapter`` of its spec.

        FireWorks writes it over the queue adapter of the job's category. What that one asks for and the job does not
        is None here, which FireWorks leaves out of the script.

        Parameters
        ----------
        profile
            The job's.
        scheduler
            ``"slurm"`` or ``"pbs"``.
        environment
            Further variables to export; those of the profile win.

        Raises
        ------
        ConfigurationError
            See ``Profile.queue_parameters``.
        """
        key = (profile.category, scheduler)
        if key not in self._adapter_keys:
            found = [other.queue_parameters(scheduler) for other in self if other.category == profile.category]
            self._adapter_keys[key] = sorted(set().union(*found))
        own = profile.queue_parameters(scheduler, environment=environment)
        return {**dict.fromkeys(self._adapter_keys[key]), **own}

    def _check_override(self, fields: Mapping[str, Any], glob: str) -> None:
        """Refuse an override that fits no profile; which of them the jobs of these names have, their Makers know."""
        bases = [self[str(fields["profile"])]] if "profile" in fields else list(self)
        refused = []
        for base in bases:
            try:
                self._override(base, fields, glob)
            except ConfigurationError as error:
                refused.append(error)
        if len(refused) == len(bases):
            raise refused[0]

    def _override(self, base: Profile, fields: Mapping[str, Any], glob: str) -> Profile:
        if "profile" in fields:
            base = self[str(fields["profile"])]
        own = {key: value for key, value in fields.items() if key != "profile"}
        if not own:
            return base
        values = base.model_dump()
        for key in ("environment", "extra"):
            if isinstance(own.get(key), dict):
                own[key] = {**values[key], **own[key]}
        return self._build(base.name, {**values, **own}, f"job '{glob}'", more=("profile",))

    def _build(self, name: str, fields: Mapping[str, Any], what: str, *, more: Iterable[str] = ()) -> Profile:
        if fields.get("name", name) != name:
            raise ConfigurationError(f"{self._where}: {what} sets 'name'.", remedy="Its key is its name.")
        known = [field for field in Profile.model_fields if field != "name"]
        for key in fields:
            if key not in Profile.model_fields:
                raise ConfigurationError(
                    f"{self._where}: {what} has an unknown field '{key}'.", remedy=nearest(str(key), [*known, *more])
                )
        try:
            return Profile(**{**fields, "name": name})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigurationError(f"{self._where}: {what}{f', {place}' if place else ''}: {message}.") from error


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a remedy sentence that names the nearest valid name, else all of them."""
    names = list(choices)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Valid: {', '.join(names)}."


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} must be a mapping.", remedy="Write 'key: value' lines.")
    return dict(value)
