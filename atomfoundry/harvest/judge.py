"""From what a parser read to what may be trained on: every file ends in frames or in reasons."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ase import Atoms

from atomfoundry.datasets import CurationSettings, curate, with_metadata
from atomfoundry.datasets.frame import complete_info
from atomfoundry.documents import LabelFailure, LevelOfTheory
from atomfoundry.errors import StructureError
from atomfoundry.harvest.formats import RunFiles, parser_of
from atomfoundry.harvest.run import ParseFailure, Run, Step, describe, labelled_step


@dataclass(frozen=True)
class HarvestOptions:
    """What counts as a good frame; see ``harvest``."""

    steps: Literal["last", "all"] = "last"
    energy: Literal["free", "sigma0"] = "free"
    level: LevelOfTheory | None = None
    require_level: bool = False
    settings: CurationSettings | None = None
    max_energy_rise: float = 5.0


@dataclass
class FileOutcome:
    """What became of one file."""

    name: str
    frames: list[Atoms] = field(default_factory=list)
    rejections: list[LabelFailure] = field(default_factory=list)
    level: LevelOfTheory | None = None
    potentials: dict[str, str] = field(default_factory=dict)


def rejection(name: str, reason: str, message: str, atoms: Atoms | None = None) -> LabelFailure:
    """Return a rejection of a file, or of one of its frames."""
    identity = ""
    if atoms is not None:
        try:
            identity = with_metadata(atoms).info["frame_id"]
        except StructureError:
            identity = ""
    return LabelFailure(
        frame_id=identity,
        reason=reason,
        message=" ".join(message.split())[:300],
        formula="" if atoms is None else atoms.get_chemical_formula(),
        source=name,
    )


def read_file(path: str, name: str, kind: str, key: str, options: HarvestOptions) -> FileOutcome:
    """Read one file and judge it.

    Parameters
    ----------
    path, name
        The file, and what it is called in the report.
    kind
        As ``kind_of`` says.
    key
        The run's name, for ``group_id``.
    options
        What counts as good.

    Returns
    -------
    FileOutcome
        Frames, rejections or both; never neither.
    """
    outcome = FileOutcome(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = parser_of(kind)(Path(path))
    except ParseFailure as failure:
        outcome.rejections.append(rejection(name, failure.reason, str(failure)))
        return outcome
    except (OSError, MemoryError, RecursionError, UnicodeError) as error:
        outcome.rejections.append(rejection(name, "unreadable", describe(error)))
        return outcome
    return judge_run(run, name, key, options)


def judge_run(run: Run, name: str, key: str, options: HarvestOptions) -> FileOutcome:
    """Sort the steps of a run into frames and rejections; the run's steps are marked on the way."""
    outcome = FileOutcome(name)
    _judge(run, outcome, key, options)
    if not outcome.frames and not outcome.rejections:
        outcome.rejections.append(rejection(name, "no_steps", "the file holds no finished ionic step"))
    return outcome


def read_run(run: RunFiles, options: HarvestOptions) -> list[FileOutcome]:
    """Read the files of one run, the best first, until one gives frames; the rest are ``duplicate``."""
    outcomes: list[FileOutcome] = []
    for path, name, kind in run.files:
        good = next((outcome.name for outcome in outcomes if outcome.frames), None)
        outcomes.append(read_file(path, name, kind, run.key, options) if good is None else repeated(name, good))
    return outcomes


def repeated(name: str, good: str) -> FileOutcome:
    """Return the outcome of a file whose run was read from another file already."""
    return FileOutcome(name, rejections=[rejection(name, "duplicate", f"the same run as {good}, which was read")])


def _level(run: Run, options: HarvestOptions) -> LevelOfTheory | None:
    level = options.level or run.level
    if level is not None and options.energy == "sigma0":
        level = level.model_copy(update={"extra": {**level.extra, "energy": "sigma->0"}})
    return level


def _judge(run: Run, outcome: FileOutcome, key: str, options: HarvestOptions) -> None:
    level = _level(run, options)
    if level is None and (run.states_level or options.require_level):
        problem = run.level_problem or "the file does not tell its level of theory; name it with level="
        outcome.rejections.append(rejection(outcome.name, "unknown_level", problem))
        return
    _mark_explosions(run.steps, options.max_energy_rise)
    numbered = list(enumerate(run.steps))
    flags = [] if run.complete else ["interrupted"]
    if run.complete and run.relaxed is False:
        flags.append("unconverged_ionic")
    if options.steps == "last":
        numbered = numbered[-1:] if run.result is None else [numbered[run.result]]
        _mark_unfinished(run, numbered[0][1] if numbered else None)
    good: list[Atoms] = []
    formulas: dict[bytes, str] = {}
    for number, step in numbered:
        source = f"{outcome.name}#{number}" if len(run.steps) > 1 else outcome.name
        if step.reason is None and options.energy == "sigma0":
            step = _at_sigma0(step)
        if step.reason is not None or step.atoms is None:
            outcome.rejections.append(rejection(source, step.reason or "unreadable", step.message, step.atoms))
            continue
        atoms = step.atoms
        # The steps of a run have one formula, and ASE takes long to find it.
        composition = atoms.numbers.tobytes()
        formula = formulas.get(composition) or formulas.setdefault(composition, atoms.get_chemical_formula())
        atoms.info.update(
            source=source,
            group_id=f"{key or outcome.name}:{formula}",
            sampling="harvest",
            flags=[*atoms.info.get("flags", []), *flags],
            level="" if level is None else level.id,
        )
        if step.sigma0 is not None and options.energy == "free":
            atoms.info["energy_sigma0"] = float(step.sigma0)
        if run.kpoints is not None:
            atoms.info["kpoints"] = run.kpoints
        good.append(atoms)
    settings = options.settings or CurationSettings()
    kept, refused = curate(good, settings)
    outcome.rejections += refused
    for atoms in kept:
        atoms.info = complete_info(atoms)
    outcome.frames += kept
    outcome.level, outcome.potentials = level, run.potentials


def _mark_explosions(steps: list[Step], limit: float) -> None:
    """Refuse steps whose energy rose far above an earlier one's: the run blew up, whatever its forces say."""
    lowest: float | None = None
    for step in steps:
        if step.atoms is None or step.atoms.calc is None or "energy" not in step.atoms.calc.results:
            continue
        energy = float(step.atoms.calc.results["energy"]) / len(step.atoms)
        if lowest is not None and energy - lowest > limit:
            step.refuse("exploded", f"energy {energy - lowest:.3g} eV/atom above an earlier step of the run")
        elif lowest is None or energy < lowest:
            lowest = energy


def _mark_unfinished(run: Run, last: Step | None) -> None:
    """Refuse a last step that is not the result of its run."""
    if last is None:
        return
    if not run.complete:
        last.refuse("truncated", "the run did not end; steps='all' gives the steps it finished")
    elif run.relaxed is False:
        last.refuse("unconverged_ionic", "the relaxation did not converge; steps='all' gives its steps")


def _at_sigma0(step: Step) -> Step:
    if step.atoms is None:
        return step
    if step.sigma0 is None:
        return step.refuse("no_energy", "the output does not tell the energy at zero smearing")
    results = step.atoms.calc.results
    return labelled_step(step.atoms, step.sigma0, results.get("forces"), results.get("stress"), sigma0=step.sigma0)
