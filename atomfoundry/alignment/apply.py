"""Align a dataset on disk, frame by frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ase import Atoms

from atomfoundry.alignment.transform import Alignment
from atomfoundry.datasets import Dataset, labels_of
from atomfoundry.errors import AlignmentError


class AlignedFrames:
    """The frames of a source with aligned labels, in order, one in memory at a time.

    Parameters
    ----------
    frames
        Of the source level.
    alignment
        What aligns them.
    leave_out
        Pass over frames that cannot be aligned (no energy, an element without isolated-atom energy or in no overlap
        structure) instead of stopping at the first; ``left_out`` says why and how many.
    """

    def __init__(self, frames: Iterable[Atoms], alignment: Alignment, *, leave_out: bool = False) -> None:
        self.left_out: Counter[str] = Counter()
        self.kept: list[int] = []
        """Numbers of the source frames that were aligned so far."""
        self._frames, self._alignment, self._leave_out = frames, alignment, leave_out

    def __iter__(self) -> Iterator[Atoms]:
        """Yield aligned frames."""
        self.left_out.clear()
        self.kept.clear()
        for number, atoms in enumerate(self._frames):
            if self._leave_out and (reason := _refusal(atoms, self._alignment)):
                self.left_out[reason] += 1
                continue
            yield self._alignment.apply(atoms)
            self.kept.append(number)
        if not self.kept:
            raise AlignmentError(
                f"No frame could be aligned ({dict(self.left_out) or 'there is none'}).",
                remedy="Label structures with these elements at both levels.",
            )


def align_dataset(
    dataset: Dataset,
    alignment: Alignment,
    path: str | Path,
    *,
    leave_out: bool = False,
    watch: Callable[[Iterator[Atoms]], Iterable[Atoms]] | None = None,
) -> tuple[Dataset, dict[str, int]]:
    """Write a dataset with aligned labels; splits are kept.

    Parameters
    ----------
    dataset
        At the alignment's source level.
    alignment
        What aligns it.
    path
        Folder to make.
    leave_out
        As in ``AlignedFrames``.
    watch
        Passes the frames on, e.g. under a progress bar.

    Returns
    -------
    tuple
        The new dataset, at the target level, and why frames were left out -> how many.

    Raises
    ------
    AlignmentError
        If a frame cannot be aligned and ``leave_out`` is false, or nothing is left.
    """
    strange = set(dataset.metadata.counts.elements) & set(alignment.uncovered)
    if strange and not leave_out:
        raise AlignmentError(
            f"Dataset '{dataset.name}' has frames with {', '.join(sorted(strange))}, which no structure that was "
            f"computed at both {alignment.source_level.label} and {alignment.target_level.label} holds.",
            remedy="Label some structures with these elements at both levels, or leave such frames out (leave_out).",
        )
    frames: Iterable[Atoms] = dataset.frames() if watch is None else watch(dataset.frames())
    aligned = AlignedFrames(frames, alignment, leave_out=leave_out)
    isolated = {s: e for s, e in alignment.target_isolated_energies.items() if s in dataset.metadata.counts.elements}
    lineage = {
        "aligned": [shard.sha256 for shard in dataset.metadata.shards],
        "from": alignment.source_level.id,
        "scale": alignment.scale,
        "path": [step.model_dump() for step in alignment.path],
        "dispersion": [term.model_dump() for term in alignment.dispersion_terms],
    }
    splits: dict[str, list[int]] = {}
    if dataset.splits:
        # Which frames stay is known before writing only by looking at them: a pass without labels being computed.
        place = {number: row for row, number in enumerate(_kept(dataset, alignment, leave_out))}
        splits = {name: [place[i] for i in rows if i in place] for name, rows in dataset.splits.items()}
    made = Dataset.create(
        path,
        aligned,
        name=f"{dataset.name}, aligned",
        level=alignment.target_level,
        isolated_energies=isolated,
        splits=splits,
        lineage=lineage,
    )
    return made, dict(aligned.left_out)


def _kept(dataset: Dataset, alignment: Alignment, leave_out: bool) -> Iterable[int]:
    if not leave_out:
        return range(len(dataset))
    return [number for number, atoms in enumerate(dataset.frames()) if not _refusal(atoms, alignment)]


def _refusal(atoms: Atoms, a: Alignment) -> str:
    """Return why a frame cannot be aligned; empty if it can."""
    if labels_of(atoms)[0] is None:
        return "no energy"
    alignable = set(a.source_isolated_energies) & set(a.target_isolated_energies) - set(a.uncovered)
    strange = sorted(set(atoms.symbols) - alignable)
    return f"element {', '.join(strange)}" if strange else ""
