"""The project folder: results, queue, artifacts and working folders of one project."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry import __version__
from atomfoundry.documents import SCHEMA_VERSION
from atomfoundry.errors import ProjectError
from atomfoundry.settings import settings

if TYPE_CHECKING:
    from atomfoundry.results.artifacts import ArtifactStore
    from atomfoundry.results.job_store import FoundryJobStore
    from atomfoundry.results.labels import LabelStore

PROJECT_FILE = "project.json"
DATABASE_FILE = "foundry.sqlite"
PROJECT_VARIABLE = "ATOMFOUNDRY_PROJECT"


class Project:
    """A project folder.

    ``project.json`` (schema version), ``foundry.sqlite`` (outputs, labels, queue), ``artifacts/`` and
    ``work/``. All addresses inside are relative: the folder may be moved or copied when nothing runs in it.

    Parameters
    ----------
    path
        The folder; use ``open`` or ``open_or_create``, which check it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()

    def __repr__(self) -> str:
        return f"Project({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Project) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    # -- opening ---------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path) -> Project:
        """Open an existing project.

        Parameters
        ----------
        path
            Its folder.

        Raises
        ------
        ProjectError
            If there is none, or one of a newer schema.
        """
        project = cls(path)
        if not (project.path / PROJECT_FILE).is_file():
            what = "is not a project folder" if project.path.exists() else "does not exist"
            raise ProjectError(
                f"{project.path} {what} ({PROJECT_FILE} is missing).",
                remedy="Give the folder that 'atomfoundry run --project' made.",
            )
        project._check()
        return project

    @classmethod
    def open_or_create(cls, path: str | Path) -> Project:
        """Open a project, or make one in a new or empty folder.

        Parameters
        ----------
        path
            Its folder.

        Raises
        ------
        ProjectError
            If the path is a file, a folder with other content, or a project of a newer schema.
        """
        project = cls(path)
        if (project.path / PROJECT_FILE).is_file():
            return cls.open(path)
        if project.path.exists() and not project.path.is_dir():
            raise ProjectError(f"{project.path} is a file.", remedy="Give a new or empty folder.")
        if project.path.is_dir():
            foreign = [item for item in project.path.iterdir() if not item.name.startswith(f".{PROJECT_FILE}")]
            if foreign:
                raise ProjectError(
                    f"{project.path} is not empty and not a project folder (it holds '{foreign[0].name}').",
                    remedy="Give a new or empty folder.",
                )
        project._create()
        return project

    @classmethod
    def temporary(cls) -> Project:
        """Make a project for trying something out; its folder is removed with the object.

        It lies in the folder for temporary files (``TMPDIR``) and lasts as long as something in this process
        holds it, such as a ``RunResult``, at the longest until the process ends.

        Raises
        ------
        ProjectError
            If there cannot be written.
        """
        try:
            project = cls(tempfile.mkdtemp(prefix="atomfoundry-"))
        except OSError as error:
            raise ProjectError(
                f"No temporary project can be made: {error}.", remedy="Set TMPDIR to a folder you may write to."
            ) from error
        weakref.finalize(project, _remove, project.path, os.getpid())
        project._create()
        return project

    def _create(self) -> None:
        record = {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "atomfoundry_version": __version__,
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f".{PROJECT_FILE}-", dir=self.path)
            with os.fdopen(descriptor, "w") as file:
                file.write(json.dumps(record, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path / PROJECT_FILE)
        except OSError as error:
            raise ProjectError(
                f"Cannot write to {self.path}: {error.strerror}.", remedy="Give a folder you may write to."
            ) from error

    def _check(self) -> None:
        record = self.metadata
        version = record.get("schema_version")
        if not isinstance(version, int):
            raise ProjectError(
                f"{self.path / PROJECT_FILE} has no schema_version.",
                remedy="The file is damaged; restore it.",
            )
        if version > SCHEMA_VERSION:
            raise ProjectError(
                f"{self.path} has schema version {version}; this Atomfoundry {__version__} knows up to "
                f"{SCHEMA_VERSION}.",
                remedy="Update Atomfoundry, or use another project folder.",
            )

    @property
    def metadata(self) -> dict:
        """The content of ``project.json``."""
        try:
            record = json.loads((self.path / PROJECT_FILE).read_text())
        except (OSError, ValueError) as error:
            raise ProjectError(
                f"{self.path / PROJECT_FILE} cannot be read: {error}.",
                remedy="The file is damaged; restore it.",
            ) from error
        if not isinstance(record, dict):
            raise ProjectError(
                f"{self.path / PROJECT_FILE} is not a JSON object.", remedy="The file is damaged; restore it."
            )
        return record

    # -- rooms -----------------------------------------------------------------------------------------------

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
        return self.path / DATABASE_FILE

    @property
    def queue_path(self) -> Path:
        """The queue's SQLite file.

        The same as the outputs': one write-ahead log keeps their order, so that even a power failure cannot
        leave a job marked done whose output is lost.
        """
        return self.database_path

    @property
    def work_dir(self) -> Path:
        """The jobs' working folders."""
        path = self.path / "work"
        path.mkdir(exist_ok=True)
        return path

    def job_store(self) -> FoundryJobStore:
        """Return the connected store of job outputs."""
        from atomfoundry.results.job_store import FoundryJobStore
        from atomfoundry.results.sqlite_store import SQLiteStore

        store = FoundryJobStore(SQLiteStore(self.database_path, "outputs"))
        store.connect()
        return store

    @cached_property
    def artifacts(self) -> ArtifactStore:
        """The store of files and folders."""
        from atomfoundry.results.artifacts import ArtifactStore

        url = settings().artifacts_url
        folder = self.path / "artifacts"
        folder.mkdir(exist_ok=True)
        return ArtifactStore(url, cache=folder) if url else ArtifactStore(folder)

    def labels(self) -> LabelStore:
        """Return the connected table of labels."""
        return self._labels

    @cached_property
    def _labels(self) -> LabelStore:
        from atomfoundry.results.labels import LabelStore
        from atomfoundry.results.sqlite_store import SQLiteStore

        return LabelStore(
            SQLiteStore(
                self.database_path,
                "labels",
                key="frame_id",
                unique_fields=LabelStore.KEY,
                index_fields=("level_id", "engine", "status"),
            )
        )


def _remove(path: Path, owner: int) -> None:
    """Remove a temporary project; a forked child that ends leaves its parent's alone."""
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)


