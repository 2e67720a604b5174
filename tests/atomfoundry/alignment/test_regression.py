"""Least squares that never holds its rows: equal to the plain kind, chunk by chunk and from disk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ase import Atoms

from atomfoundry.alignment import AlignmentSettings, fit_alignment
from atomfoundry.alignment.overlap import EnergyIndex, build_overlap
from atomfoundry.alignment.regression import Triangle, draw, folds, huber_fit
from atomfoundry.datasets import attach_labels, frame_id
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import AlignmentError


def data(n: int = 500, p: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(n, p)) * 10.0 ** np.arange(p)
    return design, design @ rng.normal(size=p) + rng.standard_t(3, size=n)


def chunked(design: np.ndarray, values: np.ndarray, size: int):  # type: ignore[no-untyped-def]
    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(values), size):
            yield design[start : start + size], values[start : start + size]

    return chunks


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_sequential_least_squares_is_least_squares(size: int) -> None:
    design, values = data()
    triangle = Triangle(6)
    for part, rows in chunked(design, values, size)():
        triangle.add(part, rows)
        assert triangle.factor.size <= max(49, (size + 8) * 7)
    exact, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    assert np.allclose(triangle.solve(), exact, rtol=1e-10)
    assert triangle.condition(6)[0] == rank == 6
    assert np.allclose(triangle.inverse(), np.linalg.inv(design.T @ design), rtol=1e-8)


def test_sequential_least_squares_keeps_digits_that_normal_equations_lose() -> None:
    rng = np.random.default_rng(0)
    design = rng.normal(size=(400, 3))
    design[:, 2] = design[:, 1] + 1e-8 * design[:, 2]
    truth = np.array([1.0, 2.0, 3.0])
    fit = huber_fit(chunked(design, design @ truth, 50), 3, factor=0)
    assert np.abs(fit.coefficients - truth).max() < 1e-6
    normal = np.linalg.lstsq(design.T @ design, design.T @ design @ truth, rcond=None)[0]
    assert np.abs(normal - truth).max() > 1e-3


def test_huber_is_the_same_in_any_chunks_and_from_any_start() -> None:
    design, values = data()
    values[::50] += 1e3
    whole = huber_fit(chunked(design, values, 1000), 6)
    parts = huber_fit(chunked(design, values, 37), 6)
    warm = huber_fit(chunked(design, values, 37), 6, start=whole.coefficients)
    for fit in (parts, warm):
        assert np.allclose(fit.coefficients, whole.coefficients, rtol=1e-8)
        assert fit.n_outliers == whole.n_outliers >= 10
        assert np.allclose(fit.errors, whole.errors, rtol=1e-6)


def test_prior_is_ridge() -> None:
    design, values = data(30, 3)
    design = design / 10.0 ** np.arange(3)
    prior = np.array([0.0, 2.0, 2.0])
    fit = huber_fit(chunked(design, values, 9), 3, factor=0, prior=prior)
    exact = np.linalg.solve(design.T @ design + np.diag(prior**2), design.T @ values)
    assert np.allclose(fit.coefficients, exact, rtol=1e-10)
    assert fit.rank == 1


def test_folds_never_cut_a_label() -> None:
    labels = [f"C{i % 17}" for i in range(200)]
    fold = folds(np.array([draw(label, 3) for label in labels], dtype=np.uint64), 5)
    assert len({(label, number) for label, number in zip(labels, fold, strict=True)}) == 17
    sizes = [len({labels[i] for i in np.flatnonzero(fold == number)}) for number in range(5)]
    assert sorted(sizes) == [3, 3, 3, 4, 4]


def frames(n: int, seed: int = 0) -> tuple[list[Atoms], list[Atoms]]:
    rng = np.random.default_rng(seed)
    source, target = [], []
    for _ in range(n):
        symbols = [str(s) for s in rng.choice(["H", "C", "O", "Si"], size=rng.integers(2, 9))]
        atoms = Atoms(symbols, positions=rng.normal(size=(len(symbols), 3)))
        atomization = -len(atoms) * rng.uniform(2, 6)
        source.append(attach_labels(atoms, atomization))
        target.append(attach_labels(atoms, 1.02 * atomization + 0.01 * len(atoms) * rng.normal()))
    return source, target


@pytest.mark.slow
def test_rows_on_disk_give_the_same_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atomfoundry.alignment.fitting.build_overlap", _small_chunks)
    source, target = frames(60)
    levels = {
        "source_level": LevelOfTheory(code="test", method="low"),
        "target_level": LevelOfTheory(code="test", method="high"),
        "source_isolated_energies": dict.fromkeys(["H", "C", "O", "Si"], 0.0),
    }
    for mode in ("overlap", "pairs"):
        kept, spilled = (
            fit_alignment(
                iter(source),
                target=iter(target),
                mode=mode,
                force=True,
                settings=AlignmentSettings(rows_in_memory=limit),
                **levels,
            )
            for limit in (10**6, 30)
        )
        assert spilled.scale == pytest.approx(kept.scale, rel=1e-12)
        for name, metrics in kept.report.metrics.items():
            assert spilled.report.metrics[name].rmse == pytest.approx(metrics.rmse, rel=1e-9)
        assert len(spilled.report.points) == 60


def _small_chunks(*args, **options):  # type: ignore[no-untyped-def]
    return build_overlap(*args, chunk=16, **options)


def test_points_of_many_structures_are_thinned_but_the_worst_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atomfoundry.alignment.report.POINTS_KEPT", 20)
    monkeypatch.setattr("atomfoundry.alignment.report.WORST_KEPT", 3)
    monkeypatch.setattr("atomfoundry.alignment.fitting.build_overlap", _small_chunks)
    source, target = frames(100)
    energy = target[33].get_potential_energy()
    target[33] = attach_labels(target[33], energy + 30)
    alignment = fit_alignment(
        source,
        target=target,
        source_level=LevelOfTheory(code="test", method="low"),
        target_level=LevelOfTheory(code="test", method="high"),
        source_isolated_energies=dict.fromkeys(["H", "C", "O", "Si"], 0.0),
        mode="overlap",
        force=True,
    )
    points = alignment.report.points
    assert len(points) == 23
    assert any(abs(point["aec"] - point["target"]) > 1 for point in points)


def test_index_matches_and_names_contradictions() -> None:
    source, target = frames(40)
    index = EnergyIndex(target[:25], level="target", key=frame_id)
    own = np.array([a.get_potential_energy() for a in source])
    found = index.energies(source, own)
    assert np.isfinite(found).sum() == 25
    assert np.allclose(found[:25], [a.get_potential_energy() for a in target[:25]])
    with pytest.raises(AlignmentError, match="two energies at the source"):
        index.energies(source[:1], own[:1] + 1)
    with pytest.raises(AlignmentError, match=r"labelled frames 0 and 2\)"):
        EnergyIndex([target[0], target[1], attach_labels(target[0], 5.0)], level="target", key=frame_id)
    with pytest.raises(AlignmentError, match="has the energy nan"):
        EnergyIndex([attach_labels(target[0], np.nan)], level="target", key=frame_id)
