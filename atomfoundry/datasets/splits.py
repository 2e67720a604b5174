"""Seeded splits that never cut a group (ALGORITHMS 9.4)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Literal

from atomfoundry.errors import DatasetError

SPLIT_NAMES = ("train", "valid", "test")


def _draw(group: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the group and the seed alone."""
    digest = hashlib.sha256(f"{seed}\x00{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split(
    group_ids: Sequence[str],
    *,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    method: Literal["quota", "hash"] = "quota",
    always_train: Collection[str] = (),
) -> dict[str, list[int]]:
    """Share frames out between training, validation and test, whole groups at a time.

    Parameters
    ----------
    group_ids
        Group of each frame.
    fractions
        Of frames, for train, valid and test; must sum to 1.
    seed
        Decides which group goes where, whatever the order of the frames.
    method
        ``"quota"`` comes as near to the fractions as the groups allow and leaves no wanted split empty while
        there are groups enough: for small sets. ``"hash"`` draws each group by itself, so that adding data
        never moves a group: for sets that grow.
    always_train
        Groups that belong to the training set in any case, e.g. isolated atoms.

    Returns
    -------
    dict
        ``train``, ``valid`` and ``test`` -> sorted frame indices; every frame is in exactly one.

    Raises
    ------
    DatasetError
        If the fractions are not three numbers >= 0 of sum 1, or the method is unknown.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise DatasetError(
            f"Split fractions {tuple(fractions)} are not three numbers >= 0 that sum to 1.",
            remedy="Use for instance (0.8, 0.1, 0.1).",
        )
    sizes = Counter(group_ids)
    pinned = {group for group in always_train if group in sizes}
    free = {group: size for group, size in sizes.items() if group not in pinned}
    if method == "hash":
        homes = _by_hash(free, fractions, seed)
    elif method == "quota":
        homes = _by_quota(free, fractions, seed, n_pinned=sum(sizes[group] for group in pinned))
    else:
        raise DatasetError(f"There is no split method '{method}'.", remedy="Use 'quota' or 'hash'.")
    homes.update(dict.fromkeys(pinned, 0))
    indices: dict[str, list[int]] = {name: [] for name in SPLIT_NAMES}
    for index, group in enumerate(group_ids):
        indices[SPLIT_NAMES[homes[group]]].append(index)
    return indices


def _by_hash(sizes: dict[str, int], fractions: tuple[float, float, float], seed: int) -> dict[str, int]:
    first, second = fractions[0], fractions[0] + fractions[1]
    last = max(home for home in range(3) if fractions[home] > 0)
    homes = {}
    for group in sizes:
        value = _draw(group, seed)
        homes[group] = min(0 if value < first else 1 if value < second else 2, last)
    return homes


def _by_quota(
    sizes: dict[str, int], fractions: tuple[float, float, float], seed: int, *, n_pinned: int
) -> dict[str, int]:
    total = sum(sizes.values()) + n_pinned
    targets = [fraction * total for fraction in fractions]
    counts = [n_pinned, 0, 0]
    wanted = [home for home in range(3) if fractions[home] > 0]
    homes: dict[str, int] = {}
    for group in sorted(sizes, key=lambda group: (_draw(group, seed), group)):
        size = sizes[group]

        def cost(home: int, size: int = size) -> tuple[float, float]:
            overshoot = max(0.0, counts[home] + size - targets[home]) / targets[home]
            return (round(overshoot, 9), -(targets[home] - counts[home]) / targets[home])

        home = min(wanted, key=cost)
        homes[group] = home
        counts[home] += size
    _fill_empty(homes, sizes, wanted, seed)
    return homes


def _fill_empty(homes: dict[str, int], sizes: dict[str, int], wanted: list[int], seed: int) -> None:
    """Give every wanted split a group, taken from the split that has most groups."""
    if len(sizes) < len(wanted):
        return
    for home in wanted:
        held = Counter(homes.values())
        if held[home]:
            continue
        giver = max(wanted, key=lambda other: held[other])
        candidates = [group for group, owner in homes.items() if owner == giver]
        homes[min(candidates, key=lambda group: (sizes[group], _draw(group, seed), group))] = home


__all__ = ["SPLIT_NAMES", "split"]
