"""Sends workers of a profile to the batch queue by FireWorks' queue adapters, never more of them than there are jobs.

FireWorks' own ``qlaunch rapidfire`` sends workers for as long as some job is READY, which a job is until a worker
begins: a single job would fill the queue. It also counts by names or queues what may be another project's.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError
from pymongo.errors import PyMongoError

from atomfoundry.checkpoint import write_atomically
from atomfoundry.errors import AtomfoundryError, ConfigurationError, ProjectError
from atomfoundry.results.project import Project
from atomfoundry.running.cluster.launchpad import FoundryLaunchPad, open_launchpad
from atomfoundry.running.cluster.layout import ClusterLayout
from atomfoundry.running.cluster.patience import patiently
from atomfoundry.running.cluster.profiles import Profile, Profiles
from atomfoundry.running.cluster.scheduler import job_states

if TYPE_CHECKING:
    from fireworks.core.fworker import FWorker

logger = logging.getLogger(__name__)

SLEEP_S = 30.0
PAUSE_S = 2.0
"""Between two submissions, so that a launcher is no burden to the queue."""
YOUNG_S = 30.0
"""An allocation that runs for so long has taken what it can; its workers without a job leave after 20 s."""
MANY = 500
PROJECT_FIELD = "spec.foundry.project_id"
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
        ours = {"fw_id": {"$in": begun}, **{k: v for k, v in self.fworker.query.items() if k == PROJECT_FIELD}}
        return bool(begun) and bool(
            patiently(lambda: self.launchpad.fireworks.count_documents(ours, limit=1), "looking for jobs")
        )

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


def _launcher(project: Project, profile: Profile, *, reserve: bool, max_queued: int | None) -> Launcher:
    from fireworks.core.fworker import FWorker
    from fireworks.utilities.fw_serializers import load_object_from_file

    layout = ClusterLayout(project.path)
    launchpad = open_launchpad(project)
    for path in (layout.qadapter(profile.name), layout.fworker(profile.name)):
        if not path.is_file():
            raise ProjectError(f"{path} is missing.", remedy="Make it with 'atomfoundry init cluster'.")
    return Launcher(
        launchpad,
        profile,
        FWorker.from_file(str(layout.fworker(profile.name))),
        load_object_from_file(str(layout.qadapter(profile.name))),
        layout.launches(profile.name),
        reserve,
        max_queued or profile.max_queued,
    )


def launch(
    project: Project,
    profile: Profile,
    *,
    reserve: bool = False,
    n_launches: int | None = None,
    stay: bool = False,
    sleep_s: float = SLEEP_S,
    pause_s: float = PAUSE_S,
    timeout_s: float | None = None,
    max_queued: int | None = None,
) -> list[str]:
    """Send workers to the queue while jobs of a profile wait.

    Parameters
    ----------
    project
        A project with the files of ``init cluster``.
    profile
        Whose jobs.
    reserve
        Make each allocation for one job, with the resources that its name is given.
    n_launches
        End after so many.
    stay
        Go on when no job waits any more, nor will when those of now are done, and when the queue refuses a worker or
        the database is away.
    sleep_s
        Between two looks at the database.
    pause_s
        Between two submissions.
    timeout_s
        End after so long.
    max_queued
        Allocations in the queue at the same time; default the profile's.

    Returns
    -------
    list[str]
        Ids in the queue of what was sent.

    Raises
    ------
    ProjectError
        If the project has no files of a cluster, or the queue refuses a worker.
    """
    launcher = _launcher(project, profile, reserve=reserve, max_queued=max_queued)
    sent: list[str] = []
    end = float("inf") if timeout_s is None else time.monotonic() + timeout_s

    def ended() -> bool:
        return len(sent) == n_launches or time.monotonic() >= end

    def send_all() -> bool:
        """Send what is wanted; return whether there is more to wait for."""
        while not ended() and launcher.wanted() and (job := launcher.send()):
            sent.append(job)
            logger.info("Worker %s of profile '%s' is in the queue", job, launcher.profile.name)
            if not ended():
                time.sleep(pause_s)
        return not ended() and (stay or launcher.future())

    while not ended():
        try:
            if not send_all():
                break
        except (ProjectError, PyMongoError) as error:
            if not stay:
                raise
            logger.warning("%s It is tried again in %g s.", str(error)[:500], sleep_s)
        time.sleep(max(0.0, min(sleep_s, end - time.monotonic())))
    return sent


def main(arguments: list[str] | None = None) -> None:
    """Run as ``python -m atomfoundry.running.cluster.launcher``, by ``launch.sh``.

    Parameters
    ----------
    arguments
        Command line; default that of the process.
    """
    parser = argparse.ArgumentParser(prog="launch.sh", description="Sends workers of one profile to the queue.")
    parser.add_argument("--project", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("profile")
    parser.add_argument("--reserve", "-r", action="store_true", help="an allocation for each job, of its own size")
    parser.add_argument("--nlaunches", default="0", help="number of workers, or 'infinite'; default: while jobs wait")
    parser.add_argument("--sleep", type=float, default=SLEEP_S, help="seconds between two looks at the database")
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="seconds between two submissions")
    parser.add_argument("--timeout", type=float, help="seconds after which it ends")
    parser.add_argument("--maxjobs_queue", type=int, help="allocations in the queue; default: the profile's max_queued")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logger.setLevel(logging.INFO)
    try:
        project = Project.open(options.project)
        profile = Profiles.load(ClusterLayout(project.path).profiles)[options.profile]
        if options.nlaunches != "infinite" and not options.nlaunches.isdigit():
            raise ConfigurationError(
                f"--nlaunches {options.nlaunches} is no number.", remedy="Give a number, or 'infinite'."
            )
        launch(
            project,
            profile,
            reserve=options.reserve,
            n_launches=None if options.nlaunches == "infinite" else int(options.nlaunches) or None,
            stay=options.nlaunches == "infinite",
            sleep_s=options.sleep,
            pause_s=options.pause,
            timeout_s=options.timeout,
            max_queued=options.maxjobs_queue,
        )
    except AtomfoundryError as error:
        parser.exit(2, f"{error}\n")
    except PyMongoError as error:
        parser.exit(1, f"The database does not answer: {str(error).partition(', Timeout')[0][:200]}\n")


if __name__ == "__main__":
    main()
