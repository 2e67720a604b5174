"""The machines that workers ran on: their clocks, and whether they see this project folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC
from statistics import median
from typing import TYPE_CHECKING, Any

from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.moments import age, moment, span
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

SKEW_S = 5.0
MOST = 200
GRACE_S = 120.0


def _cure(host: str) -> str:
    return f"ssh {host} chronyc tracking (or timedatectl); start chronyd there: systemctl enable --now chronyd"


def _judge(skews: dict[str, list[float]], against: str) -> Iterator[Finding]:
    """Report the hosts whose clock is off, by the median of several observations."""
    found = {host: median(values) for host, values in skews.items()}
    bad = {host: skew for host, skew in found.items() if abs(skew) > SKEW_S}
    for host, skew in sorted(bad.items()):
        yield warning(
            f"The clock of {host} is {span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} {against}: heartbeats "
            "and what is stale cannot be judged.",
            _cure(host),
            host=host,
            skew=round(skew, 1),
        )
    if found and not bad:
        yield ok(
            f"Clocks of {', '.join(sorted(found))} agree with {against}",
            skews={host: round(skew, 1) for host, skew in found.items()},
        )


@check("attempt-clocks", "cluster")
def attempt_clocks(world: World) -> Iterator[Finding]:
    """Compare the clocks of worker machines with that of the project's file system."""
    work = world.folder / "work"
    files = sorted(work.glob("*/attempt.json"), key=lambda path: path.stat().st_mtime, reverse=True)[:MOST]
    skews: dict[str, list[float]] = {}
    for path in files:
        try:
            content = json.loads(path.read_text())
            changed = path.stat().st_mtime
        except (OSError, ValueError):
            continue
        started = moment(content.get("started")) if isinstance(content, dict) else None
        if started is not None and content.get("host"):
            skews.setdefault(str(content["host"]), []).append(started.timestamp() - changed)
    if not skews:
        yield skipped(f"No attempt.json in {work}: no worker has begun a job that is still there")
        return
    yield from _judge(skews, "the project's file system")


@check("launch-clocks", "database")
def launch_clocks(world: World) -> Iterator[Finding]:
    """Compare the clocks of worker machines with the database's."""
    query = {"state_history.0.state": "RUNNING"}
    wanted = {"host": 1, "state_history": {"$slice": 1}}
    skews: dict[str, list[float]] = {}
    for launch in world.database["launches"].find(query, wanted).sort("launch_id", -1).limit(MOST):
        # the worker wrote the time; the server made the id when it inserted the launch, with whole seconds
        history = launch.get("state_history") or [{}]
        written = moment(history[0].get("created_on"))
        made = getattr(launch["_id"], "generation_time", None)
        if written is not None and made is not None and launch.get("host"):
            skew = (written - made.astimezone(UTC)).total_seconds()
            skews.setdefault(launch["host"], []).append(skew if skew < 0 else max(0.0, skew - 1.0))
    if not skews:
        yield skipped("No launches in the database yet")
        return
    yield from _judge(skews, "the database")


@check("shared-folder", "database")
def shared_folder(world: World) -> Iterator[Finding]:
    """Check that other machines see this project folder, as far as running jobs tell."""
    from atomfoundry.running.processes import host_name

    here = {host_name(), host_name().split(".")[0]}
    bad, hosts = [], set()
    database = world.database
    for launch in (
        database["launches"].find({"state": "RUNNING"}, {"host": 1, "fw_id": 1, "state_history": 1}).limit(MOST)
    ):
        host = str(launch.get("host") or "")
        begun = age((launch.get("state_history") or [{}])[-1].get("created_on"))
        if not host or host.split(".")[0] in here or begun is None or begun < GRACE_S:
            continue
        mine = {**world.own_jobs, "fw_id": launch["fw_id"]}
        firework = database["fireworks"].find_one(mine, {"spec.foundry": 1}) or {}
        job: dict[str, Any] = (firework.get("spec") or {}).get("foundry") or {}
        if "uuid" not in job:
            continue
        folder = world.folder / "work" / f"{job['uuid']}_{job.get('index', 1)}"
        hosts.add(host)
        if not folder.is_dir():
            bad.append(
                problem(
                    f"Job {launch['fw_id']} runs on {host} since {span(begun)}, but its folder {folder} is not here: "
                    f"{host} sees another folder under this path.",
                    f"ssh {host} ls -ld {world.folder}; put the project on a file system that all machines mount "
                    "alike.",
                    host=host,
                    fw_id=launch["fw_id"],
                )
            )
    yield from bad
    if bad:
        return
    if hosts:
        yield ok(f"{', '.join(sorted(hosts))} work in this folder", hosts=sorted(hosts))
    else:
        yield skipped("No job runs on another machine now")
