"""What came of single labels: the datasets that hold them, what was trained on those, and so on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atomfoundry.results.frame_search import FrameFinder, FramePlace
from atomfoundry.results.lineage import LEAVE_OUT, OutputReader, walk_forward
from atomfoundry.results.lineage_graph import Key, LineageNode, node_of

if TYPE_CHECKING:
    from atomfoundry.results.artifacts import ArtifactStore
    from atomfoundry.results.project import Project

LabelKey = tuple[str, str]
"""Frame id and level id."""

SOURCES = ("LabelSetDoc", "HarvestDoc")
"""Documents whose labels are new: whether they hold one is read from their frames alone."""

CARRIERS = (*SOURCES, "DatasetDoc", "AlignmentDoc")
"""Documents with labelled frames."""

UNTOUCHED = ("StructureSetDoc", "LabelBatchDoc", "LabelDoc")
"""Documents that no label reaches: structures have none, and what is computed on them is new."""

FRAME_FIELDS = ("frames", "dataset")
"""Fields of documents whose artifact is a dataset of labelled frames."""


@dataclass(frozen=True)
class Effect:
    """How one label acts on one document."""

    kind: str
    """Class of the document that this says something about."""
    holds: bool = False
    """Whether the label is among the document's own frames; else it acts through what the document was made of."""
    places: frozenset[tuple[str, str]] = frozenset()
    """Level id and level id before alignment of the rows that are this label."""
    splits: frozenset[str] = frozenset()
    """Splits that the label is in; for a model those it was trained, validated and tested on."""
    certain: bool = True
    """False where an artifact is missing, so that nobody can look."""
    atom: bool = False
    """Whether the frame is a single atom, whose energy acts on a dataset without being one of its frames."""


Effects = dict[LabelKey, frozenset[Effect]]


@dataclass
class LabelEffects:
    """All that labels act on."""

    effects: dict[Key, Effects] = field(default_factory=dict)
    """Output -> label -> how; outputs without a document of their own pass on what they point to."""
    nodes: dict[Key, LineageNode] = field(default_factory=dict)
    parents: dict[Key, list[tuple[Key, str]]] = field(default_factory=dict)

    def documents(self) -> list[tuple[LineageNode, dict[LabelKey, Effect]]]:
        """Return the documents that labels act on, in order of completion, and how each label does."""
        found = []
        for key, effects in self.effects.items():
            if effects and self.nodes[key].kind:
                found.append((self.nodes[key], {label: _one(some) for label, some in effects.items()}))
        return sorted(found, key=lambda item: (item[0].completed_at, item[0].key))


def _one(effects: frozenset[Effect]) -> Effect:
    return min(effects, key=lambda effect: (not effect.holds, sorted(effect.splits), sorted(effect.places)))


def label_effects(project: Project, reader: OutputReader, labels: Iterable[LabelKey]) -> LabelEffects:
    """Find every document that labels act on.

    The graph says what was made from what; whether a dataset really holds a label is looked up in its frames, at
    the label's level, or aligned from it. So a dataset that left the frame out is not reported, nor what came of
    that dataset alone.

    Parameters
    ----------
    project
        The project, for its artifacts.
    reader
        Reads its outputs.
    labels
        Frame ids and level ids.
    """
    wanted = list(dict.fromkeys(labels))
    judge = Judge(project.artifacts, wanted)
    found = LabelEffects()
    levels = {level for _, level in wanted}
    for node in sources_of_labels(reader):
        if _at_levels(node, levels) and (own := judge.source(node)):
            found.effects[node.key] = own
    nodes, edges = walk_forward(reader, list(found.effects))
    found.nodes = nodes
    children: dict[Key, list[Key]] = {}
    for edge in edges:
        children.setdefault(edge.parent, []).append(edge.child)
        found.parents.setdefault(edge.child, []).append((edge.parent, edge.how))
    # Until nothing changes: jobs that made the jobs they point to are circles in the graph.
    queue = deque(found.effects)
    while queue:
        for child in children.get(queue.popleft(), []):
            if nodes[child].kind in SOURCES:
                continue
            parents = [found.effects[parent] for parent, _ in found.parents[child] if parent in found.effects]
            new = judge.made_from(nodes[child], parents)
            if new != found.effects.get(child, {}):
                found.effects[child] = new
                queue.append(child)
    return found


