"""How near a training set is to a structure, as a model sees it (ALGORITHMS 9.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from atomfoundry.curation.similar_structures import Similarity, comparable, similarity
from atomfoundry.errors import DatasetError
from atomfoundry.models.descriptors import atom_descriptors
from atomfoundry.models.foreign_descriptors import calculator_atom_descriptors
from atomfoundry.models.training.loader import prepare_graphs
from atomfoundry.models.training.validation import in_chunks

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.models.allegro.model import Allegro

_AT_ONCE = 256


def training_similarity(
    model: Allegro | BaseCalculator,
    test: Atoms,
    training: Iterable[Atoms],
    *,
    top: int = 10,
    least_overlap: float = 0.5,
) -> tuple[Similarity, list[int]]:
    """Compare a structure with a training set by the model's invariant atom descriptors.

    Training structures of other elements are left out: those whose elements are no subset of the test structure's and
    have less than ``least_overlap`` in common with it.

    Parameters
    ----------
    model
        Gives the descriptors; it must know all elements of the test structure. A model of ours, or a calculator with
        ``get_descriptors(atoms)`` that gives one invariant row an atom, as MACE's does.
    test
        The structure.
    training
        Structures, read once.
    top
        How many of the nearest to list.
    least_overlap
        Share of common elements in all elements.

    Returns
    -------
    similarity : Similarity
        Its ``structures`` are indices into ``training``.
    compared : list of int
        Indices of the training structures that were compared.

    Raises
    ------
    DatasetError
        If no training structure has comparable elements.
    ModelError
        If a calculator has no descriptors.
    """
    from atomfoundry.models.allegro.model import Allegro

    symbols = test.get_chemical_symbols()
    known = set(model.config.type_names) if isinstance(model, Allegro) else None
    compared: list[int] = []

    def chosen() -> Iterator[Atoms]:
        for index, atoms in enumerate(training):
            other = atoms.get_chemical_symbols()
            if comparable(symbols, other, least_overlap=least_overlap) and (known is None or set(other) <= known):
                compared.append(index)
                yield atoms

    rows, numbers, owner = [], [], []
    for start, batch in _blocks(chosen()):
        for place, (descriptors, atoms) in enumerate(zip(_descriptors(model, batch), batch, strict=True)):
            rows.append(descriptors.astype(np.float32))
            numbers.append(atoms.numbers)
            owner.append(np.full(len(atoms), start + place))
    if not rows:
        raise DatasetError(
            f"No training structure has elements comparable to {test.get_chemical_formula()}.",
            remedy="Lower least_overlap, or the training set has nothing to do with the structure.",
        )
    found = similarity(
        _descriptors(model, [test])[0],
        test.numbers,
        np.concatenate(rows),
        np.concatenate(numbers),
        np.concatenate(owner),
        top=top,
    )
    places = np.array(compared)
    return Similarity(found.score, places[found.structures], found.scores, found.atoms), compared


def _blocks(frames: Iterator[Atoms]) -> Iterator[tuple[int, list[Atoms]]]:
    """Yield lists of frames with the number of frames before each."""
    block: list[Atoms] = []
    start = 0
    for atoms in frames:
        block.append(atoms)
        if len(block) == _AT_ONCE:
            yield start, block
            start += len(block)
            block = []
    if block:
        yield start, block


def _descriptors(model: Allegro | BaseCalculator, frames: list[Atoms]) -> list[np.ndarray]:
    from atomfoundry.models.allegro.model import Allegro

    if not isinstance(model, Allegro):
        return [calculator_atom_descriptors(model, atoms) for atoms in frames]
    found: list[np.ndarray] = []
    for batch in in_chunks(prepare_graphs(model, frames), 32):
        rows, owner = atom_descriptors(model, batch).numpy(), batch.batch.numpy()
        found += [rows[owner == structure] for structure in range(batch.energy.shape[0])]
    return found
