"""Checkpoints of a training: every tensor and number needed to go on bit for bit, in one file, no pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atomfoundry.checkpoint import write_atomically
from atomfoundry.errors import TrainingError

CHECKPOINT_VERSION = 1
CHECKPOINT_FILE = "state.safetensors"


@dataclass
class Checkpoint:
    """Named tensors and a JSON-ready state.

    Parameters
    ----------
    tensors
        Group/name -> tensor: ``model/...``, ``ema/...``, ``best/...``, ``optimizer/PARAMETER/...``,
        ``rng/torch``.
    state
        Epoch, step, history, schedule and what else fits JSON.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under ``prefix/``, their names without it."""
        head = prefix + "/"
        return {name[len(head) :]: value for name, value in self.tensors.items() if name.startswith(head)}


def save_checkpoint(directory: str | Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, atomically.

    The state travels in the tensor file's header: two files could not be replaced in one step.

    Parameters
    ----------
    directory
        The checkpoint folder; made if absent.
    checkpoint
        What to write.

    Returns
    -------
    pathlib.Path
        The file.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    state = {"version": CHECKPOINT_VERSION, **checkpoint.state}
    tensors = {name: value.detach().contiguous().cpu() for name, value in checkpoint.tensors.items()}
    path = folder / CHECKPOINT_FILE
    write_atomically(path, save(tensors, metadata={"state": json.dumps(state)}))
    return path


def load_checkpoint(directory: str | Path) -> Checkpoint | None:
    """Read a checkpoint, or return None if there is none.

    Parameters
    ----------
    directory
        The checkpoint folder.

    Raises
    ------
    TrainingError
        If the file is corrupt or of another version.
    """
    path = Path(directory) / CHECKPOINT_FILE
    if not path.exists():
        return None
    remedy = "Remove the checkpoint folder to train from the beginning."
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = json.loads(metadata["state"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"Checkpoint {path} is corrupt: {error}.", remedy=remedy) from error
    if state.pop("version", None) != CHECKPOINT_VERSION:
        raise TrainingError(f"Checkpoint {path} is of another version.", remedy=remedy)
    return Checkpoint(tensors, state)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors, ``PARAMETER/KEY``.

    Parameters
    ----------
    optimizer
        With all parameters in its groups, in the order of `names`.
    names
        The parameters' names.
    """
    entries = optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{key}": torch.as_tensor(value)
        for index, entry in entries.items()
        for key, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave.

    Parameters
    ----------
    optimizer
        Made anew with the same parameters.
    names
        The parameters' names, in the optimiser's order.
    tensors
        ``PARAMETER/KEY`` -> tensor.

    Raises
    ------
    TrainingError
        If a name is not among the parameters.
    """
    position = {name: index for index, name in enumerate(names)}
    entries: dict[int, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        if name not in position:
            raise TrainingError(f"The checkpoint's optimiser knows a parameter '{name}' that the model lacks.")
        entries.setdefault(position[name], {})[key] = value.clone()
    state = optimizer.state_dict()
    state["state"] = entries
    optimizer.load_state_dict(state)
