"""How many workers of a profile the batch queue should have, and how one is sent by FireWorks' queue adapters.

FireWorks' own ``qlaunch rapidfire`` sends workers for as long as some job is READY, which a job is until a worker
begins: a single job would fill the queue. It also counts by names or queues what may be another project's.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from atomfoundry.checkpoint import write_atomically
from atomfoundry.errors import ProjectError
from atomfoundry.running.cluster.layout import jobs_of_project
from atomfoundry.running.cluster.patience import patiently
from atomfoundry.running.cluster.scheduler import job_states

if TYPE_CHECKING:
    from fireworks.core.fworker import FWorker

    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad
    from atomfoundry.running.cluster.profiles import Profile

logger = logging.getLogger(__name__)

YOUNG_S = 30.0
"""An allocation that runs for so long has taken what it can; its workers without a job leave after 20 s."""
MANY = 500
"""Of the launches since a worker was sent so many are looked at."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 3600.0
"""After a worker that ended without beginning a job; twice as long after each further one in a row."""
BLOCK_SIZE = 500
"""Folders of allocations in one folder."""


class SentWorker(BaseModel):
    """An allocation that was sent to the queue."""

    id: str
    next_launch: int = Field(description="The LaunchPad's next launch when it was sent")
    running_since: float | None = Field(default=None, description="When it was first seen to run, s since 1970")


class Notes(BaseModel):
    """What a launcher remembers from one time to the next."""

    workers: list[SentWorker] = []
    reserved: list[str] = []
    n_idle: int = Field(default=0, description="Workers in a row that ended without having begun a job")
    wait_until: float = 0.0


