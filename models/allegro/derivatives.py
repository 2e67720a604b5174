"""Operations with cheap second derivatives, which forces in a loss need at every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local
from typing import Any

import torch
from torch import Tensor

_asked = local()


@contextmanager
def geometry_only() -> Iterator[None]:
    """Say that in this thread only derivatives by edge vectors are asked for.

    Those by weights then need not be made. PyTorch tells its own operations which derivatives are wanted, but
    not operations defined in Python.
    """
    with _saying("geometry_only"):
        yield


@contextmanager
def traceable() -> Iterator[None]:
    """Say that in this thread operations are recorded: no number may leave its tensor, since it may change later."""
    with _saying("traceable"):
        yield


def is_traceable() -> bool:
    """Return whether operations are being recorded."""
    return getattr(_asked, "traceable", False)


@contextmanager
def _saying(name: str) -> Iterator[None]:
    before = getattr(_asked, name, False)
    setattr(_asked, name, True)
    try:
        # PyTorch differentiates what is on a GPU in a thread of its own, which would not hear of it.
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        setattr(_asked, name, before)


class _SiLUSlope(torch.autograd.Function):
    """g SiLU'(h)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, h: Tensor, value: Tensor, sigmoid: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(g, h, value, sigmoid, slope)
        return g * slope

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (v,) = grads
        g, h, value, sigmoid, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            # A third derivative will be asked for: what was kept has no graph, so start from h again.
            sigmoid = torch.sigmoid(h)
            value = h * sigmoid
            slope = sigmoid + value * (1 - sigmoid)
            return v * slope, v * g * ((1 - sigmoid) * (sigmoid * (1 - value) + slope)), None, None, None
        curvature = torch.addcmul(sigmoid, sigmoid, value, value=-1).add_(slope)
        curvature.addcmul_(curvature, sigmoid, value=-1)  # (1 - sigmoid) (sigmoid (1 - value) + slope)
        return v * slope, curvature.mul_(g).mul_(v), None, None, None


class _SiLU(torch.autograd.Function):
    """h sigmoid(h)."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        sigmoid = torch.sigmoid(h)
        value = h * sigmoid
        slope = torch.addcmul(sigmoid, value, sigmoid, value=-1).add_(value)
        ctx.save_for_backward(h, value, sigmoid, slope)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        h, value, sigmoid, slope = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return grads[0] * slope
        return _SiLUSlope.apply(grads[0], h, value.detach(), sigmoid, slope)


def silu(h: Tensor) -> Tensor:
    """Return h sigmoid(h), with cheap first and second derivatives."""
    return _SiLU.apply(h)


Triple = tuple[int, int, int]


def _coupled(a: Tensor, b: Tensor, factors: Tensor, triples: list[Triple], rows: int) -> Tensor:
    if is_traceable():
        return _coupled_by_sums(a, b, factors, triples, rows)
    # Made from both, so that vmap (batched backward passes) sees a batch if either has one.
    out = (a[:1, 0] * b[:1, 0]).new_zeros((a.shape[0], rows, *a.shape[2:]))
    left, right, into = a.unbind(1), b.unbind(1), out.unbind(1)
    for (i, j, k), factor in zip(triples, factors.tolist(), strict=True):
        into[k].addcmul_(left[i], right[j], value=factor)
    return out


def _coupled_by_sums(a: Tensor, b: Tensor, factors: Tensor, triples: list[Triple], rows: int) -> Tensor:
    """Return the same; no number leaves its tensor, nothing is written in place: a compiler has to fuse it."""
    zero = (a[:, 0] * b[:, 0]).new_zeros(())
    sums: list[Tensor] = [zero] * rows
    for (i, j, k), factor in zip(triples, factors.unbind(0), strict=True):
        sums[k] = sums[k] + a[:, i] * b[:, j] * factor
    shape = (a[:, 0] * b[:, 0]).shape
    return torch.stack([row.expand(shape) for row in sums], dim=1)


class _PairwiseCoupling(torch.autograd.Function):
    """out[:, k] = sum over (i, j, k) of factor a[:, i] b[:, j]."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, factors: Tensor, triples: list[Triple], rows: int) -> Tensor:
        ctx.save_for_backward(a, b, factors)
        ctx.triples = triples
        return _coupled(a, b, factors, triples, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (g,) = grads
        a, b, factors = ctx.saved_tensors
        by_a = by_b = by_factors = None
        if ctx.needs_input_grad[0]:
            turned = [(k, j, i) for i, j, k in ctx.triples]
            by_a = couple(g, b, factors, turned, a.shape[1])
        if ctx.needs_input_grad[1]:
            turned = [(i, k, j) for i, j, k in ctx.triples]
            by_b = couple(a, g, factors, turned, b.shape[1])
        if ctx.needs_input_grad[2] and not getattr(_asked, "geometry_only", False):
            left, right, out = a.unbind(1), b.unbind(1), g.unbind(1)
            pairs = {(i, j): left[i] * right[j] for i, j, _ in ctx.triples}
            by_factors = torch.stack([(pairs[i, j] * out[k]).sum() for i, j, k in ctx.triples])
        return by_a, by_b, by_factors, None, None


def couple(a: Tensor, b: Tensor, factors: Tensor, triples: list[Triple], rows: int) -> Tensor:
    """Return out[:, k] = sum over triples (i, j, k) of factor a[:, i] b[:, j].

    Parameters
    ----------
    a, b
        (M, rows of a, C) and (M, rows of b, C).
    factors
        One number a triple, (n,).
    triples
        Rows of a, of b and of the result.
    rows
        Rows of the result.
    """
    if torch.is_grad_enabled():
        return _PairwiseCoupling.apply(a, b, factors, triples, rows)
    return _coupled(a, b, factors, triples, rows)
