"""The batch queue: its commands, and the partitions that profiles and queue adapters name."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atomfoundry.doctor.cluster_files import nearest, queue_adapters
from atomfoundry.doctor.commands import ask
from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

COMMANDS = {
    "SLURM": ("sbatch", "squeue", "scancel", "sinfo"),
    "PBS": ("qsub", "qstat", "qdel"),
    "SGE": ("qsub", "qstat", "qdel"),
    "Cobalt": ("qsub", "qstat"),
    "LoadSharingFacility": ("bsub", "bjobs"),
    "LoadLeveler": ("llsubmit", "llq"),
    "MOAB": ("msub", "showq"),
}


@dataclass(frozen=True)
class Partition:
    """A partition of Slurm.

    Attributes
    ----------
    name, up
        Its name, and whether it takes jobs.
    time_limit
        Seconds; None: none.
    cores, memory
        Of its largest node; memory in MB.
    """

    name: str
    up: bool
    time_limit: float | None
    cores: int
    memory: int


def parse_time(text: Any) -> float | None:
    """Return the seconds of ``"2-12:00:00"``, ``"12:00:00"``, ``"30:00"``, ``"30"`` (minutes) or a number of seconds.

    Parameters
    ----------
    text
        As Slurm and profiles write it; None for ``infinite`` and what is no time.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text).strip())
    if not found:
        return None
    days, *rest = found.groups()
    numbers = [int(part) for part in rest if part is not None]
    if days is not None:  # D-HH[:MM[:SS]]
        hours, minutes, secs = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, secs = numbers
    else:  # MM[:SS]
        hours, minutes, secs = 0, *[*numbers, 0][:2]
    return float(int(days or 0) * 86400 + hours * 3600 + minutes * 60 + secs)


def read_partitions(text: str) -> dict[str, Partition]:
    """Read ``sinfo -h -o "%R|%a|%l|%c|%m"``: one line a kind of node.

    Parameters
    ----------
    text
        Its output.
    """
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        words = line.strip().split("|")
        if len(words) != 5:
            continue
        name, up, limit, cores, memory = words
        counts = [int(re.sub(r"\D", "", word) or 0) for word in (cores, memory)]
        before = found.get(name)
        if before:
            counts = [max(pair) for pair in zip(counts, (before.cores, before.memory), strict=True)]
        found[name] = Partition(name, up == "up", parse_time(limit), *counts)
    return found


def requests(world: World) -> list[tuple[str, dict[str, Any]]]:
    """Return where a queue is named, and what is asked of it: profiles, overrides by job name, queue adapters.

    Parameters
    ----------
    world
        What to look at.
    """
    path = world.cluster / "profiles.yaml"
    content = world.document("profiles.yaml")
    found = []
    for section in ("profiles", "jobs"):
        entries = content.get(section)
        for name, values in entries.items() if isinstance(entries, dict) else ():
            if isinstance(values, dict) and values.get("queue"):
                found.append((f"{section[:-1]} '{name}' in {path}", {"wall_time": None, **values}))
    for adapter, values in queue_adapters(world):
        if values.get("queue"):
            found.append((str(adapter), {"queue": values["queue"], "wall_time": values.get("walltime")}))
    return found


def queue_type(world: World) -> str | None:
    """Return the kind of queue that the queue adapters are for, None where there are none.

    Parameters
    ----------
    world
        What to look at.
    """
    kinds = [content.get("_fw_q_type") for _, content in queue_adapters(world)]
    return next((str(kind) for kind in kinds if kind in COMMANDS), None)


@check("scheduler", "cluster")
def scheduler(world: World) -> Iterator[Finding]:
    """Check that the commands of the batch queue are here, and that it answers."""
    kind = queue_type(world)
    if kind is None:
        yield skipped(f"No queue adapters in {world.cluster}: workers are started by hand")
        return
    missing = [name for name in COMMANDS[kind] if shutil.which(name) is None]
    if missing:
        yield problem(
            f"The queue adapters are for {kind}, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
            "in PATH.",
            f"module load {kind.lower()}, or run on a login node of the cluster: command -v {missing[0]}",
            missing=missing,
        )
        return
    answer = ask([COMMANDS[kind][1], *(["-h", "--me"] if kind == "SLURM" else [])])
    if not answer.ok:
        yield problem(
            f"{COMMANDS[kind][1]} failed: {answer.last_line}", f"{COMMANDS[kind][1]}; ask for the queue's state."
        )
        return
    jobs = len(answer.output.strip().splitlines())
    yield ok(f"{kind} answers" + (f", {jobs} jobs of yours" if kind == "SLURM" else ""), kind=kind)


@check("partitions", "cluster")
def partitions(world: World) -> Iterator[Finding]:
    """Check that the partitions that profiles and queue adapters name exist, and grant what is asked."""
    asked = requests(world)
    if not asked:
        yield skipped("No profile and no queue adapter names a partition")
        return
    if queue_type(world) not in (None, "SLURM") or shutil.which("sinfo") is None:
        yield skipped("Partitions are compared with sinfo, which is not here")
        return
    answer = ask(["sinfo", "-h", "-a", "-o", "%R|%a|%l|%c|%m"])
    if not answer.ok:
        yield problem(f"sinfo failed: {answer.last_line}", "sinfo; ask for the state of slurmctld.")
        return
    known = read_partitions(answer.output)
    bad: list[Finding] = []
    for where, wanted in asked:
        bad += _compare(where, wanted, known)
    yield from bad
    if not bad:
        names = sorted({str(wanted["queue"]) for _, wanted in asked})
        yield ok(f"Partitions there and up: {', '.join(names)}", partitions=sorted(known))


def _compare(where: str, wanted: dict[str, Any], known: dict[str, Partition]) -> Iterator[Finding]:
    for queue in str(wanted["queue"]).split(","):
        partition = known.get(queue)
        if partition is None:
            near = nearest(queue, known)
            hint = f"Write 'queue: {near}'" if near else f"Write one of {', '.join(sorted(known))} as 'queue'"
            hint += f" for {where}"
            yield problem(f"There is no partition '{queue}' ({where}).", f"{hint}; 'sinfo -a' lists them.", queue=queue)
            continue
        if not partition.up:
            yield warning(
                f"Partition '{queue}' takes no jobs at the moment ({where}).", f"sinfo -p {queue}", queue=queue
            )
        time, limit = parse_time(wanted.get("wall_time")), partition.time_limit
        if time is not None and limit is not None and time > limit:
            yield problem(
                f"{where} asks for {time / 3600:g} h, but partition '{queue}' grants {limit / 3600:g} h: its jobs wait "
                "for ever.",
                f"Write 'wall_time: {int(limit)}' (in a queue adapter: walltime) for {where}.",
                asked=time,
                granted=limit,
            )
        for key, granted, unit in (
            ("cores", partition.cores, "cores"),
            ("memory_mb", partition.memory, "MB of memory"),
        ):
            value = wanted.get(key)
            if isinstance(value, int) and granted and value > granted:
                yield problem(
                    f"{where} asks for {value} {unit} a node; the largest node of partition '{queue}' has {granted}.",
                    f"Write '{key}: {granted}' for {where}.",
                    asked=value,
                    granted=granted,
                )
