"""Fit a Total Energy Alignment, and refuse where the data cannot carry one (ALGORITHMS 1.3, 1.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.alignment.dispersion import Dispersion, DispersionTerm, dispersion_terms
from atomfoundry.alignment.overlap import (
    EnergyIndex,
    EnergySource,
    Predictor,
    build_overlap,
)
from atomfoundry.alignment.problem import AlignmentSettings, Problem, Solution
from atomfoundry.alignment.regression import huber_fit
from atomfoundry.alignment.report import build_report
from atomfoundry.alignment.table import OverlapTable
from atomfoundry.alignment.transform import Alignment, Mode
from atomfoundry.datasets import frame_id
from atomfoundry.documents import EnergyMetrics, LevelOfTheory
from atomfoundry.errors import AlignmentError

_SNAP = 1e-9


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
    dispersion: Dispersion = "keep",
    force: bool = False,
    settings: AlignmentSettings | None = None,
) -> Alignment:
    """Fit the transform that takes labels of the source level to the target's energy scale.

    Frames are read once and not kept: of the levels that the source is matched with stay 24 bytes a frame, of an
    overlap structure one row of counts and energies, on disk beyond ``settings.rows_in_memory``.

    Modes (ALGORITHMS 1.3):

    - ``atoms``: E0 known at source and target; the scale from ``target`` energies of source structures (1.3).
    - ``bridge``: the scale from ``bridge`` energies, a level with the target's functional and the source's kind of
      basis; E0 known at source and bridge. Shifts from the target's E0 (1.1), or, for elements without, from
      ``target`` energies of the overlap structures (1.2). Where all E0 are known no ``target`` frame is needed.
    - ``overlap``: scale and missing target E0 together from ``target`` energies (1.6).
    - ``pairs``: as ``overlap``, with smooth bond terms of each element pair (``atomfoundry.alignment.pairs``). More
      unknowns, so only where the overlap has every kind of bond in several formulas; cross-validation tells.
    - ``model``: as ``overlap`` with energies from ``predictor``, a model trained on the target level only.

    Parameters
    ----------
    source
        Labelled frames of the source level. Overlap structures are those that the other levels have too.
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
    dispersion
        ``keep``; or, where only one level has a D3 correction, ``subtract_source`` or ``add_source``: that of the
        source's functional is taken from, or added to, energies, forces and stress of the source before the rest
        (``atomfoundry.alignment.dispersion``).
    force
        Fit in spite of the refusals below; they are listed in the report.
    settings
        Thresholds; the defaults if None.

    Returns
    -------
    Alignment
        With its report. Elements of the source that no overlap structure has are in ``uncovered``: frames with them
        are refused by ``apply`` unless ``settings.allow_uncovered``.

    Raises
    ------
    AlignmentError
        If a needed E0 is missing, there are too few overlap structures, or dispersion cannot be treated as wanted; and,
        unless ``force``: if fitted shifts are not determined, an element without E0 is in too few structures,
        abs(a - 1) is too large, or cross-validation is much worse than the fit.
    """
    settings = settings or AlignmentSettings()
    between = bridge_level if mode == "bridge" else None
    terms = dispersion_terms(source_level, target_level, dispersion, bridge=between)
    table = _match(
        source, target, bridge, bridge_level, predictor=predictor, mode=mode, key=key, terms=terms, settings=settings
    )
    tables = _isolated_tables(
        table.elements, mode, source_isolated_energies, target_isolated_energies, bridge_isolated_energies
    )
    problem, estimated = _problem(table, tables, settings)
    solution = _snapped(problem, problem.solve())
    report = build_report(problem, solution)
    refusals = _refusals(problem, solution, report.metrics)
    if refusals and not force:
        raise AlignmentError(
            f"Alignment of {source_level.label} to {target_level.label} refused: {'; '.join(refusals)}.",
            remedy="Give more overlap structures or isolated-atom energies, or override with force=True.",
        )
    if solution.scale <= 0:
        raise AlignmentError(f"The fitted scale {solution.scale:.6g} is not positive: the overlap is wrong.")
    origin = problem.source if problem.bridge is None else problem.bridge
    known = np.isfinite(solution.target)
    elements = np.array(table.elements)
    uncovered = [] if settings.allow_uncovered else [str(e) for e in elements[~problem.covered & known]]
    uncovered += [str(element) for element in elements[~known]]
    return Alignment(
        mode=mode,
        source_level=source_level,
        target_level=target_level,
        bridge_level=between,
        scale=solution.scale,
        source_isolated_energies={**source_isolated_energies, **_named(elements, problem.source)},
        target_isolated_energies={**(target_isolated_energies or {}), **_named(elements, solution.target)},
        shifts=_named(elements, solution.target - origin),
        pair_terms=problem.pair_terms(solution),
        dispersion_terms=[term.scaled(solution.scale) for term in terms],
        uncovered=sorted(uncovered),
        scale_forces=scale_forces,
        report=report.model_copy(
            update={
                "estimated": estimated,
                "overridden": refusals,
                "uncovered": {symbol: table.element_frames[symbol] for symbol in sorted(uncovered)},
            }
        ),
    )


def _named(elements: NDArray[np.str_], values: NDArray[np.float64]) -> dict[str, float]:
    return {str(e): float(value) for e, value in zip(elements, values, strict=True) if np.isfinite(value)}


def _match(
    source: Iterable[Atoms],
    target: Iterable[Atoms],
    bridge: Iterable[Atoms],
    bridge_level: LevelOfTheory | None,
    *,
    predictor: Callable[[Atoms], float] | None,
    mode: str,
    key: Callable[[Atoms], str],
    terms: Sequence[DispersionTerm],
    settings: AlignmentSettings,
) -> OverlapTable:
    """Find the overlap structures that a mode needs."""
    if mode not in get_args(Mode):
        raise AlignmentError(f"There is no mode '{mode}'.", remedy=f"Modes: {', '.join(get_args(Mode))}.")
    others: dict[str, EnergySource] = {}
    if mode == "model":
        if predictor is None:
            raise AlignmentError("Mode 'model' needs a predictor.", remedy="Pass predictor=.")
        others["target"] = Predictor(predictor)
    else:
        others["target"] = EnergyIndex(target, level="target", key=key)
    if mode == "bridge":
        if bridge_level is None:
            raise AlignmentError("Mode 'bridge' needs a bridge level.", remedy="Pass bridge_level=.")
        others["bridge"] = EnergyIndex(bridge, level="bridge", key=key)
    table = build_overlap(
        source,
        others,
        optional=["target"] if mode == "bridge" else [],
        basis=settings.pair_basis if mode == "pairs" else None,
        dispersion=terms,
        seed=settings.seed,
        in_memory=settings.rows_in_memory,
    )
    if len(table) < settings.min_overlap:
        raise AlignmentError(
            f"Only {len(table)} structures were computed at every level that mode '{mode}' needs; the "
            f"scale wants {settings.min_overlap}.",
            remedy="Label the same structures at these levels (equal frame ids), or pass key=molecule_key.",
        )
    return table


def _problem(
    table: OverlapTable,
    tables: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None],
    settings: AlignmentSettings,
) -> tuple[Problem, list[str]]:
    """Count what the overlap has, and estimate source E0 that are missing."""
    in_overlap, in_target = np.zeros((2, len(table.elements)), dtype=int)
    with_target = 0
    for part in table.rows():
        has_target = np.isfinite(part.energies["target"])
        in_overlap += np.count_nonzero(part.counts, axis=0)
        in_target += np.count_nonzero(part.counts[has_target], axis=0)
        with_target += int(np.count_nonzero(has_target))
    source, target, bridge = tables
    problem = Problem(table, source, target, bridge, settings, with_target, in_overlap, in_target)
    missing = np.isnan(source)
    estimated = [symbol for symbol, gap in zip(table.elements, missing, strict=True) if gap]
    if estimated:
        problem = replace(problem, source=_estimate(table, source))
    return problem, estimated


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
    known = np.where(unknown, 0.0, np.nan_to_num(source))
    filled = source.copy()
    filled[unknown] = huber_fit(
        lambda: (
            (
                part.counts[:, unknown] / part.n_atoms[:, None],
                (part.energies["source"] - part.counts @ known) / part.n_atoms,
            )
            for part in table.rows()
        ),
        int(unknown.sum()),
        factor=0,
    ).coefficients
    return filled


def _snapped(problem: Problem, solution: Solution) -> Solution:
    """Make an alignment that is the identity but for rounding exactly the identity."""
    scale = 1.0 if abs(solution.scale - 1) < _SNAP else solution.scale
    near = problem.unknown & (np.abs(solution.target - problem.source) < _SNAP)
    pairs = np.where(np.abs(solution.pairs) < _SNAP, 0.0, solution.pairs)
    return replace(solution, scale=scale, target=np.where(near, problem.source, solution.target), pairs=pairs)


def _refusals(problem: Problem, solution: Solution, metrics: Mapping[str, EnergyMetrics]) -> list[str]:
    settings, table = problem.settings, problem.table
    reasons = []
    if problem.unknown.any():
        fit = solution.fit if solution.shift_fit is None else solution.shift_fit
        wanted = int(problem.unknown.sum()) + int(solution.shift_fit is None and problem.fits_scale)
        if fit.rank < wanted:
            reasons.append(
                f"the overlap structures determine {fit.rank} of {wanted} parameters (their compositions "
                "are not independent)"
            )
        for column in np.flatnonzero(problem.unknown):
            symbol, number = table.elements[column], int(problem.in_target[column])
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
