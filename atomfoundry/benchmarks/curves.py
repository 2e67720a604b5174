"""How smooth an energy curve is: sign flips, tortuosity, rank correlations (the MLIP Arena's metrics)."""

from __future__ import annotations

import numpy as np


def sign_flips(values: np.ndarray, *, threshold: float = 0.0) -> int:
    """Count how often a sequence changes sign; values within the threshold count as zero and are passed over.

    Parameters
    ----------
    values
        Any sequence, e.g. forces along a bond, or energy differences.
    threshold
        In the values' unit.

    Returns
    -------
    int
        1 for a curve with a single minimum.
    """
    return len(_flip_positions(np.asarray(values, dtype=float), threshold)[1])


def reversal_jump(values: np.ndarray, *, threshold: float = 0.0) -> float:
    """Sum the steps on both sides of every reversal of a curve.

    Parameters
    ----------
    values
        Energies or forces in order of distance.
    threshold
        Smaller steps count as zero.

    Returns
    -------
    float
        In the values' unit.
    """
    steps = np.diff(np.asarray(values, dtype=float))
    kept, positions = _flip_positions(steps, threshold)
    return float(np.abs(kept[positions]).sum() + np.abs(kept[positions + 1]).sum())


def _flip_positions(values: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    kept = values[np.abs(values) > threshold]
    return kept, np.flatnonzero(np.diff(np.sign(kept)) != 0)


def tortuosity(energies: np.ndarray) -> float | None:
    """Return a curve's total variation over that of a curve with a single minimum.

    ``sum |dE| / (|E_first - E_min| + |E_last - E_min|)``.

    Parameters
    ----------
    energies
        In order of distance or volume.

    Returns
    -------
    float or None
        1 for a single minimum, more for a wavy curve; None for a flat or empty one.
    """
    energies = np.asarray(energies, dtype=float)
    if len(energies) < 2:
        return None
    lowest = energies.min()
    direct = abs(energies[0] - lowest) + abs(energies[-1] - lowest)
    return float(np.abs(np.diff(energies)).sum() / direct) if direct > 0 else None


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return the rank correlation of two sequences, or None where it is not defined.

    Parameters
    ----------
    x, y
        Of equal length.

    Returns
    -------
    float or None
        Between -1 and 1; None for fewer than three points or a constant sequence.
    """
    from scipy.stats import rankdata

    if len(x) < 3:
        return None
    ranks = np.array([rankdata(x), rankdata(y)])
    if (ranks.std(axis=1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])
