"""Uncertainty of calculators that have none of their own: the disagreement of a committee (ALGORITHMS 5.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from atomfoundry.benchmarks.labelling import forces_of, single_point
from atomfoundry.checkpoint.arrays import KeptArrays
from atomfoundry.checkpoint.dynamics import structure_identity
from atomfoundry.datasets import labels_of
from atomfoundry.errors import LabelError, ModelError
from atomfoundry.models.uncertainty.conformal import conformal_quantile, conformal_scores
from atomfoundry.models.uncertainty.llpr import HIGH_FACTOR, HIGH_FORCE, LOW_PERCENTILE

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.checkpoint import Checkpoints


class CommitteeUncertainty:
    """How much the forces of several calculators differ; the first one drives the dynamics.

    A committee knows the spread of its members, not what they all get wrong: calibrate it. Four members or more
    are advised.

    Parameters
    ----------
    members
        Two calculators or more.
    names
        Theirs, for reports.
    coverage
        Share of errors that the calibrated sigma shall cover.

    Attributes
    ----------
    quantile
        Conformal factor on the disagreement; 1 before `calibrate`.
    n_calibration
        Frames it was calibrated on.

    Raises
    ------
    ModelError
        If there is only one member, or an object twice.
    """

    def __init__(self, members: Sequence[BaseCalculator], *, names: Sequence[str] = (), coverage: float = 0.9) -> None:
        if len({id(member) for member in members}) < 2 or len({id(member) for member in members}) != len(members):
            raise ModelError(
                f"A committee of {len({id(member) for member in members})} calculators has nothing to disagree on.",
                remedy="Give two calculators or more, best four, trained from different seeds.",
            )
        self.members = list(members)
        self.names = list(names) or [type(member).__name__ for member in members]
        self.coverage = coverage
        self.quantile = 1.0
        self.n_calibration = 0
        self._low: float | None = None

    def head(self, name: str | None = None) -> str:
        """Return the name given: calculators have no heads to check."""
        return name or ""

    def calculator(self, head: str | None = None) -> BaseCalculator:
        """Return the member that drives the dynamics."""
        return self.members[0]

    def thresholds(self, head: str | None = None) -> dict[str, float]:
        """Return 'low' and 'high' of ALGORITHMS 5.4, eV/A.

        Raises
        ------
        ModelError
            If it was not calibrated.
        """
        if self._low is None:
            raise ModelError("The committee has no thresholds.", remedy="Calibrate it on labelled frames.")
        return {"low": self._low, "high": max(HIGH_FACTOR * self._low, HIGH_FORCE)}

    def forces(self, atoms: Atoms) -> np.ndarray:
        """Return every member's forces, (K, N, 3) eV/A; a member that fails gives NaN."""
        rows = []
        for member in self.members:
            try:
                forces = forces_of(single_point(atoms, member))
            except LabelError:
                forces = None
            rows.append(np.full((len(atoms), 3), np.nan) if forces is None else forces)
        return np.array(rows)

    def sigma_forces(
        self, atoms: Atoms, *, head: str | None = None, n_samples: int | None = None, conformal: bool = True
    ) -> np.ndarray:
        """Return each atom's force uncertainty, the root of the summed unbiased variances, (N,) eV/A.

        Parameters
        ----------
        atoms
            The structure.
        head, n_samples
            As for LLPR; nothing depends on them.
        conformal
            Multiply by the conformal quantile.
        """
        sigma = np.sqrt(self.forces(atoms).var(axis=0, ddof=1).sum(axis=1))
        return (self.quantile if conformal else 1.0) * sigma

    def calibrate(
        self,
        frames: Iterable[Atoms],
        *,
        low_percentile: float = LOW_PERCENTILE,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        """Find conformal quantile and thresholds on labelled frames that no member was trained on.

        The quantile is for the errors of the first member, which drives.

        Parameters
        ----------
        frames
            With forces; others, isolated atoms and frames that a member cannot compute are passed over.
        low_percentile
            Of the largest force sigma of each frame: the low threshold.
        checkpoints
            Where the members' forces are kept, so that an interrupted calibration goes on; None: nowhere.

        Raises
        ------
        NoTimeLeftError
            If the process must end; the same call goes on from the checkpoint.
        ModelError
            If too few forces are left to promise the coverage, or all members agree.
        """
        errors, sigmas, largest = [], [], []
        usable = []
        for frame in frames:
            reference = labels_of(frame)[1]
            if reference is not None and not (len(frame) == 1 and not frame.pbc.any()):
                usable.append((frame, reference))
        kept = KeptArrays(
            checkpoints,
            "committee",
            "calibration of the committee",
            lambda: {"members": self.names, "frames": [structure_identity(frame) for frame, _ in usable]},
        )
        every = kept.each("frame", len(usable), lambda number: self.forces(usable[number][0]))
        for (_, reference), forces in zip(usable, every, strict=True):
            if not np.isfinite(forces).all():
                continue
            sigma = np.sqrt(forces.var(axis=0, ddof=1).sum(axis=1))
            known = np.isfinite(reference).all(axis=1)
            errors.append(np.linalg.norm(forces[0] - reference, axis=1)[known])
            sigmas.append(sigma[known])
            largest.append(float(sigma.max()))
        flat_errors = np.concatenate(errors) if errors else np.empty(0)
        flat_sigmas = np.concatenate(sigmas) if sigmas else np.empty(0)
        if not len(flat_errors) or not flat_sigmas.max() > 0:
            raise ModelError(
                f"The committee {', '.join(self.names)} cannot be calibrated: "
                + ("its members agree on every force." if len(flat_errors) else "no labelled frame could be computed."),
                remedy="Give members that differ and frames with forces that they can compute.",
            )
        floor = 1e-12 * float(flat_sigmas.max())
        scores = conformal_scores(flat_errors, np.maximum(flat_sigmas, floor))
        quantile = conformal_quantile(scores, alpha=1 - self.coverage)
        if not np.isfinite(quantile):
            raise ModelError(
                f"{len(flat_errors)} forces cannot promise a coverage of {self.coverage:.0%}.",
                remedy="Calibrate on more labelled frames, or ask for less coverage.",
            )
        self.quantile = quantile
        self.n_calibration = len(largest)
        self._low = quantile * float(np.percentile(largest, low_percentile))


class NoUncertainty:
    """A calculator alone: every frame looked at is a candidate, none counts as certain or as lost.

    Parameters
    ----------
    member
        The calculator that drives the dynamics.
    """

    def __init__(self, member: BaseCalculator) -> None:
        self.member = member

    def head(self, name: str | None = None) -> str:
        """Return the name given."""
        return name or ""

    def calculator(self, head: str | None = None) -> BaseCalculator:
        """Return the calculator."""
        return self.member

    def thresholds(self, head: str | None = None) -> dict[str, float]:
        """Return bounds that let every finite number pass."""
        return {"low": -1.0, "high": float("inf")}

    def sigma_forces(self, atoms: Atoms, *, head: str | None = None, n_samples: int | None = None) -> np.ndarray:
        """Return zeros, (N,): nothing is known."""
        return np.zeros(len(atoms))
