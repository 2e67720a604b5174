from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from atomfoundry.datasets import (
    covering_radius,
    farthest_point_sampling,
    random_selection,
    stratified_selection,
)
from atomfoundry.datasets.farthest import mean_row
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


KINDS = {
    "gaussian": lambda rng, n, d: rng.normal(size=(n, d)),
    "grid": lambda rng, n, d: np.round(rng.normal(size=(n, d))),
    "duplicates": lambda rng, n, d: rng.normal(size=(n, d))[rng.integers(0, n // 4, n)],
    "far from the origin": lambda rng, n, d: 1000 + 1e-4 * rng.normal(size=(n, d)),
    "outliers": lambda rng, n, d: rng.normal(size=(n, d)) * np.where(rng.random((n, 1)) < 0.1, 1e4, 1),
    "clusters": lambda rng, n, d: rng.normal(size=(9, d))[rng.integers(0, 9, n)] + 1e-3 * rng.normal(size=(n, d)),
}


def exact(points: np.ndarray, k: int, warm: np.ndarray | None) -> list[int]:
    """The definition in 64 bits, differences first, ties to the lowest index."""
    points = points.astype(float)

    def to(centre: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->i", points - centre, points - centre)

    nearest = np.full(len(points), np.inf)
    for centre in [] if warm is None else warm:
        nearest = np.minimum(nearest, to(centre))
    following = int((to(mean_row(points)) if warm is None else nearest).argmax())
    chosen: list[int] = []
    for _ in range(k):
        chosen.append(following)
        nearest = np.minimum(nearest, to(points[following]))
        nearest[chosen] = -1
        following = int(nearest.argmax())
    return chosen


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_exact_whatever_the_data(kind: str, dtype: type) -> None:
    rng = np.random.default_rng(len(kind))
    for n, d, k in ((24, 1, 24), (90, 3, 90), (150, 8, 60)):
        points = KINDS[kind](rng, n, d).astype(dtype)
        for warm in (None, points[:5] + 0.01):
            expected = exact(points, k, warm)
            for chunk_size in (1 if n == 24 else 64, 65536):
                chosen = farthest_point_sampling(points, k, warm_start=warm, chunk_size=chunk_size)
                assert chosen.tolist() == expected


def test_half_precision_and_integers() -> None:
    rng = np.random.default_rng(7)
    for points in (rng.normal(size=(200, 4)).astype(np.float16), rng.integers(0, 9, size=(200, 4))):
        assert farthest_point_sampling(points, 60, chunk_size=64).tolist() == exact(points, 60, None)


def test_memory_is_that_of_a_chunk(tmp_path: Path) -> None:
    points = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(60_000, 64))
    points[:] = np.random.default_rng(8).normal(size=points.shape)
    tracemalloc.start()
    farthest_point_sampling(np.load(tmp_path / "x.npy", mmap_mode="r"), 50, chunk_size=4096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The table has 15 MB as it is and 31 MB in 64 bits; 60,000 points have 25 bytes of state each.
    assert peak < 8e6


def test_random_selection() -> None:
    chosen = random_selection(100, 10, seed=3)
    assert len(set(chosen.tolist())) == 10
    assert (np.diff(chosen) > 0).all()
    assert (chosen == random_selection(100, 10, seed=3)).all()
    assert (chosen != random_selection(100, 10, seed=4)).any()
    assert random_selection(5, 50).tolist() == list(range(5))
    with pytest.raises(DatasetError):
        random_selection(5, -1)


def test_stratified_selection() -> None:
    strata = ["a"] * 700 + ["b"] * 290 + ["c"] * 10
    for k, counts in ((100, {"a": 70, "b": 29, "c": 1}), (10, {"a": 7, "b": 2, "c": 1}), (2000, dict(Counter(strata)))):
        chosen = stratified_selection(strata, k, seed=1)
        assert Counter(strata[index] for index in chosen) == counts
        assert len(set(chosen.tolist())) == len(chosen)
    equal = stratified_selection(np.array(strata), 100, shares="equal")
    assert Counter(strata[index] for index in equal) == {"a": 45, "b": 45, "c": 10}
    assert (stratified_selection(strata, 50, seed=2) == stratified_selection(strata, 50, seed=2)).all()
    assert len(stratified_selection(strata, 2, seed=2)) == 2
    assert len(stratified_selection([], 5)) == 0
    with pytest.raises(DatasetError, match="shares"):
        stratified_selection(strata, 5, shares="odd")  # type: ignore[arg-type]


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
