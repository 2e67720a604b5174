"""The regression behind an alignment: which columns, which unknowns, solved on all rows or without a fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomfoundry.alignment.pairs import PairBasis, PairTerms
from atomfoundry.alignment.regression import Chunks, LinearFit, huber_fit, refit
from atomfoundry.alignment.table import OverlapRows, OverlapTable

REFERENCE_TARGET = "energies of the same structures at the target level"
REFERENCE_BRIDGE = (
    "bridge energies plus the core shifts E0(target) - E0(bridge): source against bridge functional, since "
    "the structures were not computed at the target level"
)

MANY_ROWS = 50_000
"""Above this, fits start from a part of the rows, and those without a fold take the weights of the fit to all."""


class AlignmentSettings(BaseModel):
    """How to fit, and when to refuse."""

    model_config = ConfigDict(extra="forbid")

    huber_factor: float = Field(default=2.0, ge=0, description="Times the MAD; 0: plain least squares")
    max_iterations: int = Field(default=20, ge=1)
    n_folds: int = Field(default=5, ge=2, description="Of the cross-validation")
    seed: int = 0
    min_overlap: int = Field(default=3, ge=1, description="Structures, below which no scale is fitted")
    min_overlap_per_element: int = Field(default=10, ge=1, description="Where the element's E0 is not known")
    max_scale_deviation: float = Field(default=0.2, gt=0, description="abs(a - 1)")
    max_cv_ratio: float = Field(default=2.0, gt=1, description="Cross-validated over fitted RMSE")
    cv_floor: float = Field(default=1e-3, ge=0, description="eV/atom; cross-validated RMSE always accepted")
    fixed_scale: float | None = Field(
        default=None, gt=0, description="Not fitted but given; 1: shifts only (ICEA without AEC)"
    )
    allow_uncovered: bool = Field(
        default=False, description="Also align frames with elements that no overlap structure has (E0 known)"
    )
    pair_basis: PairBasis = Field(default_factory=PairBasis, description="Bond terms of mode 'pairs'")
    pair_prior: float = Field(
        default=0.03,
        gt=0,
        description="Mode 'pairs': expected residual (eV/atom) over expected size of a bond's coefficient (eV), which "
        "keeps bonds that few structures have near zero",
    )
    rows_in_memory: int = Field(
        default=500_000, ge=1, description="Overlap structures; more of them go to a temporary file"
    )


@dataclass(frozen=True)
class Solution:
    """What follows from some rows of the overlap table.

    Attributes
    ----------
    scale
        a.
    target
        E0 of the target, ``[n_elements]``.
    pairs
        Coefficients of the pair functions, ``[n_pairs * n_radial]``.
    fit, shift_fit
        Of the scale and what is fitted with it; of shifts that mode ``bridge`` fits beforehand.
    """

    scale: float
    target: NDArray[np.float64]
    pairs: NDArray[np.float64]
    fit: LinearFit
    shift_fit: LinearFit | None


@dataclass(frozen=True)
class Problem:
    """An overlap table with what is known of the isolated atoms; NaN is unknown.

    Attributes
    ----------
    table
        The overlap.
    source, target, bridge
        E0 of the elements of the table at each level, ``[n_elements]``.
    settings
        How to fit.
    n_with_target
        Rows that have an energy at the target level.
    in_overlap, in_target
        Overlap structures with each element, and those of them with a target energy, ``[n_elements]``.
    """

    table: OverlapTable
    source: NDArray[np.float64]
    target: NDArray[np.float64]
    bridge: NDArray[np.float64] | None
    settings: AlignmentSettings
    n_with_target: int
    in_overlap: NDArray[np.int64]
    in_target: NDArray[np.int64]

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """Elements whose target E0 has to be fitted, ``[n_elements]``."""
        return np.isnan(self.target)

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Elements that some overlap structure has, ``[n_elements]``."""
        return self.in_overlap > 0

    @property
    def fits_scale(self) -> bool:
        """Whether the scale is an unknown."""
        return self.settings.fixed_scale is None

    def solve(
        self,
        folds: NDArray[np.int64] | None = None,
        without: int = -1,
        *,
        full: Solution | None = None,
        pairs: bool = True,
    ) -> Solution:
        """Fit; every row is divided by its number of atoms, which is the weight 1/N^2.

        Parameters
        ----------
        folds, without
            Fold of each row, and the fold to leave out.
        full
            The solution of all rows: its weights are taken, which saves passes and, where rows are many, is the same.
        pairs
            With the pair terms, if the table has their features.
        """

        def rows() -> Iterator[OverlapRows]:
            for part in self.table.rows():
                yield part if folds is None else part.select(folds[part.index] != without)

        if folds is None and len(self.table) > MANY_ROWS:
            # A part of the rows gives a start that a few passes over all of them mend.
            stride = -(-len(self.table) // (MANY_ROWS // 2))
            some = [part.select(part.index % stride == 0) for part in self.table.rows()]
            return self._solve(rows, pairs=pairs, start=self._solve(lambda: iter(some), pairs=pairs))
        return self._solve(rows, pairs=pairs, full=full)

    def _solve(
        self,
        rows: Callable[[], Iterator[OverlapRows]],
        *,
        pairs: bool,
        start: Solution | None = None,
        full: Solution | None = None,
    ) -> Solution:
        target = self.target.copy()
        unknown = self.unknown & self.covered
        shift_fit = None
        if self.bridge is not None and unknown.any():
            shift_fit = self._shifts(rows, unknown, start, full)
            target[unknown] = self.bridge[unknown] + shift_fit.coefficients
        joint = unknown if self.bridge is None else np.zeros_like(unknown)
        # Unknown E0 are counted from the source's: where few structures leave them open, they stay there.
        known = np.nan_to_num(np.where(joint, self.source, target) if self.bridge is None else self.bridge)
        level = "target" if self.bridge is None else "bridge"
        given = self.settings.fixed_scale
        n_pairs = len(self.table.pairs) * self.table.basis.n_radial if self.table.basis and pairs else 0
        n_free = int(self.fits_scale) + int(joint.sum())

        def chunks() -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
            for part in rows():
                n_atoms = part.n_atoms
                atomization = part.energies["source"] - part.counts @ np.nan_to_num(self.source)
                values = part.energies[level] - part.counts @ known
                columns = [part.counts[:, joint], part.features[:, :n_pairs]]
                if given is None:
                    columns.insert(0, atomization[:, None])
                else:
                    values = values - given * atomization
                yield np.hstack(columns) / n_atoms[:, None], values / n_atoms

        prior = np.r_[np.zeros(n_free), np.full(n_pairs, self.settings.pair_prior)] if n_pairs else None
        fit = self._fit(chunks, n_free + n_pairs, prior, start.fit if start else None, full.fit if full else None)
        scale = float(fit.coefficients[0]) if given is None else given
        target[joint] = self.source[joint] + fit.coefficients[int(self.fits_scale) : n_free]
        return Solution(scale, target, fit.coefficients[n_free:], fit, shift_fit)

    def _fit(
        self,
        chunks: Chunks,
        n_unknowns: int,
        prior: NDArray[np.float64] | None,
        start: LinearFit | None,
        full: LinearFit | None,
    ) -> LinearFit:
        if full is not None:
            return refit(chunks, full, prior=prior)
        return huber_fit(
            chunks,
            n_unknowns,
            factor=self.settings.huber_factor,
            max_iterations=self.settings.max_iterations,
            # Far below the standard error of so many rows.
            tolerance=1e-12 if start is None else 1e-7,
            prior=prior,
            start=None if start is None else start.coefficients,
        )

    def _shifts(
        self,
        rows: Callable[[], Iterator[OverlapRows]],
        unknown: NDArray[np.bool_],
        start: Solution | None,
        full: Solution | None,
    ) -> LinearFit:
        """Fit the core shifts of unknown elements between bridge and target (1.2)."""
        assert self.bridge is not None
        known = np.where(unknown, 0.0, np.nan_to_num(self.target - self.bridge))

        def chunks() -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
            for part in rows():
                both = part.select(np.isfinite(part.energies["target"]))
                rest = both.energies["target"] - both.energies["bridge"] - both.counts @ known
                yield both.counts[:, unknown] / both.n_atoms[:, None], rest / both.n_atoms

        return self._fit(
            chunks, int(unknown.sum()), None, start.shift_fit if start else None, full.shift_fit if full else None
        )

    @property
    def reference(self) -> str:
        """What ``referenced`` gives, in words.

        Without target energies of the molecules (mode ``bridge`` with known atoms) the bridge energies
        carried to the target by the core shifts stand in for them: the metrics then say how well source and
        bridge functional agree, not how well bridge and target do.
        """
        enough = self.bridge is None or self.n_with_target >= self.settings.min_overlap
        return REFERENCE_TARGET if enough else REFERENCE_BRIDGE

    def referenced(self, target: NDArray[np.float64]) -> Iterator[tuple[OverlapRows, NDArray[np.float64]]]:
        """Pass over the rows that have a reference energy, with it."""
        for part in self.table.rows():
            if self.reference == REFERENCE_BRIDGE:
                assert self.bridge is not None
                yield part, part.energies["bridge"] + part.offset(target - self.bridge)
                continue
            chosen = np.isfinite(part.energies["target"])
            kept = part if chosen.all() else part.select(chosen)
            yield kept, kept.energies["target"]

    def aligned(self, part: OverlapRows, solution: Solution) -> NDArray[np.float64]:
        """Return aligned energies of some rows (1.4)."""
        atomization = part.energies["source"] - part.offset(self.source)
        energies = part.offset(solution.target) + solution.scale * atomization
        return energies + part.features @ solution.pairs if len(solution.pairs) else energies

    def pair_terms(self, solution: Solution) -> list[PairTerms]:
        """Return the bond terms as they are kept."""
        basis = self.table.basis
        if basis is None or not len(solution.pairs):
            return []
        rows = solution.pairs.reshape(-1, basis.n_radial).tolist()
        return [PairTerms(basis=basis, coefficients=dict(zip(self.table.pairs, rows, strict=True)))]
