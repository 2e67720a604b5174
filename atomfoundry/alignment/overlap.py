"""Find the structures that were computed at several levels, and keep what the fit needs of them.

Frames pass by once. Of a level that others are matched with, 24 bytes a frame stay in memory (key and energy); of an
overlap structure a row of counts and energies, which go to a temporary file when they become many.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from atomfoundry.alignment.dispersion import DispersionTerm
from atomfoundry.alignment.pairs import PairBasis
from atomfoundry.alignment.table import AS_COMPUTED, OverlapTable
from atomfoundry.datasets import labels_of
from atomfoundry.datasets.isolated import ISOLATED_ATOM
from atomfoundry.errors import AlignmentError

_MOLECULE_RESOLUTION = 1e-5
_AT_ONCE = 1024
"""Frames that are looked up together."""


def molecule_key(atoms: Atoms) -> str:
    """Return a key that a molecule keeps when it is put into a box or shifted.

    For overlap sets where one level needs a periodic box and the other none. The atoms must be in the same
    order, not rotated and not cut by the boundary; charge and spin count.
    """
    relative = np.rint((atoms.positions - atoms.positions[:1]) / _MOLECULE_RESOLUTION).astype("<i8")
    state = f"{atoms.info.get('charge') or 0} {atoms.info.get('spin_multiplicity')}"
    digest = hashlib.sha256(atoms.numbers.astype("<i8").tobytes() + relative.tobytes() + state.encode())
    return digest.hexdigest()[:32]


def is_isolated_atom(atoms: Atoms) -> bool:
    """Tell a single atom from a crystal with one atom in its cell."""
    return len(atoms) == 1 and (atoms.info.get("sampling") == ISOLATED_ATOM or not atoms.pbc.any())


class EnergySource(Protocol):
    """What knows energies at another level."""

    def energies(self, frames: Sequence[Atoms], source: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the energies of source frames at this level, NaN for unknown ones; ``source`` are their own."""


class EnergyIndex:
    """Energies of a level by structure.

    Parameters
    ----------
    frames
        Labelled frames of the level, read once; isolated atoms do not count.
    level
        Its name in error messages.
    key
        Frames of equal key are one structure.

    Raises
    ------
    AlignmentError
        If one structure has two energies, or one is not finite.
    """

    def __init__(self, frames: Iterable[Atoms], *, level: str, key: Callable[[Atoms], str]) -> None:
        self._key, self._level = key, level
        digests, energies, sizes = bytearray(), array("d"), array("d")
        for atoms in frames:
            energy = energy_to_align(atoms, level)
            if energy is not None:
                digests += _digest(key(atoms))
                energies.append(energy)
                sizes.append(len(atoms))
        keys = np.frombuffer(bytes(digests), dtype="S16")
        order = np.argsort(keys, kind="stable")
        self._keys, self._energies = keys[order], np.array(energies)[order]
        self._source = np.full(len(keys), np.nan)
        repeated = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        gaps = np.abs(self._energies[repeated + 1] - self._energies[repeated])
        wrong = np.flatnonzero(gaps > 1e-6 * np.array(sizes)[order][repeated])
        if len(wrong):
            first = repeated[wrong[0]]
            raise AlignmentError(
                f"The {level} level has two energies for one structure (its labelled frames {order[first]} and "
                f"{order[first + 1]}): {self._energies[first]:.6f} and {self._energies[first + 1]:.6f} eV.",
                remedy="Keep one level of theory per set.",
            )

    def energies(self, frames: Sequence[Atoms], source: NDArray[np.float64]) -> NDArray[np.float64]:
        """Look frames up; a structure that the source has twice must have one energy there."""
        found = np.full(len(frames), np.nan)
        if not len(self._keys):
            return found
        wanted = np.array([_digest(self._key(atoms)) for atoms in frames], dtype="S16")
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        for row in np.flatnonzero(self._keys[places] == wanted).tolist():
            place, energy = places[row], float(source[row])
            before = self._source[place]
            if np.isnan(before):
                self._source[place], found[row] = energy, self._energies[place]
            elif abs(before - energy) > 1e-6 * len(frames[row]):
                raise AlignmentError(
                    f"{frames[row].get_chemical_formula()} ({self._key(frames[row])}) has two energies at the source "
                    f"level: {before:.6f} and {energy:.6f} eV.",
                    remedy="Keep one level of theory per set.",
                )
        return found


