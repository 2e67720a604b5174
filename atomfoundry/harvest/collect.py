"""Collect labelled frames from finished calculations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ase import Atoms

from atomfoundry.datasets import CurationSettings, curate, with_metadata
from atomfoundry.documents import LabelFailure, LevelOfTheory
from atomfoundry.errors import InputError
from atomfoundry.harvest.parsers import ParseFailure, Step, parse, parser_for


@dataclass
class HarvestReport:
    """What a harvest found.

    Attributes
    ----------
    frames
        Good frames. ``source`` is the file (relative to the folder that was named) and, with several steps,
        the step; all steps of one folder and run share a group.
    rejections
        Files (empty ``frame_id``) and frames that were refused, with reason codes.
    files
        File -> number of good frames; files that are no known output do not occur.
    skipped
        Files that are no known output, when a folder was searched.
    """

    frames: list[Atoms] = field(default_factory=list)
    rejections: list[LabelFailure] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    skipped: int = 0

    @property
    def reasons(self) -> dict[str, int]:
        """Reason code -> number of rejections."""
        return dict(sorted(Counter(item.reason for item in self.rejections).items()))


def harvest(
    path: str | Path | Iterable[str | Path],
    *,
    steps: Literal["last", "all"] = "last",
    level: LevelOfTheory | None = None,
    settings: CurationSettings | None = None,
) -> HarvestReport:
    """Read finished calculations: VASP, Quantum ESPRESSO, extended XYZ, ASE trajectories.

    Parameters
    ----------
    path
        A file, a folder that is searched through, or several of them. Where a folder has ``vasprun.xml`` and
        ``OUTCAR`` of one run, the first that gives frames counts.
    steps
        The last ionic step of each file, or all.
    level
        Level of theory of all of them; the harvest does not guess it.
    settings
        Quality checks; the defaults (which demand energy and forces) if None.

    Returns
    -------
    HarvestReport
        Energies are force-consistent, stress is in eV/A^3, tension positive. Reason codes:
        ``unknown_format``, ``unreadable``, ``truncated``, ``crashed``, ``no_steps``, ``no_scf``,
        ``unconverged_electronic``, and those of ``atomfoundry.datasets.check_frame``. Good steps of an
        interrupted run carry the flag ``interrupted``.

    Raises
    ------
    InputError
        If a path does not exist or ``steps`` is neither.
    """
    if steps not in ("last", "all"):
        raise InputError(f"There are no steps '{steps}'.", remedy="Use 'last' or 'all'.")
    report = HarvestReport()
    for root in [path] if isinstance(path, str | Path) else path:
        base = Path(root).expanduser()
        if not base.exists():
            raise InputError(f"There is no file or folder '{base}'.", remedy="Check the path.")
        for file in _files(base):
            found = parser_for(file)
            if found is not None:
                name = str(file.relative_to(base)) if base.is_dir() else file.name
                _harvest_file(file, name, *found, report, steps=steps, level=level, settings=settings)
            elif base.is_file():
                report.rejections.append(
                    _failure(file.name, "unknown_format", "not the output of a code that is known")
                )
            else:
                report.skipped += 1
    return report


def _files(base: Path) -> list[Path]:
    if base.is_file():
        return [base]
    files = [file for file in base.rglob("*") if file.is_file()]
    # vasprun.xml before OUTCAR: it has all digits.
    return sorted(files, key=lambda file: (file.parent, "vasprun" not in file.name.lower(), file.name))


def _run_key(name: str) -> str:
    """Return what the files of one run have in common."""
    stem = Path(name).name.lower()
    for part in (".gz", ".xml", "vasprun", "outcar"):
        stem = stem.replace(part, "")
    return f"{Path(name).parent}/{stem.strip('._')}".removeprefix("./").strip("/")


def _failure(name: str, reason: str, message: str, step: Step | None = None) -> LabelFailure:
    return LabelFailure(
        frame_id="" if step is None else with_metadata(step.atoms).info["frame_id"],
        reason=reason,
        message=" ".join(message.split())[:300],
        formula="" if step is None else step.atoms.get_chemical_formula(),
        source=name,
    )


def _harvest_file(
    file: Path,
    name: str,
    kind: str,
    parser: Callable[[Path], list[Step]],
    report: HarvestReport,
    *,
    steps: str,
    level: LevelOfTheory | None,
    settings: CurationSettings | None,
) -> None:
    run = _run_key(name)
    twins = [other for other, number in report.files.items() if number and _run_key(other) == run]
    if kind == "outcar" and any("vasprun" in other.lower() for other in twins):
        return
    report.files[name] = 0
    try:
        parsed = parse(file, parser)
    except ParseFailure as failure:
        report.rejections.append(_failure(name, failure.reason, str(failure)))
        return
    numbered = list(enumerate(parsed))
    good = []
    for number, step in numbered if steps == "all" else numbered[-1:]:
        source = f"{name}#{number}" if len(parsed) > 1 else name
        if step.reason is not None:
            report.rejections.append(_failure(source, step.reason, step.message, step))
            continue
        step.atoms.info.update(
            source=source,
            group_id=f"{run or Path(name).name}:{step.atoms.get_chemical_formula()}",
            sampling="harvest",
            flags=step.flags,
            level="" if level is None else level.id,
        )
        good.append(step.atoms)
    kept, rejections = curate(good, settings)
    report.frames.extend(with_metadata(atoms) for atoms in kept)
    report.rejections.extend(rejections)
    report.files[name] = len(kept)
