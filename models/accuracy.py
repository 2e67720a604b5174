"""Errors of predictions, gathered frame by frame: overall, by element, by source; memory does not grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from atomfoundry.datasets import attach_labels, labels_of
from atomfoundry.documents.model import ErrorMetrics
from atomfoundry.errors import LabelError, ModelError
from atomfoundry.models.element_shift import ElementShift
from atomfoundry.models.prediction import Prediction
from atomfoundry.models.running_errors import PointSample, RunningErrors
from atomfoundry.models.training.monitor import ElementErrors, ElementMonitor

QUANTITIES = {"energy": "eV/atom", "forces": "eV/A", "stress": "eV/A^3"}
"""Quantity -> unit; energies are per atom, the others per component."""

GROUPS_KEPT = 1000
"""So many sources have errors of their own; later ones share ``"others"``."""


@dataclass
class GroupErrors:
    """Errors of the frames that have something in common."""

    n_frames: int = 0
    errors: dict[str, RunningErrors] = field(default_factory=lambda: {name: RunningErrors() for name in QUANTITIES})

    def as_row(self) -> dict[str, float | int | None]:
        """Return counts and errors as plain values; None where there was no label."""
        row: dict[str, float | int | None] = {"n_frames": self.n_frames}
        for quantity, errors in self.errors.items():
            row[f"{quantity}_mae"] = errors.mae if errors.count else None
            row[f"{quantity}_rmse"] = errors.rmse if errors.count else None
        return row


@dataclass(frozen=True)
class Failure:
    """A frame without a prediction."""

    frame: str
    formula: str
    reason: str
    message: str


class Accuracy:
    """Errors of one head on one set.

    Frames of isolated atoms are predicted but do not count: their energy is E0, and would only dilute the mean.

    Parameters
    ----------
    head, split
        Names, for the records.
    isolated_energies
        Element -> eV; energies count from here in R2 and plots where all elements of a frame are known. Errors do
        not depend on it.
    seed
        Of the share of points that is kept for plots.
    failures_kept
        At most so many failures are kept with their messages; all are counted.
    """

    def __init__(
        self,
        *,
        head: str = "",
        split: str = "all",
        isolated_energies: Mapping[str, float] | None = None,
        seed: int = 0,
        failures_kept: int = 100,
    ) -> None:
        self.head, self.split = head, split
        self.isolated_energies = dict(isolated_energies or {})
        self.overall = GroupErrors()
        self.by_source: dict[str, GroupErrors] = {}
        self.by_sampling: dict[str, GroupErrors] = {}
        self.samples = {name: PointSample(seed=seed) for name in QUANTITIES}
        self.reasons: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.n_seen = self.n_isolated = self.n_unlabelled = 0
        self._failures_kept = failures_kept
        self._elements = ElementMonitor(head)
        self._shift = ElementShift()

    def add(self, frame: Atoms, prediction: Prediction | LabelError) -> None:
        """Add one frame with its labels.

        Parameters
        ----------
        frame
            Labelled; labels that it lacks are left out.
        prediction
            Its prediction, or why there is none.
        """
        self.n_seen += 1
        if isinstance(prediction, LabelError):
            self.reasons[prediction.reason] += 1
            if len(self.failures) < self._failures_kept:
                name = str(frame.info.get("frame_id") or f"frame {self.n_seen - 1}")
                self.failures.append(Failure(name, frame.get_chemical_formula(), prediction.reason, prediction.message))
            return
        if len(frame) == 1 and not frame.pbc.any():
            self.n_isolated += 1
            return
        pairs = self._pairs(frame, prediction)
        if not pairs:
            self.n_unlabelled += 1
            return
        groups = [self.overall]
        for table, key in ((self.by_source, "source"), (self.by_sampling, "sampling")):
            # "silicon.cif#12" is the twelfth structure of a file
            name = str(frame.info.get(key) or "").partition("#")[0] or "unknown"
            if name not in table and len(table) >= GROUPS_KEPT:
                name = "others"
            groups.append(table.setdefault(name, GroupErrors()))
        for group in groups:
            group.n_frames += 1
            for quantity, (reference, predicted) in pairs.items():
                group.errors[quantity].add(reference, predicted)
        for quantity, (reference, predicted) in pairs.items():
            self.samples[quantity].add(reference, predicted)
        _, forces, _ = labels_of(frame)
        if forces is not None and not np.isfinite(forces).all():
            forces = None
        symbols, energy = frame.get_chemical_symbols(), pairs.get("energy")
        error = None if energy is None else float((energy[1] - energy[0])[0])
        if error is not None:
            self._shift.add(symbols, error)
        self._elements.add(
            symbols,
            energy_error=error,
            forces=forces,
            forces_error=None if forces is None else prediction.forces - forces,
        )

    def _pairs(self, frame: Atoms, prediction: Prediction) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return reference and prediction of what has a label, flat."""
        energy, forces, stress = labels_of(frame)
        pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if energy is not None and np.isfinite(energy):
            symbols = frame.get_chemical_symbols()
            known = set(symbols) <= set(self.isolated_energies)
            base = sum(self.isolated_energies[s] for s in symbols) if known else 0.0
            pairs["energy"] = (
                np.array([(energy - base) / len(frame)]),
                np.array([(prediction.energy - base) / len(frame)]),
            )
        for quantity, label, predicted in (
            ("forces", forces, prediction.forces),
            ("stress", stress, prediction.stress),
        ):
            if label is None or predicted is None:
                continue
            finite = np.isfinite(label)
            if finite.any():
                pairs[quantity] = (label[finite], predicted[finite])
        return pairs

    @property
    def n_failed(self) -> int:
        """Frames without a prediction."""
        return sum(self.reasons.values())

    def by_element(self) -> list[ElementErrors]:
        """Return errors element by element, the worst first."""
        return self._elements.report()

    def shifted(self) -> tuple[dict[str, float], float]:
        """Return the best energy shift per element, eV, and the energy RMSE that it leaves, eV/atom.

        For a model of another level of theory, or of another choice of zero, this is the number that counts.
        """
        return self._shift.solve()

    def metrics(self) -> ErrorMetrics:
        """Return the errors over all frames.

        Raises
        ------
        ModelError
            If no frame has an energy and a prediction.
        """
        if not self.overall.errors["energy"].count:
            why = ", ".join(f"{reason}: {number}" for reason, number in self.reasons.items())
            first = f" The first: {self.failures[0].message}" if self.failures else ""
            raise ModelError(
                f"None of the {self.n_seen} frames of '{self.split}' has an energy and a prediction to compare: "
                f"{self.n_unlabelled} without labels, {self.n_isolated} isolated atoms, {self.n_failed} not predicted"
                f"{f' ({why})' if why else ''}.{first}",
                remedy="Give labelled frames of elements that the model knows.",
            )
        values: dict[str, float | None] = {}
        for quantity, errors in self.overall.errors.items():
            if errors.count:
                values |= {
                    f"{quantity}_mae": errors.mae,
                    f"{quantity}_rmse": errors.rmse,
                    f"{quantity}_r2": errors.r2,
                }
        return ErrorMetrics(
            split=self.split,
            head=self.head,
            n_frames=self.overall.n_frames,
            **values,  # type: ignore[arg-type]
        )

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values: metrics, by element, by source, by sampling, failures."""
        shifts, left = self.shifted()
        return {
            "metrics": self.metrics().model_dump(mode="json"),
            "energy_rmse_shifted": left,
            "energy_shifts": dict(sorted(shifts.items())),
            "largest": {name: errors.largest for name, errors in self.overall.errors.items() if errors.count},
            "by_element": [_finite(vars(entry) | {"alerts": list(entry.alerts)}) for entry in self.by_element()],
            "by_source": {name: group.as_row() for name, group in sorted(self.by_source.items())},
            "by_sampling": {name: group.as_row() for name, group in sorted(self.by_sampling.items())},
            "n_frames_read": self.n_seen,
            "n_isolated_atoms": self.n_isolated,
            "n_unlabelled": self.n_unlabelled,
            "n_failed": self.n_failed,
            "reasons": dict(sorted(self.reasons.items())),
            "failures": [vars(failure) for failure in self.failures],
        }


def gather(
    accuracy: Accuracy, predictions: Iterable[tuple[Atoms, Prediction | LabelError]]
) -> Iterator[tuple[Atoms, Prediction | LabelError]]:
    """Pass predictions on while their errors are gathered.

    Parameters
    ----------
    accuracy
        What gathers.
    predictions
        As `predict` yields them.
    """
    for frame, prediction in predictions:
        accuracy.add(frame, prediction)
        yield frame, prediction


def predicted_frames(predictions: Iterable[tuple[Atoms, Prediction | LabelError]]) -> Iterator[Atoms]:
    """Turn predictions into frames with predicted labels; frames without a prediction are left out.

    Parameters
    ----------
    predictions
        As `predict` yields them.
    """
    for frame, prediction in predictions:
        if isinstance(prediction, LabelError):
            continue
        labelled = attach_labels(frame, prediction.energy, prediction.forces, prediction.stress)
        # the labels are of the predictor, not of the frame's level of theory
        labelled.info["level"] = ""
        yield labelled


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace what is not finite by None, as JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in values.items()
    }
