"""The task of a firework: one job of a flow, its result on disk before anything is reported."""

from __future__ import annotations

from fireworks.core.firework import FiretaskBase, FWAction
from fireworks.utilities.fw_utilities import explicit_serialize


@explicit_serialize
class FoundryTask(FiretaskBase):
    """Runs one job of a flow.

    Other Parameters
    ----------------
    job : str
        The job as JSON.
    on_missing : str
        What it does without the output of a job that failed.
    parents : list of str
        uuids of the jobs that it waits for.
    manager_config : dict
        jobflow's configuration for the manager, which jobs that this one makes inherit.
    """

    required_params = ("job",)
    optional_params = ("on_missing", "parents", "manager_config")

    def run_task(self, fw_spec: dict) -> FWAction:
        """Run the job, or deliver the result that an earlier attempt left on disk.

        Parameters
        ----------
        fw_spec
            The firework's spec.

        Raises
        ------
        RunError
            If the job belongs to another project, another process runs it, or FireWorks is in offline mode.
        """
        from atomfoundry.running.cluster.access import launchpad_of
        from atomfoundry.running.cluster.attempt import run_attempt

        return run_attempt(dict(self), fw_spec, lpad=launchpad_of(self), fw_id=self.fw_id)
