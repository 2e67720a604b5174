"""The arrays behind a report's figures: predictions of a model, energies and forces of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atomfoundry.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted and reference labels of one model, one entry a frame.

    Attributes
    ----------
    split, head
        Name of the split and of the head, ``[n]``.
    energy_ref, energy_pred
        eV/atom above isolated atoms, ``[n]``; NaN where there is no reference.
    forces_ref, forces_pred
        One flat array of components a frame, eV/A; empty where there is none.
    stress_ref, stress_pred
        One array of six components a frame, eV/A^3; empty where there is none.
    """

    split: np.ndarray
    head: np.ndarray
    energy_ref: np.ndarray
    energy_pred: np.ndarray
    forces_ref: list[np.ndarray]
    forces_pred: list[np.ndarray]
    stress_ref: list[np.ndarray]
    stress_pred: list[np.ndarray]

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in self.__dataclass_fields__}
        if len(set(lengths.values())) != 1:
            raise InputError(
                f"Predictions differ in length: {lengths}.", remedy="Give one entry a frame in every column."
            )

    @classmethod
    def from_arrays(cls, columns: dict[str, Any]) -> Predictions:
        """Return predictions from a dict of columns; stress and force columns may be absent.

        Parameters
        ----------
        columns
            Keys are the attributes of this class. Missing labels of a frame are ``None`` or empty.

        Raises
        ------
        InputError
            If an energy column is missing or the columns differ in length.
        """
        for name in ("split", "head", "energy_ref", "energy_pred"):
            if name not in columns:
                raise InputError(f"Predictions have no column '{name}'.", remedy=f"Columns found: {sorted(columns)}.")
        n = len(columns["split"])

        def ragged(name: str) -> list[np.ndarray]:
            empty = np.empty(0)
            values = columns.get(name)
            if values is None:
                return [empty] * n
            return [empty if v is None else np.ravel(np.asarray(v, dtype=float)) for v in values]

        def energies(name: str) -> np.ndarray:
            return np.array([np.nan if v is None else float(v) for v in columns[name]])

        return cls(
            split=np.asarray(columns["split"], dtype=object),
            head=np.asarray(columns["head"], dtype=object),
            energy_ref=energies("energy_ref"),
            energy_pred=energies("energy_pred"),
            forces_ref=ragged("forces_ref"),
            forces_pred=ragged("forces_pred"),
            stress_ref=ragged("stress_ref"),
            stress_pred=ragged("stress_pred"),
        )

    @classmethod
    def from_parquet(cls, path: str | Path) -> Predictions:
        """Return the predictions stored in a Parquet file, one row a frame.

        Columns: ``split``, ``head``, ``n_atoms``, ``baseline`` (sum of isolated-atom energies, eV),
        ``energy_ref`` and ``energy_pred`` (total, eV), and lists ``forces_ref``, ``forces_pred`` (3N, eV/A),
        ``stress_ref``, ``stress_pred`` (6, eV/A^3). Isolated atoms are left out, as they are in the metrics.

        Raises
        ------
        InputError
            If the file is missing, is no Parquet or lacks a column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(str(path))
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(
                f"Predictions {path} cannot be read: {error}", remedy="Evaluate the model again."
            ) from error
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        missing = sorted({"split", "head", "energy_ref", "energy_pred", "n_atoms", "baseline"} - set(columns))
        if missing:
            raise InputError(f"Predictions {path} have no columns {missing}.", remedy="Evaluate the model again.")
        # A lone atom's energy is its baseline by construction: it would only prettify the plots.
        rows = [
            row
            for row, (n, energy, base) in enumerate(
                zip(columns["n_atoms"], columns["energy_pred"], columns["baseline"], strict=True)
            )
            if n > 1 or energy is None or base is None or abs(energy - base) > 1e-9
        ]
        chosen = {name: [columns[name][row] for row in rows] for name in cls.__dataclass_fields__ if name in columns}
        for name in ("energy_ref", "energy_pred"):
            chosen[name] = [
                None
                if value is None or columns["baseline"][row] is None
                else (value - columns["baseline"][row]) / columns["n_atoms"][row]
                for value, row in zip(chosen[name], rows, strict=True)
            ]
        return cls.from_arrays(chosen)

    def pairs(self, quantity: str, *, head: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return reference and prediction of one quantity as two flat arrays of equal length.

        Parameters
        ----------
        quantity
            ``"energy"`` (eV/atom), ``"forces"`` (eV/A, components) or ``"stress"`` (eV/A^3, components).
        head, split
            Which frames.
        """
        rows = np.flatnonzero((self.head == head) & (self.split == split))
        if quantity == "energy":
            ref, pred = self.energy_ref[rows], self.energy_pred[rows]
        else:
            refs, preds = getattr(self, f"{quantity}_ref"), getattr(self, f"{quantity}_pred")
            both = [row for row in rows if refs[row].size and refs[row].size == preds[row].size]
            if not both:
                return np.empty(0), np.empty(0)
            ref = np.concatenate([refs[row] for row in both])
            pred = np.concatenate([preds[row] for row in both])
        good = np.isfinite(ref) & np.isfinite(pred)
        return ref[good], pred[good]


@dataclass(frozen=True, kw_only=True)
class DatasetArrays:
    """What the histograms of one dataset need.

    Attributes
    ----------
    name
        Name of the dataset.
    energies
        eV/atom above the isolated atoms, ``[n_frames]``.
    forces
        Force magnitudes, eV/A, ``[n_atoms]``.
    """

    name: str
    energies: np.ndarray
    forces: np.ndarray

    @classmethod
    def from_dataset(cls, path: str | Path) -> DatasetArrays:
        """Return the arrays of a dataset folder.

        Energies are counted from the dataset's own isolated-atom energies; frames with an element that has
        none are left out.
        """
        from ase.data import atomic_numbers

        from atomfoundry.datasets import Dataset

        dataset = Dataset.open(path)
        isolated = {atomic_numbers[symbol]: energy for symbol, energy in dataset.isolated_energies.items()}
        energies, forces = [], []
        for atoms in dataset.frames():
            results = {} if atoms.calc is None else atoms.calc.results
            if "forces" in results:
                forces.append(np.linalg.norm(results["forces"], axis=1))
            if "energy" in results and all(int(z) in isolated for z in atoms.numbers):
                reference = sum(isolated[int(z)] for z in atoms.numbers)
                energies.append((results["energy"] - reference) / len(atoms))
        return cls(
            name=dataset.name,
            energies=np.asarray(energies, dtype=float),
            forces=np.concatenate(forces) if forces else np.empty(0),
        )
