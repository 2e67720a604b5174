"""Edges sorted by centre as a rectangle (atom, place among its edges), so that sums become matrix products.

Both directions are gathers or scatters without collisions, so gradients of any order are cheap and give the
same bits on every run, also on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def _spread(rows: Tensor, places: Tensor, n: int) -> Tensor:
    return rows.new_zeros((n, *rows.shape[1:])).index_copy(0, places, rows)


def _collect(table: Tensor, places: Tensor) -> Tensor:
    return table.index_select(0, places)


class _Spread(torch.autograd.Function):
    """Rows to places of a zeroed array; no place is named twice."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, places: Tensor, n: int) -> Tensor:
        ctx.places = places  # type: ignore[attr-defined]
        return _spread(rows, places, n)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        # Without a graph no Function: batched backward passes (vmap) take plain operations only.
        collect = _Collect.apply if torch.is_grad_enabled() else _collect
        return collect(grads[0], ctx.places), None, None  # type: ignore[attr-defined]


class _Collect(torch.autograd.Function):
    """Rows from places; no place is named twice."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, table: Tensor, places: Tensor) -> Tensor:
        ctx.places, ctx.n = places, table.shape[0]  # type: ignore[attr-defined]
        return _collect(table, places)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        spread = _Spread.apply if torch.is_grad_enabled() else _spread
        return spread(grads[0], ctx.places, ctx.n), None  # type: ignore[attr-defined]


@dataclass(frozen=True)
class EdgeLayout:
    """Where each edge lies among the edges of its centre.

    Parameters
    ----------
    n_atoms
        Number of atoms N.
    width
        Most edges of one atom, D.
    places
        (M,) int64, row of the edge in the (N * D) rectangle; None if every atom has exactly D edges, because
        then the rectangle is the edge list itself.
    """

    n_atoms: int
    width: int
    places: Tensor | None

    @classmethod
    def of(cls, centre: Tensor, n_atoms: int) -> EdgeLayout:
        """Lay out edges whose centres, (M,) int64, ascend."""
        degree = torch.bincount(centre, minlength=n_atoms)
        width = int(degree.max()) if n_atoms else 0
        if n_atoms * width == centre.shape[0]:
            return cls(n_atoms, width, None)
        starts = torch.cumsum(degree, 0) - degree
        rank = torch.arange(centre.shape[0], device=centre.device) - starts[centre]
        return cls(n_atoms, width, centre * width + rank)

    def spread(self, rows: Tensor) -> Tensor:
        """Edge rows (M, ...) to the rectangle (N, D, ...); empty places are zero."""
        if self.places is not None:
            rows = _Spread.apply(rows, self.places, self.n_atoms * self.width)
        return rows.view(self.n_atoms, self.width, *rows.shape[1:])

    def collect(self, rectangle: Tensor) -> Tensor:
        """Rectangle (N, D, ...) to edge rows (M, ...)."""
        rows = rectangle.reshape(self.n_atoms * self.width, *rectangle.shape[2:])
        return rows if self.places is None else _Collect.apply(rows, self.places)

    def sum_over_edges(self, rows: Tensor) -> Tensor:
        """Sum edge rows (M, ...) over the edges of each centre: (N, ...)."""
        return self.spread(rows).sum(dim=1)
