"""A project folder: its schema, its artifacts, what killed runs have left in it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.registry import check
from atomfoundry.errors import ProjectError
from atomfoundry.results.mongodb import LAUNCHPAD_FILE

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

SAMPLE = 25
SAMPLE_BYTES = 200 * 2**20
"""Artifacts are read until there are so many, or so many bytes of them."""
SAMPLE_SECONDS = 5.0
STALE_S = 24 * 3600.0
"""A half-written file older than this belongs to nobody any more."""


@check("schema", "project")
def schema(world: World) -> Iterator[Finding]:
    """Check that this is a project, of a schema this Atomfoundry knows."""
    from atomfoundry.results.project import Project

    try:
        opened = Project.open(world.folder)
    except ProjectError as error:
        yield problem(error.message, error.remedy or "Give another folder by --project.")
        return
    kind = opened.metadata.get("database", "sqlite")
    if kind == "mongodb" and not world.has_cluster:
        yield problem(
            f"The results of {opened.path} are in MongoDB, but {world.cluster} does not exist: nobody knows where.",
            f"atomfoundry init cluster {opened.path}, or restore {world.cluster / LAUNCHPAD_FILE} from a copy.",
        )
        return
    version = opened.metadata["schema_version"]
    yield ok(f"{opened.path}: schema {version}, results in {kind}", schema_version=version, database=kind)


@check("artifacts", "project", limit=20.0)
def artifacts(world: World) -> Iterator[Finding]:
    """Check that a sample of the artifacts has the content that their hashes say."""
    from atomfoundry.errors import ArtifactError
    from atomfoundry.results.artifacts import hash_path

    url = world.settings.artifacts_url
    root = Path(url).expanduser() if url and "://" not in url else world.folder / "artifacts"
    folders = [path for path in root.glob("??/*") if path.is_dir() and len(path.name) == 64]
    if not folders:
        yield skipped(f"No artifacts in {root}")
        return
    # another sample every day, the same one all day
    random.Random(int(time.time() // 86400)).shuffle(folders)  # nosec B311 # a sample, no secret
    started, read, looked, bad = time.monotonic(), 0, 0, []
    for folder in folders:
        if looked == SAMPLE or read > SAMPLE_BYTES or time.monotonic() - started > SAMPLE_SECONDS:
            break
        for path in (each for each in folder.iterdir() if not each.name.startswith(".")):
            looked += 1
            try:
                found, size = hash_path(path)
            except (ArtifactError, OSError) as error:
                bad.append(_altered(path, str(error)))
                continue
            read += size
            if found != folder.name:
                bad.append(_altered(path, f"its sha256 is {found[:16]}..., its address says {folder.name[:16]}..."))
    yield from bad
    if not bad:
        yield ok(
            f"{looked} artifacts of {len(folders)} read ({read / 2**20:.0f} MiB): all are what they should be",
            n_artifacts=len(folders),
            n_read=looked,
            n_bytes=read,
        )


def _altered(path: Path, reason: str) -> Finding:
    return problem(
        f"Artifact {path} was altered: {reason}.",
        f"Restore {path} from a copy of the project, or remove it and run the job that made it again.",
        path=str(path),
    )


@check("leftovers", "project")
def leftovers(world: World) -> Iterator[Finding]:
    """Look for half-written files that killed processes have left."""
    root = world.folder
    now = time.time()
    patterns = (
        ".project.json-*",
        ".doctor-*",
        "artifacts/??/*/.put-*",
        "artifacts/??/*/.get-*",
        "work/*/.result.json-*",
    )
    stale = []
    for pattern in patterns:
        for path in root.glob(pattern):
            try:
                age = now - path.lstat().st_mtime
            except OSError:
                continue
            if age > STALE_S:
                stale.append(path)
    if stale:
        yield warning(
            f"{len(stale)} half-written files of killed processes, {stale[0].relative_to(root)} for one.",
            "rm -r " + " ".join(str(path) for path in stale[:20]),
            paths=[str(path) for path in stale],
        )
        return
    work = root / "work"
    folders = sum(1 for path in work.iterdir() if path.is_dir()) if work.is_dir() else 0
    yield ok(f"Nothing half-written; {folders} folders in work/", n_work_folders=folders)
