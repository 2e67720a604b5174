"""Handing a flow to the LaunchPad."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobflow import Flow, Job

from atomfoundry.errors import InputError
from atomfoundry.results.ownership import claim_results
from atomfoundry.results.project import Project
from atomfoundry.running.cluster.conversion import Converter
from atomfoundry.running.cluster.launchpad import FoundryLaunchPad, open_launchpad
from atomfoundry.running.cluster.parts import WORKFLOW_SIZE
from atomfoundry.running.identity import prepare


@dataclass(frozen=True)
class Submission:
    """A flow in the LaunchPad."""

    run_id: str
    name: str
    project: Project
    n_jobs: int
    n_workflows: int
    n_new_workflows: int
    """0 if the flow had been submitted before."""
    uuids: dict[str, str] = field(default_factory=dict, repr=False)
    """uuids of the flow's objects in this process -> uuids in the project."""

    def uuid_of(self, job: Any) -> str:
        """Return the uuid under which a job's output will be stored.

        Parameters
        ----------
        job
            A job or flow given to ``submit``, its output reference, or its uuid.
        """
        uuid = job if isinstance(job, str) else job.uuid
        return self.uuids.get(uuid, uuid)

    def __str__(self) -> str:
        if not self.n_new_workflows:
            return f"'{self.name}' ({self.n_jobs} jobs) was submitted before."
        workflows = "one workflow" if self.n_workflows == 1 else f"{self.n_workflows} workflows"
        return f"'{self.name}': {self.n_jobs} jobs submitted in {workflows}."


def submit(
    flow: Flow | Job | list,
    *,
    project: Project | str | Path,
    metadata: dict[str, Any] | None = None,
    workflow_size: int = WORKFLOW_SIZE,
    launchpad: FoundryLaunchPad | None = None,
) -> Submission:
    """Submit a flow to the project's LaunchPad, where workers find its jobs.

    The flow's content decides its identity, as in ``run``: the same flow is found again and never entered twice, also
    after a submission that was killed half-way. A flow of many jobs is entered as several workflows that wait for each
    other, because FireWorks rewrites a whole workflow at the end of each of its jobs. No job carries an address or a
    password: workers use their own project's database.

    Parameters
    ----------
    flow
        Flow, job or list of them; not changed.
    project
        A project with a cluster folder ('atomfoundry init cluster').
    metadata
        Kept with each workflow, e.g. ``{"campaign": "oxides"}``.
    workflow_size
        At most so many jobs make a workflow.
    launchpad
        The LaunchPad; default the project's.

    Returns
    -------
    Submission
        What was entered.

    Raises
    ------
    InputError
        If the flow cannot be run, or jobs use functions of the calling script.
    ProjectError
        If the project has no LaunchPad, its database does not answer within 10 s, or it keeps its results in a database
        that holds another project's.
    ConfigurationError
        If a job asks for a profile that does not exist.
    """
    if metadata and "foundry" in metadata:
        raise InputError("The metadata key 'foundry' is taken.", remedy="Choose another name.")
    opened = project if isinstance(project, Project) else Project.open(project)
    try:
        prepared = prepare(flow)
    except ValueError as error:
        raise InputError(f"The flow cannot be run: {error}") from error
    for entry in prepared.entries:
        if '"@module": "__main__"' in entry.payload:
            raise InputError(
                f"Job '{entry.name}' uses a function or class of the script itself, which workers cannot import.",
                remedy="Move it into a module that is installed where the workers run.",
            )
    lpad = launchpad or open_launchpad(opened, patient=False)
    if opened.database == "mongodb" and opened.project_id is not None:
        claim_results(lpad.db, opened.project_id, f"The database '{lpad.db.name}'")
    lpad.ensure_indexes()
    converter = Converter.of_project(
        opened, run_id=prepared.run_id, run_name=prepared.name, size=workflow_size, metadata=dict(metadata or {})
    )
    parts = converter.workflows(prepared.entries, converter.lasting_name)
    n_new = sum(lpad.add_part(workflow, part) for workflow, part in parts)
    return Submission(
        prepared.run_id, prepared.name, opened, len(prepared.entries), len(parts), n_new, uuids=prepared.names
    )
