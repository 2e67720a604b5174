"""What a run has come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomfoundry.results.project import Project


@dataclass(frozen=True)
class JobFailure:
    """A job that failed."""

    uuid: str
    index: int
    name: str
    stage: str
    message: str
    """The traceback's last line."""
    traceback: str
    folder: Path
    host: str = ""
    """Where it ran, if that was elsewhere."""
    log: str = ""
    """Last lines of what it printed, where they are at hand."""

    def __str__(self) -> str:
        return f"{self.name}: {self.message} (in {self.folder})"


@dataclass(frozen=True)
class RunResult:
    """The outcome of one call of ``run``."""

    run_id: str
    name: str
    project: Project
    total: int
    completed: int
    """Jobs of this run that are completed, the reused ones included."""
    reused: int
    """Jobs that earlier calls had completed."""
    failed: int
    blocked: int
    """Jobs that could not run because one before them failed."""
    stopped: int
    """Jobs that another job, or the user, kept from running."""
    wall_time_s: float
    left: int = 0
    """Jobs that were left because the run was to stop: a signal had asked for it, or the batch job ended."""
    failures: list[JobFailure] = field(default_factory=list)
    uuids: dict[str, str] = field(default_factory=dict, repr=False)
    """uuids of the flow's objects in this process -> uuids in the project."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed, nothing was blocked and nothing was left."""
        return self.failed == 0 and self.blocked == 0 and self.left == 0

    @property
    def nothing_to_do(self) -> bool:
        """Whether earlier calls had finished everything."""
        return self.reused + self.failed + self.blocked + self.stopped == self.total and self.completed == self.reused

    def uuid_of(self, job: Any) -> str:
        """Return the uuid under which a job's output is stored.

        Parameters
        ----------
        job
            A job or flow given to ``run``, its output reference, or its uuid.
        """
        uuid = job if isinstance(job, str) else job.uuid
        return self.uuids.get(uuid, uuid)

    def output(self, job: Any) -> Any:
        """Return the output of a job, documents as documents.

        Parameters
        ----------
        job
            A job given to ``run``, its output reference, or its uuid.

        Raises
        ------
        UntrustedDocumentError
            If the output holds an object of a class that is not trusted; see the setting ``trusted_packages``.
        """
        from atomfoundry.documents.decoding import decode

        uuid = self.uuid_of(job)
        store = self.project.job_store()
        try:
            return decode(store.get_output(uuid, load=True), where=f"The output of job {uuid}")
        finally:
            store.close()

    def __str__(self) -> str:
        if self.nothing_to_do and self.ok:
            return f"Nothing to do: all {self.total} jobs of '{self.name}' were finished before."
        parts = [f"{self.completed} of {self.total} jobs completed"]
        if self.reused:
            parts.append(f"{self.reused} of them before")
        parts += [
            f"{count} {word}"
            for count, word in (
                (self.failed, "failed"),
                (self.blocked, "blocked"),
                (self.stopped, "stopped"),
                (self.left, "left for the next run"),
            )
            if count
        ]
        return f"'{self.name}': {', '.join(parts)}, {self.wall_time_s:.1f} s."
