"""Finding what failures have left behind in a LaunchPad, and mending it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from atomfoundry.results.project import Project
from atomfoundry.running.cluster.attempt import is_alive, read_attempt, tidy
from atomfoundry.running.cluster.control import refresh_workflow
from atomfoundry.running.cluster.gates import is_open, open_gates
from atomfoundry.running.cluster.result_file import RESULT_FILE
from atomfoundry.running.execution import job_folder

if TYPE_CHECKING:
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

logger = logging.getLogger(__name__)

LOST_AFTER_S = 900.0
"""A job whose process cannot be asked after is lost when its heartbeat has not moved for so long."""
STUCK_AFTER_S = 120.0
"""What a living process passes through in moments is stuck when it has not changed for so long."""
ORPHAN_AFTER_S = 3600.0
MAX_LOST = 3
"""A job lost so often is failed: it may be what kills its workers."""
SEEN = "foundry_sweep"
"""Collection that remembers since when something looks as it does."""

JobStates = Callable[[list[str], str], Mapping[str, str]]


@dataclass(frozen=True)
class SweepFinding:
    """Something that a failure has left."""

    kind: str
    """``lost``, ``lost too often``, ``reserved``, ``locked``, ``unreported``, ``gate``, ``orphan``, ``incomplete`` or
    ``folder``."""
    what: str
    cure: str
    """What was done, or with ``dry_run`` would be."""
    fw_id: int | None = None


@dataclass
class SweepReport:
    """What a sweep found."""

    findings: list[SweepFinding] = field(default_factory=list)
    n_watched: int = 0
    """Things that look wrong, but not for long enough yet."""
    n_running: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON content."""
        return asdict(self)


