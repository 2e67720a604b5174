"""Which file system a path lies on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "cvmfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.gpfs",
    "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "mmfs", "ncpfs", "nfs",
    "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "quobyte", "smb2", "smb3", "smbfs", "virtiofs", "wekafs",
}  # fmt: skip
"""File systems of other machines: SQLite's write-ahead log needs memory shared by all its readers, which these do not
give."""

VOLATILE = {"tmpfs", "ramfs"}


@dataclass(frozen=True)
class Mount:
    """A mounted file system.

    Attributes
    ----------
    source, point, kind, options
        The four first words of its line in ``/proc/mounts``.
    """

    source: str
    point: str
    kind: str
    options: tuple[str, ...]

    @property
    def is_network(self) -> bool:
        """Whether its files lie on another machine."""
        return self.kind in NETWORK

    @property
    def is_volatile(self) -> bool:
        """Whether its files lie in memory and are gone after a restart."""
        return self.kind in VOLATILE


def read_mounts(text: str) -> list[Mount]:
    """Read the content of ``/proc/mounts``.

    Parameters
    ----------
    text
        Its lines; spaces in names are written in octal there.
    """
    found = []
    for line in text.splitlines():
        words = [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), word) for word in line.split()]
        if len(words) >= 4:
            found.append(Mount(words[0], words[1], words[2], tuple(words[3].split(","))))
    return found


def mount_of(path: str | Path, mounts: list[Mount]) -> Mount | None:
    """Return the file system that a path lies on: the longest mount point above it, the last one of several.

    Parameters
    ----------
    path
        Any path; it need not exist.
    mounts
        From ``read_mounts``.
    """
    real = os.path.realpath(path)
    best: Mount | None = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        inside = real == point or real.startswith(f"{point}/") or not point
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best
