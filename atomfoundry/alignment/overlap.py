"""Find the structures that were computed at several levels, and keep what the fit needs of them.

Frames pass by once. Of a level that others are matched with, 24 bytes a frame stay in memory (key and energy); of an
overlap structure a row of counts and energies, which go to a temporary file when they become many.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from atomfoundry.alignment.pairs import PairBasis, pair_features
from atomfoundry.alignment.regression import draw
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


@dataclass(frozen=True)
class OverlapRows:
    """Some rows of the overlap table.

    Attributes
    ----------
    index
        Numbers of the rows in the table, ``[m]``.
    elements
        Columns of ``counts``.
    counts
        Atoms per element, ``[m, n_elements]``.
    energies
        Level -> total energies ``[m]``, eV; NaN where an optional level lacks the structure.
    formula_draws, group_draws
        Of each row's formula and group, for folds.
    features
        Sums of the pair functions ``[m, n_pairs * n_radial]``.
    """

    index: NDArray[np.int64]
    elements: tuple[str, ...]
    counts: NDArray[np.float64]
    energies: dict[str, NDArray[np.float64]]
    formula_draws: NDArray[np.uint64]
    group_draws: NDArray[np.uint64]
    features: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.counts)

    @property
    def n_atoms(self) -> NDArray[np.float64]:
        """Atoms per structure, ``[m]``."""
        return self.counts.sum(axis=1)

    def offset(self, isolated: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return sum_Z n_Z E_Z per structure; elements that do not occur may be NaN."""
        occur = self.counts.any(axis=0)
        return self.counts[:, occur] @ isolated[occur]

    def select(self, chosen: NDArray[np.bool_]) -> OverlapRows:
        """Return some of the rows."""
        return OverlapRows(
            index=self.index[chosen],
            elements=self.elements,
            counts=self.counts[chosen],
            energies={name: column[chosen] for name, column in self.energies.items()},
            formula_draws=self.formula_draws[chosen],
            group_draws=self.group_draws[chosen],
            features=self.features[chosen],
        )

    def formula(self, row: int) -> str:
        """Return the formula of a row."""
        return _formula(self.elements, self.counts[row])


def _formula(elements: Sequence[str], counts: NDArray) -> str:
    present = {symbol: int(n) for symbol, n in zip(elements, counts, strict=True) if n}
    return Formula.from_dict(present).format("hill")


