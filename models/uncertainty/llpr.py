"""Last-layer prediction rigidity: uncertainties from one pass over the training set (ALGORITHMS 5.1, 5.2)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atomfoundry.checkpoint import write_atomically
from atomfoundry.checkpoint.arrays import KeptArrays
from atomfoundry.errors import ModelError
from atomfoundry.models.training.loader import Frames, build_copy_with_head, prepare_graphs, without_isolated
from atomfoundry.models.training.validation import in_chunks, on_device
from atomfoundry.models.uncertainty.conformal import conformal_quantile, conformal_scores
from atomfoundry.models.uncertainty.posterior import (
    CalibrationMethod,
    FeatureHessian,
    ReadoutPosterior,
    calibrate,
)

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.checkpoint import Checkpoints
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.calculator import FoundryCalculator
    from atomfoundry.models.graph import GraphBatch

LLPR_VERSION = 1
CHUNK = 32
"""Backward passes done at once."""
LOW_PERCENTILE = 95.0
"""t_lo: this percentile of the largest force sigma of each calibration frame."""
HIGH_FACTOR = 5.0
HIGH_FORCE = 1.0
"""t_hi: at least this, eV/A."""


def feature_forces(model: Allegro, batch: GraphBatch, directions: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """Return minus the gradient of each direction . features: forces of that many readouts at once (Eq. 5.4).

    Parameters
    ----------
    model
        Its features are linear in the energy: E = w . f + constant.
    batch
        N atoms, any number of structures.
    directions
        (M, d) float64 readout vectors.
    chunk
        Backward passes done at once.

    Returns
    -------
    Tensor
        (M, N, 3) float64, in units of the direction's energies per A, on the CPU.
    """
    device = next(model.parameters()).device
    batch, directions = on_device(batch, device), directions.to(device)
    positions = batch.positions.detach().clone().requires_grad_(True)
    moved = replace(batch, positions=positions)
    features = model.forward_positions(moved, forces=False, stress=False)["features"]
    parts = []
    for start in range(0, directions.shape[0], chunk):
        block = directions[start : start + chunk]
        (gradient,) = torch.autograd.grad(
            features,
            positions,
            grad_outputs=block[:, None, :].expand(-1, features.shape[0], -1).to(features.dtype),
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=False,
        )
        parts.append(-gradient.detach())
    return torch.cat(parts).cpu()


def _features(model: Allegro, batch: GraphBatch) -> Tensor:
    """Return (B, d) what the energies are linear in, on the CPU, where all linear algebra is done."""
    with torch.no_grad():
        outputs = model(on_device(batch, next(model.parameters()).device), forces=False, stress=False)
        return outputs["features"].cpu()


def model_fingerprint(model: Allegro) -> str:
    """Return a hash of all weights: an uncertainty belongs to one model.

    Parameters
    ----------
    model
        The model.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class HeadUncertainty:
    """What is known about one head.

    Parameters
    ----------
    posterior
        Covariance of the readout, alpha included.
    quantiles
        'energy', 'forces' -> conformal quantile q; absent where there was nothing to calibrate on.
    n_training, n_calibration
        Structures.
    sigma_forces_low
        t_lo of ALGORITHMS 5.4 from the calibration frames, eV/A; None without them.
    points
        Calibration frames: 'frame_id', 'error' and 'sigma' of the energy, eV/atom, sigma calibrated by alpha.
    """

    posterior: ReadoutPosterior
    quantiles: dict[str, float] = field(default_factory=dict)
    n_training: int = 0
    n_calibration: int = 0
    sigma_forces_low: float | None = None
    points: list[dict[str, float | str]] = field(default_factory=list)