@dataclass
class Launcher:
    """Sends allocations of one profile.

    Parameters
    ----------
    launchpad
        Where the jobs are.
    project_id
        Whose jobs they are.
    profile
        Its resources.
    fworker
        Which jobs its workers take.
    adapter
        FireWorks' queue adapter.
    folder
        Where batch scripts and their output lie.
    reserve
        Make each allocation for one job, with the resources that its name is given.
    max_queued
        Allocations in the queue at the same time.
    """

    launchpad: FoundryLaunchPad
    project_id: str | None
    profile: Profile
    fworker: FWorker
    adapter: Any
    folder: Path
    reserve: bool
    max_queued: int

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / "launcher.json"
        self.notes = Notes()
        # Notes that a full disk has spoiled are those of nobody: at worst some workers too many are sent.
        with contextlib.suppress(OSError, ValidationError):
            self.notes = Notes.model_validate_json(self._path.read_text())

    def wanted(self) -> int:
        """Return how many allocations there should be more.

        Allocations that wait in the queue, or have just begun, will take as many jobs as they run at once. Of an older
        one the parts without work have left: it takes a job only if nothing runs in it. One of which the queue knows
        nothing now counts as waiting: a queue that does not answer is not sent more.
        """
        n_ready = self._count("READY")
        if not n_ready:
            self._remember(n_idle=0, wait_until=0.0)
            return 0
        n_young, n_old, n_reserved = self._look()
        if time.time() < self.notes.wait_until:
            return 0
        room = self.max_queued - len(self.notes.workers) - len(self.notes.reserved)
        each = self.profile.jobs_at_once
        if self.reserve:
            return max(0, min(room, n_ready))
        n_waiting = len(self.notes.workers) - n_young - n_old
        busy = max(0, self._count("RUNNING") - n_reserved)
        busy_in_young = min(max(0, busy - each * n_old), each * n_young)
        free = each * (n_waiting + n_young) - busy_in_young
        needed = math.ceil((n_ready - free) / each) - max(0, n_old - busy)
        return max(0, min(room, needed))

    def _count(self, state: str) -> int:
        query = {**self.fworker.query, "state": state}
        return int(patiently(lambda: self.launchpad.fireworks.count_documents(query), "looking for jobs"))

    def _look(self) -> tuple[int, int, int]:
        """Forget what has ended, and see whether it has done anything.

        Returns
        -------
        tuple
            How many workers run that have just begun, how many others run, and how many allocations for one job run.
        """
        noted = [*(worker.id for worker in self.notes.workers), *self.notes.reserved]
        states = job_states(noted, str(self.adapter.q_type).lower()) if noted else {}
        ended = [worker for worker in self.notes.workers if states[worker.id] == "gone"]
        reserved = [job for job in self.notes.reserved if states[job] != "gone"]
        n_idle, wait_until = self.notes.n_idle, self.notes.wait_until
        for worker in ended:
            if self._begun_since(worker):
                n_idle, wait_until = 0, 0.0
                continue
            n_idle += 1
            pause = min(FIRST_PAUSE_S * 2 ** (n_idle - 1), LONGEST_PAUSE_S)
            wait_until = time.time() + pause
            logger.warning(
                "Worker %s of profile '%s' ended without beginning one of the jobs that wait (%d in a row): "
                "the next is sent in %.0f s. Look at what it wrote below %s.",
                worker.id, self.profile.name, n_idle, pause, self.folder,
            )  # fmt: skip
        kept = []
        n_young = n_old = 0
        for worker in self.notes.workers:
            if states[worker.id] == "running":
                since = worker.running_since or time.time()
                kept.append(worker.model_copy(update={"running_since": since}))
                n_young += time.time() - since < YOUNG_S
                n_old += time.time() - since >= YOUNG_S
            elif states[worker.id] != "gone":
                kept.append(worker)
        self._remember(workers=kept, reserved=reserved, n_idle=n_idle, wait_until=wait_until)
        return n_young, n_old, sum(states[job] == "running" for job in reserved)

    def _begun_since(self, worker: SentWorker) -> bool:
        """Return whether a worker of this profile has begun a job since this one was sent."""
        query = {"launch_id": {"$gte": worker.next_launch}, "fworker.category": self.profile.category}
        begun = patiently(
            lambda: [launch["fw_id"] for launch in self.launchpad.launches.find(query, ["fw_id"]).limit(MANY)],
            "looking for jobs",
        )
        # another project's worker of this category may have begun jobs of its own
        ours = {"fw_id": {"$in": begun}, **jobs_of_project(self.project_id)}
        return bool(patiently(lambda: self.launchpad.fireworks.count_documents(ours, limit=1), "looking for jobs"))

    def _remember(self, **changes: Any) -> None:
        notes = self.notes.model_copy(update=changes)
        if notes != self.notes:
            self.notes = notes
            write_atomically(self._path, notes.model_dump_json().encode())

    def send(self) -> str:
        """Send one.

        Returns
        -------
        str
            Its id in the queue; empty if there is no job any more.

        Raises
        ------
        ProjectError
            If the queue did not take it.
        """
        from fireworks.queue.queue_launcher import launch_rocket_to_queue

        numbers = patiently(lambda: self.launchpad.fw_id_assigner.find_one({}), "looking for jobs") or {}
        job = launch_rocket_to_queue(
            self.launchpad, self.fworker, self.adapter, str(self._block()), self.reserve, "WARNING", True
        )
        if job is None or (not job and not self.launchpad.run_exists(self.fworker)):  # somebody took the last one
            return ""
        if not job:
            raise ProjectError(
                f"The queue did not take a worker of profile '{self.profile.name}'; its words stand above.",
                remedy="Check the profile's queue, account and limits, and 'atomfoundry doctor'.",
            )
        if self.reserve:
            self._remember(reserved=[*self.notes.reserved, str(job)])
        else:
            sent = SentWorker(id=str(job), next_launch=numbers.get("next_launch_id", 1))
            self._remember(workers=[*self.notes.workers, sent])
        return str(job)

    def future(self) -> bool:
        """Return whether any job waits or will."""
        return bool(patiently(lambda: self.launchpad.future_run_exists(self.fworker), "looking for jobs"))

    def _block(self) -> Path:
        from fireworks.utilities.fw_utilities import create_datestamp_dir

        blocks = sorted(self.folder.glob("block_*"))
        if blocks and sum(1 for _ in blocks[-1].glob("launcher_*")) < BLOCK_SIZE:
            return blocks[-1]
        return Path(create_datestamp_dir(str(self.folder), logger))
