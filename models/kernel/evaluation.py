"""Energies, forces and their gradients by weights from the compiled kernel, as PyTorch sees them."""

from __future__ import annotations

import ctypes
import logging
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from atomfoundry.errors import ModelError
from atomfoundry.models.allegro.radial import covalent_radii_of
from atomfoundry.models.kernel.build import compile_library, load_library, sources
from atomfoundry.models.kernel.layout import config_header, harmonics_header, kernel_weights, unsupported
from atomfoundry.models.kernel.threads import kernel_threads
from atomfoundry.settings import settings

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.graph import GraphBatch

logger = logging.getLogger(__name__)


@lru_cache
def _say_once(reason: str) -> None:
    logger.warning("The compiled kernel is not used: %s. PyTorch evaluates the model instead.", reason)


def kernel_sources(model: Allegro) -> dict[str, str]:
    """Return file name -> text of the kernel for a model's shape."""
    texts = sources()
    texts["foundry_config.hpp"] = config_header(model)
    texts["foundry_harmonics.hpp"] = harmonics_header(model.config.l_max)
    return texts


def kernel_library(model: Allegro) -> ctypes.CDLL:
    """Compile (or find) the kernel of a model's shape and load it."""
    return load_library(compile_library(kernel_sources(model), "interface.cpp", name="allegro"))


class Kernel:
    """The compiled kernel of one model; weights are handed over whenever they have changed.

    Parameters
    ----------
    model
        Its shape is compiled; the model itself is not kept.

    Raises
    ------
    ModelError
        If there is no compiler, or it fails.
    """

    def __init__(self, model: Allegro) -> None:
        self.library = kernel_library(model)
        self.dtype = model.dtype
        self.width = model.config.latent_width
        self.cutoff = model.config.cutoff
        self.radii = np.ascontiguousarray(covalent_radii_of(model.config.type_names), dtype=np.float64)
        self._seen: list[Tensor] = []
        self._prepared: Prepared | None = None

    def prepare(self, model: Allegro) -> Prepared:
        """Return the kernel's model with the present weights; the former one again if none has changed.

        Values are compared: fused optimisers change tensors without counting up their versions.
        """
        parameters = list(model.parameters())
        same = len(parameters) == len(self._seen) and all(map(torch.equal, parameters, self._seen))
        if self._prepared is None or not same:
            with torch.no_grad():
                self._prepared = Prepared(self, len(model.config.heads), kernel_weights(model))
                self._seen = [parameter.detach().clone() for parameter in parameters]
        return self._prepared


class Prepared:
    """Weights in the order in which the kernel reads them; freed when nothing refers to them any more."""

    def __init__(self, kernel: Kernel, n_heads: int, weights: Tensor) -> None:
        values = weights.detach().contiguous()
        n_types = len(kernel.radii)
        expected = kernel.library.foundry_kernel_size(n_types, n_heads)
        if values.numel() != expected or values.dtype != kernel.dtype:
            raise ModelError(f"The kernel expects {expected} weights, the model has {values.numel()} ({values.dtype}).")
        self.kernel = kernel
        self.handle: int = kernel.library.foundry_kernel_new(
            n_types, n_heads, kernel.cutoff, kernel.radii.ctypes.data, values.data_ptr()
        )
        weakref.finalize(self, kernel.library.foundry_kernel_free, self.handle)


