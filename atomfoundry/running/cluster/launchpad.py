"""The LaunchPad of a project, patient with a database that is away."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fireworks.core.firework import Workflow
from fireworks.core.launchpad import LaunchPad
from pymongo.errors import ConnectionFailure, DuplicateKeyError

from atomfoundry.errors import ProjectError
from atomfoundry.results.mongodb import MongoConnection
from atomfoundry.results.project import Project
from atomfoundry.running.cluster.configuration import configure_fireworks
from atomfoundry.running.cluster.patience import patiently
from atomfoundry.running.cluster.workflow_states import WorkflowLock, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fireworks.core.firework import Firework

logger = logging.getLogger(__name__)

ENDED_PARTS = "foundry_ended_parts"
"""Collection of the parts of flows whose jobs have all ended."""
ANSWER_S = 10.0
"""How long what a person asked for waits for a sign of life of the database."""


class FoundryLaunchPad(LaunchPad):
    """FireWorks' LaunchPad that waits where the database is away, and adds workflows without doubling them.

    Everything of FireWorks works on it. What is stored is what FireWorks stores, so its own commands (``lpad``,
    ``rlaunch``, ``qlaunch``) work on the same database.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.when_completed: list[Callable[[], None]] = []
        """What is to be done once the running job's completion is in the database."""
        self._half_written: set[int] = set()
        """Jobs of whose workflow some states may be written and others not."""
        self._taking = False

    def to_dict(self) -> dict[str, Any]:
        """Return the settings without the password."""
        content = super().to_dict()
        content["password"] = None
        if self.uri_mode and "@" in str(content["host"]):
            scheme, _, rest = content["host"].partition("://")
            content["host"] = f"{scheme}://{rest.rpartition('@')[2]}"
        return content

    @property
    def ended_parts(self) -> Any:
        """The collection of parts whose jobs have all ended."""
        return self.db[ENDED_PARTS]

    def ensure_indexes(self) -> None:
        """Make the indexes that our questions and the uniqueness of workflows need; idempotent."""
        self.tuneup()
        # all jobs have these; made as tuneup makes those that a launchpad file names, or MongoDB refuses the second
        for field in ("run_id", "uuid"):
            self.fireworks.create_index(f"spec.foundry.{field}")
        for field in ("needs", "attached"):
            self.fireworks.create_index(f"spec.foundry.{field}", sparse=True)
        # what workers ask for: several projects may have jobs of a category
        claim = ("spec.foundry.project_id", "state", "spec._category")
        self.fireworks.create_index([*((field, 1) for field in claim), ("spec._priority", -1)])
        for field in ("nodes", "metadata.foundry.run_id", "metadata.foundry.project_id"):
            self.workflows.create_index(field)
        self.workflows.create_index("metadata.foundry.part", unique=True, sparse=True)
        self.fw_id_assigner.update_one({}, {"$setOnInsert": {"next_fw_id": 1, "next_launch_id": 1}}, upsert=True)

    # -- patience -----------------------------------------------------------------------------------------

    def checkout_fw(self, *args: Any, **kwargs: Any) -> Any:
        """Check out a job; what a lost connection left half taken is given back first. See FireWorks."""
        launch_dir = args[1] if len(args) > 1 else kwargs["launch_dir"]
        tries = 0

        def check_out() -> Any:
            nonlocal tries
            tries += 1
            if tries > 1:
                # A worker runs one job at a time, in a folder of its own.
                for launch in list(self.launches.find({"launch_dir": launch_dir, "state": "RUNNING"}, ["fw_id"])):
                    self.rerun_fw(launch["fw_id"])
            return super(FoundryLaunchPad, self).checkout_fw(*args, **kwargs)

        self._taking = True
        try:
            return patiently(check_out, "taking a job")
        finally:
            self._taking = False

    def get_fw_by_id(self, fw_id: int) -> Firework:
        """Return a job. See FireWorks, which marks one as broken that it cannot read while it takes it."""
        if not self._taking:
            return super().get_fw_by_id(fw_id)
        return patiently(lambda: super(FoundryLaunchPad, self).get_fw_by_id(fw_id), "reading a job")

    def complete_launch(self, launch_id: int, action: Any = None, state: str = "COMPLETED") -> Any:
        """Report the end of a launch, again and again while the database is away; see FireWorks.

        Safe to repeat: our jobs enter what they made before they report (see ``attach``), so that this changes
        states and nothing else.
        """
        done = patiently(
            lambda: super(FoundryLaunchPad, self).complete_launch(launch_id, action, state),
            f"reporting that launch {launch_id} is {state}",
        )
        tidying, self.when_completed = self.when_completed, []
        if state == "COMPLETED":
            for action_after in tidying:
                action_after()
        return done

    def _refresh_wf(self, fw_id: int) -> None:
        """Bring the states of a workflow up to date after one of its jobs; see FireWorks.

        A lost connection is passed on, so that the whole is repeated, and then settles what may be half written.
        FireWorks would write that the job is FIZZLED, whatever it came to.

        Raises
        ------
        pymongo.errors.ConnectionFailure
            If the database goes away.
        """
        try:
            with WorkflowLock(self, fw_id) as lock:
                workflow = self.get_wf_by_fw_id_lzyfw(fw_id)
                unsure = lock.forced or fw_id in self._half_written
                updated = settle(self, workflow, fw_id) if unsure else workflow.refresh(fw_id)
                self._update_wf(workflow, updated)
            self._half_written.discard(fw_id)
        except ConnectionFailure:
            self._half_written.add(fw_id)
            raise
        except Exception:
            # FireWorks' own way with what is wrong in a workflow
            super()._refresh_wf(fw_id)

    def ping_launch(self, launch_id: int, ptime: Any = None, checkpoint: Any = None) -> None:
        """Say that a launch lives; an error is logged and does not end the heartbeat. See FireWorks."""
        try:
            super().ping_launch(launch_id, ptime, checkpoint)
        except Exception as error:
            # whatever it is: a thread that ended here would never beat again
            logger.warning("No heartbeat of launch %s: %s", launch_id, str(error)[:200].partition("\n")[0])

    # -- adding -------------------------------------------------------------------------------------------

    def add_part(self, workflow: Workflow, part: str) -> bool:
        """Add a workflow, unless a workflow of this name is there; what a killed process left undone is completed.

        Parameters
        ----------
        workflow
            The workflow; the same part must always come as the same workflow.
        part
            Its lasting name.

        Returns
        -------
        bool
            Whether it is new.
        """
        workflow.metadata.setdefault("foundry", {}).update(part=part, n_nodes=len(workflow))
        for fw_id in workflow.root_fw_ids:
            workflow.id_fw[fw_id].state = "READY"
            workflow.fw_states[fw_id] = "READY"
        found = self.workflows.find_one({"metadata.foundry.part": part}, ["nodes", "metadata"])
        if found is None:
            _renumber(workflow, self.get_new_fw_id(quantity=len(workflow)))
            try:
                # first the workflow, then its jobs: a job without a workflow could be taken and never end
                self.workflows.insert_one(workflow.to_db_dict())
            except DuplicateKeyError:
                found = self.workflows.find_one({"metadata.foundry.part": part}, ["nodes", "metadata"])
            else:
                self.fireworks.insert_many([fw.to_db_dict() for fw in workflow])
                return True
        self._complete_part(workflow, found)
        return False

    def _complete_part(self, workflow: Workflow, found: dict) -> None:
        """Insert the jobs of a workflow that a killed process did not come to."""
        first = sorted(found["nodes"])[: found["metadata"]["foundry"]["n_nodes"]]
        there = {fw["fw_id"] for fw in self.fireworks.find({"fw_id": {"$in": first}}, ["fw_id"])}
        if len(there) == len(first):
            return
        _renumber(workflow, first[0])
        missing = [fw.to_db_dict() for fw in workflow if fw.fw_id not in there]
        self.fireworks.insert_many(missing)

    def attach(self, fw_id: int, workflow: Workflow, key: str, *, detour: bool) -> bool:
        """Append a workflow to a running job, before that reports its end; idempotent.

        FireWorks itself appends while it completes a launch, where a failure half-way can append twice or never.

        Parameters
        ----------
        fw_id
            The running job.
        workflow
            What it made.
        key
            Lasting name of what is appended.
        detour
            Whether the job's children wait for it.

        Returns
        -------
        bool
            Whether it is new.
        """
        for fw in workflow:
            fw.spec["foundry"] = {**fw.spec.get("foundry", {}), "attached": key}
        with WorkflowLock(self, fw_id) as lock:
            if lock.forced:
                self._half_written.add(fw_id)
            whole = self.get_wf_by_fw_id_lzyfw(fw_id)
            nodes = set(whole.id_fw)
            known = {fw["fw_id"] for fw in self.fireworks.find({"spec.foundry.attached": key}, ["fw_id"])}
            if known & nodes:
                return False
            if known:  # a killed process inserted them and did not come to the workflow
                self.fireworks.delete_many({"fw_id": {"$in": sorted(known)}})
            whole.append_wf(workflow, [fw_id], detour=detour)
            old_new = _new_ids(workflow, self.get_new_fw_id(quantity=len(workflow)))
            for fw in workflow:
                fw.fw_id = old_new[fw.fw_id]
                fw.state = fw.state if fw.state == "PAUSED" else "WAITING"
            whole._reassign_ids(old_new)
            self.fireworks.insert_many([fw.to_db_dict() for fw in workflow])
            document = whole.to_db_dict()
            document["locked"] = True
            self.workflows.find_one_and_replace({"nodes": fw_id}, document)
        return True


