"""Measure an alignment on its overlap structures, in passes over the table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atomfoundry.alignment.problem import MANY_ROWS, Problem, Solution
from atomfoundry.alignment.regression import Triangle, draw, folds
from atomfoundry.alignment.table import OverlapRows
from atomfoundry.alignment.transform import AlignmentReport
from atomfoundry.documents import EnergyMetrics

POINTS_KEPT = 2000
"""Structures whose energies the report keeps; of more every second, third, ... one, and the worst."""

WORST_KEPT = 40


class Scores:
    """Errors of total energies, gathered chunk by chunk: of all structures, and of those with each element."""

    def __init__(self, n_elements: int) -> None:
        # Columns: structures, squared and absolute errors per atom, squared errors, and for R2 the sum and the
        # squared sum of atomization energies around the first one.
        self._sums = np.zeros((n_elements + 1, 6))
        self._centre: float | None = None

    def add(self, errors: NDArray[np.float64], atomization: NDArray[np.float64], counts: NDArray[np.float64]) -> None:
        """Add structures.

        Parameters
        ----------
        errors
            Predicted minus reference total energies ``[m]``, eV.
        atomization
            Atomization energies of the reference ``[m]``, eV: R2 is of these.
        counts
            Atoms per element ``[m, n_elements]``.
        """
        if not len(errors):
            return
        if self._centre is None:
            self._centre = float(atomization[0])
        per_atom = errors / counts.sum(axis=1)
        around = atomization - self._centre
        columns = np.column_stack([np.ones_like(errors), per_atom**2, np.abs(per_atom), errors**2, around, around**2])
        groups = np.column_stack([np.ones(len(errors)), counts > 0])
        self._sums += groups.T @ columns

    def metrics(self, row: int = 0) -> EnergyMetrics | None:
        """Return the errors of all structures (row 0) or of those with element ``row - 1``; None without any.

        Where atomization energies do not vary R2 is 1 for a perfect prediction and 0 otherwise.
        """
        n, squares, absolute, rest, total, total_squares = self._sums[row]
        if not n:
            return None
        spread = total_squares - total**2 / n
        varies = n > 1 and spread > 1e-12 * max(total_squares, 1.0)
        return EnergyMetrics(
            rmse=float(np.sqrt(squares / n)),
            mae=float(absolute / n),
            r2=float(1 - rest / spread) if varies else float(rest == 0),
            n=int(n),
        )


@dataclass(frozen=True)
class _Validation:
    """The fits that each leave out one fold."""

    fold: NDArray[np.int64]
    solutions: list[Solution]
    affine: list[Solution]
    """The same without pair terms, where the alignment has them."""
    shifts: list[NDArray[np.float64]]
    words: str


def _fold_labels(problem: Problem) -> tuple[NDArray[np.uint64], str]:
    """Choose what the folds must not cut: formulas if there are enough, else groups, else structures."""
    n_folds, n_rows = problem.settings.n_folds, len(problem.table)
    formulas = np.concatenate([part.formula_draws for part in problem.table.rows()])
    n_formulas = len(np.unique(formulas))
    if n_formulas >= n_folds:
        return formulas, f"{n_folds} folds by formula ({n_formulas} formulas)"
    groups = np.concatenate([part.group_draws for part in problem.table.rows()])
    n_groups = len(np.unique(groups))
    few = f"only {n_formulas} formulas, so every formula is in several folds and the error is a lower bound"
    if n_groups >= n_folds:
        return groups, f"{n_folds} folds by group ({n_groups} groups); {few}"
    rows = np.array([draw(str(row), problem.settings.seed) for row in range(n_rows)], dtype=np.uint64)
    return rows, f"{min(n_folds, n_rows)} folds by structure ({n_rows} structures); {few}"


def _validate(problem: Problem, solution: Solution) -> _Validation | None:
    labels, words = _fold_labels(problem)
    fold = folds(labels, problem.settings.n_folds)
    n_folds = int(fold.max()) + 1
    if n_folds < 2:
        return None
    # Few rows may have several fixed points of the re-weighting: there every fold finds its own from the beginning.
    full = solution if len(problem.table) > MANY_ROWS else None
    return _Validation(
        fold,
        [problem.solve(fold, part, full=full) for part in range(n_folds)],
        [problem.solve(fold, part, pairs=False) for part in range(n_folds)] if len(solution.pairs) else [],
        _least_squares(problem, solution, fold),
        words,
    )


def _least_squares(problem: Problem, solution: Solution, fold: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Fit one shift per element to the differences of the levels, what is done where nobody aligns; one pass.

    Returns
    -------
    list
        Shifts ``[n_elements]`` without each fold, and last those of all rows.
    """
    n_folds = int(fold.max(initial=0)) + 1
    parts = [Triangle(len(problem.table.elements)) for _ in range(n_folds)]
    for rows, reference in problem.referenced(solution.target):
        design = rows.counts / rows.n_atoms[:, None]
        values = (reference - rows.as_computed) / rows.n_atoms
        for number, part in enumerate(parts):
            chosen = fold[rows.index] == number
            part.add(design[chosen], values[chosen])
    solutions = []
    for left_out in range(n_folds + 1):
        triangle = Triangle(len(problem.table.elements))
        for number, part in enumerate(parts):
            if number != left_out:
                triangle.merge(part)
        solutions.append(triangle.solve())
    return solutions