class LLPRUncertainty:
    """Uncertainties of energies and forces of one model, per head.

    Make it with `fit_uncertainty` or `load_uncertainty`. All sigmas are widths of an error distribution at
    the training set's level of theory, not errors.

    Parameters
    ----------
    model
        The model whose features were used.
    heads
        Head name -> what is known.
    coverage
        Share of errors that q x sigma shall cover.
    fingerprint
        Of the model; None: computed.
    """

    def __init__(
        self,
        model: Allegro,
        heads: Mapping[str, HeadUncertainty],
        *,
        coverage: float = 0.9,
        fingerprint: str | None = None,
    ) -> None:
        self.model = model
        self.heads = dict(heads)
        self.coverage = coverage
        self.fingerprint = model_fingerprint(model) if fingerprint is None else fingerprint
        self._samples: dict[tuple[str, int, int], Tensor] = {}

    def head(self, name: str | None = None) -> str:
        """Return the name of a fitted head; None: the first.

        Raises
        ------
        ModelError
            If there is no uncertainty of that head.
        """
        chosen = next(iter(self.heads)) if name is None else name
        if chosen not in self.heads:
            raise ModelError(
                f"There is no uncertainty of head '{chosen}'; there is of {', '.join(self.heads)}.",
                remedy="Fit it with that head's training frames.",
            )
        return chosen

    def calculator(self, head: str | None = None) -> FoundryCalculator:
        """Return a calculator of the model with a fitted head, for dynamics."""
        from atomfoundry.models.calculator import FoundryCalculator

        return FoundryCalculator(self.model, head=self.head(head))

    def thresholds(self, head: str | None = None) -> dict[str, float]:
        """Return 'low' and 'high' of ALGORITHMS 5.4, eV/A: where a force is uncertain, and where it is lost.

        Raises
        ------
        ModelError
            If the head was not calibrated.
        """
        name = self.head(head)
        low = self.heads[name].sigma_forces_low
        if low is None:
            raise ModelError(f"Head '{name}' has no thresholds.", remedy="Fit with calibration frames.")
        return {"low": low, "high": max(HIGH_FACTOR * low, HIGH_FORCE)}

    def sigma_energy(
        self, structures: Atoms | GraphBatch | Frames, *, head: str | None = None, conformal: bool = True
    ) -> np.ndarray:
        """Return the uncertainty of the total energies, (B,) eV (Eq. 5.1).

        Parameters
        ----------
        structures
            One structure, a batch or several.
        head
            None: the first.
        conformal
            Multiply by the conformal quantile, where there is one.
        """
        name = self.head(head)
        entry = self.heads[name]
        parts = [entry.posterior.sigma(self._features(batch)) for batch in self._batches(structures, name)]
        factor = entry.quantiles.get("energy", 1.0) if conformal else 1.0
        return factor * torch.cat(parts).numpy()

    def sigma_energy_difference(
        self, first: Atoms | GraphBatch, second: Atoms | GraphBatch, *, head: str | None = None
    ) -> float:
        """Return the uncertainty of an energy difference, eV; correlations between the two are kept.

        Parameters
        ----------
        first, second
            Two structures.
        head
            None: the first.
        """
        name = self.head(head)
        features = [self._features(self._batches(s, name)[0]) for s in (first, second)]
        return float(self.heads[name].posterior.sigma(features[0] - features[1])[0])

    def sigma_forces(
        self,
        structures: Atoms | GraphBatch | Frames,
        *,
        head: str | None = None,
        n_samples: int | None = 16,
        conformal: bool = True,
        seed: int = 0,
    ) -> np.ndarray:
        """Return each atom's force uncertainty ``sqrt(sum_a var F_ia)``, (N,) eV/A (Eq. 5.4).

        Parameters
        ----------
        structures
            One structure, a batch or several; atoms of all, one after the other.
        head
            None: the first.
        n_samples
            Draws of the readout, right to 1/sqrt(2 M) per component; None: exact, d backward passes.
        conformal
            Multiply by the conformal quantile, where there is one.
        seed
            Of the draws.
        """
        name = self.head(head)
        entry = self.heads[name]
        directions = self._directions(name, n_samples, seed)
        norm = 1 if n_samples is None else n_samples
        parts = []
        for batch in self._batches(structures, name):
            if batch.edge_index.shape[1] == 0:
                parts.append(torch.zeros(batch.types.shape[0], dtype=torch.float64))
                continue
            deviations = feature_forces(self.model, batch, directions)
            parts.append(torch.sqrt((deviations**2).sum(dim=(0, 2)) / norm))
        factor = entry.quantiles.get("forces", 1.0) if conformal else 1.0
        return factor * torch.cat(parts).numpy()

    def summary(self) -> dict[str, Any]:
        """Return what a document needs: alpha, ridge, quantiles, thresholds, counts, points."""
        quantiles = {
            f"{name}/{quantity}": q for name, entry in self.heads.items() for quantity, q in entry.quantiles.items()
        }
        first = next(iter(self.heads))
        has_thresholds = self.heads[first].sigma_forces_low is not None
        return {
            "heads": list(self.heads),
            "alpha": {name: entry.posterior.alpha for name, entry in self.heads.items()},
            "ridge": {name: entry.posterior.ridge for name, entry in self.heads.items()},
            "quantiles": quantiles,
            "coverage_target": self.coverage,
            "thresholds": self.thresholds(first) if has_thresholds else {},
            "n_training": sum(entry.n_training for entry in self.heads.values()),
            "n_calibration": sum(entry.n_calibration for entry in self.heads.values()),
            "points": [{"head": name, **p} for name, entry in self.heads.items() for p in entry.points],
        }

    def _directions(self, name: str, n_samples: int | None, seed: int) -> Tensor:
        key = (name, -1 if n_samples is None else n_samples, seed)
        if key not in self._samples:
            posterior = self.heads[name].posterior
            self._samples[key] = (
                posterior.directions() if n_samples is None else posterior.sample_directions(n_samples, seed=seed)
            )
        return self._samples[key]

    def _features(self, batch: GraphBatch) -> Tensor:
        return _features(self.model, batch).double()

    def _batches(self, structures: Any, head: str) -> list[GraphBatch]:
        index = self.model.head_index(head)
        if hasattr(structures, "edge_index"):
            return [build_copy_with_head(structures, index)]
        frames: Sequence[Any] = structures if isinstance(structures, list | tuple) else [structures]
        return in_chunks(prepare_graphs(self.model, frames, head=index), 16)


