"""The jobs of the LaunchPad: whether each has a worker that takes it, which have failed, what their specs hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from atomfoundry.doctor.cluster_files import fworkers, launch_words, queue_adapters
from atomfoundry.doctor.credentials import credential_paths, known_secrets
from atomfoundry.doctor.findings import Finding, ok, problem, warning
from atomfoundry.doctor.moments import age
from atomfoundry.doctor.registry import check
from atomfoundry.results.mongodb import LAUNCHPAD_FILE

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

PROJECT_FIELD = "spec.foundry.project_id"
OURS = re.compile(r"(?:^|/)atomfoundry(?:\.cli\.main)?$")
NO_CATEGORY = "__none__"
SAMPLE = 100
RECENT = 500
RECENT_S = 86400.0
"""A worker that was heard of since then is taken for one that comes again."""


def takes(fworker: dict[str, Any], category: str | None, name: str | None) -> bool:
    """Tell whether a FWorker takes jobs of a category, bound to a worker's name or not.

    As FireWorks: an empty category takes all jobs, ``__none__`` those without one, any other that one exactly, a list
    any of it.

    Parameters
    ----------
    fworker
        Content of a ``my_fworker.yaml``.
    category, name
        ``_category`` and ``_fworker`` of the jobs' spec.
    """
    if name is not None and fworker.get("name") != name:
        return False
    own = fworker.get("category") or ""
    if isinstance(own, str):
        return not own or (category is None if own == NO_CATEGORY else own == category)
    return category in own


def _serves(fworker: dict[str, Any], project_id: str | None) -> bool:
    """Tell whether a worker may take jobs of a project: its query may name another one."""
    query = fworker.get("query")
    if isinstance(query, str):
        try:
            query = json.loads(query)
        except ValueError:
            return True
    return not isinstance(query, dict) or query.get(PROJECT_FIELD, project_id) == project_id


def _of_files(world: World) -> list[dict[str, Any]]:
    """Return the workers that the cluster folder's files start: by a FWorker file, or by ``atomfoundry worker``."""
    found = [content for _, content in fworkers(world)]
    for _, content in queue_adapters(world):
        words = launch_words(content)
        if "worker" not in words or not any(OURS.search(word) for word in words):
            continue
        options: dict[str, list[str]] = {}
        given: list[str] = []
        for part in [piece for word in words for piece in (word.split("=", 1) if word.startswith("--") else [word])]:
            if part.startswith("-"):
                given = options.setdefault("--category" if part == "-c" else part, [])
            else:
                given.append(part)
        found.append({"name": next(iter(options.get("--name", [])), None), "category": options.get("--category") or ""})
    return found


def _of_launches(world: World) -> list[dict[str, Any]]:
    """Return the workers that were heard of in the last day."""
    found: dict[str, dict[str, Any]] = {}
    wanted = {"fworker": 1, "state_history": 1}
    for launch in world.database["launches"].find({}, wanted).sort("launch_id", -1).limit(RECENT):
        heard = age((launch.get("state_history") or [{}])[-1].get("updated_on"))
        worker = launch.get("fworker")
        if isinstance(worker, dict) and heard is not None and heard < RECENT_S:
            found.setdefault(repr([worker.get(key) for key in ("name", "category", "query")]), worker)
    return list(found.values())


@check("categories", "database")
def categories(world: World) -> Iterator[Finding]:
    """Check that there is a worker for every category of jobs that wait."""
    group = {"category": "$spec._category", "fworker": "$spec._fworker", "state": "$state"}
    stages: list[dict[str, Any]] = [
        {"$match": {**world.own_jobs, "state": {"$in": ["READY", "WAITING"]}}},
        {"$group": {"_id": group, "count": {"$sum": 1}}},
    ]
    counts: dict[tuple[str | None, str | None], dict[str, int]] = {}
    for row in world.database["fireworks"].aggregate(stages):
        key = (row["_id"].get("category"), row["_id"].get("fworker"))
        counts.setdefault(key, {})[row["_id"]["state"]] = row["count"]
    workers = [worker for worker in [*_of_files(world), *_of_launches(world)] if _serves(worker, world.project_id)]
    bad = []
    for (category, name), states in sorted(counts.items(), key=str):
        if any(takes(worker, category, name) for worker in workers):
            continue
        bad.append(_untaken(world, category, name, states, workers))
    yield from bad
    if not bad:
        total = sum(sum(states.values()) for states in counts.values())
        names = sorted({str(category or "no category") for category, _ in counts})
        yield ok(
            f"{total} jobs wait ({', '.join(names) or 'none'}), all have a worker", n_waiting=total, categories=names
        )


