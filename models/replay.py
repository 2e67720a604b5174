"""What a multi-head fine-tuning sees again of its pretraining set (ALGORITHMS 4.1; MACE-MP-0 Eq. C4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from atomfoundry.errors import TrainingError

if TYPE_CHECKING:
    from ase import Atoms

ReplayFilter = Literal["shared_pair", "none", "subset", "exact", "superset"]
ReplayMethod = Literal["fps", "random"]

LARGEST_DEFAULT = 100_000
SMALLEST_DEFAULT = 10_000
SMALLEST_RATIO = 0.1
"""Fine frames are repeated until there are at least this many per replay frame."""


@dataclass(frozen=True)
class ReplaySelection:
    """Which pretraining frames are replayed.

    Parameters
    ----------
    indices
        Into the pretraining frames, in the order chosen.
    filter, method
        As asked for.
    n_matching
        Frames that passed the filter.
    n_filled
        Random frames added because too few passed.
    fine_repeats
        How often the fine frames are shown per epoch.
    seed
        Of the random parts.
    """

    indices: list[int]
    filter: ReplayFilter
    method: ReplayMethod
    n_matching: int
    n_filled: int
    fine_repeats: int
    seed: int


def default_replay_size(n_pretraining: int, n_fine: int) -> int:
    """Return ``min(|D_pre|, 100000, max(10000, 20 |D_fine|))``.

    Parameters
    ----------
    n_pretraining, n_fine
        Numbers of frames.
    """
    return min(n_pretraining, LARGEST_DEFAULT, max(SMALLEST_DEFAULT, 20 * n_fine))


def fine_repeats(n_fine: int, n_replay: int) -> int:
    """Return how often to repeat the fine frames so that they are at least a tenth of the replay frames.

    Parameters
    ----------
    n_fine, n_replay
        Numbers of frames.
    """
    if n_replay == 0 or n_fine / n_replay >= SMALLEST_RATIO:
        return 1
    return math.ceil(SMALLEST_RATIO * n_replay / n_fine)


def matches(elements: set[str], fine_elements: set[str], rule: ReplayFilter) -> bool:
    """Return whether a pretraining frame passes a filter.

    Parameters
    ----------
    elements
        Of the frame.
    fine_elements
        Of the whole fine-tuning set.
    rule
        'shared_pair': at least two elements in common (one, if the fine set has but one; MACE-MP-0 Eq. C4);
        'none': every frame; 'subset': no other elements; 'exact': the same elements; 'superset': all of them.
    """
    if rule == "none":
        return True
    if rule == "subset":
        return elements <= fine_elements
    if rule == "exact":
        return elements == fine_elements
    if rule == "superset":
        return elements >= fine_elements
    return len(elements & fine_elements) >= min(2, len(fine_elements))


def replay_subset(
    pretraining_frames: Sequence[Atoms],
    fine_frames: Sequence[Atoms],
    *,
    n_replay: int | None = None,
    rule: ReplayFilter = "shared_pair",
    method: ReplayMethod = "fps",
    descriptors: Callable[[list[Atoms]], np.ndarray] | None = None,
    seed: int = 0,
) -> ReplaySelection:
    """Choose the pretraining frames to replay.

    Too few matching frames are filled up with random others; too many are thinned by farthest-point sampling
    away from the fine frames, or at random.

    Parameters
    ----------
    pretraining_frames, fine_frames
        Labelled frames.
    n_replay
        How many; None: `default_replay_size`.
    rule
        The filter, see `matches`.
    method
        How to thin.
    descriptors
        Frames -> (n, d); needed if 'fps' has to thin.
    seed
        Of the random parts.

    Raises
    ------
    TrainingError
        If a set is empty, more frames are asked for than there are, or 'fps' has no descriptors.
    """
    if not pretraining_frames or not fine_frames:
        raise TrainingError(
            f"Replay needs both sets; there are {len(pretraining_frames)} pretraining and {len(fine_frames)} "
            "fine-tuning frames."
        )
    wanted = default_replay_size(len(pretraining_frames), len(fine_frames)) if n_replay is None else n_replay
    if not 0 < wanted <= len(pretraining_frames):
        raise TrainingError(
            f"Replay of {wanted} frames was asked for; the pretraining set has {len(pretraining_frames)}.",
            remedy="Set 'n_replay' between 1 and the size of the pretraining set.",
        )
    fine_elements = {symbol for frame in fine_frames for symbol in frame.get_chemical_symbols()}
    matching = [
        index
        for index, frame in enumerate(pretraining_frames)
        if matches(set(frame.get_chemical_symbols()), fine_elements, rule)
    ]
    rng = np.random.default_rng(seed)
    n_filled = 0
    if len(matching) < wanted:
        chosen_set = set(matching)
        others = [index for index in range(len(pretraining_frames)) if index not in chosen_set]
        n_filled = wanted - len(matching)
        chosen = matching + sorted(rng.choice(others, size=n_filled, replace=False).tolist())
    elif len(matching) == wanted:
        chosen = matching
    elif method == "random":
        chosen = sorted(rng.choice(matching, size=wanted, replace=False).tolist())
    else:
        if descriptors is None:
            raise TrainingError(
                "Farthest-point sampling of the replay frames needs descriptors.",
                remedy="Give 'descriptors', or choose the method 'random'.",
            )
        from atomfoundry.datasets import farthest_point_sampling

        pool = descriptors([pretraining_frames[index] for index in matching])
        warm = descriptors(list(fine_frames))
        picked = farthest_point_sampling(pool, wanted, warm_start=warm)
        if len(picked) != wanted:
            raise TrainingError(
                f"Farthest-point sampling found {len(picked)} of {wanted} replay frames, others are twins.",
                remedy="Curate the pretraining set, or lower 'n_replay'.",
            )
        chosen = [matching[int(index)] for index in picked]
    return ReplaySelection(
        indices=chosen,
        filter=rule,
        method=method,
        n_matching=len(matching),
        n_filled=n_filled,
        fine_repeats=fine_repeats(len(fine_frames), wanted),
        seed=seed,
    )
