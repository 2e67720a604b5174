"""Curate a whole dataset: every filter of ALGORITHMS 9.2, each with its count, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from pydantic import Field

from atomfoundry.curation.composition import composition_classes
from atomfoundry.curation.valence import valence_problem
from atomfoundry.curation.weights import boltzmann_weights
from atomfoundry.datasets import CurationSettings, Dataset, check_frame
from atomfoundry.documents import LabelFailure
from atomfoundry.errors import DatasetError

_EXAMPLES = 20


class FilterSettings(CurationSettings):
    """Limits of all filters: those of single frames, and those that need the whole dataset."""

    energy_outlier_mad: float | None = Field(
        default=8.0, gt=0, description="Median absolute deviations of the energy per atom in a composition class"
    )
    outlier_class_size: int = Field(default=20, ge=3, description="Smaller classes have no outliers")
    outlier_floor: float = Field(
        default=0.05, ge=0, description="eV/atom; nearer to the median nothing is an outlier, however narrow a class is"
    )
    check_valence: bool = Field(default=False, description="Neutral organic molecules must have a Lewis structure")
    max_magnetic_moment: float = Field(default=10.0, gt=0, description="Bohr magnetons on one atom, where known")
    weight_temperature: float | None = Field(default=None, gt=0, description="K of Boltzmann weights; None: none")
    smallest_weight: float = Field(default=0.01, gt=0, le=1)


@dataclass
class CurationReport:
    """What curation did.

    Attributes
    ----------
    n_frames, n_kept
        Before and after.
    reasons
        Filter -> frames it refused; each frame is counted once, by the first filter it failed.
    examples
        A few refused frames of each filter, with their messages.
    settings
        The limits.
    """

    n_frames: int = 0
    n_kept: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[LabelFailure] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


def curate_dataset(
    dataset: Dataset,
    output: str | Path,
    *,
    settings: FilterSettings | None = None,
    rejected: str | Path | None = None,
    name: str = "",
) -> tuple[Dataset | None, CurationReport]:
    """Write the good frames of a dataset as a new one, and the refused ones, marked with the reason, as another.

    Parameters
    ----------
    dataset
        What to curate; not changed. Splits keep their frames as far as they stay.
    output
        Folder of the new dataset; must not exist.
    settings
        Limits; the defaults if None.
    rejected
        Folder of the refused frames, whose ``flags`` hold the reason; None keeps only the counts.
    name
        Of the new dataset; the old one's by default.

    Returns
    -------
    dataset : Dataset or None
        None if no frame is good; nothing is written then but the refused ones.
    report : CurationReport
        Counts.

    Raises
    ------
    DatasetError
        If a folder exists.
    """
    settings = settings or FilterSettings()
    for folder in (output, rejected):
        if folder is not None and Path(folder).exists():
            raise DatasetError(f"{folder} exists.", remedy="Give another folder.")
    report = CurationReport(n_frames=len(dataset), settings=settings.model_dump())
    verdicts, names = _judge(dataset, settings, report)
    kept = np.flatnonzero(verdicts < 0)
    refused = np.flatnonzero(verdicts >= 0)
    report.n_kept = len(kept)
    report.reasons = dict(sorted(Counter(names[code] for code in verdicts[refused]).items()))
    lineage = {"curated": str(dataset.path.name), "settings": report.settings, "refused": report.reasons}
    if rejected is not None and len(refused):
        Dataset.create(
            rejected,
            _marked(dataset, refused, verdicts, names),
            name=f"{name or dataset.name} refused",
            level=dataset.level,
            levels=dataset.levels,
            lineage=lineage,
        )
    if not len(kept):
        return None, report
    place = {int(old): new for new, old in enumerate(kept)}
    created = Dataset.create(
        output,
        _weighted(dataset, kept, settings),
        name=name or dataset.name,
        level=dataset.level,
        levels=dataset.levels,
        isolated_energies=dataset.isolated_energies,
        splits={key: [place[i] for i in indices if i in place] for key, indices in dataset.splits.items()},
        lineage=lineage,
    )
    return created, report


def _judge(dataset: Dataset, settings: FilterSettings, report: CurationReport) -> tuple[NDArray[np.int16], list[str]]:
    """Return the index of each frame's reason, -1 for good ones, and the reasons."""
    names: list[str] = []
    verdicts = np.full(len(dataset), -1, dtype=np.int16)
    shown: Counter[str] = Counter()

    def refuse(index: int, atoms: Atoms, reason: str, message: str) -> None:
        if reason not in names:
            names.append(reason)
        verdicts[index] = names.index(reason)
        shown[reason] += 1
        if shown[reason] <= _EXAMPLES:
            report.examples.append(
                LabelFailure(
                    frame_id=str(atoms.info.get("frame_id", "")),
                    reason=reason,
                    message=message,
                    formula=atoms.get_chemical_formula(),
                    source=str(atoms.info.get("source", "")),
                )
            )

    seen: set[int] = set()
    for index, atoms in enumerate(dataset.frames()):
        problem = check_frame(atoms, settings) or _further_problem(atoms, settings)
        # 64 bits of the hash are enough: among 10^7 frames two different ones meet with a chance of 3e-6
        key = hash((atoms.info["frame_id"], atoms.info["level"]))
        if problem is None and settings.drop_duplicates and key in seen:
            problem = ("duplicate", "the same structure at the same level came before")
        if problem is None:
            seen.add(key)
        else:
            refuse(index, atoms, *problem)
    if settings.energy_outlier_mad is not None:
        for index, distance in _outliers(dataset, verdicts < 0, settings):
            refuse(index, dataset[index], "energy_outlier", f"{distance:+.3f} eV/atom off the median of its class")
    return verdicts, names


