"""Fit a Total Energy Alignment, and refuse where the data cannot carry one (ALGORITHMS 1.3, 1.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomfoundry.alignment.overlap import OverlapTable, build_overlap, is_isolated_atom
from atomfoundry.alignment.regression import LinearFit, huber_fit
from atomfoundry.alignment.report import REFERENCE_BRIDGE, REFERENCE_TARGET, build_report
from atomfoundry.alignment.transform import Alignment, Mode
from atomfoundry.datasets import attach_labels, frame_id, labels_of
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import AlignmentError

_SNAP = 1e-9


class AlignmentSettings(BaseModel):
    """How to fit, and when to refuse."""

    model_config = ConfigDict(extra="forbid")

    huber_factor: float = Field(default=2.0, ge=0, description="Times the MAD; 0: plain least squares")
    max_iterations: int = Field(default=20, ge=1)
    n_folds: int = Field(default=5, ge=2, description="Of the cross-validation")
    seed: int = 0
    min_overlap: int = Field(default=3, ge=1, description="Structures, below which no scale is fitted")
    min_overlap_per_element: int = Field(default=10, ge=1, description="Where the element's E0 is not known")
    max_scale_deviation: float = Field(default=0.2, gt=0, description="|a - 1|")
    max_cv_ratio: float = Field(default=2.0, gt=1, description="Cross-validated over fitted RMSE")
    cv_floor: float = Field(default=1e-3, ge=0, description="eV/atom; cross-validated RMSE always accepted")


@dataclass(frozen=True)
class Solution:
    """Scale and target E0 that follow from some rows of the overlap table."""

    scale: float
    target: NDArray[np.float64]
    fit: LinearFit
    shift_fit: LinearFit | None


@dataclass(frozen=True)
class Problem:
    """An overlap table with what is known of the isolated atoms; NaN is unknown."""

    table: OverlapTable
    source: NDArray[np.float64]
    target: NDArray[np.float64]
    bridge: NDArray[np.float64] | None
    settings: AlignmentSettings

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """Elements whose target E0 has to be fitted, ``[n_elements]``."""
        return np.isnan(self.target)

    def _huber(self, design: NDArray[np.float64], values: NDArray[np.float64]) -> LinearFit:
        return huber_fit(
            design,
            values,
            factor=self.settings.huber_factor,
            max_iterations=self.settings.max_iterations,
        )

    def solve(self, rows: NDArray[np.int64]) -> Solution:
        """Fit to these rows; every row is divided by its number of atoms, which is the weight 1/N^2."""
        counts = self.table.counts[rows]
        n_atoms = counts.sum(axis=1)
        energies = {name: column[rows] for name, column in self.table.energies.items()}
        atomization = energies["source"] - counts @ np.nan_to_num(self.source)
        target = self.target.copy()
        unknown = self.unknown
        if self.bridge is None:
            known_part = counts @ np.where(unknown, 0.0, np.nan_to_num(target))
            design = np.column_stack([atomization, counts[:, unknown]]) / n_atoms[:, None]
            fit = self._huber(design, (energies["target"] - known_part) / n_atoms)
            target[unknown] = fit.coefficients[1:]
            return Solution(float(fit.coefficients[0]), target, fit, None)
        shift_fit = None
        if unknown.any():
            both = np.isfinite(energies["target"])
            known_shift = np.where(unknown, 0.0, np.nan_to_num(target - self.bridge))
            rest = energies["target"] - energies["bridge"] - counts @ known_shift
            shift_fit = self._huber((counts[:, unknown] / n_atoms[:, None])[both], (rest / n_atoms)[both])
            target[unknown] = self.bridge[unknown] + shift_fit.coefficients
        bridge_atomization = energies["bridge"] - counts @ np.nan_to_num(self.bridge)
        fit = self._huber((atomization / n_atoms)[:, None], bridge_atomization / n_atoms)
        return Solution(float(fit.coefficients[0]), target, fit, shift_fit)

    def reference(self, target: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64], str]:
        """Return reference energies, the rows that have one, and what it is.

        Without target energies of the molecules (mode ``bridge`` with known atoms) the bridge energies
        carried to the target by the core shifts stand in for them: the metrics then say how well source and
        bridge functional agree, not how well bridge and target do.
        """
        if "target" in self.table.energies:
            rows = np.flatnonzero(np.isfinite(self.table.energies["target"]))
            if len(rows) >= self.settings.min_overlap:
                return self.table.energies["target"], rows, REFERENCE_TARGET
        assert self.bridge is not None
        carried = self.table.energies["bridge"] + self.table.offset(target - self.bridge)
        return carried, np.arange(len(self.table)), REFERENCE_BRIDGE


def fit_alignment(
    source: Iterable[Atoms],
    *,
    source_level: LevelOfTheory,
    target_level: LevelOfTheory,
    source_isolated_energies: Mapping[str, float],
    target_isolated_energies: Mapping[str, float] | None = None,
    mode: Mode = "atoms",
    target: Iterable[Atoms] = (),
    bridge: Iterable[Atoms] = (),
    bridge_level: LevelOfTheory | None = None,
    bridge_isolated_energies: Mapping[str, float] | None = None,
    predictor: Callable[[Atoms], float] | None = None,
    key: Callable[[Atoms], str] = frame_id,
    scale_forces: bool = True,
    force: bool = False,
    settings: AlignmentSettings | None = None,
) -> Alignment:
    """Fit the transform that takes labels of the source level to the target's energy scale.

    Modes (ALGORITHMS 1.3):

    - ``atoms``: E0 known at source and target; the scale from ``target`` energies of source structures (1.3).
    - ``bridge``: the scale from ``bridge`` energies, a level with the target's functional and the source's
    kind of
      basis; E0 known at source and bridge. Shifts from the target's E0 (1.1), or, for elements without, from
      ``target`` energies of the overlap structures (1.2). Where all E0 are known no ``target`` frame is
      needed.
    - ``overlap``: scale and missing target E0 together from ``target`` energies (1.6).
    - ``model``: as ``overlap`` with energies from ``predictor``, a model trained on the target level only.

    Parameters
    ----------
    source
        Labelled frames of the source level; all its elements must be alignable. Overlap structures are those
        that the other levels have too.
    source_level, target_level, bridge_level
        Records of the levels.
    source_isolated_energies, target_isolated_energies, bridge_isolated_energies
        Element -> E0 in eV.
    mode
        See above.
    target, bridge
        Labelled frames of those levels; only the ones that ``source`` has too count.
    predictor
        Structure -> total energy (eV), for mode ``model``.
    key
        Frames of equal key are one structure; ``molecule_key`` where one level needs a box.
    scale_forces
        False leaves forces and stress unscaled; energies and forces then contradict each other.
    force
        Fit in spite of the refusals below; they are listed in the report.
    settings
        Thresholds; the defaults if None.

    Returns
    -------
    Alignment
        With its report.

    Raises
    ------
    AlignmentError
        If a needed E0 is missing or there are too few overlap structures; and, unless ``force``: if fitted
        shifts are not determined, an element without E0 is in too few structures, |a - 1| is too large, or
        cross-validation is much worse than the fit.
    """
    settings = settings or AlignmentSettings()
    if mode not in get_args(Mode):
        raise AlignmentError(f"There is no mode '{mode}'.", remedy=f"Modes: {', '.join(get_args(Mode))}.")
    frames = [atoms for atoms in source if labels_of(atoms)[0] is not None]
    elements = tuple(sorted({symbol for atoms in frames for symbol in atoms.symbols}))
    levels: dict[str, Iterable[Atoms]] = {"source": frames, "target": target}
    if mode == "model":
        if predictor is None:
            raise AlignmentError("Mode 'model' needs a predictor.", remedy="Pass predictor=.")
        levels["target"] = [attach_labels(atoms, predictor(atoms)) for atoms in frames if not is_isolated_atom(atoms)]
    if mode == "bridge":
        levels["bridge"] = bridge
        if bridge_level is None:
            raise AlignmentError("Mode 'bridge' needs a bridge level.", remedy="Pass bridge_level=.")
    table = build_overlap(levels, elements=elements, key=key, optional=["target"] if mode == "bridge" else [])
    if len(table) < settings.min_overlap:
        raise AlignmentError(
            f"Only {len(table)} structures were computed at every level that mode '{mode}' needs; the "
            f"scale wants {settings.min_overlap}.",
            remedy="Label the same structures at these levels (equal frame ids), or pass key=molecule_key.",
        )
    tables = _isolated_tables(
        elements, mode, source_isolated_energies, target_isolated_energies, bridge_isolated_energies
    )
    estimated = [symbol for symbol, energy in zip(elements, tables[0], strict=True) if np.isnan(energy)]
    if estimated:
        tables = (_estimate(table, tables[0]), *tables[1:])
    problem = Problem(table, *tables, settings)
    solution = _snapped(problem, problem.solve(np.arange(len(table))))
    report = build_report(problem, solution, n_folds=settings.n_folds, seed=settings.seed)
    refusals = _refusals(problem, solution, report.metrics)
    if refusals and not force:
        raise AlignmentError(
            f"Alignment of {source_level.label} to {target_level.label} refused: {'; '.join(refusals)}.",
            remedy="Give more overlap structures or isolated-atom energies, or override with force=True.",
        )
    if solution.scale <= 0:
        raise AlignmentError(f"The fitted scale {solution.scale:.6g} is not positive: the overlap is wrong.")
    origin = tables[0] if problem.bridge is None else problem.bridge
    fitted = dict(zip(elements, map(float, solution.target), strict=True))
    return Alignment(
        mode=mode,
        source_level=source_level,
        target_level=target_level,
        bridge_level=bridge_level if mode == "bridge" else None,
        scale=solution.scale,
        source_isolated_energies={
            **source_isolated_energies,
            **dict(zip(elements, map(float, tables[0]), strict=True)),
        },
        target_isolated_energies={**(target_isolated_energies or {}), **fitted},
        shifts=dict(zip(elements, map(float, solution.target - origin), strict=True)),
        scale_forces=scale_forces,
        report=report.model_copy(update={"estimated": estimated, "overridden": refusals}),
    )


def _isolated_tables(
    elements: tuple[str, ...],
    mode: str,
    source: Mapping[str, float],
    target: Mapping[str, float] | None,
    bridge: Mapping[str, float] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the E0 tables as columns over ``elements``, NaN where unknown; refuse if the mode needs more."""

    def column(table: Mapping[str, float] | None) -> NDArray[np.float64]:
        return np.array([(table or {}).get(symbol, np.nan) for symbol in elements], dtype=np.float64)

    columns = {"source": column(source), "target": column(target), "bridge": column(bridge)}
    needed = {"atoms": ("source", "target"), "bridge": ("source", "bridge")}.get(mode, ())
    for level in needed:
        missing = [symbol for symbol, energy in zip(elements, columns[level], strict=True) if np.isnan(energy)]
        if missing:
            raise AlignmentError(
                f"Mode '{mode}' needs the isolated-atom energy of {', '.join(missing)} at the {level} level.",
                remedy="Compute the isolated atoms at that level, or use mode 'overlap'.",
            )
    return columns["source"], columns["target"], columns["bridge"] if mode == "bridge" else None


