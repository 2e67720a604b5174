from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atomfoundry.datasets import covering_radius, farthest_point_sampling
from atomfoundry.errors import DatasetError


def by_hand(points: np.ndarray, k: int, warm: np.ndarray | None = None) -> list[int]:
    """The definition, with the full distance matrix."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    if warm is None:
        chosen = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmax())]
    else:
        chosen = [int(np.linalg.norm(points[:, None] - warm[None], axis=-1).min(axis=1).argmax())]
    while len(chosen) < k:
        nearest = distances[:, chosen].min(axis=1)
        if warm is not None:
            nearest = np.minimum(nearest, np.linalg.norm(points[:, None] - warm[None], axis=-1).min(axis=1))
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def test_equals_the_definition() -> None:
    points = np.random.default_rng(0).normal(size=(500, 7))
    assert farthest_point_sampling(points, 60).tolist() == by_hand(points, 60)


def test_equals_the_definition_with_a_warm_start() -> None:
    rng = np.random.default_rng(1)
    points, warm = rng.normal(size=(300, 5)), rng.normal(size=(20, 5))
    assert farthest_point_sampling(points, 40, warm_start=warm).tolist() == by_hand(points, 40, warm)


def test_distances_fall_whatever_the_chunk() -> None:
    points = np.random.default_rng(2).normal(size=(400, 6))
    results = [farthest_point_sampling(points, 80, chunk_size=size) for size in (1, 7, 128, 400, 10**6)]
    for result in results[1:]:
        assert (result == results[0]).all()
    radii = [covering_radius(points, results[0][:number]) for number in range(1, 80)]
    assert (np.diff(radii) <= 1e-12).all()


def test_covering_radius_is_within_twice_the_best() -> None:
    grid = np.linspace(0.0, 1.0, 1001)[:, None]
    for k in (2, 3, 5, 10):
        chosen = farthest_point_sampling(grid, k)
        assert covering_radius(grid, chosen) <= 2 * (1 / (2 * k)) + 1e-9


def test_duplicates_wait_for_all_distinct_points() -> None:
    rng = np.random.default_rng(3)
    distinct = (1000 + rng.normal(size=(30, 4))).astype(np.float32)
    points = distinct[rng.permutation(np.repeat(np.arange(30), 5))]
    chosen = farthest_point_sampling(points, 40)
    assert len(np.unique(points[chosen[:30]], axis=0)) == 30
    assert len(set(chosen.tolist())) == 40


def test_tolerance_stops() -> None:
    points = np.linspace(0.0, 1.0, 101)[:, None]
    chosen = farthest_point_sampling(points, 100, tolerance=0.2)
    assert len(chosen) < 10
    assert covering_radius(points, chosen) < 0.2


def test_more_than_there_are() -> None:
    points = np.random.default_rng(4).normal(size=(6, 2))
    assert sorted(farthest_point_sampling(points, 50)) == list(range(6))
    assert len(farthest_point_sampling(points, 0)) == 0
    assert len(farthest_point_sampling(np.empty((0, 3)), 5)) == 0


def test_reads_a_memory_map(tmp_path: Path) -> None:
    points = np.random.default_rng(5).normal(size=(1000, 8)).astype(np.float32)
    mapped = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=points.shape)
    mapped[:] = points
    assert (farthest_point_sampling(mapped, 20, chunk_size=100) == farthest_point_sampling(points, 20)).all()


def test_bad_input() -> None:
    with pytest.raises(DatasetError, match="shape"):
        farthest_point_sampling(np.zeros(5), 2)
    with pytest.raises(DatasetError, match="columns"):
        farthest_point_sampling(np.zeros((5, 2)), 2, warm_start=np.zeros((1, 3)))
    with pytest.raises(DatasetError, match="finite"):
        farthest_point_sampling(np.array([[0.0], [np.nan]]), 1)