def _untaken(
    world: World, category: str | None, name: str | None, states: dict[str, int], workers: list[dict[str, Any]]
) -> Finding:
    ready, later = states.get("READY", 0), states.get("WAITING", 0)
    what = f"category '{category}'" if category else "no category"
    bound = f" bound to the worker '{name}'" if name else ""
    count = f"Ready jobs of {what}{bound}: {ready}" if ready else f"Jobs of {what}{bound} that wait for others: {later}"
    known = ", ".join(sorted({_words(worker.get("category")) for worker in workers})) or "none"
    wanted = category or NO_CATEGORY
    named = f" --name {name}" if name else ""
    cure = (
        f"atomfoundry worker --project {world.folder} --category {wanted}{named}, or a queue adapter and FWorker for "
        f"it in {world.cluster}, or another profile in {world.cluster / 'profiles.yaml'}."
    )
    message = f"{count}; no worker takes them (categories of known workers: {known})."
    make = problem if ready else warning
    return make(message, cure, category=category, fworker=name, states=states)


def _words(category: Any) -> str:
    return (", ".join(category) if isinstance(category, list) else str(category or "")) or "any"


@check("fizzled", "database")
def fizzled(world: World) -> Iterator[Finding]:
    """Count the project's jobs that have failed."""
    jobs = world.database["fireworks"]
    failed = {**world.own_jobs, "state": "FIZZLED"}
    count = jobs.count_documents(failed)
    if not count:
        rows = jobs.aggregate([{"$match": world.own_jobs}, {"$group": {"_id": "$state", "count": {"$sum": 1}}}])
        states = {row["_id"]: row["count"] for row in rows}
        text = ", ".join(f"{number} {str(state).lower()}" for state, number in sorted(states.items())) or "no jobs"
        yield ok(f"No failed jobs ({text})", states=states)
        return
    some = [
        {"fw_id": job["fw_id"], "name": job.get("name")}
        for job in jobs.find(failed, {"fw_id": 1, "name": 1}).sort("fw_id", -1).limit(10)
    ]
    yield warning(
        f"Failed jobs: {count}; the last is '{some[0]['name']}' ({some[0]['fw_id']}).",
        f"atomfoundry status --project {world.folder}, then atomfoundry retry --project {world.folder}",
        count=count,
        latest=some,
    )


@check("spec-credentials", "database")
def spec_credentials(world: World) -> Iterator[Finding]:
    """Look for credentials in the specs of a sample of jobs."""
    secrets = known_secrets(world)
    looked, found = 0, []
    seen = {PROJECT_FIELD: {"$in": [world.project_id, None]}}  # also jobs that belong to no project
    for job in world.database["fireworks"].find(seen, {"fw_id": 1, "spec": 1}).sort("fw_id", -1).limit(SAMPLE):
        looked += 1
        where = next(credential_paths(job.get("spec") or {}, secrets=secrets), None)
        if where is not None:
            found.append({"fw_id": job["fw_id"], "key": where})
    if found:
        yield problem(
            f"{len(found)} of {looked} jobs looked at have a credential in their spec, job {found[0]['fw_id']} at "
            f"{found[0]['key']}: whoever reads the database has it.",
            "Change the password; submit flows with 'atomfoundry submit', or flow_to_workflow(flow, store=None); then "
            f"lpad -l {world.cluster / LAUNCHPAD_FILE} delete_wflows -i {found[0]['fw_id']}",
            jobs=found[:20],
        )
    else:
        yield ok(f"No credential in the specs of {looked} jobs looked at", n_looked_at=looked)
