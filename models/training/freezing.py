"""Which weights are trained and which are held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from atomfoundry.errors import TrainingError

if TYPE_CHECKING:
    from torch.nn import Parameter

    from atomfoundry.models.allegro.model import Allegro

READOUT_PREFIXES = ("readouts.",)
TWO_BODY_PREFIXES = ("embedding.", "two_body.")


def trained_parameters(model: Allegro, part: str) -> list[tuple[str, Parameter]]:
    """Return names and parameters of the model that are not in the held part.

    Parameters
    ----------
    model
        The model.
    part
        As in :func:`frozen`.
    """
    return [(name, p) for name, p in model.named_parameters() if not _is_frozen(name, part)]


@contextmanager
def frozen(model: Allegro, part: str) -> Iterator[None]:
    """Hold a part of the model's weights for a while.

    Parameters
    ----------
    model
        The model.
    part
        'none', 'descriptor' (all but the readouts) or 'two_body' (the two-body embedding).

    Raises
    ------
    TrainingError
        If the model has no such part.
    """
    held = [p for name, p in model.named_parameters() if p.requires_grad and _is_frozen(name, part)]
    if part != "none" and not held:
        raise TrainingError(f"Nothing to freeze: the model has no parameters of '{part}'.")
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _is_frozen(name: str, part: str) -> bool:
    if part == "descriptor":
        return not name.startswith(READOUT_PREFIXES)
    if part == "two_body":
        return name.startswith(TWO_BODY_PREFIXES)
    return False
