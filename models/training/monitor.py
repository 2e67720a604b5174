"""Errors by element and by size of the force (ALGORITHMS 3.7)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

logger = logging.getLogger(__name__)

FORCE_BINS = (0.0, 1.0, 10.0, 50.0, np.inf)
"""Edges of the bins of the reference force's norm, eV/A."""

ALERT_FACTOR = 3.0
"""An element is reported if its force RMSE exceeds this many medians."""

ALERT_COUNT = 100
"""An element is reported if it has fewer atoms than this."""


@dataclass(frozen=True)
class ElementErrors:
    """Errors of one element under one head.

    Parameters
    ----------
    element, head
        Whose.
    n_atoms
        Atoms with force labels.
    forces_rmse, forces_mae
        eV/A, over components; NaN without force labels.
    energy_mae
        eV/atom: the structures' residuals, weighted by the element's share of the atoms.
    alerts
        'few_atoms' and 'large_error', where they hold.
    """

    element: str
    head: str
    n_atoms: int
    forces_rmse: float
    forces_mae: float
    energy_mae: float
    alerts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForceBinErrors:
    """Errors of the forces whose reference is of some size, under one head.

    Parameters
    ----------
    head
        Whose.
    low, high
        Norm of the reference force, eV/A: from, and up to.
    n_atoms
        Atoms with all force labels.
    forces_rmse, forces_mae
        eV/A, over components.
    """

    head: str
    low: float
    high: float
    n_atoms: int
    forces_rmse: float
    forces_mae: float


def with_alerts(entries: Sequence[ElementErrors]) -> list[ElementErrors]:
    """Return the errors with what is to be said of each element.

    Parameters
    ----------
    entries
        Of one head and set; the median is that of their force RMSE.
    """
    known = [entry.forces_rmse for entry in entries if np.isfinite(entry.forces_rmse)]
    median = float(np.median(known)) if known else 0.0
    judged = []
    for entry in entries:
        alerts = []
        if entry.n_atoms < ALERT_COUNT:
            alerts.append("few_atoms")
        if entry.n_atoms and not entry.forces_rmse <= ALERT_FACTOR * median:  # not a number is worst
            alerts.append("large_error")
        judged.append(replace(entry, alerts=tuple(alerts)))
    return judged


def worst_first(entries: Sequence[ElementErrors]) -> list[ElementErrors]:
    """Return the entries with the largest force RMSE first, those without forces last.

    Parameters
    ----------
    entries
        In any order.
    """
    return sorted(entries, key=lambda entry: -np.nan_to_num(entry.forces_rmse, nan=-1.0))


def warn_of_large_errors(entries: Sequence[ElementErrors]) -> None:
    """Name the elements whose forces are far worse than those of the others, in the log.

    Parameters
    ----------
    entries
        Judged by `with_alerts`.
    """
    for head in dict.fromkeys(entry.head for entry in entries):
        large = [entry for entry in entries if entry.head == head and "large_error" in entry.alerts]
        if large:
            logger.warning(
                "Head '%s': on the validation frames the force RMSE of %s is over %g times the median of all elements. "
                "Look at the labels, or add frames that hold such atoms.",
                head,
                ", ".join(f"{e.element} ({e.forces_rmse:.3g} eV/A, {e.n_atoms} atoms)" for e in large),
                ALERT_FACTOR,
            )


class ElementMonitor:
    """Collects errors frame by frame.

    Parameters
    ----------
    head
        Name of the head, for the report.
    """

    def __init__(self, head: str = "") -> None:
        self.head = head
        self._squared: dict[str, float] = {}
        self._absolute: dict[str, float] = {}
        self._atoms: dict[str, int] = {}
        self._components: dict[str, int] = {}
        self._energy: dict[str, list[float]] = {}
        self._bins = np.zeros((len(FORCE_BINS) - 1, 2))

    def add(
        self,
        symbols: Sequence[str],
        *,
        energy_error: float | None = None,
        forces: np.ndarray | None = None,
        forces_error: np.ndarray | None = None,
    ) -> None:
        """Add one frame.

        Parameters
        ----------
        symbols
            Elements of the N atoms.
        energy_error
            Predicted minus reference, eV/atom.
        forces
            (N, 3) reference, eV/A; components without a label are NaN and do not count. None: all are labelled.
        forces_error
            (N, 3) predicted minus reference, eV/A; NaN where there is a label is an error like any other.
        """
        names = np.asarray(symbols)
        known = np.ones((len(names), 3), dtype=bool) if forces is None else np.isfinite(forces)
        for element in sorted(set(symbols)):
            of_element = names == element
            share = float(of_element.mean())
            if energy_error is not None:
                entry = self._energy.setdefault(element, [0.0, 0.0])
                entry[0] += share * abs(energy_error)
                entry[1] += share
            if forces_error is not None:
                labelled = known[of_element]
                error = np.where(labelled, forces_error[of_element], 0.0)
                self._components[element] = self._components.get(element, 0) + int(labelled.sum())
                self._squared[element] = self._squared.get(element, 0.0) + float((error**2).sum())
                self._absolute[element] = self._absolute.get(element, 0.0) + float(np.abs(error).sum())
                self._atoms[element] = self._atoms.get(element, 0) + int(labelled.any(axis=1).sum())
        if forces is not None and forces_error is not None:
            whole = known.all(axis=1)
            index = np.digitize(np.linalg.norm(forces[whole], axis=1), FORCE_BINS[1:-1])
            squares = (forces_error[whole] ** 2).sum(1)
            np.add.at(self._bins, index, np.stack([squares, np.full(len(index), 3.0)], axis=1))

    def report(self) -> list[ElementErrors]:
        """Return one entry per element, the largest force RMSE first."""
        rmse = {e: float(np.sqrt(s / self._components[e])) for e, s in self._squared.items() if self._components[e]}
        entries = []
        for element in sorted(set(rmse) | set(self._energy)):
            n_atoms = self._atoms.get(element, 0)
            total, share = self._energy.get(element, (0.0, 0.0))
            entries.append(
                ElementErrors(
                    element=element,
                    head=self.head,
                    n_atoms=n_atoms,
                    forces_rmse=rmse.get(element, float("nan")),
                    forces_mae=self._absolute[element] / self._components[element] if n_atoms else float("nan"),
                    energy_mae=total / share if share else float("nan"),
                )
            )
        return worst_first(with_alerts(entries))

    def force_bins(self) -> list[dict[str, float]]:
        """Return per bin of the reference force its edges (eV/A), RMSE (eV/A) and number of atoms."""
        return [
            {"low": low, "high": high, "rmse": float(np.sqrt(s / n)) if n else float("nan"), "n_atoms": n / 3}
            for low, high, (s, n) in zip(FORCE_BINS[:-1], FORCE_BINS[1:], self._bins, strict=True)
        ]