_STACK: list[Project] = []

_open_once = lru_cache(maxsize=8)(Project.open)


@contextmanager
def use_project(project: Project | str | Path) -> Iterator[Project]:
    """Make a project the current one in this process.

    Parameters
    ----------
    project
        A project, or the folder of one.

    Yields
    ------
    Project
        The project.
    """
    opened = project if isinstance(project, Project) else Project.open(project)
    _STACK.append(opened)
    try:
        yield opened
    finally:
        _STACK.remove(opened)


def current_project() -> Project:
    """Return the project that the running job belongs to.

    That of ``use_project``, else of the variable ``ATOMFOUNDRY_PROJECT``, else of the settings.

    Raises
    ------
    ProjectError
        If none is named, or the named one cannot be opened.
    """
    if _STACK:
        return _STACK[-1]
    path = os.environ.get(PROJECT_VARIABLE) or settings().project
    if path is None:
        raise ProjectError(
            "No project folder is in use.",
            remedy=f"Run the flow with atomfoundry.running.run(..., project=DIR), or set {PROJECT_VARIABLE}.",
        )
    return _open_once(str(path))


def current_artifacts() -> ArtifactStore:
    """Return the artifact store of the current project."""
    return current_project().artifacts


def current_labels() -> LabelStore:
    """Return the table of labels of the current project."""
    return current_project().labels()
