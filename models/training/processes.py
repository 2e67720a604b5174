"""The processes that train one model together: sums over all of them, and nothing at all for one alone.

Every process holds the same weights and works on its own part of each step's structures. The loss is made of sums
and counts (:mod:`~atomfoundry.models.training.loss`), so both are added up first; each process then differentiates
the whole loss by its own part of the sums, and the gradients, added up in one flat buffer, are those of one process
with the whole batch (ALGORITHMS 3.6). ``torch.nn.parallel.DistributedDataParallel`` is not used: it averages where
we sum, it reduces by hooks on the first backward pass although forces in the loss make ours a double one with custom
operations, and it stumbles over weights that a process did not touch (another head's readout, an empty part). The
gradient of a potential is about a megabyte, so there is nothing to gain by sending it in pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from atomfoundry.errors import TrainingError


class Processes:
    """All processes of a training, as one of them sees them.

    Parameters
    ----------
    rank, size
        Which of how many.
    device
        Where the backend can sum: NCCL only on its GPU.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, device: str | torch.device = "cpu") -> None:
        self.rank = rank
        self.size = size
        self.device = torch.device(device)

    @classmethod
    def current(cls) -> Processes:
        """Return the initialised process group, or this process alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        on_gpu = dist.get_backend() == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        return cls(dist.get_rank(), dist.get_world_size(), device=device)

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, items: Sequence[int]) -> list[int]:
        """Return this process's part of a list: every `size`-th entry."""
        return list(items[self.rank :: self.size])

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over the processes, float64; the same bits in each of them."""
        if self.alone:
            return list(values)
        buffer = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(buffer)
        return buffer.tolist()

    def largest(self, value: int) -> int:
        """Return the largest value of all processes."""
        if self.alone:
            return value
        buffer = torch.tensor([value], dtype=torch.int64, device=self.device)
        dist.all_reduce(buffer, op=dist.ReduceOp.MAX)
        return int(buffer.item())

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.largest(0)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add up the gradients, in float64 and one message; a weight that no process touched keeps none.

        Parameters
        ----------
        parameters
            The same in every process.
        """
        if self.alone:
            return
        touched = [float(parameter.grad is not None) for parameter in parameters]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([part.detach().reshape(-1).to(self.device, torch.float64) for part in parts])
        buffer = torch.cat([flat, torch.tensor(touched, dtype=torch.float64, device=self.device)])
        dist.all_reduce(buffer)
        start = 0
        for parameter, count in zip(parameters, buffer[len(flat) :].tolist(), strict=True):
            end = start + parameter.numel()
            if count:
                parameter.grad = buffer[start:end].view(parameter.shape).to(parameter.device, parameter.dtype)
            start = end

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.alone:
            return
        with torch.no_grad():
            for tensor in tensors:
                value = tensor.detach().to(self.device).contiguous()
                dist.broadcast(value, src=0)
                tensor.copy_(value)

    def require_same(self, content: str, *, what: str) -> None:
        """Check that all processes have the same.

        Parameters
        ----------
        content
            Any text that says all about it, e.g. a hash.
        what
            Its name, for the error.

        Raises
        ------
        TrainingError
            In every process, if one of them differs.
        """
        if self.alone:
            return
        number = int.from_bytes(hashlib.sha256(content.encode()).digest()[:7])
        smallest, largest = -self.largest(-number), self.largest(number)
        if smallest != largest:
            raise TrainingError(
                f"The {self.size} processes of the training do not have the same {what}.",
                remedy="Start all of them with the same job and versions, in a folder that all of them see.",
            )
