"""The project folder: results, queue, artifacts and working folders of one project."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from atomfoundry import __version__
from atomfoundry.documents import SCHEMA_VERSION
from atomfoundry.errors import ProjectError
from atomfoundry.settings import settings

if TYPE_CHECKING:
    from maggma.core import Store

    from atomfoundry.results.artifacts import ArtifactStore
    from atomfoundry.results.job_store import FoundryJobStore
    from atomfoundry.results.labels import LabelStore
    from atomfoundry.results.mongodb import MongoConnection

DatabaseKind = Literal["sqlite", "mongodb"]

PROJECT_FILE = "project.json"
DATABASE_FILE = "foundry.sqlite"
PROJECT_VARIABLE = "ATOMFOUNDRY_PROJECT"


class Project:
    """A project folder.

    ``project.json`` (schema version, id, kind of database), ``foundry.sqlite`` (outputs, labels, queue),
    ``artifacts/`` and ``work/``. All addresses inside are relative: the folder may be moved or copied when
    nothing runs in it.

    A project of kind "mongodb" keeps outputs and labels in the MongoDB that ``cluster/my_launchpad.yaml``
    names, which FireWorks uses too; its folder lies on a file system that all machines share. Such a database
    holds the results of one project.

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
    def open_or_create(
        cls,
        path: str | Path,
        database: DatabaseKind | None = None,
        *,
        connection: MongoConnection | None = None,
    ) -> Project:
        """Open a project, or make one in a new or empty folder.

        A project that was made before projects had an id is given one here (``open`` leaves it as it is).

        Parameters
        ----------
        path
            Its folder.
        database
            "sqlite" or "mongodb"; default: what an existing project has, "sqlite" for a new one. A new
            "mongodb" project may find ``cluster/`` in its folder already.
        connection
            For "mongodb": where the database is, written to ``cluster/my_launchpad.yaml``, which may also be
            written later, before the first job.

        Raises
        ------
        ProjectError
            If the path is a file, a folder with other content, a project of a newer schema or of the other
            kind.
        """
        project = cls(path)
        if database is not None and database not in get_args(DatabaseKind):
            raise ProjectError(
                f"There is no kind of project '{database}'.", remedy=f"Choose from {', '.join(get_args(DatabaseKind))}."
            )
        if connection is not None and database != "mongodb":
            raise ProjectError("A connection goes with database='mongodb'.", remedy="Give both or none.")
        if not (project.path / PROJECT_FILE).is_file():
            project._refuse_foreign(allowed=("cluster",) if database == "mongodb" else ())
            project._create(database or "sqlite")
        opened = cls.open(path)
        if database is not None and opened.database != database:
            raise ProjectError(
                f"{project.path} keeps its results in {opened.database}, not in {database}.",
                remedy=f"Leave the kind out, or move it with 'atomfoundry migrate {project.path} NEW_FOLDER'.",
            )
        if opened.project_id is None:
            opened._give_id()
        if connection is not None:
            connection.save(opened.launchpad_path)
        return opened

    def _refuse_foreign(self, *, allowed: tuple[str, ...]) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ProjectError(f"{self.path} is a file.", remedy="Give a new or empty folder.")
        if not self.path.is_dir():
            return
        for item in self.path.iterdir():
            if not item.name.startswith(f".{PROJECT_FILE}") and item.name not in (*allowed, PROJECT_FILE):
                raise ProjectError(
                    f"{self.path} is not empty and not a project folder (it holds '{item.name}').",
                    remedy="Give a new or empty folder.",
                )

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
        project._create("sqlite")
        return project

    def _create(self, database: DatabaseKind) -> None:
        record = {
            "schema_version": SCHEMA_VERSION,
            "project_id": str(uuid.uuid4()),
            "database": database,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "atomfoundry_version": __version__,
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._alone():
                # Another process may have made it in the meantime: the id that it gave holds.
                if not (self.path / PROJECT_FILE).is_file():
                    self._write(record)
        except OSError as error:
            raise ProjectError(
                f"Cannot write to {self.path}: {error.strerror}.", remedy="Give a folder you may write to."
            ) from error

    def _give_id(self) -> None:
        # A project in a folder that may only be read stays without.
        with suppress(PermissionError), self._alone():
            record = self.metadata
            if record.get("project_id") is None:
                self._write({**record, "project_id": str(uuid.uuid4())})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes of this machine from writing project.json."""
        import fcntl

        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            # Some shared file systems know no locks.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, record: dict[str, Any]) -> None:
        descriptor, name = tempfile.mkstemp(prefix=f".{PROJECT_FILE}-", dir=self.path)
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(record, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(self.path / PROJECT_FILE)

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
        kind = record.get("database", "sqlite")
        if kind not in get_args(DatabaseKind):
            raise ProjectError(
                f"{self.path / PROJECT_FILE} names an unknown kind of database {kind!r}.",
                remedy="Update Atomfoundry, or restore the file.",
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

    @property
    def database(self) -> DatabaseKind:
        """Where outputs and labels are: "sqlite" (also of projects older than the choice) or "mongodb"."""
        return self.metadata.get("database", "sqlite")

    @property
    def project_id(self) -> str | None:
        """The project's id, which a copy of the folder shares; None for a project older than ids."""
        return self.metadata.get("project_id")

    # -- rooms -----------------------------------------------------------------------------------------------

    @property
    def database_path(self) -> Path:
        """The SQLite file; a project of kind "mongodb" has none."""
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

    @property
    def launchpad_path(self) -> Path:
        """FireWorks' file with the address of the database, also of kind "sqlite" once a cluster is set up."""
        from atomfoundry.results.mongodb import CLUSTER_FOLDER, LAUNCHPAD_FILE

        return self.path / CLUSTER_FOLDER / LAUNCHPAD_FILE

    def mongodb(self) -> MongoConnection:
        """Return where FireWorks' database is, which of kind "mongodb" holds outputs and labels too.

        Raises
        ------
        ProjectError
            If ``cluster/my_launchpad.yaml`` is missing or wrong.
        """
        from atomfoundry.results.mongodb import MongoConnection

        return MongoConnection.load(self.launchpad_path)

    def document_store(self, collection: Literal["outputs", "labels"]) -> Store:
        """Return the connected maggma store of one kind of documents.

        Parameters
        ----------
        collection
            "outputs" or "labels".
        """
        from atomfoundry.results.indexes import LABELS, OUTPUTS

        key = "uuid" if collection == "outputs" else "frame_id"
        store: Store
        if self.database == "mongodb":
            from atomfoundry.results.mongo_store import FoundryMongoStore

            store = FoundryMongoStore(self.launchpad_path, collection, key=key, owner=self.project_id)
        else:
            from atomfoundry.results.sqlite_store import SQLiteStore

            indexes = OUTPUTS if collection == "outputs" else LABELS
            store = SQLiteStore(
                self.database_path,
                collection,
                key=key,
                unique_fields=indexes.unique,
                index_fields=indexes.combined,
                member_fields=indexes.members,
                counted_fields=indexes.counted,
            )
        store.connect()
        return store

    def ensure_indexes(self) -> None:
        """Make the indexes of outputs and labels where they are missing; the first write does it as well.

        Raises
        ------
        StoreError
            If the database does not answer, or its user may not make them.
        ProjectError
            If the database holds the results of another project.
        """
        for collection in ("outputs", "labels"):
            store = self.document_store(collection)  # type: ignore[arg-type]
            if hasattr(store, "ensure_indexes"):
                store.ensure_indexes()
            store.close()

    def job_store(self) -> FoundryJobStore:
        """Return the connected store of job outputs."""
        from atomfoundry.results.job_store import FoundryJobStore

        store = FoundryJobStore(self.document_store("outputs"))
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

        return LabelStore(self.document_store("labels"))


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
