"""A training as a folder: from a plan to a model, its history, its errors and where it all came from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.datasets.files import replace_text
from atomfoundry.deadline import NoTimeLeftError, reason_to_stop
from atomfoundry.documents.model import EpochRecord
from atomfoundry.errors import ConfigurationError
from atomfoundry.models.accuracy import Accuracy
from atomfoundry.models.prediction import predict
from atomfoundry.models.train_plan import HeadData, TrainingPlan, read_head

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.training.process_group import Device

PLAN, RECORD, HISTORY, MODEL, PAGE = "plan.json", "training.json", "history.json", "model", "errors.html"
"""Files of the folder: the plan; what came of it; the learning curve; the model; the page of errors."""

IN_MODEL = ("plan", "reference_energies", "data", "data_hash", "metrics", "settings", "provenance")
"""What the model's own metadata have of the record."""


@dataclass
class TrainedFolder:
    """What a training folder holds.

    Attributes
    ----------
    path
        The folder.
    record
        ``training.json``: plan, settings, data, errors, provenance. Empty in all processes but the first where
        several have just trained.
    trained_now
        False where it was finished before.
    """

    path: Path
    record: dict[str, Any]
    trained_now: bool

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.path / MODEL

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Metrics of every head and split."""
        return list(self.record["metrics"])


def train_folder(
    plan: TrainingPlan,
    path: str | Path,
    *,
    device: Device = "cpu",
    callback: Callable[[EpochRecord], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
    provenance: Mapping[str, Any] | None = None,
) -> TrainedFolder:
    """Train as a plan says, into a folder; the same call goes on where it was stopped.

    Processes that ``torchrun`` started train together; the first one writes and evaluates. A finished folder is not
    trained again. It holds ``plan.json``, ``checkpoint/``, and in the end ``model/``, ``history.json``,
    ``training.json`` and ``errors.html``.

    Parameters
    ----------
    plan
        Data, model, settings.
    path
        The folder; made if absent. Several processes all see it.
    device
        Where to train: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
    callback
        Called with each epoch's record, in the first process.
    say
        Called with a sentence now and then.
    provenance
        Kept in the record: versions, host, command line.

    Raises
    ------
    ConfigurationError
        If a setting is wrong, the folder holds another training, or there is no such device.
    DatasetError
        If data cannot be read, or there is nothing to train on.
    TrainingError
        If an isolated-atom energy is missing, or training cannot go on.
    NoTimeLeftError
        If the process must end before the training is at its end; its checkpoint is there.
    """
    from atomfoundry.models.first_model import first_model
    from atomfoundry.models.io import save_model
    from atomfoundry.models.training.process_group import first_process, process_group, training_device
    from atomfoundry.models.training.trainer import train

    folder = Path(path)
    settings = plan.settings()
    where = training_device(device)
    _claim(folder, plan)
    heads = [
        read_head(n, h, valid_fraction=plan.valid_fraction, seed=plan.seed, split_groups=plan.split_groups)
        for n, h in plan.heads.items()
    ]
    data_hash = _data_hash(heads)
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["data_hash"] != data_hash:
            raise ConfigurationError(
                f"The data of the finished training in {folder} have changed since.", remedy="Name another folder."
            )
        return TrainedFolder(folder, record, trained_now=False)
    for head in heads:
        say(
            f"Head '{head.name}': {len(head.train)} frames to train on, {len(head.valid)} to validate, "
            f"{len(head.test)} to test"
        )
    first = first_model(plan, heads)
    validation = {head.name: head.valid for head in heads if head.valid}
    with process_group(where) as processes:
        # all have looked at the folder before the first one writes into it
        processes.wait()
        if processes.first:
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(folder / PLAN, _text(plan.model_dump(mode="json")))
        n_processes = processes.size
        if n_processes > settings.batch_size * (settings.batches_per_step or n_processes):
            say(f"A step has {settings.batch_size} structures: some of the {n_processes} processes have nothing to do.")
        if where == "cpu" and processes.alone and "num_threads" not in plan.training and (n_cores := _cores()) > 1:
            say(f"One of {n_cores} cores trains: --threads takes more.")
        result = train(
            first.model.to(where),
            {head.name: head.train for head in heads},
            validation or None,
            settings=settings,
            directory=folder,
            head_weights={name: head.weight for name, head in plan.heads.items()},
            callback=callback,
        )
    if result.interrupted:
        raise NoTimeLeftError(
            f"The training in {folder} was interrupted in epoch {result.n_epochs + 1}, because {reason_to_stop()}.",
            remedy="Run the same command again: it goes on from its checkpoint.",
        )
    if not first_process():
        return TrainedFolder(folder, {}, trained_now=True)
    accuracies = _judge(result.model, heads)
    record = {
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan": plan.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "config": result.model.config.model_dump(mode="json"),
        "reference_energies": first.records(),
        "data": {head.name: head.sources for head in heads},
        "data_hash": data_hash,
        "frames": {head.name: {s: len(getattr(head, s)) for s in ("train", "valid", "test")} for head in heads},
        "metrics": [accuracy.metrics().model_dump(mode="json") for accuracy in accuracies],
        "stop_reason": result.stop_reason,
        "n_epochs": result.n_epochs,
        "best_epoch": result.best_epoch,
        "training_time_s": result.wall_time_s,
        "device": where,
        "n_processes": n_processes,
        "n_parameters": sum(p.numel() for p in result.model.parameters()),
        "provenance": dict(provenance or {}),
    }
    save_model(result.model, folder / MODEL, metadata={key: record[key] for key in IN_MODEL})
    replace_text(folder / HISTORY, _text([entry.model_dump(mode="json") for entry in result.history]))
    _page(folder, accuracies)
    # last, because it says that all is there
    replace_text(folder / RECORD, _text(record))
    return TrainedFolder(folder, record, trained_now=True)


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _claim(folder: Path, plan: TrainingPlan) -> None:
    """Refuse a folder of something else."""
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file.", remedy="Name a folder.")
    if not (folder / PLAN).is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigurationError(f"{folder} is not empty and holds no training.", remedy="Name another folder.")
        return
    from atomfoundry.models.training.settings import RESUME_MAY_CHANGE

    def course(values: dict[str, Any]) -> dict[str, Any]:
        free = {key: value for key, value in values["training"].items() if key not in RESUME_MAY_CHANGE}
        return {**values, "training": free}

    try:
        # a plan of an older version lacks what has been added since
        old = course(TrainingPlan(**json.loads((folder / PLAN).read_text(encoding="utf-8"))).model_dump(mode="json"))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{folder / PLAN} is broken: {error}.", remedy="Name another folder.") from error
    new = course(plan.model_dump(mode="json"))
    differing = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if differing:
        raise ConfigurationError(
            f"{folder} holds another training: {', '.join(differing)} differ.",
            remedy="Give the same settings to go on, or name another folder.",
        )


def _judge(model: Allegro, heads: list[HeadData]) -> list[Accuracy]:
    """Return the errors of every head on every split."""
    found = []
    for head in heads:
        known = next(each for each in model.config.heads if each.name == head.name).isolated_energies
        parts: dict[str, list[Atoms]] = {"train": head.train, "valid": head.valid, "test": head.test}
        for name, frames in parts.items():
            if not any(atoms.calc.results.get("energy") is not None for atoms in frames):
                continue
            accuracy = Accuracy(head=head.name, split=name, isolated_energies=known)
            for frame, prediction in predict(model, frames, head=head.name):
                accuracy.add(frame, prediction)
            found.append(accuracy)
    return found


def _page(folder: Path, accuracies: list[Accuracy]) -> None:
    from atomfoundry.models.accuracy_page import write_accuracy_page

    if accuracies:
        write_accuracy_page(folder / PAGE, accuracies, title=f"Errors of {folder.name}")


def _data_hash(heads: list[HeadData]) -> str:
    """Hash frames and labels, and who validates: what a training depends on."""
    digest = hashlib.sha256()
    for head in heads:
        digest.update(f"{head.name} {sorted(head.isolated_energies.items())}\n".encode())
        for name in ("train", "valid", "test"):
            for atoms in getattr(head, name):
                digest.update(f"{name} {atoms.info['frame_id']} {atoms.calc.results.get('energy')!r}".encode())
                forces = atoms.calc.results.get("forces")
                digest.update(b"" if forces is None else forces.tobytes())
    return digest.hexdigest()


def _text(values: Any) -> str:
    return json.dumps(values, indent=1, allow_nan=False) + "\n"
