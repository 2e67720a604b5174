"""Errors of a model on labelled frames, and the predictions behind them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.documents.model import ErrorMetrics
from atomfoundry.errors import ModelError
from atomfoundry.models.training.loader import Frames, n_edges, prepare_graphs
from atomfoundry.models.training.monitor import ElementErrors, ElementMonitor
from atomfoundry.models.training.validation import UPPER, in_chunks, on_device

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro


@dataclass
class Predictions:
    """References and predictions, one entry a frame; None where there is no label or no stress.

    Parameters
    ----------
    type_names
        Elements in the order of the type index.
    head, split
        Of the evaluation.
    frame_id, types, energy_ref, energy_pred, baseline
        Names, (N,) type indices, eV, eV, sum of isolated-atom energies in eV.
    forces_ref, forces_pred
        (N, 3) eV/A.
    stress_ref, stress_pred
        (6,) Voigt, eV/A^3.
    """

    type_names: list[str]
    head: str
    split: str
    frame_id: list[str] = field(default_factory=list)
    types: list[np.ndarray] = field(default_factory=list)
    energy_ref: list[float | None] = field(default_factory=list)
    energy_pred: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    forces_ref: list[np.ndarray | None] = field(default_factory=list)
    forces_pred: list[np.ndarray] = field(default_factory=list)
    stress_ref: list[np.ndarray | None] = field(default_factory=list)
    stress_pred: list[np.ndarray | None] = field(default_factory=list)

    @property
    def n_atoms(self) -> np.ndarray:
        """Atoms of each frame, (B,) int."""
        return np.array([len(types) for types in self.types], dtype=int)

    def energies(self) -> tuple[np.ndarray, np.ndarray]:
        """Return reference and predicted energies above isolated atoms, eV/atom, of the labelled frames."""
        rows = [i for i, energy in enumerate(self.energy_ref) if energy is not None]
        n_atoms, base = self.n_atoms[rows], np.array(self.baseline)[rows]
        reference = np.array([self.energy_ref[i] for i in rows], dtype=float)
        return (reference - base) / n_atoms, (np.array(self.energy_pred)[rows] - base) / n_atoms

    def components(self, quantity: str) -> tuple[np.ndarray, np.ndarray]:
        """Return all reference and predicted components, flat.

        Parameters
        ----------
        quantity
            'forces' (eV/A) or 'stress' (eV/A^3, six a frame).
        """
        references, predictions = getattr(self, f"{quantity}_ref"), getattr(self, f"{quantity}_pred")
        pairs = [
            (ref.ravel(), pred.ravel())
            for ref, pred in zip(references, predictions, strict=True)
            if ref is not None and pred is not None
        ]
        if not pairs:
            return np.empty(0), np.empty(0)
        reference, predicted = (np.concatenate(side) for side in zip(*pairs, strict=True))
        known = np.isfinite(reference)
        return reference[known], predicted[known]

    def shifted_energy_rmse(self) -> float:
        """Return the energy RMSE, eV/atom, after the best shift per element (ALGORITHMS 4.5)."""
        reference, predicted = self.energies()
        rows = [i for i, energy in enumerate(self.energy_ref) if energy is not None]
        counts = np.array([np.bincount(self.types[i], minlength=len(self.type_names)) for i in rows])
        matrix = counts / counts.sum(axis=1, keepdims=True)
        error = predicted - reference
        shift = np.linalg.lstsq(matrix, error, rcond=1e-8)[0]
        return float(np.sqrt(np.mean((error - matrix @ shift) ** 2)))

    def by_element(self) -> list[ElementErrors]:
        """Return errors element by element, the worst first."""
        monitor = ElementMonitor(self.head)
        n_atoms = self.n_atoms
        for i, types in enumerate(self.types):
            energy, forces = self.energy_ref[i], self.forces_ref[i]
            monitor.add(
                [self.type_names[t] for t in types],
                energy_error=None if energy is None else (self.energy_pred[i] - energy) / n_atoms[i],
                forces=forces,
                forces_error=None if forces is None else self.forces_pred[i] - forces,
            )
        return monitor.report()


def evaluate(
    model: Allegro,
    frames: Frames,
    *,
    head: str | None = None,
    split: str = "test",
    batch_size: int = 16,
) -> tuple[ErrorMetrics, Predictions]:
    """Compare a model with labels.

    Isolated atoms are in the predictions but not in the metrics: their energy is E0, and would only dilute
    the mean.

    Parameters
    ----------
    model
        The model.
    frames
        Labelled frames or graphs; what a frame lacks is left out.
    head
        Which readout; None: the first.
    split
        Name of the set, for the records.
    batch_size
        Structures at a time.

    Returns
    -------
    tuple
        Metrics (eV/atom, eV/A, eV/A^3) and predictions.

    Raises
    ------
    ModelError
        If no frame has an energy, or a prediction is not finite.
    """
    name = model.config.heads[0].name if head is None else head
    graphs = prepare_graphs(model, frames, head=model.head_index(name))
    predictions = predictions_of(model, graphs, head=name, split=split, batch_size=batch_size)
    bonded = [i for i, graph in enumerate(graphs) if n_edges(graph) > 0]
    return metrics_of(_chosen(predictions, bonded)), predictions


def predictions_of(model: Allegro, frames: Frames, *, head: str, split: str = "", batch_size: int = 16) -> Predictions:
    """Predict energies, forces and stresses, next to the labels where there are any.

    Parameters
    ----------
    model
        The model.
    frames
        Structures or graphs.
    head
        Which readout.
    split
        Name of the set.
    batch_size
        Structures at a time.

    Raises
    ------
    ModelError
        If a prediction is not finite.
    """
    graphs = prepare_graphs(model, frames, head=model.head_index(head))
    result = Predictions(list(model.config.type_names), head, split)
    table = model.config.heads[model.head_index(head)].isolated_energies
    isolated = np.array([table.get(s, np.nan) if table else 0.0 for s in model.config.type_names])
    device = next(model.parameters()).device
    for batch in in_chunks(graphs, batch_size):
        outputs = model(on_device(batch, device), forces=True, stress=True, create_graph=False)
        energy = outputs["energy"].detach().cpu().numpy()
        forces = outputs["forces"].detach().double().cpu().numpy()
        stress = outputs["stress"].detach().double().cpu().numpy()
        if not (np.isfinite(energy).all() and np.isfinite(forces).all()):
            raise ModelError(
                f"Head '{head}' predicts energies or forces that are not finite among the frames "
                f"{', '.join(batch.frame_ids)}.",
                remedy="Check the structures, and that the head knows all their elements.",
            )
        starts = np.cumsum([0, *np.bincount(batch.batch.numpy(), minlength=len(energy))])
        for i in range(len(energy)):
            atoms = slice(starts[i], starts[i + 1])
            types = batch.types[atoms].numpy()
            reference = float(batch.energy[i])
            labelled_forces = batch.forces[atoms].numpy()
            labelled_stress = batch.stress[i].numpy()[UPPER[0], UPPER[1]]
            predicted_stress = stress[i][UPPER[0], UPPER[1]]
            result.frame_id.append(batch.frame_ids[i])
            result.types.append(types)
            result.energy_ref.append(reference if np.isfinite(reference) else None)
            result.energy_pred.append(float(energy[i]))
            result.baseline.append(float(isolated[types].sum()))
            result.forces_ref.append(labelled_forces if np.isfinite(labelled_forces).any() else None)
            result.forces_pred.append(forces[atoms])
            result.stress_ref.append(labelled_stress if np.isfinite(labelled_stress).any() else None)
            result.stress_pred.append(predicted_stress if np.isfinite(predicted_stress).all() else None)
    return result


def _chosen(predictions: Predictions, rows: Sequence[int]) -> Predictions:
    """Return the predictions of some frames."""
    lists = {
        key: [value[row] for row in rows]
        for key, value in vars(predictions).items()
        if isinstance(value, list) and key != "type_names"
    }
    return Predictions(predictions.type_names, predictions.head, predictions.split, **lists)


def metrics_of(predictions: Predictions) -> ErrorMetrics:
    """Return the metrics of predictions; R2 of energies is that of energies above isolated atoms, per atom.

    Parameters
    ----------
    predictions
        At least one frame with an energy.

    Raises
    ------
    ModelError
        If no frame has an energy.
    """
    reference, predicted = predictions.energies()
    if len(reference) == 0:
        raise ModelError(
            f"None of the frames of split '{predictions.split}' has neighbours and an energy.",
            remedy="Give labelled frames.",
        )
    values: dict[str, float | None] = {}
    pairs = {"energy": (reference, predicted)} | {q: predictions.components(q) for q in ("forces", "stress")}
    for quantity, (ref, pred) in pairs.items():
        if len(ref):
            values[f"{quantity}_mae"] = float(np.abs(pred - ref).mean())
            values[f"{quantity}_rmse"] = float(np.sqrt(((pred - ref) ** 2).mean()))
            values[f"{quantity}_r2"] = _r2(ref, pred)
    return ErrorMetrics(
        split=predictions.split,
        head=predictions.head,
        n_frames=len(predictions.frame_id),
        **values,  # type: ignore[arg-type]
    )


def _r2(reference: np.ndarray, predicted: np.ndarray) -> float | None:
    """Return 1 - SSE/SST; None where the references do not vary."""
    spread = float(((reference - reference.mean()) ** 2).sum())
    if spread <= 0:
        return None
    return 1.0 - float(((predicted - reference) ** 2).sum()) / spread


def write_predictions(path: str | Path, predictions: Sequence[Predictions]) -> Path:
    """Write predictions of several splits and heads as one Parquet file, atomically.

    One row a frame: frame_id, head, split, n_atoms, formula, energy_ref, energy_pred (eV), baseline (eV), and
    lists forces_ref, forces_pred (3N, eV/A), stress_ref, stress_pred (6, eV/A^3), null where there is none.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    predictions
        What `evaluate` returned.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from ase.formula import Formula

    target = Path(path)
    columns: dict[str, list[Any]] = {name: [] for name in PREDICTION_COLUMNS}
    for entry in predictions:
        for i, types in enumerate(entry.types):
            symbols = [entry.type_names[t] for t in types]
            row: Mapping[str, Any] = {
                "frame_id": entry.frame_id[i],
                "head": entry.head,
                "split": entry.split,
                "n_atoms": len(types),
                "formula": Formula.from_list(symbols).format("hill"),
                "energy_ref": entry.energy_ref[i],
                "energy_pred": entry.energy_pred[i],
                "baseline": entry.baseline[i],
                "forces_ref": _flat(entry.forces_ref[i]),
                "forces_pred": _flat(entry.forces_pred[i]),
                "stress_ref": _flat(entry.stress_ref[i]),
                "stress_pred": _flat(entry.stress_pred[i]),
            }
            for name, value in row.items():
                columns[name].append(value)
    kinds = {"s": pa.string(), "i": pa.int64(), "f": pa.float64(), "l": pa.list_(pa.float64())}
    schema = pa.schema([(name, kinds[kind]) for name, kind in PREDICTION_COLUMNS.items()])
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(pa.table(columns, schema=schema), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


PREDICTION_COLUMNS = {
    "frame_id": "s",
    "head": "s",
    "split": "s",
    "n_atoms": "i",
    "formula": "s",
    "energy_ref": "f",
    "energy_pred": "f",
    "baseline": "f",
    "forces_ref": "l",
    "forces_pred": "l",
    "stress_ref": "l",
    "stress_pred": "l",
}
"""Column -> kind: string, integer, float, list of floats."""


def _flat(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else [float(v) for v in np.ravel(values)]