class _Sweeper:
    def __init__(
        self,
        project: Project,
        lpad: FoundryLaunchPad,
        *,
        scheduler: str | None,
        job_states: JobStates | None,
        lost_after_s: float,
        stuck_after_s: float,
        dry_run: bool,
        clock: Callable[[], float],
    ) -> None:
        self.project = project
        self.lpad = lpad
        self.scheduler = scheduler
        self.job_states = job_states
        self.lost_after_s = lost_after_s
        self.stuck_after_s = stuck_after_s
        self.dry_run = dry_run
        self.clock = clock
        self.report = SweepReport()
        self.seen = lpad.db[SEEN]
        self.still: set[str] = set()
        self.mine = project.project_id

    # -- watching -----------------------------------------------------------------------------------------

    def lasts(self, key: str, looks: Any, seconds: float) -> bool:
        """Tell whether something has looked the same for so long, by this machine's clock alone.

        Nobody else's times count: the clocks of workers may be wrong.
        """
        key = f"{self.mine}/{key}"
        self.still.add(key)
        now = self.clock()
        known = self.seen.find_one({"_id": key})
        if known is None or known["looks"] != repr(looks):
            note = {"_id": key, "project_id": self.mine, "looks": repr(looks), "since": now}
            self.seen.replace_one({"_id": key}, note, upsert=True)
            known = {"since": now}
        if now - known["since"] >= seconds:
            return True
        self.report.n_watched += 1
        return False

    def forget(self) -> None:
        """Drop what does not look wrong any more; the notes of other projects stay."""
        self.seen.delete_many({"project_id": self.mine, "_id": {"$nin": sorted(self.still)}})

    def found(self, kind: str, what: str, cure: str, action: Callable[[], Any], fw_id: int | None = None) -> None:
        if not self.dry_run:
            action()
            logger.warning("%s: %s", what, cure)
        self.report.findings.append(SweepFinding(kind, what, cure, fw_id))

    # -- looking ------------------------------------------------------------------------------------------

    def sweep(self) -> SweepReport:
        self.locks()
        self.incomplete()
        running = list(self._ours("RUNNING"))
        self.report.n_running = len(running)
        self.unreported(running)
        self.lost(running)
        self.reserved()
        self.gates()
        self.orphans()
        self.folders()
        if not self.dry_run:
            self.forget()
        return self.report

    def _ours(self, state: str) -> Iterator[dict]:
        criteria = {"state": state, "spec.foundry.project_id": self.mine}
        fields = ["fw_id", "name", "spec.foundry", "launches", "updated_on"]
        yield from list(self.lpad.fireworks.find(criteria, fields))

    def _launches(self, fw: dict) -> list[dict]:
        return list(self.lpad.launches.find({"launch_id": {"$in": fw["launches"]}}))

    def locks(self) -> None:
        """Find workflows that a process locked and never unlocked."""
        criteria = {"locked": {"$exists": True}, "metadata.foundry.project_id": self.mine}
        for workflow in list(self.lpad.workflows.find(criteria, ["nodes", "name", "updated_on"])):
            node = workflow["nodes"][0]
            if not self.lasts(f"locked:{node}", workflow["updated_on"], self.stuck_after_s):
                continue

            def unlock(node: int = node) -> None:
                self.lpad.workflows.update_one({"nodes": node}, {"$unset": {"locked": ""}})
                refresh_workflow(self.lpad, node)

            self.found(
                "locked",
                f"Workflow '{workflow['name']}' ({node}) is locked by a process that is gone.",
                "unlocked, its states worked out anew",
                unlock,
                node,
            )

    def incomplete(self) -> None:
        """Find workflows whose submission was killed half-way."""
        for workflow in self.lpad.workflows.find({"metadata.foundry.project_id": self.mine}, ["nodes", "name"]):
            n_there = self.lpad.fireworks.count_documents({"fw_id": {"$in": workflow["nodes"]}})
            node = workflow["nodes"][0]
            if n_there < len(workflow["nodes"]) and self.lasts(f"incomplete:{node}", n_there, self.stuck_after_s):
                self.found(
                    "incomplete",
                    f"Workflow '{workflow['name']}' ({node}) lacks {len(workflow['nodes']) - n_there} of its jobs: "
                    "whoever entered it was killed.",
                    "nothing here: submit the same flow again, or retry the job that made it",
                    lambda: None,
                    node,
                )

    def unreported(self, running: Iterable[dict]) -> None:
        """Find launches that have ended while their job says that it runs."""
        for fw in running:
            launches = self._launches(fw)
            ended = [launch["state"] for launch in launches if launch["state"] in ("COMPLETED", "FIZZLED")]
            if not launches or len(ended) < len(launches):
                continue
            if self.lasts(f"unreported:{fw['fw_id']}", ended, self.stuck_after_s):
                self.found(
                    "unreported",
                    f"Job '{fw['name']}' ({fw['fw_id']}) has ended ({ended[-1].lower()}) and says that it runs.",
                    "its workflow's states worked out anew",
                    partial(refresh_workflow, self.lpad, fw["fw_id"]),
                    fw["fw_id"],
                )

    def lost(self, running: Iterable[dict]) -> None:
        """Find running jobs whose process is gone."""
        suspects = []
        for fw in running:
            launches = self._launches(fw)
            if any(launch["state"] in ("COMPLETED", "FIZZLED") for launch in launches):
                continue
            attempt = self._attempt(fw)
            alive = is_alive(attempt)
            if alive is not True:
                suspects.append((fw, launches, attempt, alive))
        in_queue = self._queue_states([attempt for _, _, attempt, _ in suspects])
        for fw, launches, attempt, alive in suspects:
            state = in_queue.get(str(attempt.get("queue_job")), "unknown")
            if alive is None and state in ("running", "pending"):
                continue
            heartbeat = [launch["state_history"][-1].get("updated_on") for launch in launches]
            known_dead = alive is False or state == "gone"
            patience = min(self.stuck_after_s, self.lost_after_s) if known_dead else self.lost_after_s
            looks = (attempt.get("token"), heartbeat if not known_dead else None)
            if not self.lasts(f"lost:{fw['fw_id']}", looks, 0.0 if alive is False else patience):
                continue
            self._cure_lost(fw, launches, attempt, alive is False, state)

    def _attempt(self, fw: dict) -> dict[str, Any]:
        mark = fw["spec"]["foundry"]
        if mark.get("kind") != "job":
            return {}
        attempt = read_attempt(job_folder(self.project, mark["uuid"], mark["index"]))
        return attempt if attempt.get("fw_id") == fw["fw_id"] else {}

    def _queue_states(self, attempts: Iterable[dict]) -> Mapping[str, str]:
        ids = sorted({str(attempt["queue_job"]) for attempt in attempts if attempt.get("queue_job")})
        if not ids or self.job_states is None or self.scheduler is None:
            return {}
        return self.job_states(ids, self.scheduler)

    def _cure_lost(self, fw: dict, launches: list[dict], attempt: dict, died: bool, state: str) -> None:
        fw_id, mark = fw["fw_id"], fw["spec"]["foundry"]
        host = attempt.get("host") or (launches[-1].get("host") if launches else None) or "an unknown host"
        how = (
            f"its process on {host} is gone"
            if died
            else f"its batch job {attempt.get('queue_job')} is gone"
            if state == "gone"
            else f"no heartbeat from {host} for {self.lost_after_s:.0f} s"
        )
        n_lost = mark.get("n_lost", 0) + 1
        if n_lost >= MAX_LOST:

            def fail() -> None:
                self._note_lost(fw_id, 0)
                for launch in launches:
                    self._fail_launch(launch["launch_id"], f"Its worker was lost {n_lost} times: {how}.")

            self.found(
                "lost too often",
                f"Job '{fw['name']}' ({fw_id}) was lost {n_lost} times: {how}.",
                "failed; see its folder, then retry",
                fail,
                fw_id,
            )
            return

        def again() -> None:
            self.lpad.rerun_fw(fw_id)
            self._note_lost(fw_id, n_lost)

        kept = self._has_result(mark)
        self.found(
            "lost",
            f"Job '{fw['name']}' ({fw_id}) was lost: {how}.",
            "ready again; its result is on disk and will be delivered" if kept else "ready again, from its checkpoint",
            again,
            fw_id,
        )

    def _note_lost(self, fw_id: int, n_lost: int) -> None:
        self.lpad.fireworks.update_one({"fw_id": fw_id}, {"$set": {"spec.foundry.n_lost": n_lost}})

    def _fail_launch(self, launch_id: int, message: str) -> None:
        from fireworks.core.firework import FWAction

        stored = {"_message": message, "_exception": {"_stacktrace": message, "_details": None}}
        self.lpad.complete_launch(launch_id, FWAction(stored_data=stored, exit=True), "FIZZLED")

    def _has_result(self, mark: dict) -> bool:
        if mark.get("kind") != "job":
            return False
        return (job_folder(self.project, mark["uuid"], mark["index"]) / RESULT_FILE).is_file()

    def reserved(self) -> None:
        """Find reserved jobs without a launch, or whose batch job is gone."""
        for fw in self._ours("RESERVED"):
            launches = self._launches(fw)
            ids = [
                str(entry["reservation_id"])
                for launch in launches
                for entry in launch["state_history"]
                if entry.get("reservation_id")
            ]
            if ids:
                states = self._queue_states([{"queue_job": ids[-1]}])
                gone = states.get(ids[-1]) == "gone"
                why = f"its batch job {ids[-1]} is gone"
            else:
                # between the claim and the id of the batch job lie moments
                gone = True
                why = "whoever reserved it was killed before it submitted a batch job"
            if gone and self.lasts(f"reserved:{fw['fw_id']}", (fw["launches"], ids), self.stuck_after_s):
                self.found(
                    "reserved",
                    f"Job '{fw['name']}' ({fw['fw_id']}) is reserved: {why}.",
                    "ready again",
                    partial(self.lpad.rerun_fw, fw["fw_id"]),
                    fw["fw_id"],
                )

    def gates(self) -> None:
        """Find gates whose parts have ended without anybody opening them."""
        criteria = {
            "state": "PAUSED",
            "spec.foundry.kind": "gate",
            "spec.foundry.project_id": self.mine,
        }
        ready = [
            gate["fw_id"]
            for gate in self.lpad.fireworks.find(criteria, ["fw_id", "spec.foundry.needs"])
            if is_open(self.lpad, gate["spec"]["foundry"]["needs"])
        ]
        if ready:
            self.found(
                "gate",
                f"{len(ready)} gate(s) wait for jobs that have all ended.",
                "opened",
                lambda: open_gates(self.lpad, project_id=self.mine),
                ready[0],
            )

    def orphans(self) -> None:
        """Find jobs that were inserted for a workflow by a process killed before it entered them there."""
        criteria: dict[str, Any] = {
            "state": "WAITING",
            "launches": [],
            "spec.foundry.attached": {"$exists": True},
            "spec.foundry.project_id": self.mine,
        }
        for fw in list(self.lpad.fireworks.find(criteria, ["fw_id", "name"])):
            fw_id = fw["fw_id"]
            if self.lpad.workflows.find_one({"nodes": fw_id}, ["_id"]) is not None:
                continue
            if self.lasts(f"orphan:{fw_id}", fw_id, ORPHAN_AFTER_S):
                self.found(
                    "orphan",
                    f"Job '{fw['name']}' ({fw_id}) belongs to no workflow.",
                    "removed: the job that made it enters it again",
                    partial(self.lpad.fireworks.delete_one, {"fw_id": fw_id}),
                    fw_id,
                )

    def folders(self) -> None:
        """Find results on disk of jobs whose completion is in the database."""
        for path in sorted(self.project.work_dir.glob(f"*/{RESULT_FILE}")):
            attempt = read_attempt(path.parent)
            ours = {"fw_id": attempt.get("fw_id"), "spec.foundry.project_id": self.mine}
            fw = self.lpad.fireworks.find_one(ours, ["state", "name"]) if attempt else None
            if fw is None or fw["state"] != "COMPLETED":
                continue
            if self.lasts(f"folder:{path.parent.name}", attempt.get("token"), self.stuck_after_s):
                self.found(
                    "folder",
                    f"The result of '{fw['name']}' is still in {path.parent}, and in the database.",
                    "removed from the folder",
                    partial(tidy, path.parent),
                    attempt["fw_id"],
                )


