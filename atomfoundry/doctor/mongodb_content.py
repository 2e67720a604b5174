"""What the database must hold: FireWorks' counter of ids, and the indexes without which every claim reads all jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.registry import check
from atomfoundry.results.ownership import owner_of

if TYPE_CHECKING:
    from pymongo.database import Database

    from atomfoundry.doctor.world import World

INDEXES: dict[str, tuple[str, ...]] = {
    "fireworks": ("fw_id", "state", "spec._category"),
    "launches": ("launch_id", "fw_id", "state"),
    "workflows": ("nodes",),
    "outputs": ("uuid",),
    "labels": ("frame_id",),
}
"""Collection -> fields that an index must begin with."""
OURS: dict[str, tuple[str, ...]] = {
    "fireworks": ("spec.foundry.project_id", "spec.foundry.run_id", "spec.foundry.uuid"),
    "workflows": ("metadata.foundry.project_id", "metadata.foundry.run_id"),
}
"""Those that ``atomfoundry submit`` makes besides."""
PART = ("workflows", "metadata.foundry.part")
"""What keeps a flow that two processes submit at once from being entered twice."""
UNIQUE = {("fireworks", "fw_id"), ("launches", "launch_id"), PART}


def _remake(world: World) -> str:
    """Return the command that makes FireWorks' indexes and ours; it needs no downtime."""
    return (
        'python -c "from atomfoundry.results.project import Project; from atomfoundry.running.cluster.launchpad import '
        f"open_launchpad; p = Project.open('{world.folder}'); open_launchpad(p).ensure_indexes(); p.ensure_indexes()\""
    )


def _first_fields(database: Database, collection: str) -> dict[str, bool]:
    """Return the first field of every index, and whether one of its indexes on it alone is unique."""
    found: dict[str, bool] = {}
    for description in database[collection].index_information().values():
        keys = description["key"]
        name = keys[0][0]
        found[name] = found.get(name, False) or (bool(description.get("unique")) and len(keys) == 1)
    return found


@check("mongodb-indexes", "database")
def mongodb_indexes(world: World) -> Iterator[Finding]:
    """Check that the indexes are there."""
    database = world.database
    present = set(database.list_collection_names())
    submitted = database["workflows"].find_one({"metadata.foundry": {"$exists": True}}, {"_id": 1}) is not None
    missing: list[str] = []
    double: list[tuple[str, str]] = []
    unguarded = False
    for collection, fields in INDEXES.items():
        if collection not in present:
            continue
        indexes = _first_fields(database, collection)
        wanted = [*fields, *(OURS.get(collection, ()) if submitted else ())]
        missing += [f"{collection}.{field}" for field in wanted if field not in indexes]
        if submitted and collection == PART[0]:
            unguarded = PART[1] not in indexes
            wanted.append(PART[1])
        double += [
            (collection, field)
            for field in wanted
            if (collection, field) in UNIQUE and field in indexes and not indexes[field]
        ]
    if missing:
        yield warning(
            f"Indexes are missing: {', '.join(missing)}. Claims and queries read everything.",
            _remake(world),
            missing=missing,
        )
    if double:
        names = [".".join(each) for each in double]
        keys = [(collection, f"'{field}'" if "." in field else field) for collection, field in double]
        drops = "; ".join(f"db.{collection}.dropIndex({{{key}: 1}})" for collection, key in keys)
        yield warning(
            f"The indexes of {', '.join(names)} are not unique: two jobs may get the same id, or a flow be entered "
            "twice.",
            f"mongosh {database.name}: {drops}; then {_remake(world)}",
            indexes=names,
        )
    if unguarded:
        yield problem(
            f"The unique index of {'.'.join(PART)} is missing: a flow that two processes submit at once is entered "
            "twice.",
            _remake(world),
        )
    if not missing and not double and not unguarded:
        yield ok(f"Indexes of {', '.join(name for name in INDEXES if name in present) or 'an empty database'}")


@check("mongodb-owner", "database")
def mongodb_owner(world: World) -> Iterator[Finding]:
    """Check that the results in the database are this project's."""
    if not world.on_mongodb:
        yield skipped("The project's results are not in MongoDB")
        return
    owner = owner_of(world.database)
    name = world.database.name
    if owner not in (None, world.project_id):
        yield problem(
            f"The database '{name}' holds the results of another project ({owner}): this one's jobs cannot store "
            "theirs.",
            f"atomfoundry init cluster {world.folder} --database-name NAME --force",
            owner=owner,
        )
    else:
        yield ok(f"The results in '{name}' are this project's" if owner else f"No results in '{name}' yet", owner=owner)


@check("mongodb-ids", "database")
def mongodb_ids(world: World) -> Iterator[Finding]:
    """Check that FireWorks' counter of ids is there, and ahead of all ids."""
    database = world.database
    counters: list[dict[str, Any]] = list(database["fw_id_assigner"].find({}, {"_id": 0}))
    top = _largest(database, "fireworks", "fw_id")
    top_launch = _largest(database, "launches", "launch_id")
    right = f"{{next_fw_id: {top + 1}, next_launch_id: {top_launch + 1}}}"
    name = database.name
    details: dict[str, Any] = {"counters": counters, "largest_fw_id": top, "largest_launch_id": top_launch}
    if not counters and not top:
        yield skipped("No jobs yet: the first 'atomfoundry submit' makes the counter of ids", **details)
    elif not counters:
        yield problem(
            f"The counter of ids (fw_id_assigner) of '{name}' is missing: no job can be added.",
            f"mongosh {name}: db.fw_id_assigner.insertOne({right}). Never 'lpad reset': it deletes all jobs.",
            **details,
        )
    elif len(counters) > 1:
        yield problem(
            f"There are {len(counters)} counters of ids in '{name}': jobs will get the same ids.",
            f"When nothing runs, mongosh {name}: db.fw_id_assigner.deleteMany({{}}); "
            f"db.fw_id_assigner.insertOne({right})",
            **details,
        )
    elif counters[0].get("next_fw_id", 0) <= top or counters[0].get("next_launch_id", 0) <= top_launch:
        yield problem(
            f"The counter of ids of '{name}' is behind: next job {counters[0].get('next_fw_id')}, largest there {top}; "
            f"next launch {counters[0].get('next_launch_id')}, largest there {top_launch}.",
            f"When nothing runs, mongosh {name}: db.fw_id_assigner.updateOne({{}}, {{$set: {right}}})",
            **details,
        )
    else:
        yield ok(f"Next job {counters[0]['next_fw_id']}, next launch {counters[0]['next_launch_id']}", **details)


def _largest(database: Database, collection: str, key: str) -> int:
    found = database[collection].find_one({key: {"$exists": True}}, {key: 1}, sort=[(key, -1)])
    return int(found[key]) if found else 0