def fit_uncertainty(
    model: Allegro,
    train_frames: Mapping[str, Frames],
    calibration_frames: Mapping[str, Frames] | None = None,
    *,
    method: CalibrationMethod = "absolute",
    ridge: float | None = None,
    coverage: float = 0.9,
    n_samples: int | None = 64,
    batch_size: int = 16,
    low_percentile: float = LOW_PERCENTILE,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
) -> LLPRUncertainty:
    """Fit and calibrate the uncertainty of a trained model.

    The matrix H0 of a head is gathered over its own training frames, alpha (energies) and the conformal
    quantiles (energies, forces) over its calibration frames. To be done again after any further training.

    Parameters
    ----------
    model
        Trained.
    train_frames
        Head name -> its training frames.
    calibration_frames
        Head name -> labelled frames that were not trained on. Without them alpha is 1 and there are neither
        quantiles nor thresholds.
    method
        How alpha is found, see `calibrate`.
    ridge
        zeta^2, see `ReadoutPosterior.from_hessian`.
    coverage
        1 - alpha of the conformal intervals.
    n_samples
        Draws for the force uncertainties while calibrating; None: exact.
    batch_size
        Structures at a time.
    low_percentile
        t_lo: this percentile of the calibration frames' largest force sigmas.
    seed
        Of the draws.
    checkpoints
        Where what is gathered is kept, so that an interrupted fit goes on bit for bit; None: nowhere.

    Raises
    ------
    NoTimeLeftError
        If the process must end; the same call goes on from the checkpoint.
    ModelError
        If a head has no training structure with neighbours, or calibration frames of a head that was not
        fitted, without energies, or too few for the coverage are given.
    """
    calibration_frames = calibration_frames or {}
    unknown = set(calibration_frames) - set(train_frames)
    if unknown:
        raise ModelError(f"Calibration frames of heads without training frames: {', '.join(sorted(unknown))}.")
    fingerprint = model_fingerprint(model)
    kept = KeptArrays(
        checkpoints,
        "llpr",
        "uncertainty",
        lambda: {
            "model": fingerprint,
            "settings": [method, ridge, coverage, n_samples, batch_size, seed],
            "training": {name: len(frames) for name, frames in train_frames.items()},
            "calibration": {name: len(frames) for name, frames in calibration_frames.items()},
        },
    )
    heads = {}
    for name, frames in train_frames.items():
        graphs = without_isolated(prepare_graphs(model, frames, head=model.head_index(name)))
        hessian = _gather(model, name, in_chunks(graphs, batch_size), kept)
        heads[name] = HeadUncertainty(ReadoutPosterior.from_hessian(hessian, ridge=ridge), n_training=len(graphs))
    uncertainty = LLPRUncertainty(model, heads, coverage=coverage, fingerprint=fingerprint)
    for name, frames in calibration_frames.items():
        _calibrate_head(uncertainty, name, frames, method, n_samples, low_percentile, seed, kept)
    return uncertainty


