"""Cancelling, retrying and stopping what is in the LaunchPad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

PENDING = ("WAITING", "READY", "PAUSED")


def _set_states(lpad: FoundryLaunchPad, workflow_node: int, found: tuple[str, ...], state: str) -> int:
    """Give all jobs of a workflow that are in some states another one, in one go."""
    from fireworks.core.launchpad import WFLock

    with WFLock(lpad, workflow_node):
        document = lpad.workflows.find_one({"nodes": workflow_node})
        ids = [
            fw["fw_id"]
            for fw in lpad.fireworks.find(
                {"fw_id": {"$in": document["nodes"]}, "state": {"$in": list(found)}}, ["fw_id"]
            )
        ]
        if ids:
            changed = lpad.fireworks.update_many(
                {"fw_id": {"$in": ids}, "state": {"$in": list(found)}}, {"$set": {"state": state}}
            )
            lpad.workflows.update_one({"nodes": workflow_node}, {"$set": {f"fw_states.{i}": state for i in ids}})
            return changed.modified_count
    return 0


def _jobs(run_id: str, project_id: str | None) -> dict[str, Any]:
    """Return the filter of a run's jobs: other projects of the database may run the same flow."""
    return {"spec.foundry.run_id": run_id, "spec.foundry.project_id": project_id}


def _workflows(run_id: str, project_id: str | None) -> dict[str, Any]:
    return {"metadata.foundry.run_id": run_id, "metadata.foundry.project_id": project_id}


def defuse_run(lpad: FoundryLaunchPad, run_id: str, project_id: str | None, *, but: int | None = None) -> int:
    """Keep everything of a run that has not started from starting.

    Parameters
    ----------
    lpad
        The LaunchPad.
    run_id, project_id
        The run.
    but
        A firework whose workflow is left alone.

    Returns
    -------
    int
        How many jobs, gates included.
    """
    criteria = _workflows(run_id, project_id)
    if but is not None:
        criteria["nodes"] = {"$ne": but}
    return sum(
        _set_states(lpad, document["nodes"][0], PENDING, "DEFUSED")
        for document in lpad.workflows.find(criteria, ["nodes"])
    )


def cancel_run(lpad: FoundryLaunchPad, run_id: str, project_id: str | None) -> int:
    """Cancel what of a run has not started; running jobs end first.

    Parameters
    ----------
    lpad
        The LaunchPad.
    run_id, project_id
        The run.

    Returns
    -------
    int
        How many jobs, gates not counted.
    """
    counted = {**_jobs(run_id, project_id), "spec.foundry.kind": "job", "state": {"$in": list(PENDING)}}
    n_jobs = lpad.fireworks.count_documents(counted)
    if defuse_run(lpad, run_id, project_id):
        lpad.workflows.update_many(_workflows(run_id, project_id), {"$set": {"metadata.foundry.cancelled": True}})
    return n_jobs


def reignite_run(lpad: FoundryLaunchPad, run_id: str, project_id: str | None) -> int:
    """Undo ``defuse_run``.

    Parameters
    ----------
    lpad, run_id, project_id
        As there.

    Returns
    -------
    int
        How many jobs.
    """
    changed = 0
    ours = _workflows(run_id, project_id)
    lpad.workflows.update_many(ours, {"$unset": {"metadata.foundry.cancelled": ""}})
    for document in list(lpad.workflows.find(ours, ["nodes"])):
        nodes = document["nodes"]
        n_changed = _set_states(lpad, nodes[0], ("DEFUSED",), "WAITING")
        if n_changed:
            changed += n_changed
            refresh_workflow(lpad, nodes[0])
    return changed


def refresh_workflow(lpad: FoundryLaunchPad, node: int) -> None:
    """Let FireWorks work out anew the state of every job of a workflow.

    Parameters
    ----------
    lpad
        The LaunchPad.
    node
        One of its jobs.
    """
    from fireworks.core.launchpad import WFLock

    with WFLock(lpad, node):
        workflow = lpad.get_wf_by_fw_id_lzyfw(node)
        # what a process that died has written of the jobs and not of the workflow
        known = lpad.fireworks.find({"fw_id": {"$in": list(workflow.id_fw)}}, ["fw_id", "state"])
        workflow.fw_states.update({fw["fw_id"]: fw["state"] for fw in known})
        updated: set[int] = set()
        for fw_id in sorted(workflow.id_fw):
            updated = workflow.refresh(fw_id, updated)
        lpad._update_wf(workflow, updated)


def retry_run(lpad: FoundryLaunchPad, run_id: str, project_id: str | None) -> int:
    """Run failed jobs of a run again, and cancelled ones; what waited for them waits again.

    Parameters
    ----------
    lpad
        The LaunchPad.
    run_id, project_id
        The run.

    Returns
    -------
    int
        How many jobs had failed or were cancelled.
    """
    changed = reignite_run(lpad, run_id, project_id)
    failed = [
        (fw["fw_id"], fw["spec"]["foundry"])
        for fw in lpad.fireworks.find(
            {**_jobs(run_id, project_id), "state": "FIZZLED"}, ["fw_id", "spec.foundry"], sort=[("fw_id", 1)]
        )
    ]
    for fw_id, _ in failed:
        workflow = lpad.workflows.find_one({"nodes": fw_id}, ["metadata"])
        part = workflow["metadata"]["foundry"].get("part")
        # The end of this part is to be noted anew, and the gates behind it close again.
        if part and lpad.ended_parts.delete_one({"_id": part}).deleted_count:
            for gate in list(
                lpad.fireworks.find(
                    {"spec.foundry.kind": "gate", "spec.foundry.needs": part, "state": "COMPLETED"}, ["fw_id"]
                )
            ):
                lpad.rerun_fw(gate["fw_id"])
        if lpad.fireworks.find_one({"fw_id": fw_id, "state": "FIZZLED"}, ["fw_id"]):
            lpad.rerun_fw(fw_id)
    return changed + len(failed)
