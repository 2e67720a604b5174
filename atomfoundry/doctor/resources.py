"""Memory, cores, threads, open files."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.doctor.findings import Finding, ok, warning
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

LITTLE_MEMORY = 4 * 2**30
"""Bytes; the quickstart's training and a small DFT run need about this together."""
FEW_FILES = 1024
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@check("memory", "machine")
def memory(world: World) -> Iterator[Finding]:
    """Check that there is memory enough."""
    import psutil

    found = psutil.virtual_memory()
    limit = min([found.total, *_cgroup_limits()])
    available = min(found.available, limit)
    details = {"total": found.total, "limit": limit, "available": available}
    text = f"{limit / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB of them free"
    if limit < LITTLE_MEMORY:
        yield warning(f"Only {text}.", "atomfoundry run quickstart --workers 1", **details)
    elif available < LITTLE_MEMORY // 2:
        yield warning(f"{text}: other programs hold the rest.", "ps aux --sort=-rss | head", **details)
    else:
        yield ok(text, **details)


def _cgroup_limits() -> Iterator[int]:
    for path in CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            yield int(text)


@check("cores", "machine")
def cores(world: World) -> Iterator[Finding]:
    """Count the cores that may be used, and compare ``OMP_NUM_THREADS`` with them."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{usable} of {os.cpu_count()} cores"
    threads = os.environ.get("OMP_NUM_THREADS")
    details = {"usable": usable, "present": os.cpu_count(), "OMP_NUM_THREADS": threads}
    if threads is None:
        yield ok(f"{text}; OMP_NUM_THREADS is not set, workers set it themselves", **details)
        return
    first = threads.split(",")[0].strip()  # one number a nested level
    if not first.isdigit() or int(first) < 1:
        yield warning(
            f"OMP_NUM_THREADS is '{threads}', which is no number of threads.", "export OMP_NUM_THREADS=1", **details
        )
    elif int(first) > usable:
        yield warning(
            f"OMP_NUM_THREADS={threads}, but only {usable} cores may be used: threads take turns and everything is "
            "slower.",
            f"export OMP_NUM_THREADS={usable}",
            **details,
        )
    else:
        yield ok(f"{text}, OMP_NUM_THREADS={threads}", **details)


@check("limits", "machine")
def limits(world: World) -> Iterator[Finding]:
    """Check the limits of open files, and of the stack that Fortran codes need."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    bad = []
    if files != resource.RLIM_INFINITY and files < FEW_FILES:
        more = "unlimited" if most == resource.RLIM_INFINITY else min(most, 65536)
        bad.append(warning(f"A process may open only {files} files.", f"ulimit -n {more}", files=files))
    if stack != resource.RLIM_INFINITY and stack < 8 * 2**20:
        bad.append(
            warning(
                f"The stack is limited to {stack // 1024} KiB: Fortran codes such as VASP and pw.x crash on large "
                "cells.",
                "ulimit -s unlimited",
                stack=stack,
            )
        )
    yield from bad
    if not bad:
        shown = "unlimited" if stack == resource.RLIM_INFINITY else f"{stack // 2**20} MiB"
        yield ok(f"{files} open files, stack {shown}", files=files, stack=stack)
