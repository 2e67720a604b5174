"""What dead workers leave in the LaunchPad: jobs without a heartbeat, reservations without a launch, locks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from atomfoundry.doctor.findings import Finding, ok, warning
from atomfoundry.doctor.fireworks_settings import expiration
from atomfoundry.doctor.moments import age, span
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

OURS_LOST_S = 900.0
"""Jobs that ``atomfoundry worker`` runs are heard of every minute, whatever FireWorks' settings say."""
RESERVED_S = 600.0
"""Between claim and launch there are normally milliseconds; in the queue's reservation mode there is a launch at "
"once."""
LOCK_S = 2.0
"""A workflow is locked while a completed job is entered, some milliseconds to seconds."""


def _sweep(world: World) -> str:
    return f"atomfoundry sweep --project {world.folder}"


@check("heartbeats", "database")
def heartbeats(world: World) -> Iterator[Finding]:
    """Check that every running job is heard of: the project's, and those that belong to no project."""
    jobs = world.database["fireworks"]
    ours: set[int] = set()
    others: set[int] = set()
    for job in jobs.find({"state": "RUNNING", "spec.foundry": {"$exists": True}}, {"fw_id": 1, "spec.foundry": 1}):
        mine = job["spec"]["foundry"].get("project_id") == world.project_id
        (ours if mine else others).add(job["fw_id"])
    limits = {True: OURS_LOST_S, False: expiration(world)}
    silent: list[dict[str, Any]] = []
    running = 0
    for launch in world.database["launches"].find(
        {"state": "RUNNING"}, {"launch_id": 1, "fw_id": 1, "host": 1, "state_history": 1}
    ):
        if launch["fw_id"] in others:  # their own project's doctor and sweep look after them
            continue
        running += 1
        limit = limits[launch["fw_id"] in ours]
        # FireWorks keeps one entry a state, the last is the present one
        history = launch.get("state_history") or [{}]
        quiet = age(history[-1].get("updated_on") or history[-1].get("created_on"))
        if quiet is not None and quiet > limit:
            silent.append(
                {
                    "fw_id": launch["fw_id"],
                    "launch_id": launch["launch_id"],
                    "host": launch.get("host"),
                    "silent_s": round(quiet),
                }
            )
    if silent:
        worst = max(silent, key=lambda each: each["silent_s"])
        yield warning(
            f"{len(silent)} of {running} running jobs were not heard of for too long, job "
            f"{worst['fw_id']} on {worst['host']} for {span(worst['silent_s'])}: their workers are dead.",
            _sweep(world),
            jobs=silent[:50],
        )
    else:
        yield ok(f"{running} jobs run, all were heard of lately", n_running=running)


@check("reservations", "database")
def reservations(world: World) -> Iterator[Finding]:
    """Check that every reserved job of the project has a launch."""
    database = world.database
    lost = []
    for job in database["fireworks"].find(
        {**world.own_jobs, "state": "RESERVED"}, {"fw_id": 1, "name": 1, "launches": 1, "updated_on": 1}
    ):
        launched = database["launches"].find_one({"launch_id": {"$in": job.get("launches") or []}, "state": "RESERVED"})
        quiet = age(job.get("updated_on"))
        if launched is None and quiet is not None and quiet > RESERVED_S:
            lost.append({"fw_id": job["fw_id"], "name": job.get("name"), "since_s": round(quiet)})
    if lost:
        yield warning(
            f"{len(lost)} jobs are reserved without a launch, job {lost[0]['fw_id']} since {span(lost[0]['since_s'])}: "
            "a worker was killed between claim and launch, and FireWorks never sees it.",
            _sweep(world),
            jobs=lost[:50],
        )
    else:
        yield ok("No reservation without a launch")


@check("locks", "database")
def locks(world: World) -> Iterator[Finding]:
    """Check that no workflow of the project is locked for ever."""
    mine = {"locked": True, "metadata.foundry.project_id": world.project_id}

    def locked() -> dict[Any, tuple[Any, int]]:
        rows = world.database["workflows"].find(mine, {"nodes": 1, "updated_on": 1})
        return {row["_id"]: (row.get("updated_on"), min(row.get("nodes") or [0])) for row in rows}

    first = locked()
    if first:
        time.sleep(LOCK_S)
    # a worker replaces the document before it unlocks: one that changed is being worked on
    second = locked() if first else {}
    stuck = sorted(node for key, (updated, node) in second.items() if first.get(key) == (updated, node))
    if stuck:
        yield warning(
            f"{len(stuck)} workflows are locked, that of job {stuck[0]} for one: a worker was killed while it wrote, "
            "and no job of theirs goes on.",
            _sweep(world),
            fw_ids=stuck[:50],
        )
    else:
        yield ok("No workflow is locked")
