"""A profile as parameters of FireWorks' queue adapter, and as the lines that a batch script begins with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.errors import ConfigurationError
from atomfoundry.running.cluster.wall_time import format_wall_time

if TYPE_CHECKING:
    from atomfoundry.running.cluster.profiles import Profile

PBS_TEMPLATE = Path(__file__).parent / "templates" / "pbs.txt"
PBS_NAME_LENGTH = 15
"""Older PBS servers refuse longer names."""


def queue_parameters(
    profile: Profile, scheduler: str, *, environment: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parameters of a profile, without its raw ``extra``, and the keys that the scheduler's template has."""
    common = {
        "job_name": job_name(profile.name, scheduler),
        "queue": profile.queue,
        "account": profile.account,
        "walltime": format_wall_time(profile.wall_time),
        "pre_rocket": prologue(profile, scheduler, environment),
    }
    own = _slurm(profile) if scheduler == "slurm" else _pbs(profile)
    return common | own, template_keys(scheduler)


def job_name(profile: str, scheduler: str) -> str:
    """Return the name that allocations of a profile have in the queue."""
    name = f"foundry-{profile}"
    return name[:PBS_NAME_LENGTH].rstrip("-") if scheduler == "pbs" else name


def _slurm(profile: Profile) -> dict[str, Any]:
    kind = f"gpu:{profile.gpu_type}" if profile.gpu_type else "gpu"
    return {
        "nodes": profile.nodes,
        "ntasks_per_node": profile.cores // profile.threads,
        "cpus_per_task": profile.threads,
        "mem": f"{profile.memory_mb}M" if profile.memory_mb else None,
        "gres": f"{kind}:{profile.gpus}" if profile.gpus else None,
        # to the batch process alone, which the worker replaces (exec): it passes the word on to its jobs
        "signal": f"B:USR1@{profile.signal_before}",
    }


def _pbs(profile: Profile) -> dict[str, Any]:
    chunk = [
        f"{profile.nodes}:ncpus={profile.cores}",
        f"mpiprocs={profile.cores // profile.threads}",
        f"ompthreads={profile.threads}",
    ]
    if profile.memory_mb:
        chunk.append(f"mem={profile.memory_mb}mb")
    if profile.gpus:
        chunk.append(f"ngpus={profile.gpus}")
    if profile.gpu_type:
        chunk.append(f"gpu_type={profile.gpu_type}")
    return {"select": ":".join(chunk)}


def prologue(profile: Profile, scheduler: str, environment: Mapping[str, str]) -> str:
    """Return the shell lines before the worker: modules, exports, and the end of the allocation.

    Variables of the profile are expanded by the shell, those of ``environment`` stand as they are.
    """
    lines = [f"module load {module} || exit 1" for module in profile.modules]
    own = profile.environment
    fixed = {"OMP_NUM_THREADS": str(profile.threads), **environment}
    lines += [f"export {name}={shlex.quote(value)}" for name, value in fixed.items() if name not in own]
    lines += [f"export {name}={_quoted(value)}" for name, value in own.items()]
    end = f"export ATOMFOUNDRY_DEADLINE=$(( $(date +%s) + {profile.wall_time} ))"
    if scheduler == "pbs":
        # PBS tells a job neither when it ends nor, reliably, how long it may run
        lines.append(end)
    if scheduler == "slurm":
        # newer ones tell it themselves, Slurm 22.05 does not
        lines.append(f'[ -n "$SLURM_JOB_END_TIME" ] || {end}')
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """Return the value in double quotes: ``$NAME`` and ``${NAME}`` expand, nothing is executed."""
    escaped = re.sub(r'(["\\`])', r"\\\1", value)
    escaped = re.sub(r"[$](?![A-Za-z_{])", r"\\$", escaped)
    return f'"{escaped}"'


@cache
def template_keys(scheduler: str) -> tuple[str, ...]:
    """Return the keys that a scheduler's template substitutes.

    Raises
    ------
    ConfigurationError
        If FireWorks is not installed, whose template Slurm uses.
    """
    text = PBS_TEMPLATE.read_text() if scheduler == "pbs" else _slurm_template().read_text()
    # names with a hyphen are in FireWorks' text, but its own substitution does not know them
    return tuple(dict.fromkeys(re.findall(r"\$\$\{([A-Za-z_][A-Za-z0-9_]*)\}", text)))


def _slurm_template() -> Path:
    found = find_spec("fireworks")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError("FireWorks is not installed.", remedy="pip install fireworks")
    return Path(found.submodule_search_locations[0]) / "user_objects" / "queue_adapters" / "SLURM_template.txt"