def _gather(model: Allegro, name: str, batches: Sequence[GraphBatch], kept: KeptArrays) -> FeatureHessian:
    """Sum the outer products of the features over the training set of a head."""
    key, hessian, begun = f"matrix {name}", None, 0
    if key in kept.saved.arrays:
        matrix = kept.saved.arrays[key]
        hessian = FeatureHessian(matrix.shape[0])
        hessian.matrix += torch.from_numpy(matrix)
        begun, hessian.count = kept.saved.state[key]
    for number, batch in enumerate(batches[begun:], start=begun + 1):
        features = _features(model, batch)
        hessian = hessian or FeatureHessian(features.shape[1])
        n_atoms = torch.bincount(batch.batch, minlength=features.shape[0])
        hessian.add(features, n_atoms, weights=batch.weight)
        kept.saved.arrays[key] = hessian.matrix.numpy()
        kept.saved.state[key] = [number, hessian.count]
        kept.pause(f"head '{name}', batch {number} of {len(batches)}", number / len(batches))
    if hessian is None:
        raise ModelError(f"LLPR: head '{name}' has no training structure with neighbours.")
    return hessian


def _calibrate_head(
    uncertainty: LLPRUncertainty,
    name: str,
    frames: Frames,
    method: CalibrationMethod,
    n_samples: int | None,
    low_percentile: float,
    seed: int,
    kept: KeptArrays,
) -> None:
    """Find alpha, quantiles and thresholds of one head."""
    model, entry = uncertainty.model, uncertainty.heads[name]
    graphs = without_isolated(prepare_graphs(model, frames, head=model.head_index(name)))

    def errors_of(number: int) -> np.ndarray:
        """Return the errors of the energy and of every atom's force, and between them the raw sigma."""
        graph = graphs[number]
        moved = on_device(graph, next(model.parameters()).device)
        outputs = model(moved, forces=True, stress=False, create_graph=False)
        error = float(outputs["energy"][0].detach() - moved.energy[0])
        sigma = float(entry.posterior.sigma(uncertainty._features(graph))[0]) if math.isfinite(error) else math.nan
        forces = (outputs["forces"].detach().double() - moved.forces).norm(dim=1).cpu().numpy()
        return np.concatenate([[error, sigma], forces])

    energy_errors, force_errors, force_sigmas, largest = [], [], [], []
    raw, n_atoms, names = [], [], []
    for graph, values in zip(graphs, kept.each(f"errors of head '{name}'", len(graphs), errors_of), strict=True):
        if math.isfinite(values[0]):
            energy_errors.append(float(values[0]))
            raw.append(float(values[1]))
            n_atoms.append(graph.types.shape[0])
            names.append(graph.frame_ids[0])
        force_errors.append(values[2:])
    if not energy_errors:
        raise ModelError(f"LLPR: no calibration frame of head '{name}' has an energy.")
    alpha = calibrate(torch.tensor(energy_errors), torch.tensor(raw), method=method)
    if not alpha > 0:
        raise ModelError(
            f"LLPR: the calibration of head '{name}' gave alpha = {alpha}: every prediction is exact.",
            remedy="Calibrate on frames that were not trained on.",
        )
    entry.posterior.alpha = alpha
    uncertainty._samples.clear()
    entry.n_calibration = len(energy_errors)
    sigmas = alpha * np.array(raw)
    entry.points = [
        {"frame_id": frame_id, "error": error / n, "sigma": float(sigma) / n}
        for frame_id, error, sigma, n in zip(names, energy_errors, sigmas, n_atoms, strict=True)
    ]
    entry.quantiles["energy"] = _quantile(
        np.array(energy_errors), sigmas, uncertainty.coverage, f"energies of head '{name}'"
    )

    def sigma_of(number: int) -> np.ndarray:
        return uncertainty.sigma_forces(graphs[number], head=name, n_samples=n_samples, conformal=False, seed=seed)

    every = kept.each(f"force sigmas of head '{name}'", len(graphs), sigma_of)
    for sigma, errors in zip(every, force_errors, strict=True):
        known = np.isfinite(errors)
        force_sigmas.append(sigma[known])
        largest.append(sigma.max())
    flat_errors = np.concatenate([e[np.isfinite(e)] for e in force_errors])
    if len(flat_errors):
        entry.quantiles["forces"] = _quantile(
            flat_errors, np.concatenate(force_sigmas), uncertainty.coverage, f"forces of head '{name}'"
        )
    factor = entry.quantiles.get("forces", 1.0)
    entry.sigma_forces_low = factor * float(np.percentile(largest, low_percentile))


