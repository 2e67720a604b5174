"""What a lineage is asked of: an output, an artifact, a path, a frame or a label, each by a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from atomfoundry.documents import Artifact
from atomfoundry.errors import ArtifactError, ProjectError
from atomfoundry.results.artifacts import hash_path
from atomfoundry.results.database import DOCUMENT_CLASSES
from atomfoundry.results.label_lineage import frame_consequences, frame_lineage
from atomfoundry.results.lineage import LEAVE_OUT, OutputReader, descendants, lineage, walk_back, walk_forward
from atomfoundry.results.lineage_graph import (
    ARTIFACT_KIND,
    STORED,
    LineageEdge,
    LineageGraph,
    LineageNode,
    node_of,
)

if TYPE_CHECKING:
    from atomfoundry.results.database import ResultsDB
    from atomfoundry.results.project import Project

Kind = Literal["output", "artifact", "frame"]

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_JOB_FOLDER = re.compile(rf"({_UUID.pattern})_([0-9]+)")
_HEX = re.compile(r"[0-9a-f]+")
_SHORTEST = 4


@dataclass(frozen=True)
class Subject:
    """What a text names."""

    kind: Kind
    name: str
    """uuid, sha256 or frame id."""
    index: int | None = None
    level: str | None = None


def find_subject(db: ResultsDB, project: Project, text: str) -> Subject:
    """Find out what a text names.

    Parameters
    ----------
    db
        The results.
    project
        The project.
    text
        uuid of a job, sha256 of an artifact, frame id (``FRAME@LEVEL``: at one level of theory), or the
        unique beginning of one of them; or a path: an artifact or working folder inside the project, or any file
        or folder whose content is that of an artifact.

    Raises
    ------
    ProjectError
        If it names nothing, or several things.
    """
    if "@" in text and not Path(text).exists():
        frame, _, level = text.partition("@")
        named = find_subject(db, project, frame)
        if named.kind != "frame":
            raise ProjectError(f"'{frame}' of '{text}' is no frame.", remedy="Give FRAME@LEVEL.")
        return Subject("frame", named.name, level=level)
    if "/" in text or text.startswith(".") or _JOB_FOLDER.fullmatch(text):
        return _of_path(db, project, text)
    wanted = text.lower()
    if _UUID.fullmatch(wanted):
        return Subject("output", db.find_uuid(wanted))
    if _HEX.fullmatch(wanted) and len(wanted) == 64:
        return _of_artifact(db, wanted)
    if _HEX.fullmatch(wanted) and len(wanted) == 32:
        return Subject("frame", wanted)
    found = _by_beginning(db, project, wanted) if len(wanted) >= _SHORTEST else []
    if len(found) == 1:
        return found[0]
    if Path(text).exists():
        return _of_path(db, project, text)
    if found:
        names = ", ".join(f"{subject.kind} {subject.name}" for subject in found[:4])
        raise ProjectError(f"'{text}' is the beginning of {len(found)} names ({names}).", remedy="Give more digits.")
    raise ProjectError(
        f"'{text}' is no output, artifact or frame of {project.path}.",
        remedy=f"Give a uuid, sha256 or frame id, at least {_SHORTEST} digits of it, or a path.",
    )


def _by_beginning(db: ResultsDB, project: Project, start: str) -> list[Subject]:
    criteria = {"$regex": f"^{re.escape(start)}"}
    uuids = sorted({document["uuid"] for document in db.store.docs_store.query({"uuid": criteria}, ["uuid"])})
    found = [Subject("output", uuid) for uuid in uuids]
    if _HEX.fullmatch(start):
        found += [Subject("artifact", sha256) for sha256 in sorted(_holders(db, start))]
        frames = {label.frame_id for label in project.labels().query({"frame_id": criteria})}
        found += [Subject("frame", frame) for frame in sorted(frames)]
    return found


def _holders(db: ResultsDB, start: str) -> dict[str, list[LineageNode]]:
    """Return the artifacts whose sha256 begins so, and the outputs that carry each."""
    kinds = [
        name
        for name, cls in DOCUMENT_CLASSES.items()
        if any(Artifact in _classes(field.annotation) for field in cls.model_fields.values())
    ]
    found: dict[str, list[LineageNode]] = {}
    for document in db.store.docs_store.query({"output.@class": {"$in": kinds}}, dict(LEAVE_OUT)):
        node = node_of(document)
        for sha256 in dict.fromkeys(node.artifacts.values()):
            if sha256.startswith(start):
                found.setdefault(sha256, []).append(node)
    return found


def _classes(annotation: object) -> set[object]:
    from typing import get_args

    return {annotation, *(part for inner in get_args(annotation) for part in _classes(inner))}


def _of_artifact(db: ResultsDB, sha256: str) -> Subject:
    if not _holders(db, sha256):
        raise ProjectError(f"No output carries an artifact {sha256}.", remedy="See 'atomfoundry results'.")
    return Subject("artifact", sha256)


def _of_path(db: ResultsDB, project: Project, text: str) -> Subject:
    given = Path(text).expanduser()
    path = given if given.is_absolute() or given.exists() else project.path / given
    path = path.resolve()
    for part in path.parts:
        if match := _JOB_FOLDER.fullmatch(part):
            return Subject("output", db.find_uuid(match[1]), index=int(match[2]))
    if path.is_relative_to(project.artifacts.root):
        digits = [part for part in path.relative_to(project.artifacts.root).parts if re.fullmatch("[0-9a-f]{64}", part)]
        if digits:
            return _of_artifact(db, digits[0])
    if not path.exists():
        raise ProjectError(f"There is no '{text}'.", remedy=f"Give a path that exists, or one inside {project.path}.")
    try:
        sha256 = hash_path(path)[0]
    except ArtifactError as error:
        raise ProjectError(f"'{text}' cannot be an artifact: {error.message}", remedy=error.remedy) from error
    if not _holders(db, sha256):
        raise ProjectError(
            f"No output carries an artifact with the content of '{text}' (sha256 {sha256}).",
            remedy="It was changed since, or made elsewhere.",
        )
    return Subject("artifact", sha256)


def trace(
    db: ResultsDB, project: Project, text: str, *, forward: bool = False, level: str | None = None
) -> LineageGraph:
    """Walk from whatever a text names back to where it came from, or forward to what came of it.

    Parameters
    ----------
    db
        The results.
    project
        The project.
    text
        See ``find_subject``.
    forward
        What came of it, instead.
    level
        Of a frame: labels at this level only; id, or its beginning.

    Raises
    ------
    ProjectError
        If it names nothing, or several things.
    """
    subject = find_subject(db, project, text)
    if subject.kind == "output":
        return (descendants if forward else lineage)(db, subject.name, subject.index)
    if subject.kind == "frame":
        follow = frame_consequences if forward else frame_lineage
        return follow(db, project, subject.name, level=subject.level or level)
    return artifact_lineage(db, subject.name, forward=forward)


def artifact_lineage(db: ResultsDB, sha256: str, *, forward: bool = False) -> LineageGraph:
    """Walk from an artifact over the outputs that carry it.

    Parameters
    ----------
    db
        The results.
    sha256
        Its hash, all 64 digits.
    forward
        What came of it, instead of where it came from.
    """
    reader = OutputReader(db)
    holders = sorted(_holders(db, sha256).get(sha256, []), key=lambda node: (node.completed_at, node.key))
    name = next(
        (f"{field} of {holder.name}" for holder in holders for field, s in holder.artifacts.items() if s == sha256)
    )
    root = LineageNode(sha256, 0, name=name, kind=ARTIFACT_KIND)
    nodes, edges = (walk_forward if forward else walk_back)(reader, [holder.key for holder in holders])
    first = [
        LineageEdge(holder.key, root.key, STORED) if forward else LineageEdge(root.key, holder.key, STORED)
        for holder in holders
    ]
    return LineageGraph(root.key, {root.key: root} | nodes, [*first, *edges], towards_parents=not forward)
