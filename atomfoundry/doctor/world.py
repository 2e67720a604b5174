"""What the checks look at: the settings, the project folder, its cluster folder, its database."""

from __future__ import annotations

import json
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from atomfoundry.errors import ConfigurationError
from atomfoundry.results.mongodb import CLUSTER_FOLDER, LAUNCHPAD_FILE

if TYPE_CHECKING:
    from pymongo.database import Database

    from atomfoundry.settings import AtomfoundrySettings

CONNECT_LIMIT_S = 8.0
"""All checks together wait so long for the database."""


class UnansweredError(Exception):
    """A check cannot be made, because of something that another check reports."""


class World:
    """What is examined.

    Parameters
    ----------
    project
        The project folder, None if there is none.
    mounts
        The kernel's list of mounted file systems.
    """

    def __init__(self, project: str | Path | None = None, *, mounts: str | Path = "/proc/self/mounts") -> None:
        self.project = None if project is None else Path(project).expanduser().absolute()
        self.mounts_file = Path(mounts)
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._connecting_since: float | None = None
        self._database: Database | None = None
        self._database_error: Exception | None = None

    # -- settings --------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> AtomfoundrySettings:
        """The settings.

        Raises
        ------
        UnansweredError
            If they cannot be read, which the check ``settings`` reports.
        """
        from atomfoundry.settings import settings

        try:
            return settings()
        except ConfigurationError as error:
            raise UnansweredError("the settings cannot be read (see 'settings')") from error

    @property
    def home(self) -> Path:
        """The private folder of installed engines and compiled kernels."""
        return self.settings.home_dir

    # -- project ---------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The project folder, for checks that are only made where there is one."""
        if self.project is None:
            raise UnansweredError("there is no project folder")
        return self.project

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of ``project.json``; empty where it cannot be read, which the check ``schema`` reports."""
        if self.project is None:
            return {}
        try:
            content = json.loads((self.project / "project.json").read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def project_id(self) -> str | None:
        """The project's id, None for one older than ids."""
        return self.record.get("project_id")

    @property
    def own_jobs(self) -> dict[str, Any]:
        """The filter of this project's jobs: others may have theirs in the same database."""
        from atomfoundry.running.cluster.layout import jobs_of_project

        return jobs_of_project(self.project_id)

    @property
    def on_mongodb(self) -> bool:
        """Whether the project's results are in MongoDB."""
        return self.record.get("database", "sqlite") == "mongodb"

    # -- cluster ---------------------------------------------------------------------------------------------

    @property
    def has_cluster(self) -> bool:
        """Whether the project has a cluster folder."""
        return self.project is not None and (self.project / CLUSTER_FOLDER).is_dir()

    @property
    def cluster(self) -> Path:
        """The cluster folder."""
        return self.folder / CLUSTER_FOLDER

    def documents(self, pattern: str) -> list[tuple[Path, dict[str, Any]]]:
        """Return the YAML files of the cluster folder that a pattern finds and that can be read.

        Those that cannot are reported by the check ``cluster-files``.

        Parameters
        ----------
        pattern
            A glob pattern.
        """
        found = []
        for path in sorted(self.cluster.glob(pattern)):
            try:
                content = yaml.safe_load(path.read_text())
            except (OSError, ValueError, yaml.YAMLError):
                continue
            if isinstance(content, dict):
                found.append((path, content))
        return found

    def document(self, name: str) -> dict[str, Any]:
        """Return the content of one YAML file of the cluster folder, empty where there is none.

        Parameters
        ----------
        name
            Its name.
        """
        found = self.documents(name)
        return found[0][1] if found else {}

    # -- database --------------------------------------------------------------------------------------------

    def connect(self) -> Database:
        """Return the database of the LaunchPad, opened once for all checks.

        Raises
        ------
        Exception
            Whatever opening it raised; ``TimeoutError`` where it does not come to an end.
        """
        with self._lock:
            if self._connecting_since is None:
                self._connecting_since = time.monotonic()
                threading.Thread(target=self._open, daemon=True, name="doctor-database").start()
        left = self._connecting_since + CONNECT_LIMIT_S - time.monotonic()
        if not self._connected.wait(max(0.0, left)):
            raise TimeoutError(f"it has not let us in after {CONNECT_LIMIT_S:g} s")
        if self._database_error is not None:
            raise self._database_error
        assert self._database is not None
        return self._database

    def _open(self) -> None:
        from atomfoundry.doctor.database_access import open_database

        try:
            self._database = open_database(self.cluster / LAUNCHPAD_FILE)
        except Exception as error:  # it is raised where the database is asked for
            self._database_error = error
        self._connected.set()

    @property
    def database(self) -> Database:
        """The database, for checks that need it.

        Raises
        ------
        UnansweredError
            If it cannot be opened, which the check ``mongodb`` reports.
        """
        try:
            return self.connect()
        except Exception as error:
            raise UnansweredError("the database cannot be opened (see 'mongodb')") from error
