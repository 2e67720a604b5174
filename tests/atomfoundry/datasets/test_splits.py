from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from atomfoundry.datasets import split
from atomfoundry.errors import DatasetError

METHODS = ["quota", "hash"]


def groups_of(n: int, seed: int = 0, largest: int = 8) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"g{number}" for number in range(n) for _ in range(rng.integers(1, largest))]


@pytest.mark.parametrize("method", METHODS)
def test_every_frame_once_and_no_group_cut(method: str) -> None:
    groups = groups_of(300)
    parts = split(groups, method=method, seed=3)
    assert list(parts) == ["train", "valid", "test"]
    assert sorted(index for part in parts.values() for index in part) == list(range(len(groups)))
    homes: dict[str, set[str]] = {}
    for name, part in parts.items():
        for index in part:
            homes.setdefault(groups[index], set()).add(name)
    assert all(len(home) == 1 for home in homes.values())


@pytest.mark.parametrize("method", METHODS)
def test_seed_decides(method: str) -> None:
    groups = groups_of(100)
    assert split(groups, method=method, seed=1) == split(groups, method=method, seed=1)
    assert split(groups, method=method, seed=1) != split(groups, method=method, seed=2)


def test_hash_never_moves_a_group() -> None:
    groups = groups_of(200)
    before = split(groups, method="hash", seed=5)
    more = groups + [f"new{number}" for number in range(500)]
    after = split(more, method="hash", seed=5)
    for name, part in before.items():
        assert set(part) <= set(after[name])


def test_quota_meets_the_fractions() -> None:
    groups = groups_of(200)
    parts = split(groups, fractions=(0.7, 0.2, 0.1), seed=0)
    for name, fraction in zip(parts, (0.7, 0.2, 0.1), strict=True):
        assert abs(len(parts[name]) / len(groups) - fraction) < 0.01


@pytest.mark.parametrize("seed", range(10))
def test_quota_with_few_and_unequal_groups_leaves_nothing_empty(seed: int) -> None:
    groups = ["big"] * 50 + ["a"] * 4 + ["b"] * 4 + ["c"]
    parts = split(groups, seed=seed)
    assert all(parts.values())
    assert set(range(50)) <= set(parts["train"])


def test_quota_does_not_depend_on_the_order_of_frames() -> None:
    groups = groups_of(50)
    shuffled = list(np.random.default_rng(0).permutation(groups))
    one = {groups[index] for index in split(groups, seed=0)["test"]}
    two = {shuffled[index] for index in split(shuffled, seed=0)["test"]}
    assert one == two


@pytest.mark.parametrize("method", METHODS)
def test_pinned_groups_train(method: str) -> None:
    groups = [f"g{number}" for number in range(40)]
    for seed in range(5):
        parts = split(groups, method=method, seed=seed, always_train={"g0", "g7", "absent"})
        assert {0, 7} <= set(parts["train"])


@pytest.mark.parametrize("method", METHODS)
def test_zero_fractions_stay_empty(method: str) -> None:
    parts = split(groups_of(100), fractions=(0.9, 0.1, 0.0), method=method)
    assert parts["test"] == []
    assert parts["valid"]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_split(method: str) -> None:
    assert split([], method=method) == {"train": [], "valid": [], "test": []}
    assert split(["only"], method=method, fractions=(1.0, 0.0, 0.0))["train"] == [0]


@pytest.mark.parametrize("method", METHODS)
def test_elements_are_shared_out_evenly(method: str) -> None:
    rng = np.random.default_rng(0)
    groups = [f"material-{number}" for number in range(20000)]
    elements = rng.choice(["Si", "O", "Al"], size=len(groups), p=[0.5, 0.3, 0.2])
    train = split(groups, method=method, seed=0)["train"]
    everywhere = Counter(elements)
    inside = Counter(elements[train])
    for element, number in everywhere.items():
        expected = number * len(train) / len(groups)
        assert abs(inside[element] - expected) < 0.1 * expected


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_bad_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(DatasetError, match="fractions"):
        split(["a"], fractions=fractions)  # type: ignore[arg-type]


def test_bad_method() -> None:
    with pytest.raises(DatasetError, match="'random'"):
        split(["a"], method="random")  # type: ignore[arg-type]
