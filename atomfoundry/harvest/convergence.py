"""Looking at a tree of runs: convergence, AIMD temperatures and energies, and what has to be run again."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atomfoundry.harvest.formats import RunFiles, find_runs, parser_of
from atomfoundry.harvest.run import ParseFailure, Run
from atomfoundry.units import EV_PER_A3_IN_GPA

_FINISHED = ("finished", "relaxed")


@dataclass
class RunConvergence:
    """How one run went, step by step; what a convergence plot shows.

    Attributes
    ----------
    source
        The file, relative to the tree.
    status
        ``relaxed``, ``finished``, ``interrupted``, ``unconverged_electronic``, ``unconverged_ionic``, or the
        reason why nothing could be read.
    energies
        eV, force-consistent; NaN where a step has none.
    energy_changes
        eV, to the step before; the first is NaN.
    max_forces
        eV/A, the largest |F_i|.
    pressures
        GPa, positive when compressed; NaN without a stress.
    n_atoms
        Of the last step that could be read.
    dynamics
        Several steps of a run that is no relaxation.
    temperatures
        K, of the steps of a dynamics, where the output prints them.
    """

    source: str
    status: str
    energies: list[float] = field(default_factory=list)
    energy_changes: list[float] = field(default_factory=list)
    max_forces: list[float] = field(default_factory=list)
    pressures: list[float] = field(default_factory=list)
    n_atoms: int = 0
    dynamics: bool = False
    temperatures: list[float] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """The run need not be repeated."""
        return self.status in _FINISHED


def _status(run: Run) -> str:
    if not run.complete:
        return "interrupted"
    if run.steps and run.steps[-1].reason is not None:
        return run.steps[-1].reason
    if run.relaxed is None:
        return "finished"
    return "relaxed" if run.relaxed else "unconverged_ionic"


def _follow(run: Run, source: str) -> RunConvergence:
    record = RunConvergence(source, _status(run), temperatures=list(run.temperatures))
    record.dynamics = run.relaxed is None and len(run.steps) > 1
    record.n_atoms = next((len(step.atoms) for step in reversed(run.steps) if step.atoms is not None), 0)
    for step in run.steps:
        results = {} if step.atoms is None or step.atoms.calc is None else step.atoms.calc.results
        forces, stress = results.get("forces"), results.get("stress")
        record.energies.append(float(results.get("energy", np.nan)))
        record.max_forces.append(
            float(np.linalg.norm(forces, axis=1).max(initial=0.0)) if forces is not None else np.nan
        )
        record.pressures.append(float(-np.mean(stress[:3]) * EV_PER_A3_IN_GPA) if stress is not None else np.nan)
    record.energy_changes = [np.nan, *np.diff(record.energies).tolist()] if record.energies else []
    return record


def convergence_table(tree: str | Path) -> list[RunConvergence]:
    """Follow every run of a tree, one record a run.

    Parameters
    ----------
    tree
        A folder (or file) of outputs of any supported code.

    Returns
    -------
    list of RunConvergence
        In the order of the tree; of a run with several outputs the best that can be read.
    """
    records = []
    for found in find_runs(Path(tree)):
        if not isinstance(found, RunFiles):
            continue
        record = RunConvergence(found.files[0][1], "unreadable")
        for path, name, kind in found.files:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    run = parser_of(kind)(Path(path))
            except ParseFailure as failure:
                record = RunConvergence(name, failure.reason)
                continue
            except (OSError, MemoryError, RecursionError, UnicodeError):
                record = RunConvergence(name, "unreadable")
                continue
            record = _follow(run, name)
            break
        records.append(record)
    return records


def resubmission_list(tree: str | Path, records: Iterable[RunConvergence] | None = None) -> list[tuple[str, str]]:
    """Return (folder, reason) of the runs of a tree that did not end well, in order.

    Parameters
    ----------
    tree
        As for ``convergence_table``; the folders are relative to it.
    records
        What ``convergence_table`` gave, so that nothing is read twice.
    """
    base = Path(tree)
    unfinished: dict[str, str] = {}
    for record in convergence_table(base) if records is None else records:
        if not record.done:
            place = Path(record.source).parent if base.is_dir() else base.parent
            unfinished.setdefault(str(place), record.status)
    return list(unfinished.items())


def write_resubmission_list(
    path: str | Path, tree: str | Path, records: Iterable[RunConvergence] | None = None
) -> list[tuple[str, str]]:
    """Write the folders of unfinished runs, one a line, for a shell.

    ``while IFS= read -r folder; do (cd "$folder" && sbatch job.sh); done < FILE``

    Parameters
    ----------
    path
        File to write; replaced when complete.
    tree, records
        As for ``resubmission_list``.

    Returns
    -------
    list of tuple
        As ``resubmission_list``.
    """
    base = Path(tree)
    unfinished = resubmission_list(base, records)
    folders = [str(base / place) if base.is_dir() else place for place, _ in unfinished]
    write_text(Path(path), "".join(f"{folder}\n" for folder in folders))
    return unfinished


def write_text(target: Path, content: str) -> None:
    """Write a text file that appears when it is complete."""
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass
class MolecularDynamics:
    """An AIMD run: what its plots show.

    Attributes
    ----------
    temperatures
        K, as the output prints them; empty where it does not.
    energies
        eV, potential energy of each step.
    """

    temperatures: list[float]
    energies: list[float]


def molecular_dynamics(path: str | Path) -> MolecularDynamics:
    """Read temperature and energy of each step of an AIMD output.

    Parameters
    ----------
    path
        ``OUTCAR`` (temperatures and energies), or any output that is known (energies).

    Raises
    ------
    ParseFailure
        If the file cannot be read.
    """
    file = Path(path)
    found = next(iter(find_runs(file)))
    if not isinstance(found, RunFiles):
        raise ParseFailure("unknown_format", f"'{file}' is not the output of a code that is known")
    record = _follow(parser_of(found.files[0][2])(file), file.name)
    return MolecularDynamics(record.temperatures, record.energies)
