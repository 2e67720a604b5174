"""A GPU that is none: tensors that say they are on one, compute on the CPU, and refuse what a GPU refuses.

With it every machine finds a tensor that was left on the wrong device, and the numbers can be compared to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
COPIES = (aten.copy_.default, aten._to_copy.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""Their indices may be on the CPU."""


class OnGPU(Tensor):
    """A tensor on the pretended GPU; `inner` holds the numbers."""

    inner: Tensor
    made = 0

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGPU:
        layout: dict[str, Any] = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=CPU, **layout)
        made.inner = inner
        OnGPU.made += 1
        return made

    def __init__(self, inner: Tensor) -> None:
        pass

    def __repr__(self) -> str:
        return f"OnGPU({self.inner!r})"

    # What PyTorch would answer in C++, which knows the truth.

    @property
    def device(self) -> torch.device:
        return GPU

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def tolist(self) -> list:
        return self.detach().inner.tolist()

    def new_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        return OnGPU(self.detach().inner.new_tensor(*args, **kwargs))

    def cpu(self) -> Tensor:
        return _moved(self, CPU)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return _to(self, list(args), kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.copy_.default and not isinstance(args[0], cls):
            return args[0].copy_(args[1].inner)
        if not (func in COPIES or (func in INDEXED and isinstance(args[0], cls))):
            _require_all_there(func, tree_leaves((args, kwargs)))
        plain = {**kwargs, **({"device": CPU} if kwargs.get("device") else {})}
        out = func(*tree_map(_inner, args), **tree_map(_inner, plain))
        wrapped = tree_map(lambda value: cls(value) if type(value) is Tensor else value, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _require_all_there(func: Any, values: list) -> None:
    for value in values:
        # numbers may be anywhere; empty ones come from autograd itself, where nothing flows into a part
        if isinstance(value, Tensor) and not isinstance(value, OnGPU) and value.dim() and value.numel():
            raise RuntimeError(f"{func}: Expected all tensors to be on the same device, {tuple(value.shape)} is not")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnGPU) else value


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if (device.type == "cuda") == isinstance(tensor, OnGPU):
        return tensor
    assert not (tensor.requires_grad and torch.is_grad_enabled()), "differentiating a move is not pretended"
    return OnGPU(tensor.detach()) if device.type == "cuda" else tensor.detach().inner


def _to(tensor: Tensor, rest: list, kwargs: dict) -> Tensor:
    device = kwargs.pop("device", None)
    if rest and isinstance(rest[0], str | torch.device):
        device = rest.pop(0)
    moved = tensor if device is None else _moved(tensor, torch.device(device))
    return Tensor.to(moved, *rest, **kwargs) if rest or kwargs else moved


class _Pretence(TorchFunctionMode):
    """Takes tensors to the GPU and makes them there."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            return _to(args[0], list(args[1:]), kwargs)
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            made = func(*args, **{**kwargs, "device": CPU})
            return made if isinstance(made, OnGPU) else OnGPU(made)
        return func(*args, **kwargs)


def _module_to(module: nn.Module, device: str | torch.device) -> nn.Module:
    device = torch.device(device)
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(_moved(weight.detach(), device))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _moved(buffer, device)
    return module


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Let torch have one GPU for a while."""
    with pytest.MonkeyPatch.context() as patch, _Pretence():
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda device: "pretended")
        patch.setattr(torch.cuda, "memory_stats", lambda device: {"allocation.all.allocated": OnGPU.made})
        patch.setattr(nn.Module, "to", _module_to)
        yield
