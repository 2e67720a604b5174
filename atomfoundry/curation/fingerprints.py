"""Smooth fingerprints of structures: equal structures have equal ones, near structures near ones."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.curation.composition import composition_key

_CUTOFF = 6.0
_CENTRES = np.linspace(0.5, _CUTOFF - 0.5, 20)
_WIDTH = 0.25


def fingerprint(atoms: Atoms) -> NDArray[np.float64]:
    """Return radial densities of every element pair per atom, and the volume per atom of a crystal.

    A histogram would put two structures that differ by rounding on two sides of a bin's edge; Gaussians and a cutoff
    that ends smoothly do not. Invariant to rotation, reflection, translation, permutation and repetition of the cell.
    Only fingerprints of one composition can be compared.

    Parameters
    ----------
    atoms
        A structure.

    Returns
    -------
    numpy.ndarray
        ``[20 n_pairs + 1]`` with the ``n_pairs`` unordered pairs of elements present.
    """
    from vesin import NeighborList

    first, second, distances = NeighborList(cutoff=_CUTOFF, full_list=False, n_threads=1).compute(
        points=np.ascontiguousarray(atoms.positions),
        box=np.where(atoms.pbc[:, None], atoms.cell.array, 0.0),
        periodic=atoms.pbc,
        quantities="ijd",
    )
    kinds = [kind for kind, _ in composition_key(atoms.numbers)]
    code = np.searchsorted(kinds, atoms.numbers)
    low, high = np.minimum(code[first], code[second]), np.maximum(code[first], code[second])
    n_pairs = len(kinds) * (len(kinds) + 1) // 2
    pair = high * (high + 1) // 2 + low
    density = np.zeros((n_pairs, len(_CENTRES)))
    fade = 0.5 * (1 + np.cos(np.pi * distances / _CUTOFF)) / np.maximum(distances, 0.3) ** 2
    np.add.at(density, pair, fade[:, None] * np.exp(-0.5 * ((distances[:, None] - _CENTRES) / _WIDTH) ** 2))
    volume = atoms.get_volume() / len(atoms) if atoms.pbc.all() else 0.0
    return np.append(density.ravel() / len(atoms), 0.01 * volume)
