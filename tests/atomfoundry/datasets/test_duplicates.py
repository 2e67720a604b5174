from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from atomfoundry.datasets import Dataset, attach_labels, conflicting_duplicates, duplicate_frames, near_duplicates
from atomfoundry.datasets.duplicates import first_of_each
from atomfoundry.errors import DatasetError


def test_first_of_each_equals_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    for width in (2, 5, 50):
        keys = rng.integers(0, width, size=(300, 2)).astype(np.uint64)
        codes = rng.integers(0, 3, size=300)
        seen: dict[tuple, int] = {}
        labelled = np.column_stack([keys.astype(int), codes]).tolist()
        expected = [seen.setdefault(tuple(key), row) for row, key in enumerate(labelled)]
        assert first_of_each(keys, codes).tolist() == expected
    assert first_of_each(np.empty((0, 2), np.uint64)).tolist() == []


def test_duplicate_frames_over_several_datasets(tmp_path: Path) -> None:
    def frame(place: float, level: str) -> Atoms:
        return attach_labels(Atoms("H", positions=[[place, 0, 0]], info={"level": level}), 1.0)

    one = Dataset.create(tmp_path / "a", [frame(0, "x"), frame(1, "x"), frame(0, "y"), frame(0, "x")], shard_size=2)
    two = Dataset.create(tmp_path / "b", [frame(1, "x"), frame(2, "x")])
    assert duplicate_frames(one).tolist() == [0, 1, 2, 0]
    assert duplicate_frames([one, two]).tolist() == [0, 1, 2, 0, 1, 5]
    assert duplicate_frames([one, two], same_level=False).tolist() == [0, 1, 0, 0, 1, 5]


def test_conflicting_energies_condemn_the_whole_kind(tmp_path: Path) -> None:
    def frame(place: float, energy: float | None, level: str = "x") -> Atoms:
        return attach_labels(Atoms("H2", positions=[[place, 0, 0], [0, 0, 1]], info={"level": level}), energy)

    frames = [
        frame(0, 1.0),
        frame(1, 1.0),
        frame(0, 1.009),
        frame(1, 1.011),
        frame(1, None),
        frame(0, 5.0, "y"),
        frame(2, None),
        frame(2, None),
    ]
    dataset = Dataset.create(tmp_path / "set", frames)
    assert conflicting_duplicates(dataset).tolist() == [1, 3]
    assert conflicting_duplicates(dataset, tolerance=4e-3).tolist() == [0, 1, 2, 3]
    assert conflicting_duplicates(dataset, tolerance=1.0).tolist() == []


def by_hand(points: np.ndarray, radius: float) -> list[int]:
    near = np.linalg.norm(points[:, None].astype(float) - points[None].astype(float), axis=-1) <= radius
    groups = list(range(len(points)))
    for _ in range(len(points)):
        new = [min(groups[other] for other in np.flatnonzero(row)) for row in near]
        if new == groups:
            break
        groups = new
    return groups


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_near_duplicates_equal_the_definition(width: int, dtype: type) -> None:
    rng = np.random.default_rng(width)
    distinct = rng.normal(size=(60, width)) + 100
    points = distinct[rng.integers(0, 60, size=150)] + 1e-4 * rng.normal(size=(150, width))
    points = points.astype(dtype)
    for radius in (0.0, 2e-4, 0.1, 0.7):
        assert near_duplicates(points, radius).tolist() == by_hand(points, radius)


def test_equal_rows_and_limits() -> None:
    assert near_duplicates(np.ones((40, 3)), 0.0).tolist() == [0] * 40
    assert near_duplicates(np.empty((0, 3)), 1.0).tolist() == []
    with pytest.raises(DatasetError, match="more than 100 pairs"):
        near_duplicates(np.ones((40, 3)), 0.1, max_pairs=100)
    with pytest.raises(DatasetError, match="finite"):
        near_duplicates(np.array([[0.0], [np.nan]]), 0.1)
    with pytest.raises(DatasetError, match="table"):
        near_duplicates(np.zeros(3), 0.1)
