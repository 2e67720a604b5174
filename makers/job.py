"""``@foundry_job``: jobflow's ``@job`` that also fills in where the document came from."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache, wraps
from importlib import metadata
from pathlib import Path
from typing import Any, overload

from jobflow import CURRENT_JOB, Flow, Job, Maker, Response, job

import atomfoundry
from atomfoundry.documents import FoundryDocument, JobReference, Provenance
from atomfoundry.makers.profiles import profile_of_job
from atomfoundry.results.job_store import recorded_inputs

PACKAGES = (
    "ase",
    "atomate2",
    "e3nn",
    "jobflow",
    "matscipy",
    "numpy",
    "pyarrow",
    "pymatgen",
    "pyscf",
    "scipy",
    "tblite",
    "torch",
)
"""Packages whose versions go into provenance."""


@overload
def foundry_job(method: Callable) -> Callable[..., Job]: ...


@overload
def foundry_job(
    method: None = None, *, profile: str | Callable[..., str] | None = None, **job_kwargs: Any
) -> Callable[[Callable], Callable[..., Job]]: ...


def foundry_job(
    method: Callable | None = None, *, profile: str | Callable[..., str] | None = None, **job_kwargs: Any
) -> Callable[..., Job] | Callable[[Callable], Callable[..., Job]]:
    """Make a function or a Maker's method return a Job whose documents carry their provenance.

    Used like jobflow's ``@job``, with or without arguments. ``provenance`` is set on the returned
    ``FoundryDocument``, on one inside a ``Response``, and on those in a returned list, tuple or dictionary.

    Parameters
    ----------
    method
        The function.
    profile
        Resource profile of its jobs, or what returns it for the same arguments; None: ``"light"``. The description of
        a calculator among the arguments (:class:`~atomfoundry.documents.CalculatorSpec`) that asks for another one
        than ``"light"`` wins. It is the job's own: the jobs that it makes have theirs.
    **job_kwargs
        Arguments of jobflow's ``Job``, such as ``output_schema``.
    """

    def decorate(function: Callable) -> Callable[..., Job]:
        kind = next((kind for kind in (staticmethod, classmethod) if isinstance(function, kind)), None)
        plain = function.__func__ if kind else function  # type: ignore[attr-defined]

        @wraps(plain)
        def with_provenance(*args: Any, **kwargs: Any) -> Any:
            current = CURRENT_JOB.job
            if current is None:
                return plain(*args, **kwargs)
            clock = _Clock()
            result = plain(*args, **kwargs)
            return _stamp(result, current, plain, args, kwargs, clock, job_kwargs.get("output_schema"))

        made = job(with_provenance, **job_kwargs)

        @wraps(made)
        def with_profile(*args: Any, **kwargs: Any) -> Job:
            created = made(*args, **kwargs)
            own = profile(*args, **kwargs) if callable(profile) else profile
            chosen = profile_of_job([*args, *kwargs.values()], own)
            if chosen is not None:
                created.update_metadata({"profile": chosen}, dynamic=False)
            return created

        # one layer to take off, as of jobflow's own
        with_profile.__wrapped__ = made.__wrapped__
        return kind(with_profile) if kind else with_profile  # type: ignore[return-value]

    return decorate if method is None else decorate(method)


class _Clock:
    """Start, duration, memory and use of a GPU of one job."""

    def __init__(self) -> None:
        self._gpu_allocations = _gpu_allocations()
        self.started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._start = time.perf_counter()
        _reset_peak_memory()

    def wall_time(self) -> float:
        return time.perf_counter() - self._start

    def used_gpu(self) -> bool:
        """Tell whether torch put anything on a GPU since the start."""
        return _gpu_allocations() > self._gpu_allocations


def _gpu_allocations() -> int:
    """Count what torch has ever put on the GPUs of this process."""
    torch = sys.modules.get("torch")  # asked only where the job has loaded it: this room imports no torch
    if torch is None or not torch.cuda.is_initialized():
        return 0
    counts = (torch.cuda.memory_stats(number) for number in range(torch.cuda.device_count()))
    return sum(count.get("allocation.all.allocated", 0) for count in counts)


def _reset_peak_memory() -> None:
    # A worker runs many jobs; without this every job after a big one would report the big one's memory.
    try:
        with Path("/proc/self/clear_refs").open("w") as file:
            file.write("5")
    except OSError:
        return


def _peak_memory_mb() -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        own = next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        own = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        own = own / 1024 if sys.platform == "darwin" else own
    return own / 1024


def _stamp(
    result: Any,
    current: Job,
    function: Callable,
    args: tuple,
    kwargs: dict,
    clock: _Clock,
    schema: type | None,
) -> Any:
    """Set the provenance of every document in what a job returned."""

    def stamp(value: Any) -> Any:
        if isinstance(value, FoundryDocument):
            return value.model_copy(update={"provenance": provenance()})
        return value

    @lru_cache(maxsize=1)
    def provenance() -> Provenance:
        return make_provenance(current, function, args, kwargs, clock=clock)

    replacement = result.replace if isinstance(result, Response) else result if isinstance(result, Job | Flow) else None
    if replacement is not None:
        # jobflow lets this job's metadata win over the replacement's, which has a profile of its own
        current.metadata = {key: value for key, value in (current.metadata or {}).items() if key != "profile"}
        if not isinstance(replacement, Job):
            # jobflow hands the schema on to the job that stores the replacement's output, where it must fail:
            # that output is a reference.
            current.output_schema = None
    if isinstance(result, Response):
        result.output = _stamp(result.output, current, function, args, kwargs, clock, schema)
        return result
    if isinstance(result, Flow):
        return result
    if isinstance(result, dict):
        if isinstance(schema, type) and issubclass(schema, FoundryDocument):
            return stamp(schema(**result))
        return {key: stamp(value) for key, value in result.items()}
    if type(result) in (list, tuple):
        return type(result)(stamp(value) for value in result)
    return stamp(result)


def make_provenance(
    current: Job, function: Callable, args: tuple, kwargs: dict, *, clock: _Clock | None = None
) -> Provenance:
    """Collect the provenance of the running job.

    Parameters
    ----------
    current
        ``CURRENT_JOB.job``.
    function
        The undecorated function.
    args, kwargs
        What it was called with; references are resolved.
    clock
        When it started; default now.
    """
    clock = clock or _Clock()
    maker = args[0] if args and isinstance(args[0], Maker) else None
    arguments = _bind(function, args, kwargs)
    inputs = recorded_inputs(current)
    if inputs is None:
        inputs = _documents_read(arguments)
    return Provenance(
        job_uuid=current.uuid,
        job_index=current.index,
        job_name=current.name or "",
        inputs=inputs,
        code_version=atomfoundry.__version__,
        git_commit=git_commit(),
        packages=package_versions(),
        host=platform.node(),
        device=_device(maker, arguments, clock),
        seed=_seed(maker, arguments),
        settings_hash=settings_hash(maker, arguments),
        started_at=clock.started_at,
        wall_time_s=clock.wall_time(),
        peak_memory_mb=_peak_memory_mb(),
    )


def _bind(function: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Name the arguments, defaults included."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def _documents_read(value: Any, depth: int = 4) -> list[JobReference]:
    """Find inputs by the provenance of the documents given: what is known without our store."""
    found: dict[tuple[str, int], None] = {}

    def walk(item: Any, levels: int) -> Iterator[tuple[str, int]]:
        if isinstance(item, FoundryDocument) and item.provenance is not None:
            yield item.provenance.job_uuid, item.provenance.job_index
        elif levels and isinstance(item, dict):
            for part in item.values():
                yield from walk(part, levels - 1)
        elif levels and isinstance(item, list | tuple):
            for part in item:
                yield from walk(part, levels - 1)

    found.update(dict.fromkeys(walk(value, depth)))
    return [JobReference(uuid=uuid, index=index) for uuid, index in found]


def _seed(maker: Maker | None, arguments: dict[str, Any]) -> int | None:
    for value in (arguments.get("seed"), getattr(maker, "seed", None)):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _device(maker: Maker | None, arguments: dict[str, Any], clock: _Clock) -> str:
    """Return what was computed on: what was asked for, else a GPU if this job used one (an earlier job may have)."""
    asked = (arguments.get("device"), getattr(maker, "device", None))
    device = next((value for value in asked if isinstance(value, str) and value != "auto"), None)
    if clock.used_gpu() and (device is None or device.startswith("cuda")):
        return f"{device or 'cuda'} ({sys.modules['torch'].cuda.get_device_name(device)})"
    return device or "cpu"


def settings_hash(maker: Maker | None, arguments: dict[str, Any]) -> str:
    """Hash what a job was configured with: its Maker, or a plain function's simple arguments.

    Parameters
    ----------
    maker
        The Maker, or None.
    arguments
        The function's arguments by name.

    Returns
    -------
    str
        16 hex digits; uuids and versions do not count.
    """
    if maker is not None:
        content: Any = _without(maker.as_dict(), {"uuid", "@version"})
    else:
        content = {
            name: value
            for name, value in arguments.items()
            if value is None or isinstance(value, str | int | float | bool)
        }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(item, keys) for name, item in value.items() if name not in keys}
    if isinstance(value, list | tuple):
        return [_without(item, keys) for item in value]
    return value


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the main packages that are installed."""
    return dict(_versions())


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Return the commit of the running source, with ``-dirty`` if files differ; None if unknown."""
    source = Path(atomfoundry.__file__).resolve().parent.parent
    # Only a checkout of our own: an environment inside somebody else's repository must not lend its commit.
    if not (source / ".git").exists():
        return None
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(  # nosec B607 # git as PATH has it; it only writes a commit down
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
