"""A training from a job file, by one process or by many under ``torchrun``.

::

    python -m atomfoundry.models.training.distributed job.toml
    torchrun --nproc-per-node 4 -m atomfoundry.models.training.distributed job.toml

The job file is TOML or JSON; its paths are relative to its folder::

    directory = "training"                    # checkpoint, training.csv
    output = "model"                          # the model folder, written at the end
    edge_cache = "edges"                      # optional
    train = {pt = "dataset", ft = "fine.extxyz"}
    valid = {pt = "dataset"}
    start = "pretrained"                      # a model folder, or the fields of AllegroConfig:
    [architecture]
    type_names = ["Ar"]
    [[architecture.heads]]
    name = "pt"
    isolated_energies = {Ar = 0.0}
    [settings]                                # fields of TrainingSettings
    max_epochs = 100

Under ``torchrun`` a SIGTERM, the end of a Slurm job or ``ATOMFOUNDRY_DEADLINE`` stops all processes between two steps;
the same command goes on. Exit codes: 0 done, or stopped in time (then there is no model folder yet), 1 failed, 2 a
wrong job file.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomfoundry.deadline import NO_TIME_STATUS, stop_signals
from atomfoundry.errors import AtomfoundryError, ConfigurationError, InputError
from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.io import load_model, save_model
from atomfoundry.models.training.logs import LiveLine
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
    start: Path | None = Field(default=None, description="Model folder to go on from")
    architecture: AllegroConfig | None = Field(default=None, description="Of a new model")
    settings: TrainingSettings = TrainingSettings()
    head_weights: dict[str, float] = Field(default_factory=dict)
    directory: Path = Field(description="Folder of the checkpoint and the logs")
    output: Path = Field(description="Model folder to write")
    edge_cache: Path | None = Field(default=None, description="Folder that keeps the edges")
    device: Literal["cpu", "cuda"] = "cpu"


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
    if (job.start is None) == (job.architecture is None):
        raise ConfigurationError(
            f"{path} names {'both' if job.start else 'neither'} of 'start' and 'architecture'.", remedy="Name one."
        )
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
    model = load_model(job.start) if job.start is not None else Allegro(_architecture(job))
    frames = {head: read_frames(path, split="train") for head, path in job.train.items()}
    unseen = {head: read_frames(path, split="valid") for head, path in job.valid.items()}
    processes = Processes.current()
    with LiveLine(job.settings.max_epochs) as show:
        result = train(
            model.to(job.device),
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
            "n_processes": processes.size,
            "n_epochs": result.n_epochs,
            "stop_reason": result.stop_reason,
            "history": [record.model_dump(mode="json") for record in result.history],
        }
        save_model(result.model, job.output, metadata=metadata)
    processes.wait()
    return result


def _architecture(job: TrainingJob) -> AllegroConfig:
    assert job.architecture is not None
    return job.architecture


@contextmanager
def process_group(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; without it this process is alone.

    Parameters
    ----------
    device
        'cpu' (gloo) or 'cuda' (NCCL, one GPU a process).

    Raises
    ------
    ConfigurationError
        If there is no such device.
    """
    if device == "cuda":
        local, n_devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= n_devices:
            raise ConfigurationError(
                f"Process {local} of this machine has no GPU of its own: there are {n_devices}.",
                remedy='Start one process a GPU, or set device = "cpu".',
            )
        torch.cuda.set_device(local)
    if "WORLD_SIZE" not in os.environ:
        yield Processes()
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Processes.current()
    finally:
        dist.destroy_process_group()


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
        with stop_signals(), process_group(job.device) as processes:
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