def _further_problem(atoms: Atoms, settings: FilterSettings) -> tuple[str, str] | None:
    if settings.check_valence:
        problem = valence_problem(atoms)
        if problem:
            return "valence", problem
    moments = None
    with suppress(AttributeError):
        moments = atoms.calc.results.get("magmoms")
    moments = atoms.info.get("magnetic_moments") if moments is None else moments
    if moments is not None:
        largest = float(np.abs(np.asarray(moments, dtype=float)).max(initial=0.0))
        if largest > settings.max_magnetic_moment:
            return "magnetic_moment", f"{largest:.3g} Bohr magnetons > {settings.max_magnetic_moment:g}"
    return None


def _outliers(dataset: Dataset, good: NDArray[np.bool_], settings: FilterSettings) -> Iterator[tuple[int, float]]:
    """Yield index and distance (eV/atom) of good frames too far from the median of their composition and level."""
    per_atom = np.asarray(dataset.column("energy")) / np.asarray(dataset.column("n_atoms"))
    codes = composition_classes(dataset)
    usable = good & np.isfinite(per_atom)
    order = np.flatnonzero(usable)
    order = order[np.argsort(codes[order], kind="stable")]
    bounds = np.flatnonzero(np.diff(codes[order])) + 1
    for members in np.split(order, bounds):
        if len(members) < settings.outlier_class_size:
            continue
        distances = per_atom[members] - np.median(per_atom[members])
        spread = float(np.median(np.abs(distances)))
        limit = max((settings.energy_outlier_mad or 0.0) * spread, settings.outlier_floor)
        for place in np.flatnonzero(np.abs(distances) > limit):
            yield int(members[place]), float(distances[place])


def _marked(
    dataset: Dataset, indices: NDArray[np.int64], verdicts: NDArray[np.int16], names: list[str]
) -> Iterator[Atoms]:
    for index in indices:
        atoms = dataset[int(index)]
        atoms.info["flags"] = [*atoms.info.get("flags", []), names[verdicts[index]]]
        yield atoms


def _weighted(dataset: Dataset, indices: NDArray[np.int64], settings: FilterSettings) -> Iterator[Atoms]:
    weights = None
    if settings.weight_temperature is not None:
        weights = boltzmann_weights(
            np.asarray(dataset.column("energy"))[indices],
            np.asarray(dataset.column("n_atoms"))[indices],
            composition_classes(dataset)[indices],
            temperature=settings.weight_temperature,
            smallest=settings.smallest_weight,
        )
    for place, index in enumerate(indices):
        atoms = dataset[int(index)]
        if weights is not None:
            atoms.info["weight"] = float(atoms.info.get("weight", 1.0) * weights[place])
        yield atoms
