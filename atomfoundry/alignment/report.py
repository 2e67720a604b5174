"""Measure an alignment on its overlap structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atomfoundry.alignment.regression import folds
from atomfoundry.alignment.transform import AlignmentReport
from atomfoundry.documents import EnergyMetrics

if TYPE_CHECKING:
    from atomfoundry.alignment.fitting import Problem, Solution

REFERENCE_TARGET = "energies of the same structures at the target level"
REFERENCE_BRIDGE = (
    "bridge energies plus the core shifts E0(target) - E0(bridge): source against bridge functional, since "
    "the structures were not computed at the target level"
)


def energy_metrics(
    predicted: NDArray[np.float64],
    reference: NDArray[np.float64],
    *,
    n_atoms: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> EnergyMetrics:
    """Return the errors of total energies.

    Parameters
    ----------
    predicted, reference
        Total energies ``[n]``, eV.
    n_atoms
        ``[n]``; RMSE and MAE are per atom.
    offset
        Sum of isolated-atom energies ``[n]``: R2 is of atomization energies per structure. Where these do not
        vary it is 1 for a perfect prediction and 0 otherwise.
    """
    errors = predicted - reference
    atomization = reference - offset
    spread = float(((atomization - atomization.mean()) ** 2).sum())
    rest = float((errors**2).sum())
    r2 = 1 - rest / spread if spread > 0 else float(rest == 0)
    per_atom = errors / n_atoms
    return EnergyMetrics(
        rmse=float(np.sqrt((per_atom**2).mean())),
        mae=float(np.abs(per_atom).mean()),
        r2=r2,
        n=len(errors),
    )


def _fold_labels(formulas: Sequence[str], groups: Sequence[str], n_folds: int) -> tuple[Sequence[str], str]:
    """Choose what the folds must not cut: formulas if there are enough, else groups, else structures."""
    n_formulas, n_groups = len(set(formulas)), len(set(groups))
    if n_formulas >= n_folds:
        return formulas, f"{n_folds} folds by formula ({n_formulas} formulas)"
    few = f"only {n_formulas} formulas, so every formula is in several folds and the error is a lower bound"
    if n_groups >= n_folds:
        return groups, f"{n_folds} folds by group ({n_groups} groups); {few}"
    rows = [str(row) for row in range(len(formulas))]
    return rows, f"{min(n_folds, len(rows))} folds by structure ({len(rows)} structures); {few}"


def build_report(problem: Problem, solution: Solution, *, n_folds: int, seed: int) -> AlignmentReport:
    """Compare raw, shifted, aligned and cross-validated energies with the reference.

    Parameters
    ----------
    problem
        The overlap and what is known of the isolated atoms.
    solution
        The fit to all its rows.
    n_folds, seed
        Of the cross-validation.
    """
    table = problem.table
    reference, rows, words = problem.reference(solution.target)
    n_atoms, offset = table.n_atoms, table.offset(solution.target)
    raw = table.energies["source"]
    core = solution.target - (problem.source if problem.bridge is None else problem.bridge)

    def aligned(fit: Solution) -> NDArray[np.float64]:
        return table.offset(fit.target) + fit.scale * (raw - table.offset(problem.source))

    shifts = np.linalg.lstsq(table.counts[rows] / n_atoms[rows, None], ((reference - raw) / n_atoms)[rows])[0]
    predictions = {
        "raw": raw,
        "icea": raw + table.offset(core),
        "aec": aligned(solution),
        "least_squares": raw + table.counts @ shifts,
    }
    labels, how = _fold_labels(table.formulas, table.groups, n_folds)
    parts = folds(labels, n_folds, seed=seed)
    if len(parts) > 1:
        held_out = np.empty(len(table))
        for part in parts:
            rest = np.setdiff1d(np.arange(len(table)), part)
            held_out[part] = aligned(problem.solve(rest))[part]
        predictions["cross_validated"] = held_out
    residuals = ((predictions["aec"] - reference) / n_atoms)[rows]
    occurs = table.counts[rows] > 0
    per_atom = {name: (energies - offset) / n_atoms for name, energies in predictions.items()}
    return AlignmentReport(
        n_overlap=len(table),
        overlap_per_element={
            symbol: int(np.count_nonzero(column)) for symbol, column in zip(table.elements, table.counts.T, strict=True)
        },
        reference=words,
        metrics={
            name: energy_metrics(energies[rows], reference[rows], n_atoms=n_atoms[rows], offset=offset[rows])
            for name, energies in predictions.items()
        },
        cross_validation=how if len(parts) > 1 else "",
        residuals_per_element={
            symbol: float(residuals[column].mean())
            for symbol, column in zip(table.elements, occurs.T, strict=True)
            if column.any()
        },
        points=[
            {
                "formula": table.formulas[row],
                "n_atoms": int(n_atoms[row]),
                "target": float((reference[row] - offset[row]) / n_atoms[row]),
                "raw": float(per_atom["raw"][row]),
                "icea": float(per_atom["icea"][row]),
                "aec": float(per_atom["aec"][row]),
            }
            for row in rows
        ],
        scale_error=None if solution.fit.errors is None else float(solution.fit.errors[0]),
        condition_number=solution.fit.condition_number,
        n_outliers=int(np.count_nonzero(solution.fit.weights < 1 - 1e-9)),
    )
