"""Which stored datasets hold a frame: looked up in the frame ids of their shards, not in the graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atomfoundry.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from atomfoundry.datasets import Dataset
    from atomfoundry.documents import Artifact
    from atomfoundry.results.artifacts import ArtifactStore


@dataclass(frozen=True)
class FramePlace:
    """Where a dataset holds a frame."""

    row: int
    level: str
    """Level id of the labels, empty where there is none."""
    aligned_from: str = ""
    """Level id that an alignment took the labels from; empty where they are as computed."""
    split: str = ""
    """Split that holds the frame, empty where none does."""
    n_atoms: int = 0
    formula: str = ""


class FrameFinder:
    """Looks frames up in stored datasets; answers are remembered.

    Parameters
    ----------
    artifacts
        The artifact store of the project.
    """

    def __init__(self, artifacts: ArtifactStore) -> None:
        self.artifacts = artifacts
        self._answers: dict[str, dict[str, tuple[FramePlace, ...]]] = {}

    def places(self, artifact: Artifact, frame_ids: Collection[str]) -> dict[str, tuple[FramePlace, ...]] | None:
        """Find frames in an artifact.

        Only the frame ids, the levels and the splits of a dataset are read, and the frames found.

        Parameters
        ----------
        artifact
            A dataset folder; one of another kind holds no frames.
        frame_ids
            Content hashes, 32 hex digits.

        Returns
        -------
        dict or None
            Frame id -> where it stands; frames that are not there are left out. None: the artifact itself is
            not there, so nothing is known.

        Raises
        ------
        DatasetError
            If a file of the dataset is damaged.
        """
        known = self._answers.setdefault(artifact.sha256, {})
        new = [key for key in dict.fromkeys(frame_ids) if key not in known]
        if new:
            path = self._path(artifact)
            if path is None:
                return None
            known.update(dict.fromkeys(new, ()))
            known.update(_search(path, new))
        return {key: known[key] for key in frame_ids if known[key]}

    def _path(self, artifact: Artifact) -> Path | None:
        path = self.artifacts.path(artifact)
        if path.exists():
            return path
        if self.artifacts.is_local:
            return None
        try:
            return self.artifacts.fetch(artifact)
        except ArtifactError:
            return None


def _search(path: Path, frame_ids: list[str]) -> dict[str, tuple[FramePlace, ...]]:
    from atomfoundry.datasets import Dataset

    return search_dataset(Dataset.open(path), frame_ids) if (path / "dataset.json").is_file() else {}


def search_dataset(dataset: Dataset, frame_ids: list[str]) -> dict[str, tuple[FramePlace, ...]]:
    """Find frames in a dataset.

    Parameters
    ----------
    dataset
        The dataset.
    frame_ids
        Content hashes, 32 hex digits, each once.

    Returns
    -------
    dict
        Frame id -> where it stands; frames that are not there are left out.
    """
    found: dict[str, list[int]] = {}
    for frame, row in _rows(dataset, frame_ids):
        found.setdefault(frame, []).append(row)
    split_of = _splits(dataset, [row for rows in found.values() for row in rows])
    answer: dict[str, tuple[FramePlace, ...]] = {}
    for frame, rows in found.items():
        places = []
        for row in rows:
            atoms = dataset[row]
            places.append(
                FramePlace(
                    row=row,
                    level=str(atoms.info["level"]),
                    aligned_from=str(atoms.info.get("aligned_from") or ""),
                    split=split_of.get(row, ""),
                    n_atoms=len(atoms),
                    formula=atoms.get_chemical_formula(),
                )
            )
        answer[frame] = tuple(places)
    return answer


def _rows(dataset: Dataset, frame_ids: list[str]) -> Iterable[tuple[str, int]]:
    wanted = np.frombuffer(b"".join(map(frame_bytes, frame_ids)), np.uint64).reshape(-1, 2)
    names = {tuple(key): name for key, name in zip(wanted.tolist(), frame_ids, strict=True)}
    start = 0
    for number in range(len(dataset.metadata.shards)):
        keys = dataset.shard(number).keys
        for row in np.flatnonzero(np.isin(keys[:, 0], wanted[:, 0])).tolist():
            name = names.get(tuple(keys[row].tolist()))
            if name is not None:
                yield name, start + row
        start += len(keys)


def _splits(dataset: Dataset, rows: list[int]) -> dict[int, str]:
    if not rows:
        return {}
    return {
        row: name
        for name, members in dataset.splits.items()
        for row in np.intersect1d(rows, np.asarray(members, dtype=np.int64)).tolist()
    }


def frame_bytes(frame_id: str) -> bytes:
    """Return a frame id as its 16 bytes.

    Parameters
    ----------
    frame_id
        32 hex digits.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        content = bytes.fromhex(frame_id)
    except ValueError:
        content = b""
    if len(content) != 16:
        raise InputError(
            f"'{frame_id}' is no frame id.", remedy="Give its 32 hex digits, as 'results labels --json' lists them."
        )
    return content
