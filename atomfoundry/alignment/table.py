"""The overlap table: counts and energies of the structures that several levels have, in chunks that may lie on disk."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from atomfoundry.alignment.pairs import PairBasis, pair_features
from atomfoundry.alignment.regression import draw

AS_COMPUTED = "as computed"
"""Column of the source's energies where the column ``source`` has other dispersion than its labels."""


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
    def as_computed(self) -> NDArray[np.float64]:
        """Source energies before dispersion was taken from or added to them, ``[m]``, eV."""
        return self.energies.get(AS_COMPUTED, self.energies["source"])

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
            part = dict(np.load(kept, allow_pickle=False)) if isinstance(kept, Path) else kept
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