class OverlapTable:
    """Structures with their total energies at several levels, in chunks that may lie on disk.

    Attributes
    ----------
    elements
        Of all labelled source frames, in alphabetical order, whether or not an overlap structure has them.
    element_frames
        Element -> labelled source frames that hold it.
    pairs
        Element pairs that overlap structures have bonds of; empty without a basis.
    levels
        The levels, ``source`` first.
    """

    def __init__(
        self, levels: Sequence[str], *, basis: PairBasis | None, seed: int, chunk: int, in_memory: int
    ) -> None:
        self.levels = tuple(levels)
        self.basis = basis
        self.element_frames: Counter[str] = Counter()
        self._seed, self._chunk, self._in_memory = seed, chunk, in_memory
        self._parts: list[dict[str, NDArray] | Path] = []
        self._lengths: list[int] = []
        self._unpacked: list[OverlapRows] | None = None
        self._folder: tempfile.TemporaryDirectory | None = None
        self._pairs: set[str] = set()
        self._draws: dict[str, int] = {}
        self._buffer: list[tuple[dict[int, int], list[float], str, dict[str, NDArray[np.float64]]]] = []

    @property
    def elements(self) -> tuple[str, ...]:
        """Elements of the source, alphabetically."""
        return tuple(sorted(self.element_frames))

    @property
    def pairs(self) -> tuple[str, ...]:
        """Pairs with features, by atomic number."""
        return tuple(sorted(self._pairs, key=lambda pair: [atomic_numbers[symbol] for symbol in pair.split("-")]))

    def __len__(self) -> int:
        """Return the number of structures."""
        return sum(self._lengths) + len(self._buffer)

    def add(self, atoms: Atoms, energies: Sequence[float]) -> None:
        """Add a structure with its energy at each level."""
        numbers, counts = np.unique(atoms.numbers, return_counts=True)
        features = pair_features(atoms, self.basis) if self.basis else {}
        group = str(atoms.info.get("group_id") or atoms.info.get("frame_id") or f"row {len(self)}")
        self._buffer.append(
            (dict(zip(numbers.tolist(), counts.tolist(), strict=True)), list(energies), group, features)
        )
        if len(self._buffer) >= self._chunk:
            self.flush()

    def flush(self) -> None:
        """Pack the rows that came last."""
        rows, self._buffer = self._buffer, []
        if not rows:
            return
        numbers = sorted({z for row in rows for z in row[0]})
        counts = np.array([[row[0].get(z, 0) for z in numbers] for row in rows], dtype=np.uint16)
        pairs = sorted({pair for row in rows for pair in row[3]})
        self._pairs |= set(pairs)
        n_radial = self.basis.n_radial if self.basis else 0
        features = np.zeros((len(rows), len(pairs), n_radial))
        for target, row in zip(features, rows, strict=True):
            for pair, values in row[3].items():
                target[pairs.index(pair)] = values
        unique, where = np.unique(counts, axis=0, return_inverse=True)
        symbols = [chemical_symbols[z] for z in numbers]
        drawn = np.array([self._draw(_formula(symbols, composition)) for composition in unique], dtype=np.uint64)
        part: dict[str, NDArray] = {
            "numbers": np.array(numbers),
            "counts": counts,
            "energies": np.array([row[1] for row in rows], dtype=np.float64),
            "formula_draws": drawn[where.reshape(-1)],
            "group_draws": np.array([draw(row[2], self._seed) for row in rows], dtype=np.uint64),
            "pairs": np.array(pairs, dtype=str),
            "features": features,
        }
        self._unpacked = None
        self._lengths.append(len(rows))
        if sum(self._lengths) <= self._in_memory:
            self._parts.append(part)
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="atomfoundry-align-")
        path = Path(self._folder.name) / f"{len(self._parts)}.npz"
        np.savez(path, allow_pickle=False, **part)
        self._parts.append(path)

    def _draw(self, formula: str) -> int:
        if formula not in self._draws:
            self._draws[formula] = draw(formula, self._seed)
        return self._draws[formula]

    def rows(self) -> Iterator[OverlapRows]:
        """Pass over all rows, a chunk at a time; may be called again and again."""
        self.flush()
        if len(self._parts) > 1:
            yield from self._unpack()
            return
        # One chunk is small enough to stay unpacked.
        if self._unpacked is None:
            self._unpacked = list(self._unpack())
        yield from self._unpacked

    def _unpack(self) -> Iterator[OverlapRows]:
        elements, pairs, start = self.elements, self.pairs, 0
        n_radial = self.basis.n_radial if self.basis else 0
        for kept in self._parts:
            part = dict(np.load(kept)) if isinstance(kept, Path) else kept
            counts = np.zeros((len(part["counts"]), len(elements)))
            counts[:, [elements.index(chemical_symbols[z]) for z in part["numbers"]]] = part["counts"]
            features = np.zeros((len(counts), len(pairs), n_radial))
            features[:, [pairs.index(str(pair)) for pair in part["pairs"]]] = part["features"]
            yield OverlapRows(
                index=np.arange(start, start + len(counts)),
                elements=elements,
                counts=counts,
                energies=dict(zip(self.levels, part["energies"].T, strict=True)),
                formula_draws=part["formula_draws"],
                group_draws=part["group_draws"],
                features=features.reshape(len(counts), -1),
            )
            start += len(counts)


def build_overlap(
    source: Iterable[Atoms],
    others: Mapping[str, EnergySource],
    *,
    optional: Sequence[str] = (),
    basis: PairBasis | None = None,
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
    table = OverlapTable(["source", *others], basis=basis, seed=seed, chunk=chunk, in_memory=in_memory)
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
            table.add(frames[row], [float(column[row]) for column in columns.values()])
    table.flush()
    return table
