"""Disks: space, inodes, whether writing is safe, on which file system the project lies, and its clock."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.doctor.findings import Finding, ok, problem, warning
from atomfoundry.doctor.mounts import Mount, mount_of, read_mounts
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

FULL = 2**29
"""Bytes; with less than this free a run stops soon."""
LITTLE = 4 * 2**30
FEW_INODES = 10_000
SLOW_S = 0.5
"""A file of one block, written, synced and renamed, should take less."""
CLOCK_S = 2.0


def places(world: World) -> list[tuple[str, Path]]:
    """Return the folders that Atomfoundry writes to, or the next above that exists.

    Parameters
    ----------
    world
        What to look at.
    """
    named = [("project", world.project)] if world.project is not None else [("this folder", Path.cwd())]
    named += [("home", world.home), ("temporary files", Path(tempfile.gettempdir()))]
    return [(name, _existing(path)) for name, path in named if path is not None]


def _existing(path: Path) -> Path:
    for candidate in (path, *path.absolute().parents):
        if candidate.is_dir():
            return candidate
    return Path("/")


@check("space", "disk")
def space(world: World) -> Iterator[Finding]:
    """Check that there is room on the disks, for bytes and for files."""
    bad, texts, details = [], [], {}
    for name, folder in places(world):
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        details[name] = {"folder": str(folder), "free": free, "free_inodes": found.f_favail}
        texts.append(f"{name} {free / 2**30:.0f} GiB")
        cure = f"du -xh --max-depth=2 {folder} | sort -h | tail"
        if free < FULL:
            bad.append(problem(f"The disk of {name} ({folder}) is full: {free / 2**20:.0f} MiB are free.", cure))
        elif free < LITTLE:
            bad.append(warning(f"The disk of {name} ({folder}) has only {free / 2**30:.1f} GiB free.", cure))
        if found.f_files and found.f_favail < FEW_INODES:  # some file systems count none
            bad.append(
                problem(
                    f"The disk of {name} ({folder}) has room for only {found.f_favail} more files.",
                    f"du -x --inodes --max-depth=2 {folder} | sort -n | tail",
                )
            )
    yield from bad
    if not bad:
        yield ok(f"Free: {', '.join(texts)}", **details)


@check("writing", "disk")
def writing(world: World) -> Iterator[Finding]:
    """Write, sync and rename a file, and compare the file system's clock with this machine's."""
    bad, times, details = [], [], {}
    for name, folder in places(world)[:2]:
        try:
            seconds, skew = write_once(folder)
        except OSError as error:
            bad.append(
                problem(
                    f"{name} ({folder}) cannot be written: {error.strerror}.",
                    f"ls -ld {folder}; chmod u+rwx {folder}, or name another folder.",
                    folder=str(folder),
                )
            )
            continue
        details[name] = {"folder": str(folder), "seconds": round(seconds, 4), "clock_skew": round(skew, 3)}
        times.append(f"{name} {seconds * 1000:.0f} ms")
        if seconds > SLOW_S:
            bad.append(
                warning(
                    f"Writing, syncing and renaming one small file in {folder} took {seconds:.1f} s.",
                    f"Move it to a faster disk; 'dd if=/dev/zero of={folder}/try bs=4k count=100 oflag=dsync' "
                    "measures.",
                )
            )
        if abs(skew) > CLOCK_S:
            bad.append(
                warning(
                    f"The clock of the file system of {folder} is {abs(skew):.0f} s "
                    f"{'ahead of' if skew > 0 else 'behind'}"
                    " this machine's: what is new and what is stale cannot be told.",
                    "chronyc tracking (or timedatectl) here and on the file server; start chronyd where it is off.",
                    skew=skew,
                )
            )
    yield from bad
    if not bad:
        yield ok(f"Written, synced and renamed: {', '.join(times)}", **details)


def write_once(folder: Path) -> tuple[float, float]:
    """Write, sync and rename a small file, as everything here is written.

    Parameters
    ----------
    folder
        Where; nothing is left there.

    Returns
    -------
    tuple[float, float]
        Seconds it took, and by how many seconds the file's time is ahead of this machine's.

    Raises
    ------
    OSError
        If it cannot be done.
    """
    started = time.monotonic()
    descriptor, name = tempfile.mkstemp(prefix=".doctor-", dir=folder)
    path, target = Path(name), Path(f"{name}-renamed")
    try:
        before = time.time()
        try:
            os.write(descriptor, b"x" * 4096)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        after = time.time()
        path.replace(target)
        stamp = target.stat().st_mtime
    finally:
        for each in (path, target):
            each.unlink(missing_ok=True)
    # the kernel's file times step by up to 10 ms
    skew = stamp - after if stamp > after else min(0.0, stamp - before)
    return time.monotonic() - started, skew


@check("file-system", "disk")
def file_system(world: World) -> Iterator[Finding]:
    """Check that the project lies on a file system that can carry it."""
    name, folder = places(world)[0]
    try:
        mounts = read_mounts(world.mounts_file.read_text())
    except OSError:
        mounts = []
    mount = mount_of(folder, mounts)
    if mount is None:
        yield ok(f"{folder}: the kind of its file system is not known")
        return
    details = {"folder": str(folder), "kind": mount.kind, "source": mount.source, "mount": mount.point}
    bad = list(_unfit(world, folder, mount, details))
    yield from bad
    if not bad:
        yield ok(f"{name} lies on {mount.kind} ({mount.point})", **details)


def _unfit(world: World, folder: Path, mount: Mount, details: dict) -> Iterator[Finding]:
    if mount.is_network and not world.on_mongodb:
        message = (
            f"{folder} lies on {mount.kind} ({mount.source}). SQLite's write-ahead log does not work on a network file "
            "system: results can be lost when two machines write."
        )
        if world.project is None:
            yield warning(message, "Give runs a folder on a local disk: --project /local/disk/NAME.", **details)
        else:
            yield problem(
                message,
                f"When nothing runs: cp -a {folder} /local/disk/ and go on there, or make the project one on MongoDB.",
                **details,
            )
    if world.project is not None and world.on_mongodb and world.has_cluster and not mount.is_network:
        yield warning(
            f"{folder} lies on {mount.kind}, a disk of this machine: workers on other machines do not see it.",
            "Move the project to the shared file system of the cluster, unless all workers are on this machine.",
            **details,
        )
    if world.project is not None and mount.is_volatile:
        yield warning(
            f"{folder} lies in memory ({mount.kind}): it is gone when the machine restarts.",
            f"cp -a {folder} to a disk, and go on there.",
            **details,
        )
    if "ro" in mount.options:
        yield problem(f"{mount.point} is mounted read-only.", f"mount -o remount,rw {mount.point} (as root)", **details)
