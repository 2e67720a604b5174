"""Structures that are the same but for rotation, order of atoms, choice of cell or rounding (ALGORITHMS 9.3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomfoundry.curation.composition import composition_key
from atomfoundry.curation.fingerprints import fingerprint
from atomfoundry.datasets import Dataset, labels_of

FINGERPRINT_RADIUS = 2e-2
"""Far above what an RMSD of the tolerance makes, far below what two structures differ by."""


@dataclass(frozen=True)
class DuplicateGroup:
    """Frames that are one structure at one level of theory.

    Attributes
    ----------
    members
        Indices of the frames, ascending.
    keep
        The one with the smallest net force, or None where their energies contradict each other: then none is
        to be trusted.
    energy_spread
        eV/atom between the highest and the lowest; NaN without energies.
    """

    members: tuple[int, ...]
    keep: int | None
    energy_spread: float


def equal_structures(
    frames: Iterable[Atoms] | Dataset,
    *,
    tolerance: float = 1e-3,
    max_energy_difference: float = 5e-3,
) -> list[DuplicateGroup]:
    """Find frames that are the same structure.

    Candidates have equal reduced composition, level, charge, multiplicity and periodicity and near fingerprints; they
    are confirmed atom by atom: molecules by the root mean square distance after the best proper rotation and
    assignment of equal atoms, crystals by pymatgen's ``StructureMatcher`` without scaling. Time grows with the
    number of frames and of candidate pairs, memory with the number of frames.

    Parameters
    ----------
    frames
        Labelled frames or bare structures. They are read once for the fingerprints, and candidates are read again
        where ``frames`` is a sequence (a ``Dataset`` is one).
    tolerance
        Root mean square distance, A.
    max_energy_difference
        eV/atom. Equal structures at one level that differ more are all in doubt.

    Returns
    -------
    list of DuplicateGroup
        Groups of two and more.
    """
    known = frames if isinstance(frames, Sequence | Dataset) else list(frames)
    buckets: dict[tuple, list[int]] = defaultdict(list)
    prints: dict[int, NDArray[np.float32]] = {}
    for index, atoms in enumerate(known):
        buckets[_class_of(atoms)].append(index)
        prints[index] = fingerprint(atoms).astype(np.float32)
    groups: list[DuplicateGroup] = []
    for members in buckets.values():
        if len(members) < 2:
            continue
        table = np.stack([prints[index] for index in members])
        for connected in _connected(known, members, table, tolerance):
            groups.append(_judged(known, connected, max_energy_difference))
    return sorted(groups, key=lambda group: group.members)


def _class_of(atoms: Atoms) -> tuple:
    info = atoms.info
    return (
        composition_key(atoms.numbers),
        tuple(atoms.pbc),
        str(info.get("level", "")),
        int(info.get("charge", 0) or 0),
        info.get("spin_multiplicity"),
    )


def _connected(
    frames: Sequence[Atoms] | Dataset, members: list[int], table: NDArray[np.float32], tolerance: float
) -> Iterator[list[int]]:
    """Yield the indices that confirmed pairs join."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(table).query_pairs(FINGERPRINT_RADIUS, output_type="ndarray")
    root = list(range(len(members)))

    def find(place: int) -> int:
        while root[place] != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    # sorted, so that what is joined does not depend on the tree
    for first, second in sorted(map(tuple, pairs)):
        a, b = find(first), find(second)
        if a != b and same_structure(frames[members[first]], frames[members[second]], tolerance=tolerance):
            root[max(a, b)] = min(a, b)
    joined: dict[int, list[int]] = defaultdict(list)
    for place, index in enumerate(members):
        joined[find(place)].append(index)
    yield from (group for group in joined.values() if len(group) > 1)


def _judged(frames: Sequence[Atoms] | Dataset, members: list[int], limit: float) -> DuplicateGroup:
    energies, noise = [], []
    for index in members:
        atoms = frames[index]
        energy, forces, _ = labels_of(atoms)
        energies.append(np.nan if energy is None else energy / len(atoms))
        noise.append(np.inf if forces is None else float(np.linalg.norm(forces.sum(axis=0))) / len(atoms))
    known = np.array(energies)[np.isfinite(energies)]
    spread = float(np.ptp(known)) if len(known) else float("nan")
    keep = None if spread > limit else members[int(np.argmin(noise))]
    return DuplicateGroup(tuple(members), keep, spread)


def same_structure(first: Atoms, second: Atoms, *, tolerance: float = 1e-3) -> bool:
    """Tell whether two structures are the same but for rotation, translation, order of atoms and choice of cell.

    Mirror images of molecules are different structures.

    Parameters
    ----------
    first, second
        Structures of equal reduced composition.
    tolerance
        Root mean square distance, A.
    """
    if first.pbc.any() or second.pbc.any():
        return _same_crystal(first, second, tolerance)
    if len(first) != len(second):
        return False
    return molecule_rmsd(first, second) < tolerance


