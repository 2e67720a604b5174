"""Collect labelled frames from finished calculations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ase import Atoms

from atomfoundry.datasets import CurationSettings
from atomfoundry.documents import LabelFailure, LevelOfTheory
from atomfoundry.errors import InputError
from atomfoundry.harvest.formats import RunFiles, find_runs
from atomfoundry.harvest.judge import FileOutcome, HarvestOptions, rejection
from atomfoundry.harvest.workers import read_runs


@dataclass
class HarvestReport:
    """What a harvest found.

    Attributes
    ----------
    frames
        Good frames (empty where they went to a dataset). ``source`` is the file (relative to the folder that was
        named) and, with several steps, the step; all steps of one folder and run share a group.
    rejections
        Files (empty ``frame_id``) and frames that were refused, with reason codes.
    files
        File -> number of good frames; files that are no known output do not occur. A file without frames has
        at least one rejection.
    skipped
        Files that are no known output, when a folder was searched.
    levels
        Level id -> record, of the frames.
    n_frames
        Good frames, wherever they are.
    without_level
        Frames whose level of theory nobody named.
    """

    frames: list[Atoms] = field(default_factory=list)
    rejections: list[LabelFailure] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    levels: dict[str, LevelOfTheory] = field(default_factory=dict)
    n_frames: int = 0
    without_level: int = 0

    @property
    def reasons(self) -> dict[str, int]:
        """Reason code -> number of rejections."""
        return dict(sorted(Counter(item.reason for item in self.rejections).items()))


class Collector:
    """The judgements that need to see all files: duplicates and mixed pseudopotentials."""

    def __init__(self, report: HarvestReport, *, drop_duplicates: bool) -> None:
        self._report, self._drop = report, drop_duplicates
        self._seen: set[int] = set()
        self._potentials: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, outcome: FileOutcome) -> Iterator[Atoms]:
        """Take one file's outcome into the report and yield its frames."""
        report = self._report
        report.rejections += outcome.rejections
        report.files[outcome.name] = 0
        conflict = self._conflict(outcome) if outcome.frames else None
        if conflict is not None:
            report.rejections.append(rejection(outcome.name, "mixed_potentials", conflict))
            return
        for atoms in outcome.frames:
            identity = f"{atoms.info['frame_id']}{atoms.info['level']}"
            key = hash(identity)
            if self._drop and key in self._seen:
                message = "the same structure at the same level came before"
                report.rejections.append(rejection(atoms.info["source"], "duplicate", message, atoms))
                continue
            self._seen.add(key)
            report.files[outcome.name] += 1
            report.n_frames += 1
            if outcome.level is not None:
                report.levels[outcome.level.id] = outcome.level
            else:
                report.without_level += 1
            yield atoms

    def _conflict(self, outcome: FileOutcome) -> str | None:
        """Say which element has another pseudopotential than in an earlier file of the same level."""
        level = "" if outcome.level is None else outcome.level.id
        for element, potential in outcome.potentials.items():
            known, where = self._potentials.get((level, element), (potential, outcome.name))
            if known != potential:
                return (
                    f"{element} has the pseudopotential '{potential}', but '{known}' in {where}: not the same energy "
                    "surface; harvest them apart"
                )
        for element, potential in outcome.potentials.items():
            self._potentials.setdefault((level, element), (potential, outcome.name))
        return None


def _runs(bases: list[Path], report: HarvestReport) -> Iterator[RunFiles]:
    for base in bases:
        for found in find_runs(base):
            if isinstance(found, RunFiles):
                yield found
            elif base.is_file():
                report.rejections.append(
                    rejection(found.name, "unknown_format", "not the output of a code that is known")
                )
            else:
                report.skipped += 1


def _bases(path: str | Path | Iterable[str | Path]) -> list[Path]:
    bases = [Path(root).expanduser() for root in ([path] if isinstance(path, str | Path) else path)]
    for base in bases:
        if not base.exists():
            raise InputError(f"There is no file or folder '{base}'.", remedy="Check the path.")
    return bases


def harvest_frames(
    path: str | Path | Iterable[str | Path],
    report: HarvestReport,
    options: HarvestOptions,
    *,
    processes: int = 0,
    timeout: float = 300.0,
) -> Iterator[Atoms]:
    """Yield good frames one by one and fill the report on the way; what ``harvest`` and ``harvest_dataset`` share."""
    if options.steps not in ("last", "all"):
        raise InputError(f"There are no steps '{options.steps}'.", remedy="Use 'last' or 'all'.")
    if options.energy not in ("free", "sigma0"):
        raise InputError(f"There is no energy '{options.energy}'.", remedy="Use 'free' or 'sigma0'.")
    bases = _bases(path)
    settings = options.settings or CurationSettings()
    collector = Collector(report, drop_duplicates=settings.drop_duplicates)
    for outcomes in read_runs(_runs(bases, report), options, processes=processes, timeout=timeout):
        for outcome in outcomes:
            yield from collector.add(outcome)


