"""Where in a project's folder the files of a cluster lie, and how they are written."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atomfoundry.errors import ProjectError
from atomfoundry.results.mongodb import CLUSTER_FOLDER, LAUNCHPAD_FILE

PRIVATE = 0o600
PUBLIC = 0o644
SCRIPT = 0o755

Action = Literal["written", "unchanged", "kept"]

LONGEST_DATABASE_NAME = 38
"""MongoDB allows 63 bytes, the small clusters of its own service 38."""


def jobs_of_project(project_id: str | None) -> dict[str, Any]:
    """Return the filter of a project's jobs among all that are in FireWorks' database.

    Parameters
    ----------
    project_id
        The project's id; None for one older than ids.
    """
    if project_id is None:  # jobs that are none of ours have none either
        return {"spec.foundry": {"$exists": True}, "spec.foundry.project_id": None}
    return {"spec.foundry.project_id": project_id}


@dataclass(frozen=True)
class ClusterLayout:
    """The paths of ``PROJECT/cluster/``.

    Parameters
    ----------
    project_path
        The project's folder.
    """

    project_path: Path

    @property
    def folder(self) -> Path:
        """All of them."""
        return self.project_path / CLUSTER_FOLDER

    @property
    def slug(self) -> str:
        """The project's name as part of a file name."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.project_path.name).strip("-") or "project"

    @property
    def database_name(self) -> str:
        """The name of a database for this project alone, as far as a server has no folder of the same name.

        In lower case: MongoDB refuses a second name that differs in nothing else.
        """
        own = re.sub(r"[^a-z0-9]+", "_", self.slug.lower()).strip("_")
        name = f"atomfoundry_{own or 'project'}"
        if len(name) <= LONGEST_DATABASE_NAME:
            return name
        digest = hashlib.sha256(self.project_path.name.encode()).hexdigest()[:8]
        return f"{name[: LONGEST_DATABASE_NAME - 9].rstrip('_')}_{digest}"

    @property
    def answers(self) -> Path:
        """What ``init cluster`` was answered."""
        return self.folder / "cluster.yaml"

    @property
    def launchpad(self) -> Path:
        """FireWorks' connection to the database; private."""
        return self.folder / LAUNCHPAD_FILE

    @property
    def fireworks(self) -> Path:
        """FireWorks' settings."""
        return self.folder / "FW_config.yaml"

    @property
    def jobflow(self) -> Path:
        """Jobflow's connection to the database; private."""
        return self.folder / "jobflow.yaml"

    @property
    def profiles(self) -> Path:
        """The resource profiles; the user's."""
        return self.folder / "profiles.yaml"

    @property
    def pbs_template(self) -> Path:
        """The batch script that PBS adapters fill in."""
        return self.folder / "pbs_template.txt"

    @property
    def any_fworker(self) -> Path:
        """Which jobs FireWorks' own workers take where no other file is named: all of this project."""
        return self.folder / "fworker.yaml"

    def fworker(self, profile: str) -> Path:
        """Which jobs a profile's workers take."""
        return self.folder / f"my_fworker_{profile}.yaml"

    def qadapter(self, profile: str) -> Path:
        """Resources that a profile's workers ask of the queue."""
        return self.folder / f"my_qadapter_{profile}.yaml"

    def launches(self, profile: str) -> Path:
        """Where a profile's batch scripts and their output lie."""
        return self.folder / "launches" / profile

    @property
    def logs(self) -> Path:
        """Logs of the launcher and the sweep."""
        return self.folder / "logs"

    @property
    def launch_script(self) -> Path:
        """Sends workers to the queue."""
        return self.folder / "launch.sh"

    @property
    def work_script(self) -> Path:
        """Runs a worker here."""
        return self.folder / "work.sh"

    @property
    def sweep_script(self) -> Path:
        """Finds jobs whose worker died."""
        return self.folder / "sweep.sh"

    @property
    def crontab(self) -> Path:
        """Lines for cron."""
        return self.folder / "crontab"

    @property
    def systemd(self) -> Path:
        """Units for ``systemctl --user``."""
        return self.folder / "systemd"

    @property
    def mongodb(self) -> Path:
        """What a database server needs."""
        return self.folder / "mongodb"

    @property
    def mongodb_passwords(self) -> Path:
        """The passwords that a new server is made with; private."""
        return self.mongodb / "passwords.env"

    @property
    def containers(self) -> Path:
        """Recipes of images."""
        return self.folder / "containers"

    @property
    def kubernetes(self) -> Path:
        """Workers on Kubernetes."""
        return self.folder / "kubernetes"


@dataclass(frozen=True)
class ClusterFile:
    """The content of one file."""

    text: str
    mode: int = PUBLIC
    users: bool = False
    """Once there it is the user's: never replaced."""


@dataclass(frozen=True)
class WrittenFile:
    """What became of one file."""

    path: Path
    action: Action


def write_files(files: Mapping[Path, ClusterFile], *, force: bool = False) -> list[WrittenFile]:
    """Write files atomically; what is there and differs is kept, unless forced.

    A private file that others may read is made private in any case.

    Parameters
    ----------
    files
        Contents by path.
    force
        Replace what differs, except for the user's own files.

    Raises
    ------
    ProjectError
        If a file cannot be read or written.
    """
    done = []
    for path, file in files.items():
        try:
            done.append(WrittenFile(path, _write(path, file, force=force)))
        except (OSError, UnicodeDecodeError) as error:
            raise ProjectError(f"Cannot write {path}: {error}.", remedy="Give a folder you may write to.") from error
    return done


def _write(path: Path, file: ClusterFile, *, force: bool) -> Action:
    if path.exists():
        if file.mode == PRIVATE and path.stat().st_mode & 0o077:
            path.chmod(PRIVATE)
        if path.read_text() == file.text:
            return "unchanged"
        if file.users or not force:
            return "kept"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(file.text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(file.mode)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return "written"