def _same_crystal(first: Atoms, second: Atoms, tolerance: float) -> bool:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    def structure(atoms: Atoms):
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.complete(), pbc=True)
        # the matcher's own reduction forgives 0.25 A, which would take two rattled cells for one perfect one
        return AseAtomsAdaptor.get_structure(bare).get_primitive_structure(tolerance=tolerance)

    one, two = structure(first), structure(second)
    if len(one) != len(two):
        return False
    # ltol and stol only bound the search; the distance decides
    matcher = StructureMatcher(ltol=0.01, stol=0.05, angle_tol=0.5, primitive_cell=False, scale=False)
    found = matcher.get_rms_dist(one, two)
    length = (one.volume / len(one)) ** (1 / 3)
    if found is None or found[0] * length >= tolerance:
        return False
    # that distance is of fractional coordinates: a strain is not in it
    alike = matcher.get_s2_like_s1(one, two)
    metrics = [lattice.matrix @ lattice.matrix.T for lattice in (one.lattice, alike.lattice)]
    edges = np.sqrt(np.diagonal(metrics[0]))
    return bool((np.abs(metrics[0] - metrics[1]) / np.maximum.outer(edges, edges)).max() < 2 * tolerance)


def molecule_rmsd(first: Atoms, second: Atoms) -> float:
    """Return the root mean square distance of two molecules after the best rotation and assignment of equal atoms, A.

    Principal axes give the first guesses, then assignment (Hungarian, element by element) and rotation (Kabsch)
    alternate until nothing changes. Highly symmetric molecules start from further rotations too.
    """
    a = first.positions - first.positions.mean(axis=0)
    b = second.positions - second.positions.mean(axis=0)
    best = np.inf
    for rotation in _guesses(a, b):
        moved, last = b @ rotation.T, None
        while True:
            order = _assignment(first.numbers, second.numbers, a, moved)
            if last is not None and np.array_equal(order, last):
                break
            last = order
            moved = b @ _kabsch(a, b[order]).T
        best = min(best, float(np.sqrt(((a - moved[order]) ** 2).sum(axis=1).mean())))
        if best < 1e-6:
            break
    return best


def _guesses(a: NDArray[np.float64], b: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    values_a, axes_a = np.linalg.eigh(a.T @ a)
    values_b, axes_b = np.linalg.eigh(b.T @ b)
    scale = max(values_a[-1], 1e-12)
    if not np.allclose(values_a, values_b, atol=0.05 * scale + 0.05):
        return
    for signs in product((1, -1), repeat=3):
        rotation = axes_a @ np.diag(signs) @ axes_b.T
        if np.linalg.det(rotation) > 0:
            yield rotation
    gaps = np.diff(values_a)
    if len(a) > 2 and gaps.min() < 0.02 * scale:
        # degenerate moments leave the axes undetermined: any two atoms of the one may lie on any two of the other
        yield from _by_pairs(a, b)


def _by_pairs(a: NDArray[np.float64], b: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    far = np.linalg.norm(a, axis=1)
    i = int(far.argmax())
    cross = np.linalg.norm(np.cross(a, a[i]), axis=1)
    j = int(cross.argmax())
    frame_a = _frame(a[i], a[j])
    lengths = np.linalg.norm(b, axis=1)
    for k in np.flatnonzero(np.abs(lengths - far[i]) < 0.05):
        for m in np.flatnonzero(np.abs(lengths - far[j]) < 0.05):
            if m != k and abs(b[k] @ b[m] - a[i] @ a[j]) < 0.1 * max(far[i] * far[j], 0.1):
                frame_b = _frame(b[k], b[m])
                if frame_a is not None and frame_b is not None:
                    yield frame_a @ frame_b.T


def _frame(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64] | None:
    x = u / max(float(np.linalg.norm(u)), 1e-12)
    z = np.cross(u, v)
    length = float(np.linalg.norm(z))
    if length < 1e-8:
        return None
    z = z / length
    return np.column_stack([x, np.cross(z, x), z])


def _assignment(
    kinds_a: NDArray[np.integer], kinds_b: NDArray[np.integer], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return for every atom of ``a`` the atom of ``b``, of the same element, that it meets."""
    from scipy.optimize import linear_sum_assignment

    order = np.empty(len(a), dtype=np.int64)
    for kind in np.unique(kinds_a):
        rows, columns = np.flatnonzero(kinds_a == kind), np.flatnonzero(kinds_b == kind)
        cost = ((a[rows][:, None, :] - b[columns][None, :, :]) ** 2).sum(axis=2)
        chosen_rows, chosen = linear_sum_assignment(cost)
        order[rows[chosen_rows]] = columns[chosen]
    return order


def _kabsch(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the proper rotation R that brings ``b @ R.T`` nearest to ``a`` (Kabsch, Acta Cryst. A32, 922)."""
    u, _, vt = np.linalg.svd(a.T @ b)
    sign = np.sign(np.linalg.det(u @ vt))
    return u @ np.diag([1.0, 1.0, sign]) @ vt
