"""A training from a job file, by one process or by many under ``torchrun``.

::

    python -m atomfoundry.models.training.distributed job.toml
    torchrun --nproc-per-node 4 -m atomfoundry.models.training.distributed job.toml

The job file is TOML or JSON; its paths are relative to its folder::

    directory = "training"                    # checkpoint, training.csv
    output = "model"                          # the model folder, written at the end
    train = {pt = "dataset", ft = "fine.extxyz"}

That is enough for a new model. The rest is optional::

    edge_cache = "edges"                      # keeps neighbour lists
    valid = {pt = "dataset"}                  # its split 'valid'
    energies = "isolated"                     # of free atoms; or fitted: 'lstsq', 'mean'
    scale = "global"                          # or 'per_element'
    preset = "fm64"                           # size of the new model
    device = "cpu"                            # or 'cuda', 'auto'
    head_weights = {ft = 0.5}
    [architecture]                            # fields of AllegroConfig that differ from the preset
    cutoff = 6.0
    [[architecture.heads]]
    name = "pt"
    isolated_energies = {Ar = 0.0}
    [settings]                                # fields of TrainingSettings
    max_epochs = 100

What a new model's architecture leaves out comes from the training frames, as with ``atomfoundry train``: elements,
neighbours, and of each head isolated-atom energies (a dataset's own, or single atoms among the frames) and scale. With
``start = "model"``, a model folder, that model is trained further, and heads that it lacks begin as copies of its
first.

Under ``torchrun`` a SIGTERM, the end of a Slurm job or ``ATOMFOUNDRY_DEADLINE`` stops all processes between two steps;
the same command goes on. Exit codes: 0 done; 1 failed; 2 a wrong job file; 75 stopped in time, there is no model
folder yet, run the same command again.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomfoundry.deadline import NO_TIME_STATUS, stop_signals
from atomfoundry.errors import AtomfoundryError, ConfigurationError, InputError
from atomfoundry.models.first_model import FirstModel, first_model
from atomfoundry.models.io import save_model
from atomfoundry.models.train_plan import HeadData, HeadPlan, Preset, TrainingPlan
from atomfoundry.models.training.energies import EnergyPolicy, ScalePolicy
from atomfoundry.models.training.logs import LiveLine
from atomfoundry.models.training.process_group import Device, process_group, training_device
from atomfoundry.models.training.processes import Processes
from atomfoundry.models.training.result import TrainingResult
from atomfoundry.models.training.settings import TrainingSettings
from atomfoundry.models.training.trainer import train

if TYPE_CHECKING:
    from ase import Atoms


class TrainingJob(BaseModel):
    """What to train on what."""

    model_config = ConfigDict(extra="forbid")

    train: dict[str, Path] = Field(
        min_length=1, description="Head -> dataset folder (its split 'train') or file of frames that ASE reads"
    )
    valid: dict[str, Path] = Field(default_factory=dict, description="The same with the split 'valid'")
    start: Path | None = Field(default=None, description="Model folder to go on from; heads it lacks are added")
    preset: Preset = Field(default="fm64", description="Size of a new model")
    architecture: dict[str, Any] = Field(
        default_factory=dict, description="Fields of AllegroConfig of a new model that differ from the preset"
    )
    energies: EnergyPolicy = Field(default="isolated", description="Isolated-atom energies of new heads")
    scale: ScalePolicy = Field(default="global", description="Of the heads of a new model")
    settings: TrainingSettings = TrainingSettings()
    head_weights: dict[str, float] = Field(default_factory=dict)
    directory: Path = Field(description="Folder of the checkpoint and the logs")
    output: Path = Field(description="Model folder to write")
    edge_cache: Path | None = Field(default=None, description="Folder that keeps the edges")
    device: Device = "cpu"


def read_job(path: str | Path) -> TrainingJob:
    """Read a job file; its paths become absolute.

    Parameters
    ----------
    path
        TOML, or JSON by its suffix.

    Raises
    ------
    ConfigurationError
        If it is missing, unreadable, or a field is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text()
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.", remedy="Name a job file.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML or JSON: {error}.", remedy="Mend it.") from error
    try:
        job = TrainingJob.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{path}: '{key}': {first['msg']}.", remedy=f"Valid: {', '.join(TrainingJob.model_fields)}."
        ) from error
    if job.start is not None and job.architecture:
        raise ConfigurationError(f"{path} names both of 'start' and 'architecture'.", remedy="Name one.")
    base = path.resolve().parent
    changes: dict[str, Any] = {
        name: base / value for name in ("start", "directory", "output", "edge_cache") if (value := getattr(job, name))
    }
    for name in ("train", "valid"):
        changes[name] = {head: base / value for head, value in getattr(job, name).items()}
    return job.model_copy(update=changes)


