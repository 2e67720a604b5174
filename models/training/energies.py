"""Isolated-atom energies, force scales and neighbour statistics of a training set (ALGORITHMS 3.2, 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from atomfoundry.datasets import labels_of
from atomfoundry.errors import ConfigurationError, TrainingError

if TYPE_CHECKING:
    from ase import Atoms

EnergyPolicy = Literal["isolated", "lstsq", "mean", "foundation_corrected"]
ScalePolicy = Literal["global", "per_element"]

SINGULAR_CUTOFF = 1e-8
"""Singular values below this part of the largest one count as zero."""


@dataclass(frozen=True)
class ReferenceEnergies:
    """Isolated-atom energies of one head, and how well the data fix them.

    With any policy but ``isolated`` they absorb average binding: isolated-atom limits and bond energies of
    such a model mean nothing.

    Parameters
    ----------
    policy
        What was asked for.
    energies
        Element -> eV.
    rank
        Rank of the composition matrix; the number of elements if all are determined.
    condition_number
        Largest over smallest kept singular value.
    undetermined
        Elements with a part in the null space: only combinations of their energies are known, and the
        smallest solution was taken.
    null_space
        Directions that the data say nothing about, element -> coefficient.
    rmse
        Of the per-atom energies about the fit, eV/atom.
    """

    policy: EnergyPolicy
    energies: dict[str, float]
    rank: int
    condition_number: float = 1.0
    undetermined: list[str] = field(default_factory=list)
    null_space: list[dict[str, float]] = field(default_factory=list)
    rmse: float | None = None


def compositions(frames: Sequence[Atoms], elements: Sequence[str]) -> np.ndarray:
    """Return how many atoms of each element each frame has.

    Parameters
    ----------
    frames
        Structures.
    elements
        Symbols, the order of the columns.

    Returns
    -------
    numpy.ndarray
        (B, T) float64.

    Raises
    ------
    TrainingError
        If a frame holds another element.
    """
    column = {symbol: index for index, symbol in enumerate(elements)}
    counts = np.zeros((len(frames), len(elements)))
    for row, frame in enumerate(frames):
        for symbol in frame.get_chemical_symbols():
            if symbol not in column:
                raise TrainingError(
                    f"Frame {frame.info.get('frame_id', row)} holds {symbol}, which is not among "
                    f"{', '.join(elements)}.",
                    remedy="Add the element to the model's type_names.",
                )
            counts[row, column[symbol]] += 1
    return counts


def isolated_energies_of(frames: Sequence[Atoms]) -> dict[str, float]:
    """Return the energies of the single-atom, non-periodic frames, element -> eV.

    Parameters
    ----------
    frames
        Labelled frames; others than single atoms are passed over.

    Raises
    ------
    TrainingError
        If two frames of one element differ by more than 1 meV.
    """
    found: dict[str, float] = {}
    for frame in frames:
        energy = labels_of(frame)[0]
        if len(frame) != 1 or frame.pbc.any() or energy is None:
            continue
        symbol = frame.get_chemical_symbols()[0]
        if symbol in found and abs(found[symbol] - float(energy)) > 1e-3:
            raise TrainingError(
                f"Two isolated {symbol} atoms have energies {found[symbol]} and {float(energy)} eV.",
                remedy="Keep one level of theory and one spin state.",
            )
        found[symbol] = float(energy)
    return found


def fit_reference_energies(
    frames: Sequence[Atoms],
    elements: Sequence[str],
    *,
    policy: EnergyPolicy = "isolated",
    isolated_energies: Mapping[str, float] | None = None,
    foundation_energies: Mapping[str, float] | None = None,
    foundation_predictions: Sequence[float] | None = None,
) -> ReferenceEnergies:
    """Return isolated-atom energies by one of the four policies.

    ``lstsq`` minimises ``sum_b (E_b - sum_Z n_bZ c_Z)^2 / N_b^2``; ``mean`` gives every element the mean
    energy per atom; ``foundation_corrected`` adds the least-squares fit of reference minus old prediction to
    the old energies.

    Parameters
    ----------
    frames
        Training frames; those without an energy are passed over.
    elements
        Elements of the head.
    policy
        See above; ``isolated`` takes `isolated_energies` and, where absent there, single-atom frames.
    isolated_energies
        Element -> eV, for ``isolated``.
    foundation_energies
        Element -> eV of the old head, for ``foundation_corrected``.
    foundation_predictions
        Old model's total energies of `frames`, eV, for ``foundation_corrected``.

    Raises
    ------
    TrainingError
        If an element has no isolated-atom energy, there is no energy to fit, or an argument of the policy is
        absent.
    """
    if policy == "isolated":
        known = isolated_energies_of(frames) | dict(isolated_energies or {})
        missing = [symbol for symbol in elements if symbol not in known]
        if missing:
            raise TrainingError(
                f"No isolated-atom energy of {', '.join(missing)}.",
                remedy="Label the isolated atoms, give 'isolated_energies', or choose the policy 'lstsq'.",
            )
        return ReferenceEnergies(policy, {s: float(known[s]) for s in elements}, rank=len(elements))

    labels = [labels_of(frame)[0] for frame in frames]
    rows = [row for row, energy in enumerate(labels) if energy is not None]
    if not rows:
        raise TrainingError(f"Policy '{policy}': none of the {len(frames)} frames has an energy.")
    counts = compositions([frames[row] for row in rows], elements)
    n_atoms = counts.sum(axis=1)
    target = np.array([energy for energy in labels if energy is not None])
    base = np.zeros(len(elements))
    if policy == "mean":
        mean = float(np.mean(target / n_atoms))
        spread = float(np.sqrt(np.mean((target / n_atoms - mean) ** 2)))
        return ReferenceEnergies(policy, dict.fromkeys(elements, mean), rank=1, rmse=spread)
    if policy == "foundation_corrected":
        if foundation_energies is None or foundation_predictions is None:
            raise TrainingError(
                "Policy 'foundation_corrected' needs the old model's isolated energies and predictions.",
                remedy="Give 'foundation_energies' and 'foundation_predictions'.",
            )
        missing = [symbol for symbol in elements if symbol not in foundation_energies]
        if missing:
            raise TrainingError(f"The old model has no isolated-atom energy of {', '.join(missing)}.")
        base = np.array([float(foundation_energies[symbol]) for symbol in elements])
        target = target - np.asarray(foundation_predictions, dtype=float)[rows]
    return _least_squares(policy, elements, counts / n_atoms[:, None], target / n_atoms, base)


def _least_squares(
    policy: EnergyPolicy, elements: Sequence[str], matrix: np.ndarray, target: np.ndarray, base: np.ndarray
) -> ReferenceEnergies:
    """Return base + the smallest least-squares solution, with rank and null space."""
    left, singular, right = np.linalg.svd(matrix, full_matrices=True)
    rank = int((singular > SINGULAR_CUTOFF * singular[0]).sum())
    solution = right[:rank].T @ ((left[:, :rank].T @ target) / singular[:rank])
    null = right[rank:]
    return ReferenceEnergies(
        policy,
        {symbol: float(base[i] + solution[i]) for i, symbol in enumerate(elements)},
        rank=rank,
        condition_number=float(singular[0] / singular[rank - 1]),
        undetermined=[s for i, s in enumerate(elements) if null.size and np.abs(null[:, i]).max() > 1e-6],
        null_space=[{s: float(row[i]) for i, s in enumerate(elements) if abs(row[i]) > 1e-6} for row in null],
        rmse=float(np.sqrt(np.mean((matrix @ solution - target) ** 2))),
    )


def force_rms(frames: Sequence[Atoms]) -> float:
    """Return the RMS of all force components, eV/A: a head's scale s (ALGORITHMS 3.2).

    Raises
    ------
    TrainingError
        If no frame has forces, or all are zero.
    """
    parts = [forces.ravel() for frame in frames if (forces := labels_of(frame)[1]) is not None]
    value = float(np.sqrt(np.mean(np.concatenate(parts) ** 2))) if parts else 0.0
    if not value > 0:
        raise TrainingError(
            f"The force RMS of {len(frames)} frames is zero: none has forces, or all are at rest.",
            remedy="Add displaced frames with forces, or give the scale yourself.",
        )
    return value


def force_rms_by_element(frames: Sequence[Atoms], elements: Sequence[str]) -> dict[str, float]:
    """Return the RMS of the force components on the atoms of each element, eV/A.

    Parameters
    ----------
    frames
        Labelled frames.
    elements
        Which; one without forces, or all of whose atoms are at rest, gets the RMS of all components.

    Raises
    ------
    TrainingError
        If no frame has forces, or all are zero.
    """
    overall = force_rms(frames)
    totals, counts = dict.fromkeys(elements, 0.0), dict.fromkeys(elements, 0)
    for frame in frames:
        forces = labels_of(frame)[1]
        if forces is None:
            continue
        symbols = np.array(frame.get_chemical_symbols())
        for symbol in set(symbols) & set(elements):
            own = forces[symbols == symbol]
            totals[symbol] += float((own**2).sum())
            counts[symbol] += own.size
    return {s: (totals[s] / counts[s]) ** 0.5 if totals[s] > 0 else overall for s in elements}


def force_scale(
    frames: Sequence[Atoms], elements: Sequence[str], *, policy: ScalePolicy = "global"
) -> float | dict[str, float]:
    """Return the scale s of a head: one force RMS, or element by element.

    Parameters
    ----------
    frames
        The head's labelled training frames.
    elements
        All elements of the model.
    policy
        ``global`` (:func:`force_rms`) or ``per_element`` (:func:`force_rms_by_element`).

    Raises
    ------
    ConfigurationError
        If there is no such policy.
    TrainingError
        If no frame has forces, or all are zero.
    """
    if policy not in get_args(ScalePolicy):
        raise ConfigurationError(
            f"There is no scale '{policy}'.", remedy=f"Take {' or '.join(map(repr, get_args(ScalePolicy)))}."
        )
    return force_rms(frames) if policy == "global" else force_rms_by_element(frames, elements)


def average_num_neighbors(frames: Sequence[Atoms], *, cutoff: float) -> float:
    """Return the mean number of directed edges per atom, isolated atoms left out (ALGORITHMS 2.4).

    Parameters
    ----------
    frames
        Structures.
    cutoff
        A.

    Raises
    ------
    TrainingError
        If no atom has a neighbour.
    """
    from atomfoundry.models.graph import neighbour_pairs

    n_edges = n_atoms = 0
    for frame in frames:
        if len(frame) == 1 and not frame.pbc.any():
            continue
        pairs, _ = neighbour_pairs(frame.positions, cell=frame.cell.array, pbc=frame.pbc, cutoff=cutoff)
        n_edges += pairs.shape[1]
        n_atoms += len(frame)
    if n_edges == 0:
        raise TrainingError(
            f"No atom of the {len(frames)} training frames has a neighbour within {cutoff} A.",
            remedy="Raise the cutoff, or check the structures.",
        )
    return n_edges / n_atoms
