"""How near a training set is to what a model is tested on (ALGORITHMS 9.5; MACE-MP-0, J. Chem. Phys. 163, 184110)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomfoundry.errors import DatasetError


@dataclass(frozen=True)
class Similarity:
    """Similarity of training structures to one test structure.

    Attributes
    ----------
    score
        The best structure's; the similarity of the training set.
    structures
        Indices of the best training structures, best first.
    scores
        Theirs.
    atoms
        Best cosine of each test atom to any training atom of its element, ``[n_test]``; -1 where there is none.
    """

    score: float
    structures: NDArray[np.int64]
    scores: NDArray[np.float64]
    atoms: NDArray[np.float64]


def similarity(
    test: ArrayLike,
    test_numbers: ArrayLike,
    train: ArrayLike,
    train_numbers: ArrayLike,
    owner: ArrayLike,
    *,
    top: int = 10,
    chunk_size: int = 8192,
) -> Similarity:
    """Compare the atoms of a test structure with those of training structures.

    s_i(t) is the largest cosine between the descriptors of test atom i and of any atom of its element in training
    structure t; S(t) is its mean over the atoms of each element, then over the elements.

    Parameters
    ----------
    test, test_numbers
        Invariant descriptors ``[n_test, d]`` and atomic numbers ``[n_test]``.
    train, train_numbers, owner
        Those of all training atoms ``[n_train, d]``, and the structure that each belongs to, ascending from 0.
    top
        How many structures to list.
    chunk_size
        Training atoms at a time; memory is ``n_test * chunk_size``.

    Returns
    -------
    Similarity
        Time O(n_test n_train d).

    Raises
    ------
    DatasetError
        If shapes do not fit or ``owner`` does not ascend.
    """
    a, numbers = np.asarray(test, dtype=np.float64), np.asarray(test_numbers)
    b, kinds, owners = np.asarray(train), np.asarray(train_numbers), np.asarray(owner)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1:] != b.shape[1:]:
        raise DatasetError(f"Descriptors of shapes {a.shape} and {b.shape} cannot be compared.")
    if not (len(a) == len(numbers) and len(b) == len(kinds) == len(owners)) or not len(a):
        raise DatasetError("There must be one atomic number (and owner) for every descriptor, and a test atom.")
    if len(owners) and (np.diff(owners) < 0).any():
        raise DatasetError("The owners of the training atoms must ascend.")
    n_structures = int(owners[-1]) + 1 if len(owners) else 0
    best = np.full((len(a), n_structures), -1.0)
    a = _normalised(a)
    for start in range(0, len(b), chunk_size):
        part = slice(start, start + chunk_size)
        cosines = a @ _normalised(np.asarray(b[part], dtype=np.float64)).T
        cosines[numbers[:, None] != kinds[part][None, :]] = -1.0
        present, first = np.unique(owners[part], return_index=True)
        largest = np.maximum.reduceat(cosines, first, axis=1)
        best[:, present] = np.maximum(best[:, present], largest)
    if not n_structures:
        return Similarity(-1.0, np.empty(0, dtype=np.int64), np.empty(0), np.full(len(a), -1.0))
    elements = np.unique(numbers)
    scores = np.mean([best[numbers == element].mean(axis=0) for element in elements], axis=0)
    order = np.lexsort((np.arange(n_structures), -scores))[:top]
    return Similarity(float(scores.max()), order, scores[order], best.max(axis=1))


def comparable(test_symbols: Iterable[str], train_symbols: Iterable[str], *, least_overlap: float = 0.5) -> bool:
    """Tell whether a training structure is worth comparing: elements a subset of the test's, or Jaccard >= 0.5.

    Parameters
    ----------
    test_symbols, train_symbols
        Chemical symbols, repeats allowed.
    least_overlap
        Smallest share of common elements in all elements.
    """
    test, train = set(test_symbols), set(train_symbols)
    return bool(train) and (train <= test or len(test & train) / len(test | train) >= least_overlap)


def _normalised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)