class Edges:
    """The arrays of a batch that the kernel reads."""

    def __init__(self, model: Allegro, batch: GraphBatch, vectors: Tensor) -> None:
        centre, neighbour = batch.edge_index
        self.n_centres, self.n_edges = batch.num_nodes, batch.num_edges
        degree = torch.bincount(centre, minlength=self.n_centres)
        self.first = torch.zeros(self.n_centres + 1, dtype=torch.int64)
        torch.cumsum(degree, 0, out=self.first[1:])
        types = batch.types.to(torch.int32)
        self.centre_types, self.neighbour_types = types.contiguous(), types[neighbour].contiguous()
        node_head = batch.head[batch.batch]
        self.heads = node_head.to(torch.int32) if len(model.config.heads) > 1 else None
        self.scales = model.edge_scales(batch, node_head).contiguous()
        self.vectors = vectors.detach().double().contiguous()

    def pointers(self) -> list[Any]:
        """Return the arguments of the kernel that say what the atoms are."""
        heads = None if self.heads is None else self.heads.data_ptr()
        return [
            self.n_centres, self.first.data_ptr(), self.centre_types.data_ptr(), self.neighbour_types.data_ptr(),
            heads, self.scales.data_ptr(), self.vectors.data_ptr(),
        ]  # fmt: skip


def _check(code: int) -> None:
    if code:
        raise MemoryError("The model's kernel ran out of memory.")


def evaluate(
    prepared: Prepared, edges: Edges, *, gradients: bool, features: bool = False, latents: bool = False
) -> dict[str, Tensor]:
    """Evaluate once, without a graph.

    Returns
    -------
    dict
        ``energies`` (M,) unscaled edge energies; if asked for ``gradients`` (M, 3) of the scaled ones' sum,
        ``features`` (N, d) sums of the latents over each atom's edges, all float64, and ``latents`` (M, d).
    """
    kernel = prepared.kernel
    out = {"energies": torch.zeros(edges.n_edges, dtype=torch.float64)}
    if gradients:
        out["gradients"] = torch.zeros(edges.n_edges, 3, dtype=torch.float64)
    if features:
        out["features"] = torch.zeros(edges.n_centres, kernel.width, dtype=torch.float64)
    if latents:
        out["latents"] = torch.zeros(edges.n_edges, kernel.width, dtype=kernel.dtype)
    names = ("energies", "gradients", "features", "latents")
    places = [out[name].data_ptr() if name in out else None for name in names]
    _check(kernel.library.foundry_kernel_evaluate(prepared.handle, *edges.pointers(), *places, kernel_threads()))
    return out


class _Differentiable(torch.autograd.Function):
    """Weights (n,) -> unscaled edge energies (M,) and edge gradients (M, 3)."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, prepared: Prepared, edges: Edges) -> tuple[Tensor, Tensor]:
        ctx.prepared, ctx.edges, ctx.size = prepared, edges, weights.shape[0]
        ctx.n_threads = kernel_threads()
        out = evaluate(prepared, edges, gradients=True)
        return out["energies"], out["gradients"]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        prepared, edges = cast(Prepared, ctx.prepared), cast(Edges, ctx.edges)
        kernel = prepared.kernel
        seeds, tangents = (grad.double().contiguous() for grad in grads)
        gradient = torch.empty(ctx.size, dtype=kernel.dtype)
        code = kernel.library.foundry_kernel_differentiate(
            prepared.handle, *edges.pointers(), tangents.data_ptr(), seeds.data_ptr(), gradient.data_ptr(),
            ctx.n_threads,
        )  # fmt: skip
        _check(code)
        return gradient, None, None


def differentiable(model: Allegro, kernel: Kernel, edges: Edges) -> tuple[Tensor, Tensor]:
    """Return unscaled edge energies (M,) and gradients (M, 3) that a loss may be differentiated through by weights."""
    weights = kernel_weights(model)
    return _Differentiable.apply(weights, Prepared(kernel, len(model.config.heads), weights), edges)


_found: weakref.WeakKeyDictionary[Allegro, Kernel | None] = weakref.WeakKeyDictionary()


def find_kernel(model: Allegro) -> Kernel | None:
    """Return the kernel that stands for this model where it is, or None; a reason worth saying is logged once."""
    if settings().kernel == "off" or next(model.parameters()).device.type != "cpu":
        return None
    if model not in _found:
        reason, kernel = unsupported(model.config), None
        if reason is None:
            try:
                kernel = Kernel(model)
            except ModelError as error:
                reason = str(error)
        if reason is not None:
            _say_once(reason)
        _found[model] = kernel
    return _found[model]
