"""Errors on labelled frames: what parity plots and cumulative error curves show."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from atomfoundry.benchmarks.base import Benchmark, calculator_label
from atomfoundry.benchmarks.error_statistics import (
    PERCENTILES,
    UNITS,
    cumulative_errors,
    error_metrics,
    parity_points,
)
from atomfoundry.benchmarks.kept import KeptItems
from atomfoundry.benchmarks.labelling import energy_of, forces_of, single_point, stress_of
from atomfoundry.benchmarks.records import Failure
from atomfoundry.errors import ConfigurationError, LabelError, StructureError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.checkpoint import Checkpoints
    from atomfoundry.documents import BenchmarkDoc


@dataclass(kw_only=True)
class Parity(Benchmark):
    """Predicted against reference energies (per atom), forces and stresses (per component).

    Parameters
    ----------
    isolated_energies
        Element -> eV; given, the energies of the parity plot and of R2 count from isolated atoms, without
        which R2 of mixed compositions says little. Errors do not depend on it.
    n_cdf
        Points of each cumulative error curve.
    max_points
        At most so many components of forces and of stresses are kept for the parity plot, drawn at random;
        the metrics use all.
    seed
        Of that draw.
    """

    isolated_energies: dict[str, float] = field(default_factory=dict)
    n_cdf: int = 101
    max_points: int = 2000
    seed: int = 0

    benchmark: ClassVar[str] = "parity"
    units: ClassVar[dict[str, str]] = {
        f"{quantity}_{metric}": unit
        for quantity, unit in UNITS.items()
        for metric in ("mae", "rmse", "max", *(f"p{percentile}" for percentile in PERCENTILES))
    }

    def __post_init__(self) -> None:
        if self.n_cdf < 2 or self.max_points < 1:
            raise ConfigurationError(
                f"Parity: n_cdf={self.n_cdf}, max_points={self.max_points}.",
                remedy="Use 2 or more and 1 or more.",
            )

    def run(
        self,
        calculator: BaseCalculator,
        atoms: Sequence[Atoms],
        *,
        reference: BenchmarkDoc | None = None,
        name: str = "",
        calculator_name: str = "",
        checkpoints: Checkpoints | None = None,
    ) -> BenchmarkDoc:
        """Predict labelled frames and compare with their labels.

        Parameters
        ----------
        calculator
            Any ASE calculator.
        atoms
            Labelled frames; their labels are the reference.
        reference
            Parity document of another calculator, to have beside this one.
        name
            Name of the document.
        calculator_name
            How the document names the calculator; default: its own name.
        checkpoints
            Where finished items are kept, so that an interrupted run goes on with the others; None: nowhere.

        Returns
        -------
        BenchmarkDoc
            See `evaluate`.

        Raises
        ------
        NoTimeLeftError
            If the process must end; the same call goes on from the checkpoint.
        """
        started = time.perf_counter()
        label = calculator_label(calculator, calculator_name)
        identity = {"settings": self.settings(), "calculator": label}
        kept = KeptItems(checkpoints, self.benchmark, identity, atoms)
        predictions: list[Atoms | Failure] = []
        for index, frame in enumerate(atoms):
            known = kept.get(str(index), frame)
            if known is None:
                try:
                    with kept.saving():
                        prediction: Atoms | Failure = single_point(frame, calculator, what=_item(frame, index))
                except LabelError as error:
                    prediction = Failure(item=_item(frame, index), reason=error.reason, message=str(error))
                kept.put(str(index), prediction)
                kept.pause(index + 1, len(atoms))
            else:
                prediction = known[0]
            predictions.append(prediction)
        return self._compare(
            predictions,
            atoms,
            started,
            calculator=label,
            name=name,
            reference=reference,
            earlier_s=kept.earlier_s,
        )

    def evaluate(
        self,
        predictions: Sequence[Atoms | None],
        frames: Sequence[Atoms],
        *,
        reference: BenchmarkDoc | None = None,
        name: str = "",
        calculator_name: str = "predictions",
    ) -> BenchmarkDoc:
        """Compare predictions that exist already with the labels.

        Parameters
        ----------
        predictions
            Frames labelled by what is judged, in the order of ``frames``; None where a prediction failed.
        frames
            Labelled frames; their labels are the reference.
        reference
            Parity document of another calculator, to have beside this one.
        name
            Name of the document.
        calculator_name
            What predicted.

        Returns
        -------
        BenchmarkDoc
            Records are of kind ``"frame"`` (one per frame, with its errors), ``"cdf"`` (``quantity``,
            ``error``, ``fraction``) and ``"scatter"`` (``quantity``, ``reference``, ``predicted``).

        Raises
        ------
        StructureError
            If the two sequences do not belong together.
        """
        started = time.perf_counter()
        if len(predictions) != len(frames):
            raise StructureError(
                f"Parity: {len(predictions)} predictions for {len(frames)} frames.",
                remedy="Give one prediction per frame, None where it failed.",
            )
        checked: list[Atoms | Failure] = []
        for index, (prediction, frame) in enumerate(zip(predictions, frames, strict=True)):
            if prediction is None:
                checked.append(Failure(item=_item(frame, index), reason="missing", message="No prediction."))
                continue
            if not np.array_equal(prediction.numbers, frame.numbers):
                raise StructureError(
                    f"Parity: prediction {index} is of {prediction.get_chemical_formula()}, "
                    f"its frame is {frame.get_chemical_formula()}.",
                    remedy="Give the predictions in the order of the frames.",
                )
            checked.append(prediction)
        return self._compare(checked, frames, started, calculator=calculator_name, name=name, reference=reference)

    def _compare(
        self,
        predictions: Sequence[Atoms | Failure],
        frames: Sequence[Atoms],
        started: float,
        *,
        calculator: str,
        name: str,
        reference: BenchmarkDoc | None,
        earlier_s: float = 0.0,
    ) -> BenchmarkDoc:
        pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {quantity: [] for quantity in UNITS}
        records: list[dict[str, Any]] = []
        failures: list[Failure] = []
        for index, (prediction, frame) in enumerate(zip(predictions, frames, strict=True)):
            item = _item(frame, index)
            values = {} if isinstance(prediction, Failure) else self._values(prediction, frame)
            failure = prediction if isinstance(prediction, Failure) else None
            if failure is None and not values:
                failure = Failure(item=item, reason="unlabelled", message="Frame or prediction has no labels.")
            if failure is not None:
                failures.append(failure)
            for quantity, pair in values.items():
                pairs[quantity].append(pair)
            records.append(_record(item, frame, values, failure))
        summary: dict[str, Any] = {"n_frames": len(frames) - len(failures)}
        for quantity, collected in pairs.items():
            if collected:
                truth, predicted = (np.concatenate(side) for side in zip(*collected, strict=True))
                summary |= error_metrics(quantity, truth, predicted)
                records += [
                    cumulative_errors(quantity, truth, predicted, n_points=self.n_cdf),
                    parity_points(quantity, truth, predicted, max_points=self.max_points, seed=self.seed),
                ]
        return self._document(
            started=started,
            calculator=calculator,
            system=_systems(frames),
            name=name or f"{self.benchmark} {calculator}",
            records=records,
            summary=summary,
            n_items=len(frames),
            n_failed=len(failures),
            failures=failures,
            reference=reference,
            earlier_s=earlier_s,
        )

    def _values(self, prediction: Atoms, frame: Atoms) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (reference, predicted) of every quantity that both have, flat."""
        values = {}
        truth, predicted = energy_of(frame), energy_of(prediction)
        if truth is not None and predicted is not None:
            isolated = self._isolated(frame)
            values["energy"] = (
                np.array([(truth - isolated) / len(frame)]),
                np.array([(predicted - isolated) / len(frame)]),
            )
        for quantity, label_of in (("forces", forces_of), ("stress", stress_of)):
            labels = label_of(frame), label_of(prediction)
            if labels[0] is not None and labels[1] is not None:
                values[quantity] = (labels[0].ravel(), labels[1].ravel())
        return values

    def _isolated(self, frame: Atoms) -> float:
        if not self.isolated_energies:
            return 0.0
        missing = sorted(set(frame.symbols) - set(self.isolated_energies))
        if missing:
            raise ConfigurationError(
                f"Parity: isolated_energies has no {missing}.",
                remedy="Give all elements of the frames, or none.",
            )
        return float(sum(self.isolated_energies[symbol] for symbol in frame.symbols))


def _record(
    item: str,
    frame: Atoms,
    values: Mapping[str, tuple[np.ndarray, np.ndarray]],
    failure: Failure | None,
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "kind": "frame",
        "item": item,
        "status": "ok" if failure is None else "failed",
        "reason": None if failure is None else failure.reason,
        "formula": frame.get_chemical_formula(),
        "n_atoms": len(frame),
        "sampling": frame.info.get("sampling", ""),
        "level": frame.info.get("level", ""),
    }
    if "energy" in values:
        truth, predicted = values["energy"]
        record |= {
            "energy_reference": truth[0],
            "energy_predicted": predicted[0],
            "energy_error": predicted[0] - truth[0],
        }
    for quantity in ("forces", "stress"):
        if quantity in values:
            truth, predicted = values[quantity]
            record[f"{quantity}_mae"] = np.abs(predicted - truth).mean()
            record[f"{quantity}_rmse"] = np.sqrt(((predicted - truth) ** 2).mean())
    return record


def _item(frame: Atoms, index: int) -> str:
    return str(frame.info.get("frame_id") or f"frame {index}")


def _systems(frames: Sequence[Atoms]) -> str:
    elements = sorted({str(symbol) for frame in frames for symbol in frame.symbols})
    return "-".join(elements)