def _new_ids(fireworks: Iterable[Firework], first: int) -> dict[int, int]:
    # ids of new jobs are negative and count down
    ids = sorted((fw.fw_id for fw in fireworks), reverse=True)
    return {old: first + position for position, old in enumerate(ids)}


def _renumber(workflow: Workflow, first: int) -> None:
    """Give a new workflow's jobs their ids, in the order in which they were made."""
    old_new = _new_ids(workflow, first)
    for fw in workflow:
        fw.fw_id = old_new[fw.fw_id]
    workflow._reassign_ids(old_new)
    workflow.updated_on = datetime.now(UTC)


def open_launchpad(project: Project, *, patient: bool = True) -> FoundryLaunchPad:
    """Open the LaunchPad of a project.

    Parameters
    ----------
    project
        A project with ``cluster/my_launchpad.yaml``; in FireWorks' mongomock mode (``MONGOMOCK_SERVERSTORE_FILE``)
        the file may be missing.
    patient
        Whether a database that is away is waited for (300 s for each request, as workers do). Otherwise it has to
        give a sign of life within ``ANSWER_S`` now; later requests wait as those of workers do.

    Raises
    ------
    ProjectError
        If the project has no LaunchPad, or its file is wrong, or the database does not answer in time.
    """
    configure_fireworks(project)
    path = project.launchpad_path
    if not path.is_file():
        if os.environ.get("MONGOMOCK_SERVERSTORE_FILE"):
            return FoundryLaunchPad(name="fireworks", strm_lvl="WARNING")
        raise ProjectError(
            f"{project.path} has no LaunchPad ({path.relative_to(project.path)} is missing).",
            remedy=f"Make it with 'atomfoundry init cluster {project.path}'.",
        )
    connection = MongoConnection.load(path)
    if not patient:
        connection.check(timeout_s=ANSWER_S)
    arguments = connection.launchpad_arguments()
    return FoundryLaunchPad(**{**arguments, "strm_lvl": arguments.get("strm_lvl") or "WARNING"})