def _estimate(table: OverlapTable, source: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill unknown source E0 by least squares of total energies per atom over composition."""
    unknown = np.isnan(source)
    rest = table.energies["source"] - table.counts @ np.where(unknown, 0.0, np.nan_to_num(source))
    design = table.counts[:, unknown] / table.n_atoms[:, None]
    filled = source.copy()
    filled[unknown] = np.linalg.lstsq(design, rest / table.n_atoms, rcond=None)[0]
    return filled


def _snapped(problem: Problem, solution: Solution) -> Solution:
    """Make an alignment that is the identity but for rounding exactly the identity."""
    scale = 1.0 if abs(solution.scale - 1) < _SNAP else solution.scale
    near = problem.unknown & (np.abs(solution.target - problem.source) < _SNAP)
    target = np.where(near, problem.source, solution.target)
    return Solution(scale, target, solution.fit, solution.shift_fit)


def _refusals(problem: Problem, solution: Solution, metrics: Mapping) -> list[str]:
    settings, table, unknown = problem.settings, problem.table, problem.unknown
    reasons = []
    if unknown.any():
        fit = solution.fit if solution.shift_fit is None else solution.shift_fit
        wanted = int(unknown.sum()) + (1 if solution.shift_fit is None else 0)
        if fit.rank < wanted:
            reasons.append(
                f"the overlap structures determine {fit.rank} of {wanted} parameters (their compositions "
                "are not independent)"
            )
        used = np.isfinite(table.energies["target"])
        for symbol, column in zip(np.array(table.elements)[unknown], table.counts[:, unknown].T, strict=True):
            number = int(np.count_nonzero(column[used]))
            if number < settings.min_overlap_per_element:
                reasons.append(
                    f"{symbol} has no isolated-atom energy at the target level and is in {number} overlap "
                    f"structures, fewer than {settings.min_overlap_per_element}"
                )
    if abs(solution.scale - 1) > settings.max_scale_deviation:
        reasons.append(f"the scale is {solution.scale:.4f}, further from 1 than {settings.max_scale_deviation:g}")
    if "cross_validated" in metrics:
        held_out, fitted = metrics["cross_validated"].rmse, metrics["aec"].rmse
        if held_out > settings.cv_floor and held_out > settings.max_cv_ratio * fitted:
            reasons.append(
                f"the cross-validated RMSE is {1000 * held_out:.2f} meV/atom, more than "
                f"{settings.max_cv_ratio:g} times the fitted {1000 * fitted:.2f}"
            )
    return reasons