class Predictor:
    """Energies of a level from a model, as ``EnergyIndex`` has them from labels."""

    def __init__(self, predict: Callable[[Atoms], float]) -> None:
        self._predict = predict

    def energies(self, frames: Sequence[Atoms], source: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predict all frames; a prediction that is not finite is an error."""
        found = np.array([float(self._predict(atoms)) for atoms in frames])
        if not np.isfinite(found).all():
            row = int(np.flatnonzero(~np.isfinite(found))[0])
            raise AlignmentError(
                f"The model predicts {found[row]} for a frame of {frames[row].get_chemical_formula()}.",
                remedy="Take a model that knows these structures, or leave them out.",
            )
        return found


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def energy_to_align(atoms: Atoms, level: str) -> float | None:
    """Return the energy of a frame; None if it has none or is an isolated atom.

    A single atom has no atomization energy: it would only flatter the metrics.

    Raises
    ------
    AlignmentError
        If the energy is not finite.
    """
    energy = labels_of(atoms)[0]
    if energy is None or is_isolated_atom(atoms):
        return None
    if not np.isfinite(energy):
        raise AlignmentError(
            f"A frame of {atoms.get_chemical_formula()} at the {level} level has the energy {energy}.",
            remedy="Curate the frames first.",
        )
    return energy


def build_overlap(
    source: Iterable[Atoms],
    others: Mapping[str, EnergySource],
    *,
    optional: Sequence[str] = (),
    basis: PairBasis | None = None,
    dispersion: Sequence[DispersionTerm] = (),
    seed: int = 0,
    chunk: int = 16384,
    in_memory: int = 500_000,
) -> OverlapTable:
    """Match the frames of the source with other levels; one pass over the source.

    Parameters
    ----------
    source
        Labelled frames; those without an energy are passed over.
    others
        Level -> what knows its energies.
    optional
        Levels that need not have a structure.
    basis
        Also sum the pair functions of every overlap structure.
    dispersion
        What is added to the source's energies of overlap structures; the column ``as computed`` has them without.
    seed
        Of the draws that folds are made by.
    chunk
        Rows of one chunk.
    in_memory
        Rows beyond which chunks go to a temporary file.

    Raises
    ------
    AlignmentError
        If the source has two energies for one structure, or one is not finite.
    """
    more = [AS_COMPUTED] if dispersion else []
    table = OverlapTable(["source", *others, *more], basis=basis, seed=seed, chunk=chunk, in_memory=in_memory)
    stream = iter(source)
    while block := list(islice(stream, _AT_ONCE)):
        frames, own = [], array("d")
        for atoms in block:
            if labels_of(atoms)[0] is None:
                continue
            table.element_frames.update(chemical_symbols[z] for z in set(atoms.numbers.tolist()))
            energy = energy_to_align(atoms, "source")
            if energy is not None:
                frames.append(atoms)
                own.append(energy)
        columns = {"source": np.array(own)}
        columns |= {name: other.energies(frames, columns["source"]) for name, other in others.items()}
        there = np.ones(len(frames), dtype=bool)
        for name in others:
            if name not in optional:
                there &= np.isfinite(columns[name])
        for row in np.flatnonzero(there).tolist():
            energies = [float(column[row]) for column in columns.values()]
            if dispersion:
                energies.append(energies[0])
                energies[0] += sum(term.energy(frames[row]) for term in dispersion)
            table.add(frames[row], energies)
    table.flush()
    return table