def sweep(
    project: Project,
    *,
    launchpad: FoundryLaunchPad | None = None,
    scheduler: str | None = None,
    job_states: JobStates | None = None,
    lost_after_s: float = LOST_AFTER_S,
    stuck_after_s: float = STUCK_AFTER_S,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> SweepReport:
    """Find and mend what killed workers, killed daemons and a database that was away have left in a LaunchPad.

    Meant to be called every few minutes (cron, a systemd timer): most findings count only when they have looked the
    same for a while, which the sweep itself remembers. Nothing is decided by the clocks of other machines. A job is
    lost when its process on this host is dead, when the scheduler does not know its batch job any more, or, where
    neither can be asked, when its heartbeat has not moved for ``lost_after_s``. It then runs again from its checkpoint;
    at the third time it is failed.

    Parameters
    ----------
    project
        The project.
    launchpad
        Its LaunchPad; default opened.
    scheduler
        ``"slurm"`` or ``"pbs"``; default as in ``profiles.yaml``.
    job_states
        What asks the scheduler; default ``atomfoundry.running.cluster.scheduler.job_states``.
    lost_after_s, stuck_after_s
        Times in s.
    dry_run
        Only report.
    clock
        Seconds since 1970.

    Returns
    -------
    SweepReport
        What was found, and what was done about it.

    Raises
    ------
    ProjectError
        If the project has no LaunchPad, or its database does not answer within 10 s.
    """
    from atomfoundry.running.cluster.conversion import Converter
    from atomfoundry.running.cluster.launchpad import open_launchpad

    scheduler = scheduler or Converter.of_project(project, run_id="", run_name="").scheduler
    if job_states is None and scheduler is not None:
        from atomfoundry.running.cluster import scheduler as scheduler_module

        job_states = scheduler_module.job_states
    sweeper = _Sweeper(
        project,
        launchpad or open_launchpad(project, patient=False),
        scheduler=scheduler,
        job_states=job_states,
        lost_after_s=lost_after_s,
        stuck_after_s=stuck_after_s,
        dry_run=dry_run,
        clock=clock,
    )
    return sweeper.sweep()
