"""How many threads the kernel uses, and PyTorch beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_number: ContextVar[int | None] = ContextVar("kernel_threads", default=None)


def kernel_threads() -> int:
    """Return how many threads the kernel uses: those of PyTorch, or those it gave up within `kernel_first`."""
    return _number.get() or torch.get_num_threads()


@contextmanager
def kernel_first() -> Iterator[None]:
    """Leave PyTorch one thread for a while and the kernel all of them.

    What PyTorch does around the kernel is too small to share, and its threads, which spin while they wait for more,
    would take the processor from the kernel's.
    """
    number = torch.get_num_threads()
    if number == 1:
        yield
        return
    token = _number.set(number)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(number)
        _number.reset(token)