def _quantile(errors: np.ndarray, sigmas: np.ndarray, covered: float, what: str) -> float:
    """Return the conformal quantile, or say how many frames it takes."""
    quantile = conformal_quantile(conformal_scores(errors, sigmas), alpha=1 - covered)
    if not math.isfinite(quantile):
        needed = math.ceil(covered / (1 - covered) * (1 - 1e-12))
        raise ModelError(
            f"Conformal calibration of the {what}: {len(errors)} values cannot promise {covered:.0%}.",
            remedy=f"Give at least {needed} calibration values, or ask for less coverage.",
        )
    return quantile


def save_uncertainty(uncertainty: LLPRUncertainty, path: str | Path) -> Path:
    """Write an uncertainty as a folder: ``llpr.safetensors`` and, for people, ``llpr.json``.

    Parameters
    ----------
    uncertainty
        What to write; the model itself is not in it, only its hash.
    path
        The folder; made if absent.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    heads: dict[str, Any] = {}
    for name, entry in uncertainty.heads.items():
        tensors[f"{name}/scale"] = entry.posterior.scale.contiguous()
        tensors[f"{name}/cholesky"] = entry.posterior.cholesky.contiguous()
        heads[name] = {
            "alpha": entry.posterior.alpha,
            "ridge": entry.posterior.ridge,
            "count": entry.posterior.count,
            "quantiles": entry.quantiles,
            "n_training": entry.n_training,
            "n_calibration": entry.n_calibration,
            "sigma_forces_low": entry.sigma_forces_low,
            "points": entry.points,
        }
    record = {
        "version": LLPR_VERSION,
        "model": uncertainty.fingerprint,
        "coverage": uncertainty.coverage,
        "heads": heads,
    }
    # the tensor file alone is enough: it is replaced in one step, two files would not be
    write_atomically(folder / "llpr.safetensors", save(tensors, metadata={"llpr": json.dumps(record)}))
    write_atomically(folder / "llpr.json", (json.dumps(record, indent=2) + "\n").encode())
    return folder


def load_uncertainty(path: str | Path, model: Allegro) -> LLPRUncertainty:
    """Read an uncertainty for the model it was fitted to.

    Parameters
    ----------
    path
        The folder.
    model
        The model.

    Raises
    ------
    ModelError
        If the folder is missing or corrupt, or the model has other weights.
    """
    file = Path(path) / "llpr.safetensors"
    if not file.exists():
        raise ModelError(f"There is no uncertainty at {file}.", remedy="Check the path.")
    try:
        with safe_open(file, framework="pt") as handle:
            record = json.loads((handle.metadata() or {})["llpr"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{file} is corrupt: {error}.", remedy="Fit the uncertainty again.") from error
    if record["version"] != LLPR_VERSION:
        raise ModelError(f"{file} is of version {record['version']}, not {LLPR_VERSION}.")
    if record["model"] != model_fingerprint(model):
        raise ModelError(
            f"{file} belongs to a model with other weights.",
            remedy="Fit the uncertainty again after training.",
        )
    heads = {
        name: HeadUncertainty(
            posterior=ReadoutPosterior(
                scale=tensors[f"{name}/scale"],
                cholesky=tensors[f"{name}/cholesky"],
                ridge=entry["ridge"],
                count=entry["count"],
                alpha=entry["alpha"],
            ),
            quantiles=entry["quantiles"],
            n_training=entry["n_training"],
            n_calibration=entry["n_calibration"],
            sigma_forces_low=entry["sigma_forces_low"],
            points=entry["points"],
        )
        for name, entry in record["heads"].items()
    }
    return LLPRUncertainty(model, heads, coverage=record["coverage"], fingerprint=record["model"])
