from __future__ import annotations

import numpy as np
import pytest

from atomfoundry.curation.similar_structures import comparable, similarity
from atomfoundry.errors import DatasetError


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(200, 12))
    numbers = rng.choice([1, 8, 14], size=200)
    owner = np.sort(rng.integers(0, 25, size=200))
    owner = np.unique(owner, return_inverse=True)[1]
    return train, numbers, owner


def brute(test, kinds, train, numbers, owner):
    scores = []
    for t in range(owner.max() + 1):
        per_element = []
        for element in np.unique(kinds):
            per_atom = []
            for i in np.flatnonzero(kinds == element):
                mine = [
                    float(test[i] @ train[j] / np.linalg.norm(test[i]) / np.linalg.norm(train[j]))
                    for j in np.flatnonzero((owner == t) & (numbers == element))
                ]
                per_atom.append(max(mine, default=-1.0))
            per_element.append(np.mean(per_atom))
        scores.append(np.mean(per_element))
    return np.array(scores)


def test_against_brute_force_whatever_the_chunks(sets):
    train, numbers, owner = sets
    rng = np.random.default_rng(1)
    test, kinds = rng.normal(size=(7, 12)), np.array([1, 1, 8, 8, 8, 14, 14])
    expected = brute(test, kinds, train, numbers, owner)
    for chunk in (1, 13, 1000):
        found = similarity(test, kinds, train, numbers, owner, top=5, chunk_size=chunk)
        assert found.score == pytest.approx(expected.max())
        np.testing.assert_allclose(found.scores, np.sort(expected)[::-1][:5])
        assert found.structures[0] == expected.argmax()


def test_a_structure_in_training_scores_one_in_any_order(sets):
    train, numbers, owner = sets
    rows = np.flatnonzero(owner == 11)
    found = similarity(train[rows], numbers[rows], train, numbers, owner)
    assert found.score == pytest.approx(1.0)
    assert found.structures[0] == 11
    np.testing.assert_allclose(found.atoms, 1.0)
    mixed = np.random.default_rng(2).permutation(rows)
    again = similarity(3.0 * train[mixed], numbers[mixed], train, numbers, owner)
    assert again.score == pytest.approx(1.0)


def test_orthogonal_features_score_zero_and_other_elements_never_count():
    test, train = np.eye(4)[:2], np.eye(4)[2:]
    assert similarity(test, [1, 1], train, [1, 1], [0, 1]).score == 0.0
    found = similarity(test, [1, 1], test, [8, 8], [0, 0])
    assert found.score == -1.0
    np.testing.assert_array_equal(found.atoms, -1.0)


def test_wrong_shapes(sets):
    train, numbers, owner = sets
    with pytest.raises(DatasetError):
        similarity(np.ones((2, 5)), [1, 1], train, numbers, owner)
    with pytest.raises(DatasetError, match="ascend"):
        similarity(train[:2], [1, 1], train, numbers, owner[::-1])


def test_which_structures_are_worth_comparing():
    assert comparable(["Al", "O"], ["Al"])
    assert comparable(["Al", "O"], ["Al", "O", "H"])
    assert not comparable(["Al", "O"], ["O", "H", "C"])