def harvest(
    path: str | Path | Iterable[str | Path],
    *,
    steps: Literal["last", "all"] = "last",
    level: LevelOfTheory | None = None,
    settings: CurationSettings | None = None,
    energy: Literal["free", "sigma0"] = "free",
    require_level: bool = False,
    max_energy_rise: float = 5.0,
    processes: int = 0,
    timeout: float = 300.0,
) -> HarvestReport:
    """Read finished calculations of any supported code into memory.

    VASP, Quantum ESPRESSO, CP2K, FHI-aims, GPAW, CASTEP, ABINIT, ORCA, ASE trajectories, extended XYZ, AtomProNet's
    npz and atomate2's TaskDocs (JSON).

    Parameters
    ----------
    path
        A file, a folder that is searched through, or several of them. Where a folder has several outputs of one run
        (``vasprun.xml`` and ``OUTCAR``), the first that gives frames counts and the others are ``duplicate``.
    steps
        ``last``: the last ionic step of each run, which must have ended and, if it was a relaxation, converged.
        ``all``: every good step, those of unfinished runs too.
    level
        Level of theory of all of them; by default it is read from each output. Where an output states none that is
        known, its frames are refused as ``unknown_level``. Trajectories, XYZ and npz never state one: see
        ``require_level``.
    settings
        Quality checks; the defaults (which demand energy and forces) if None.
    energy
        ``free``: the energy the forces are derivatives of; the one at zero smearing is ``info["energy_sigma0"]``.
        ``sigma0``: that one is the label, the level says so, and frames without it are refused.
    require_level
        Refuse frames from files that do not state a level, too.
    max_energy_rise
        eV/atom; a step further above an earlier one of its run is ``exploded``.
    processes
        Worker processes; 0 reads in this one, where nothing protects from a parser that hangs.
    timeout
        Seconds a worker may read one file before it is killed (more for big files).

    Returns
    -------
    HarvestReport
        Stress is in eV/A^3, tension positive. Reason codes: ``unknown_format``, ``unreadable``, ``truncated``,
        ``crashed``, ``no_steps``, ``no_scf``, ``unconverged_electronic``, ``unconverged_ionic``, ``unknown_level``,
        ``mixed_potentials``, ``duplicate``, ``timeout``, ``crashed_reader``, and those of
        ``atomfoundry.datasets.check_frame`` (``nan``, ``no_energy``, ``no_forces``, ``exploded``, ...). Steps of an
        unfinished run carry the flag ``interrupted``, of an unconverged relaxation ``unconverged_ionic``.

    Raises
    ------
    InputError
        If a path does not exist or an option is none.
    """
    report = HarvestReport()
    options = HarvestOptions(
        steps=steps,
        energy=energy,
        level=level,
        require_level=require_level,
        settings=settings,
        max_energy_rise=max_energy_rise,
    )
    report.frames.extend(harvest_frames(path, report, options, processes=processes, timeout=timeout))
    return report


class _Nothing(Exception):
    """No frame was good: leave no folder behind."""


def harvest_dataset(
    path: str | Path | Iterable[str | Path],
    output: str | Path,
    *,
    name: str = "",
    processes: int = 1,
    timeout: float = 300.0,
    **options: Any,
) -> HarvestReport:
    """Read finished calculations straight into a dataset; memory does not grow with their number.

    Parameters
    ----------
    path
        As for ``harvest``.
    output
        The dataset folder to write; must not exist. Nothing is written if no frame is good.
    name
        Name of the dataset; the folder's by default.
    processes
        Worker processes, at least one, so that no parser can end or hang the harvest.
    timeout
        As for ``harvest``.
    **options
        ``steps``, ``level``, ``settings``, ``energy``, ``require_level``, ``max_energy_rise`` of ``harvest``.

    Returns
    -------
    HarvestReport
        Without the frames.

    Raises
    ------
    InputError
        If a path does not exist or an option is none.
    DatasetError
        If ``output`` exists.
    """
    report = HarvestReport()
    frames = harvest_frames(path, report, HarvestOptions(**options), processes=max(1, processes), timeout=timeout)
    write_harvest(frames, report, Path(output), name=name)
    return report


def write_harvest(frames: Iterable[Atoms], report: HarvestReport, folder: Path, *, name: str = "") -> None:
    """Write frames to a dataset as they come; ``report`` is complete when they end. No frame, no folder.

    Parameters
    ----------
    frames
        What ``harvest_frames`` or ``iterate_store`` yields.
    report
        Filled by them on the way.
    folder
        The dataset folder; must not exist.
    name
        Name of the dataset; the folder's by default.
    """
    from atomfoundry.datasets.metadata import METADATA_FILE, DatasetMetadata
    from atomfoundry.datasets.writer import new_folder, write_shards

    try:
        with new_folder(folder) as temporary:
            # The levels are known only when all is read, so the parts of Dataset.create are put together here.
            shards, counts = write_shards(temporary, frames, shard_size=100_000)
            if not counts.frames:
                raise _Nothing
            levels = sorted(report.levels.values(), key=lambda record: record.id)
            one = levels[0] if len(levels) == 1 and not report.without_level else None
            metadata = DatasetMetadata(
                name=name or folder.name,
                level=one,
                levels=levels,
                counts=counts,
                shards=shards,
                lineage={"harvest": {"files": len(report.files), "rejections": report.reasons}},
            )
            (temporary / METADATA_FILE).write_text(metadata.text(), encoding="utf-8")
    except _Nothing:
        pass
