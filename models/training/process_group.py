"""The process group of a training that ``torchrun`` started, the device of each process, and its threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist

from atomfoundry.errors import ConfigurationError
from atomfoundry.models.devices import find_device, visible_gpus
from atomfoundry.models.training.processes import Processes

Device = Literal["auto", "cpu", "cuda"]


def first_process() -> bool:
    """Tell whether this process is alone or the first of those that ``torchrun`` started: the one that writes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def training_device(wanted: Device) -> Literal["cpu", "cuda"]:
    """Return where to train.

    Parameters
    ----------
    wanted
        ``auto``: a GPU where there is one for each process of this machine, else the CPU.

    Raises
    ------
    ConfigurationError
        If a GPU is wanted and there is none, or no such device is known.
    """
    if wanted != "auto":
        return "cuda" if find_device(wanted, where="training").type == "cuda" else "cpu"
    return "cuda" if visible_gpus() >= max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) else "cpu"


def threads_asked_for() -> int | None:
    """Return the number of threads in ``OMP_NUM_THREADS``; None where it is not set.

    Raises
    ------
    ConfigurationError
        If it is no number of threads.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ConfigurationError(
            f"OMP_NUM_THREADS is '{os.environ['OMP_NUM_THREADS']}', which is no number of threads.",
            remedy="Set it to 1 or more, or unset it.",
        )
    return int(text)


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
                remedy="Start one process a GPU, or train on the CPU.",
            )
        torch.cuda.set_device(local)
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield Processes.current()
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Processes.current()
    finally:
        dist.destroy_process_group()