def sources_of_labels(reader: OutputReader) -> Iterator[LineageNode]:
    """Yield the documents that bring labels into a project: label sets, harvests, datasets that came from a file.

    Parameters
    ----------
    reader
        Reads the outputs.
    """
    for kind in (*SOURCES, "DatasetDoc"):
        for document in reader.store.query({"output.@class": kind}, dict(LEAVE_OUT)):
            node = node_of(document)
            if kind in SOURCES or not (document.get("inputs") or node.provenance.get("inputs")):
                yield node


def _at_levels(node: LineageNode, levels: set[str]) -> bool:
    """Tell whether a document can hold labels of some levels; only what it says itself is asked."""
    return not node.levels or not levels.isdisjoint({*node.levels, ""} if "" in levels else node.levels)


class Judge:
    """Decides how labels act on one document after the other.

    Parameters
    ----------
    artifacts
        The artifact store of the project.
    labels
        Frame ids and level ids.
    """

    def __init__(self, artifacts: ArtifactStore, labels: list[LabelKey]) -> None:
        self.finder = FrameFinder(artifacts)
        self.labels = labels

    def source(self, node: LineageNode) -> Effects:
        """Return which labels a document brings in.

        Parameters
        ----------
        node
            A document that is no product of other documents with labels.
        """
        return self._held(node, {label: {(label[1], "")} for label in self.labels})

    def made_from(self, node: LineageNode, parents: list[Effects]) -> Effects:
        """Return how labels act on a document by what it was made from.

        Parameters
        ----------
        node
            The document.
        parents
            How they act on what was read for it.
        """
        if node.kind in UNTOUCHED or node.kind in SOURCES:
            return {}
        before: dict[LabelKey, set[Effect]] = {}
        for effects in parents:
            for label, some in effects.items():
                before.setdefault(label, set()).update(some)
        if not node.kind:
            return {label: frozenset(some) for label, some in before.items()}
        held: Effects = {}
        if node.kind in CARRIERS:
            held = self._held(node, {k: {p for e in some for p in e.places} for k, some in before.items()})
        return held | {
            label: frozenset({effect})
            for label, some in before.items()
            if label not in held and (effect := self._indirect(node, some))
        }

    def _held(self, node: LineageNode, places: dict[LabelKey, set[tuple[str, str]]]) -> Effects:
        found: Effects = {}
        for name, artifact in node.files.items():
            if name.rpartition(".")[2] not in FRAME_FIELDS:
                continue
            rows = self.finder.places(artifact, [frame for frame, _ in places])
            for label, before in places.items():
                if rows is None:
                    effect: Effect | None = Effect(node.kind, holds=True, places=frozenset(before), certain=False)
                else:
                    effect = _effect(node, rows.get(label[0], ()), before)
                if effect:
                    found[label] = frozenset({effect})
        return found

    def _indirect(self, node: LineageNode, before: set[Effect]) -> Effect | None:
        if node.kind == "DatasetDoc":
            # labels that act through an alignment, through the energies of isolated atoms, or did so before
            before = {e for e in before if e.kind == "AlignmentDoc" or (e.kind in CARRIERS and (e.atom or not e.holds))}
        if not before:
            return None
        splits: frozenset[str] = frozenset()
        if node.kind == "ModelDoc":
            splits = frozenset(s for e in before if e.kind in ("DatasetDoc", "ModelDoc") for s in e.splits)
        return Effect(
            node.kind, splits=splits, certain=any(e.certain for e in before), atom=any(e.atom for e in before)
        )


def _effect(node: LineageNode, rows: tuple[FramePlace, ...], before: set[tuple[str, str]]) -> Effect | None:
    """Return how rows of one frame are a label whose earlier places are known; None if they are other labels."""
    levels = {level for level, _ in before}
    same = [
        place
        for place in rows
        if (place.level, place.aligned_from) in before or (place.aligned_from and place.aligned_from in levels)
    ]
    if not same:
        return None
    return Effect(
        node.kind,
        holds=True,
        places=frozenset((place.level, place.aligned_from) for place in same),
        splits=frozenset(place.split for place in same if place.split),
        atom=same[0].n_atoms == 1,
    )
