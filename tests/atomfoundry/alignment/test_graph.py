"""Many levels: composed and inverted transforms, the best path, what cannot be reached."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from atomfoundry.alignment import (
    AlignmentGraph,
    AlignmentSettings,
    LevelData,
    compose_alignments,
    fit_alignment,
    fit_graph,
    invert_alignment,
)
from atomfoundry.datasets import attach_labels, labels_of
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import AlignmentError

ELEMENTS = ("C", "H", "O")
NAMES = ("A", "B", "C", "D")
LEVELS = {name: LevelOfTheory(code="test", method=name) for name in NAMES}
E0 = {name: {e: -(10.0 + 3 * i) * (k + 1) for k, e in enumerate(ELEMENTS)} for i, name in enumerate(NAMES)}
SCALES = {"A": 1.0, "B": 1.04, "C": 0.97, "D": 1.01}


def structures(n: int, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    return [
        Atoms([str(s) for s in rng.choice(ELEMENTS, size=k)], positions=rng.normal(size=(k, 3)))
        for k in rng.integers(2, 10, size=n)
    ]


def at_level(bare: list[Atoms], name: str, noise: float = 0.0, seed: int = 0) -> list[Atoms]:
    """Label structures; levels differ by E0, a scale and noise (eV/atom)."""
    rng = np.random.default_rng(seed)
    frames = []
    for atoms in bare:
        own = np.random.default_rng(len(atoms) + int(1e6 * abs(atoms.positions[0, 0])))
        atomization = -len(atoms) * own.uniform(2, 6)
        forces = own.normal(size=(len(atoms), 3))
        energy = sum(E0[name][s] for s in atoms.symbols) + SCALES[name] * atomization
        energy += noise * len(atoms) * rng.normal()
        frame = attach_labels(atoms, energy, SCALES[name] * forces)
        frame.info["level"] = LEVELS[name].id
        frames.append(frame)
    return frames


def fit(source: str, target: str, bare: list[Atoms], noise: float = 0.0, **options: Any):  # type: ignore[no-untyped-def]
    return fit_alignment(
        at_level(bare, source),
        target=at_level(bare, target, noise, seed=7),
        source_level=LEVELS[source],
        target_level=LEVELS[target],
        source_isolated_energies=E0[source],
        target_isolated_energies=E0[target],
        **options,
    )


def test_composed_transform_is_one_after_the_other() -> None:
    bare = structures(40, 0)
    first, second = fit("A", "B", bare), fit("B", "C", bare)
    both = compose_alignments(first, second)
    assert both.scale == pytest.approx(0.97, abs=1e-10)
    assert [(step.source, step.target) for step in both.path] == [
        (LEVELS["A"].label, LEVELS["B"].label),
        (LEVELS["B"].label, LEVELS["C"].label),
    ]
    for frame, truth in zip(at_level(bare, "A"), at_level(bare, "C"), strict=True):
        twice, once = second.apply(first.apply(frame)), both.apply(frame)
        for one, other, exact in zip(labels_of(twice), labels_of(once), labels_of(truth), strict=True):
            if one is not None:
                assert np.allclose(one, other, atol=1e-9, rtol=0)
                assert np.allclose(one, exact, atol=1e-7, rtol=0)
        assert once.info["level"] == LEVELS["C"].id
        assert once.info["aligned_from"] == LEVELS["A"].id
        back = both.invert(once)
        assert labels_of(back)[0] == pytest.approx(labels_of(frame)[0], abs=1e-9)
    with pytest.raises(AlignmentError, match="cannot be followed"):
        compose_alignments(first, first)
    with pytest.raises(AlignmentError, match="scales forces"):
        compose_alignments(first, fit("B", "C", bare, scale_forces=False))


def test_inverted_transform_takes_back() -> None:
    bare = structures(40, 1)
    alignment = fit("A", "B", bare, noise=0.01)
    inverse = invert_alignment(alignment)
    assert inverse.path[0].inverted
    assert inverse.expected_error == pytest.approx(alignment.expected_error / alignment.scale)
    for frame in at_level(bare, "A"):
        restored = inverse.apply(alignment.apply(frame))
        for one, other in zip(labels_of(frame), labels_of(restored), strict=True):
            if one is not None:
                assert np.allclose(one, other, atol=1e-9, rtol=0)
    again = invert_alignment(inverse)
    assert again.scale == pytest.approx(alignment.scale)
    assert not again.path[0].inverted


def test_errors_accumulate_along_the_path() -> None:
    bare = structures(60, 2)
    first, second = fit("A", "B", bare, noise=0.02), fit("B", "C", bare, noise=0.01)
    both = compose_alignments(first, second)
    expected = math.hypot(second.scale * first.expected_error, second.expected_error)
    assert both.expected_error == pytest.approx(expected)
    assert [step.accumulated for step in both.path] == pytest.approx([first.expected_error, expected])


def test_the_best_path_is_chosen_not_the_shortest() -> None:
    bare = structures(60, 3)
    noisy = fit("A", "C", bare, noise=0.2, force=True)
    graph = AlignmentGraph([noisy, fit("A", "B", bare, noise=0.01), fit("C", "B", bare, noise=0.01)])
    best = graph.best(LEVELS["A"].id, LEVELS["C"].id)
    assert [step.target for step in best.path] == [LEVELS["B"].label, LEVELS["C"].label]
    assert best.path[1].inverted
    assert best.expected_error < noisy.expected_error
    assert best.scale == pytest.approx(0.97, abs=0.01)
    graph.add(fit("A", "C", bare, noise=0.001))
    assert graph.best(LEVELS["A"].id, LEVELS["C"].id).path == []


def test_levels_that_share_no_structure_are_joined_over_others() -> None:
    sets = [structures(40, seed) for seed in (10, 11, 12)]
    levels = [
        LevelData(LEVELS["A"], at_level(sets[0], "A"), E0["A"]),
        LevelData(LEVELS["B"], at_level([*sets[0], *sets[1]], "B"), E0["B"]),
        LevelData(LEVELS["C"], at_level([*sets[1], *sets[2]], "C"), E0["C"]),
        LevelData(LEVELS["D"], at_level(sets[2], "D"), E0["D"]),
    ]
    graph = fit_graph(levels)
    assert len(graph.alignments) == 6
    assert (LEVELS["A"].id, LEVELS["D"].id) in graph.refused
    found = graph.to(LEVELS["D"].id)
    assert set(found) == {LEVELS[name].id for name in "ABC"}
    path = found[LEVELS["A"].id]
    assert [step.target for step in path.path] == [LEVELS[name].label for name in "BCD"]
    for frame, truth in zip(levels[0].frames, at_level(sets[0], "D"), strict=True):
        assert labels_of(path.apply(frame))[0] == pytest.approx(labels_of(truth)[0], abs=1e-6)


def test_what_cannot_be_reached_is_named() -> None:
    levels = [
        LevelData(LEVELS["A"], at_level(structures(20, 20), "A"), E0["A"]),
        LevelData(LEVELS["B"], at_level(structures(20, 21), "B"), E0["B"]),
    ]
    graph = fit_graph(levels)
    with pytest.raises(AlignmentError, match=r"No alignment leads from A.* to B.*Only 0 structures"):
        graph.best(LEVELS["A"].id, LEVELS["B"].id)
    with pytest.raises(AlignmentError, match="cannot join"):
        fit_graph(levels, modes=["bridge"])


def test_cross_validation_chooses_the_mode() -> None:
    """With wrong free atoms at one level fitting the shifts is better, and is chosen."""
    bare = structures(60, 30)
    wrong = {element: energy + 1.0 for element, energy in E0["B"].items()}
    levels = [
        LevelData(LEVELS["A"], at_level(bare, "A"), E0["A"]),
        LevelData(LEVELS["B"], at_level(bare, "B", 0.005), wrong),
    ]
    graph = fit_graph(levels, settings=AlignmentSettings(max_scale_deviation=1.0))
    assert graph.best(LEVELS["A"].id, LEVELS["B"].id).mode == "overlap"