def read_frames(path: Path, *, split: str) -> list[Atoms]:
    """Return the labelled frames of a dataset's split, or of a file.

    Parameters
    ----------
    path
        Dataset folder, or a file that ASE reads.
    split
        Of the dataset; a file is read whole.

    Raises
    ------
    InputError
        If there is no such file, or nothing in it.
    """
    if path.is_dir():
        from atomfoundry.datasets import Dataset

        frames = list(Dataset.open(path).frames(split=split))
    else:
        from ase.io import read

        if not path.is_file():
            raise InputError(f"{path} does not exist.", remedy="Name a dataset folder or a file of frames.")
        frames = read(path, index=":")
    if not frames:
        raise InputError(f"{path} has no frames for '{split}'.", remedy="Add some, or leave it out.")
    return frames


def run_job(job: TrainingJob) -> TrainingResult:
    """Train as the job says; the first process writes the model, unless the training was interrupted.

    Parameters
    ----------
    job
        The same in all processes.

    Raises
    ------
    InputError
        If a file is missing.
    TrainingError
        See :func:`~atomfoundry.models.training.train`.
    """
    frames = {head: read_frames(path, split="train") for head, path in job.train.items()}
    unseen = {head: read_frames(path, split="valid") for head, path in job.valid.items()}
    first = _first(job, frames, unseen)
    processes = Processes.current()
    with LiveLine(job.settings.max_epochs) as show:
        result = train(
            first.model.to(training_device(job.device)),
            frames,
            unseen or None,
            settings=job.settings,
            directory=job.directory,
            head_weights=job.head_weights,
            edge_cache=job.edge_cache,
            callback=show,
        )
    if processes.first and not result.interrupted:
        metadata = {
            "training": job.settings.model_dump(mode="json"),
            "reference_energies": first.records(),
            "n_processes": processes.size,
            "n_epochs": result.n_epochs,
            "stop_reason": result.stop_reason,
            "history": [record.model_dump(mode="json") for record in result.history],
        }
        save_model(result.model, job.output, metadata=metadata)
    processes.wait()
    return result


def _first(job: TrainingJob, frames: dict[str, list[Atoms]], unseen: dict[str, list[Atoms]]) -> FirstModel:
    """Return the model that the training begins with."""
    plan = TrainingPlan(
        heads={name: HeadPlan(data=[str(path)]) for name, path in job.train.items()},
        preset=job.preset,
        architecture=job.architecture,
        energies=job.energies,
        scale=job.scale,
        start=None if job.start is None else str(job.start),
        seed=job.settings.seed,
    )
    return first_model(
        plan, [_head(name, path, frames[name], unseen.get(name, [])) for name, path in job.train.items()]
    )


def _head(name: str, path: Path, frames: list[Atoms], unseen: list[Atoms]) -> HeadData:
    """Return what is known about a head; a dataset tells isolated-atom energies and the level of theory."""
    head = HeadData(name, train=frames, valid=unseen)
    if path.is_dir():
        from atomfoundry.datasets import Dataset

        dataset = Dataset.open(path)
        head.isolated_energies = dict(dataset.isolated_energies)
        head.level = dataset.levels[0] if len(dataset.levels) == 1 else None
    return head


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job file named on the command line and return the exit code: 75 if the same command has to go on.

    Parameters
    ----------
    arguments
        One path; None: of this program.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if len(given) != 1:
            raise ConfigurationError(f"{len(given)} arguments were given.", remedy="Give one job file.")
        job = read_job(given[0])
        with stop_signals(), process_group(training_device(job.device)) as processes:
            result = run_job(job)
            if processes.first:
                sys.stderr.write(_summary(job, result, processes) + "\n")
    except AtomfoundryError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    return NO_TIME_STATUS if result.interrupted else 0


def _summary(job: TrainingJob, result: TrainingResult, processes: Processes) -> str:
    done = f"{result.n_epochs} epochs in {result.wall_time_s:.0f} s with {processes.size} processes"
    if result.interrupted:
        return f"Interrupted ({result.stop_reason}) after {done}; the same command goes on."
    return f"Done ({result.stop_reason}): {done}; the model is in {job.output}."


if __name__ == "__main__":
    sys.exit(main())
