"""What a lineage consists of: outputs, labels and frames, and how they came from each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from atomfoundry.documents import Artifact, LevelOfTheory

Key = tuple[str, int]
"""uuid and index of a job output. A frame is (frame id, 0), a label ("FRAME@LEVEL", 0), an artifact (sha256, 0)."""

READ = "read"
POINTS = "points to"
REPLACES = "replaces"
SPAWNED = "made by"
LABELLED = "labelled by"
COMPUTED = "computed by"
HOLDS = "holds"
STORED = "stored by"

FRAME_KIND = "Frame"
LABEL_KIND = "LabelDoc"
ARTIFACT_KIND = "Artifact"

_ARTIFACT_KEYS = {"uri", "sha256", "size"}


@dataclass(frozen=True)
class LineageNode:
    """One job output, or a label, a frame, an artifact."""

    uuid: str
    index: int
    name: str
    kind: str
    """Document class, or an empty text."""
    completed_at: str = ""
    missing: bool = False
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)
    files: dict[str, Artifact] = field(default_factory=dict, compare=False)
    """Field of the document -> artifact."""
    levels: dict[str, str] = field(default_factory=dict, compare=False)
    """Id of each level of theory that the document names -> its label."""
    stale: list[dict[str, Any]] = field(default_factory=list, compare=False)
    """Marks of withdrawn labels."""
    note: str = field(default="", compare=False)
    """What else a reader should see, such as the splits that hold a frame."""

    @property
    def key(self) -> Key:
        """The uuid and index."""
        return self.uuid, self.index

    @property
    def is_job(self) -> bool:
        """Whether this is the output of a job (not a label, a frame or an artifact)."""
        return self.kind not in (FRAME_KIND, LABEL_KIND, ARTIFACT_KIND)

    @property
    def artifacts(self) -> dict[str, str]:
        """Field of the document -> sha256."""
        return {name: artifact.sha256 for name, artifact in self.files.items()}

    @property
    def label(self) -> str:
        """Short text for people."""
        what = f"{self.name} ({self.kind})" if self.kind and self.is_job else self.name
        number = f"/{self.index}" if self.index > 1 else ""
        short = self.uuid[:8] if self.is_job else self.uuid[:12]
        text = what if self.kind == LABEL_KIND else f"{what} {short}{number}"
        marks = [self.note] if self.note else []
        marks += ["missing"] if self.missing else []
        marks += ["STALE"] if self.stale else []
        return " ".join([text, *marks])


@dataclass(frozen=True)
class LineageEdge:
    """One output came from another."""

    child: Key
    parent: Key
    how: str
    """'read', 'points to', 'replaces', 'made by', 'labelled by', 'computed by', 'holds' or 'stored by'."""


@dataclass(frozen=True)
class LineageGraph:
    """Outputs and how they came from each other."""

    root: Key
    nodes: dict[Key, LineageNode]
    edges: list[LineageEdge]
    towards_parents: bool = True
    """Whether the root is the last descendant (ancestors were walked) or the first ancestor."""

    def neighbours(self, key: Key) -> list[tuple[LineageNode, str]]:
        """Return the next outputs away from the root, and how they are joined.

        Parameters
        ----------
        key
            An output of this graph.
        """
        return [(self.nodes[other], how) for other, how in self._joined.get(key, [])]

    @property
    def _joined(self) -> dict[Key, list[tuple[Key, str]]]:
        known = self.__dict__.get("_neighbours")
        if known is None:
            known = {}
            for edge in self.edges:
                near, far = (edge.child, edge.parent) if self.towards_parents else (edge.parent, edge.child)
                known.setdefault(near, []).append((far, edge.how))
            self.__dict__["_neighbours"] = known
        return known

    def of_kind(self, kind: str) -> list[LineageNode]:
        """Return the outputs of one document class.

        Parameters
        ----------
        kind
            Such as ``"StructureSetDoc"``.
        """
        return [node for node in self.nodes.values() if node.kind == kind]


def references_in(value: Any) -> list[str]:
    """List the uuids of the unresolved references in stored content, in order.

    Parameters
    ----------
    value
        Stored content.
    """
    found: dict[str, None] = {}

    def walk(item: Any) -> None:
        if isinstance(item, dict):
            if item.get("@class") == "OutputReference" and "uuid" in item:
                found[item["uuid"]] = None
                return
            for part in item.values():
                walk(part)
        elif isinstance(item, list):
            for part in item:
                walk(part)

    walk(value)
    return list(found)


def documents_in(output: Any) -> Iterator[tuple[str, dict]]:
    """Yield the documents of a stored output: itself, or the members of a list or dictionary of documents.

    Parameters
    ----------
    output
        ``output`` of a stored job document.

    Yields
    ------
    tuple
        Where it stands (``""``, ``"0."``, ``"key."``) and the document's content.
    """
    if isinstance(output, dict) and "@class" in output:
        if output["@class"] != "OutputReference":
            yield "", output
        return
    members: Any = ()
    if isinstance(output, dict):
        members = output.items()
    elif isinstance(output, list):
        members = enumerate(output)
    for name, member in members:
        if isinstance(member, dict) and "provenance" in member and "@class" in member:
            yield f"{name}.", member


def node_of(document: dict) -> LineageNode:
    """Describe a stored job document.

    Parameters
    ----------
    document
        As in the store of outputs.
    """
    inside = list(documents_in(document.get("output")))
    kinds = {content["@class"] for _, content in inside}
    files = {
        f"{prefix}{name}": Artifact.model_validate({k: v for k, v in value.items() if not k.startswith("@")})
        for prefix, content in inside
        for name, value in content.items()
        if isinstance(value, dict) and set(value) >= _ARTIFACT_KEYS
    }
    return LineageNode(
        uuid=document["uuid"],
        index=document["index"],
        name=document.get("name") or "",
        kind=kinds.pop() if len(kinds) == 1 else "",
        completed_at=document.get("completed_at") or "",
        provenance=next((content["provenance"] for _, content in inside if content.get("provenance")), {}),
        files=files,
        levels=_levels([content for _, content in inside]),
        stale=document.get("stale") or [],
    )


def _levels(documents: list[dict]) -> dict[str, str]:
    found: dict[str, str] = {}
    for content in documents:
        for name in ("level", "source_level", "target_level", "bridge_level", "levels"):
            value = content.get(name)
            for record in value if isinstance(value, list) else [value]:
                if isinstance(record, dict) and record:
                    plain = {key: item for key, item in record.items() if not key.startswith("@")}
                    # a record of another version must not hide where its document came from
                    with suppress(ValidationError):
                        level = LevelOfTheory.model_validate(plain)
                        found[level.id] = level.label
    return found
