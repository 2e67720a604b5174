"""Where a model computes: a CPU or a GPU, by name."""

from __future__ import annotations

import re

import torch

from atomfoundry.errors import ConfigurationError

_NAME = re.compile(r"auto|cpu|cuda(?::(\d+))?")


def visible_gpus() -> int:
    """Return how many GPUs this PyTorch can use; the driver counts those of which it cannot, too."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def find_device(name: str, *, where: str) -> torch.device:
    """Return the device of a name.

    Parameters
    ----------
    name
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` and so on, or ``"auto"``: a GPU where torch sees one, else the CPU.
    where
        What asks, for the error.

    Raises
    ------
    ConfigurationError
        If the name is wrong, or torch does not see that GPU.
    """
    match = _NAME.fullmatch(str(name))
    if match is None:
        raise ConfigurationError(
            f"{where}: there is no device {name!r}.", remedy="Valid: 'auto', 'cpu', 'cuda', 'cuda:0', 'cuda:1', ..."
        )
    visible = visible_gpus()
    if name == "auto":
        return torch.device("cuda" if visible else "cpu")
    if name != "cpu" and int(match.group(1) or 0) >= visible:
        raise ConfigurationError(
            f"{where}: there is no GPU for device '{name}': torch {torch.__version__} sees {visible or 'none'}.",
            remedy="Run it where there is one, or set device to 'auto'. 'atomfoundry doctor' says why none is seen.",
        )
    return torch.device(name)