def _predictions(
    problem: Problem, part: OverlapRows, solution: Solution, shifts: NDArray[np.float64], validation: _Validation | None
) -> dict[str, NDArray[np.float64]]:
    """Return total energies of some rows at every step of the alignment."""
    raw, source = part.as_computed, part.energies["source"]
    core = solution.target - (problem.source if problem.bridge is None else problem.bridge)
    steps = {
        "raw": raw,
        "icea": source + part.offset(core),
        "aec": problem.aligned(part, solution),
        "least_squares": raw + part.counts @ shifts,
    }
    if validation is None:
        return steps
    held_out = {name: np.empty(len(part)) for name in ("cross_validated", "least_squares_cross_validated")}
    if validation.affine:
        held_out["affine_cross_validated"] = np.empty(len(part))
    for number, held_shifts in enumerate(validation.shifts[:-1]):
        chosen = validation.fold[part.index] == number
        if not chosen.any():
            continue
        rows = part.select(chosen)
        held_out["cross_validated"][chosen] = problem.aligned(rows, validation.solutions[number])
        held_out["least_squares_cross_validated"][chosen] = rows.as_computed + rows.counts @ held_shifts
        if validation.affine:
            held_out["affine_cross_validated"][chosen] = problem.aligned(rows, validation.affine[number])
    return {**steps, **held_out}


def build_report(problem: Problem, solution: Solution) -> AlignmentReport:
    """Compare raw, shifted, aligned and cross-validated energies with the reference.

    Parameters
    ----------
    problem
        The overlap and what is known of the isolated atoms.
    solution
        The fit to all its rows.
    """
    elements = problem.table.elements
    validation = _validate(problem, solution)
    everything = np.zeros(len(problem.table), dtype=np.int64)
    shifts = (validation.shifts if validation else _least_squares(problem, solution, everything))[-1]
    scores: dict[str, Scores] = {}
    means = np.zeros((len(elements), 2))
    points: list[dict] = []
    worst: list[tuple[float, int, dict]] = []
    stride = -(-len(problem.table) // POINTS_KEPT)
    for part, reference in problem.referenced(solution.target):
        steps = _predictions(problem, part, solution, shifts, validation)
        offset, n_atoms = part.offset(solution.target), part.n_atoms
        for name, energies in steps.items():
            scores.setdefault(name, Scores(len(elements))).add(energies - reference, reference - offset, part.counts)
        residuals = (steps["aec"] - reference) / n_atoms
        occurs = part.counts > 0
        means += np.column_stack([occurs.sum(axis=0), occurs.T @ residuals])

        drawn = {"target": reference, **steps}
        for row in _rows_to_keep(part.index, np.abs(residuals), stride):
            point = {"formula": part.formula(row), "n_atoms": int(n_atoms[row])}
            point |= {name: float((energies[row] - offset[row]) / n_atoms[row]) for name, energies in drawn.items()}
            if part.index[row] % stride == 0:
                points.append(point)
            else:
                worst.append((abs(float(residuals[row])), int(part.index[row]), point))
        worst = sorted(worst, reverse=True)[:WORST_KEPT]
    metrics = {name: score.metrics() for name, score in scores.items()}
    return AlignmentReport(
        n_overlap=len(problem.table),
        overlap_per_element=dict(zip(elements, map(int, problem.in_overlap), strict=True)),
        reference=problem.reference,
        metrics={name: found for name, found in metrics.items() if found is not None},
        metrics_per_element={
            symbol: {name: found for name, score in scores.items() if (found := score.metrics(row + 1)) is not None}
            for row, symbol in enumerate(elements)
            if means[row, 0]
        },
        cross_validation=validation.words if validation else "",
        residuals_per_element={
            symbol: float(total / n) for symbol, (n, total) in zip(elements, means, strict=True) if n
        },
        points=points + [point for _, _, point in worst],
        scale_error=_scale_error(problem, solution),
        condition_number=solution.fit.condition_number,
        n_outliers=solution.fit.n_outliers,
    )


def _rows_to_keep(index: NDArray[np.int64], errors: NDArray[np.float64], stride: int) -> list[int]:
    """Return every ``stride``-th row and, if that leaves some out, the worst ones of this chunk."""
    kept = set(np.flatnonzero(index % stride == 0).tolist())
    if stride > 1:
        kept |= set(np.argsort(-errors)[:WORST_KEPT].tolist())
    return sorted(kept)


def _scale_error(problem: Problem, solution: Solution) -> float | None:
    if not problem.fits_scale or solution.fit.errors is None:
        return None
    return float(solution.fit.errors[0])
