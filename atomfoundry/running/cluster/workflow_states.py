"""The states of a workflow's jobs where the connection broke, or a process died, while they were written.

FireWorks writes the jobs one by one and the workflow after them. What is written says nothing about what is not: a
job that is COMPLETED already looks as if its children had been seen to.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from fireworks.core.launchpad import WFLock

from atomfoundry.running.cluster.patience import patiently

if TYPE_CHECKING:
    from fireworks.core.firework import Workflow

    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad


class WorkflowLock(WFLock):
    """FireWorks' lock of a workflow, given back also where the database goes away meanwhile."""

    forced = False
    """Whether it may have been taken from a process that died."""

    def __enter__(self) -> Self:
        started = time.monotonic()
        super().__enter__()
        self.forced = time.monotonic() - started > self.expire_secs
        return self

    def __exit__(self, *exception: Any) -> None:
        patiently(lambda: super(WorkflowLock, self).__exit__(*exception), "unlocking a workflow")


def settle(lpad: FoundryLaunchPad, workflow: Workflow, fw_id: int) -> set[int]:
    """Bring a job and all that waits up to date, whatever has been written of it before.

    Only jobs that wait are looked at besides, as nobody takes these meanwhile.

    Parameters
    ----------
    lpad
        The LaunchPad.
    workflow
        As the LaunchPad has it, under its lock; changed.
    fw_id
        A job whose launch has ended.

    Returns
    -------
    set of int
        What is to be written.
    """
    fields = ["fw_id", "state"]
    states = {fw["fw_id"]: fw["state"] for fw in lpad.fireworks.find({"fw_id": {"$in": list(workflow.id_fw)}}, fields)}
    workflow.fw_states.update(states)
    updated = set(workflow.refresh(fw_id))
    job = workflow.id_fw[fw_id]
    if fw_id not in updated and job.state == "COMPLETED":
        launch = workflow._get_representative_launch(job)
        if launch is not None and launch.action is not None:
            updated |= set(workflow.apply_action(launch.action, fw_id))
    for waiting in sorted(other for other, state in states.items() if state == "WAITING"):
        updated |= set(workflow.refresh(waiting, updated))
    return updated
