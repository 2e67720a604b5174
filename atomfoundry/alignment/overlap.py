"""Find the structures that were computed at several levels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.datasets import labels_of
from atomfoundry.datasets.isolated import ISOLATED_ATOM
from atomfoundry.errors import AlignmentError

_MOLECULE_RESOLUTION = 1e-5


def molecule_key(atoms: Atoms) -> str:
    """Return a key that a molecule keeps when it is put into a box or shifted.

    For overlap sets where one level needs a periodic box and the other none. The atoms must be in the same
    order, not rotated and not cut by the boundary; charge and spin count.
    """
    relative = np.rint((atoms.positions - atoms.positions[:1]) / _MOLECULE_RESOLUTION).astype("<i8")
    state = f"{atoms.info.get('charge') or 0} {atoms.info.get('spin_multiplicity')}"
    digest = hashlib.sha256(atoms.numbers.astype("<i8").tobytes() + relative.tobytes() + state.encode())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class OverlapTable:
    """Structures with their total energies at several levels.

    Attributes
    ----------
    elements
        Columns of ``counts``.
    formulas, groups
        Of each structure.
    counts
        Atoms per element, ``[n, n_elements]``.
    energies
        Level name -> total energies ``[n]``, eV; NaN where an optional level lacks the structure.
    """

    elements: tuple[str, ...]
    formulas: tuple[str, ...]
    groups: tuple[str, ...]
    counts: NDArray[np.float64]
    energies: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.formulas)

    @property
    def n_atoms(self) -> NDArray[np.float64]:
        """Atoms per structure, ``[n]``."""
        return self.counts.sum(axis=1)

    def offset(self, isolated: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return sum_Z n_Z E_Z per structure; elements that do not occur may be NaN."""
        occur = self.counts.any(axis=0)
        return self.counts[:, occur] @ isolated[occur]


def is_isolated_atom(atoms: Atoms) -> bool:
    """Tell a single atom from a crystal with one atom in its cell."""
    return len(atoms) == 1 and (atoms.info.get("sampling") == ISOLATED_ATOM or not atoms.pbc.any())


def _keyed_energies(frames: Iterable[Atoms], level: str, key: Callable[[Atoms], str]) -> dict[str, tuple[Atoms, float]]:
    found: dict[str, tuple[Atoms, float]] = {}
    for atoms in frames:
        energy = labels_of(atoms)[0]
        # A single atom has no atomization energy: it would only flatter the metrics.
        if energy is None or is_isolated_atom(atoms):
            continue
        if not np.isfinite(energy):
            raise AlignmentError(
                f"A frame of {atoms.get_chemical_formula()} at the {level} level has the energy {energy}.",
                remedy="Curate the frames first.",
            )
        identity = key(atoms)
        before = found.setdefault(identity, (atoms, energy))[1]
        if abs(before - energy) > 1e-6 * len(atoms):
            raise AlignmentError(
                f"{atoms.get_chemical_formula()} (frame {identity}) has two energies at the {level} level: "
                f"{before:.6f} and {energy:.6f} eV.",
                remedy="Keep one level of theory per set.",
            )
    return found


def build_overlap(
    levels: Mapping[str, Iterable[Atoms]],
    *,
    elements: Sequence[str],
    key: Callable[[Atoms], str],
    optional: Sequence[str] = (),
) -> OverlapTable:
    """Match frames of several levels.

    Parameters
    ----------
    levels
        Level name -> labelled frames.
    elements
        Columns of the count matrix; structures with other elements are left out.
    key
        Frames of equal key are the same structure.
    optional
        Levels that need not have a structure.

    Raises
    ------
    AlignmentError
        If one level has two energies for one structure.
    """
    found = {name: _keyed_energies(frames, name, key) for name, frames in levels.items()}
    required = [found[name] for name in levels if name not in optional]
    known = set(elements)
    common = [
        identity
        for identity, (atoms, _) in required[0].items()
        if set(atoms.symbols) <= known and all(identity in other for other in required[1:])
    ]
    structures = [required[0][identity][0] for identity in common]
    counts = [[np.count_nonzero(atoms.symbols == symbol) for symbol in elements] for atoms in structures]
    return OverlapTable(
        elements=tuple(elements),
        formulas=tuple(atoms.get_chemical_formula() for atoms in structures),
        groups=tuple(
            str(atoms.info.get("group_id") or identity) for atoms, identity in zip(structures, common, strict=True)
        ),
        counts=np.array(counts, dtype=np.float64).reshape(len(common), len(elements)),
        energies={
            name: np.array([found[name][identity][1] if identity in found[name] else np.nan for identity in common])
            for name in levels
        },
    )
