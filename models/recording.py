"""The model's evaluation as one list of tensor operations that a compiler takes, forces included.

Forces in a loss need derivatives of derivatives, which ``torch.compile`` does not make. So the first derivative is
recorded as operations like any other (``make_fx``), and what is recorded is differentiated once, by the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from atomfoundry.models.allegro.derivatives import traceable
from atomfoundry.models.padding import EdgeLayout

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.graph import GraphBatch

FIELDS = ("types", "positions", "cell", "periodic", "edge_index", "shifts", "batch", "head")
"""What of a batch the model reads."""


@dataclass(frozen=True)
class Recording:
    """Recorded operations, plain or compiled.

    Attributes
    ----------
    work
        Function of (weights, fields of a batch, places of its edges): a list of tensors.
    names
        What these are, as in the output of the model.
    """

    work: Callable[..., Sequence[Tensor]]
    names: tuple[str, ...]

    def __call__(self, model: Allegro, batch: GraphBatch) -> dict[str, Tensor]:
        """Evaluate a batch of the recorded shape with the model's present weights."""
        fields = [getattr(batch, name) for name in FIELDS]
        found = self.work(list(model.parameters()), fields, batch.layout.places)
        return dict(zip(self.names, found, strict=True))

    def compiled(self, backend: str) -> Recording:
        """Return the same by ``torch.compile``; it compiles when it is first called.

        Code for a processor has one thread: with two, that of torch 2.13 gave a gradient by path weights that was off
        by 2 % of the largest. Matrix products still have all.
        """
        options: Any = {"cpp.threads": 1} if backend == "inductor" else None
        return Recording(torch.compile(self.work, dynamic=False, backend=backend, options=options), self.names)


class _ByEdges(nn.Module):
    """The model's evaluation with PyTorch, as a module's forward."""

    def __init__(self, model: Allegro, leave_out: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.leave_out = leave_out
        self.names: tuple[str, ...] = ()

    def forward(self, batch: GraphBatch) -> list[Tensor]:
        out = self.model.forward_edges(batch)
        self.names = tuple(name for name in out if name not in self.leave_out)
        return [out[name] for name in self.names]


def record(model: Allegro, batch: GraphBatch, *, leave_out: Sequence[str] = ()) -> Recording:
    """Record what :meth:`Allegro.forward_edges` does with a batch.

    Parameters
    ----------
    model
        Its weights are arguments of what is recorded; its buffers (isolated atoms, scales) and heads are as now.
    batch
        Its shape is that of all batches the recording holds for: as many structures, atoms, edges and edges an atom.
    leave_out
        Results that are not wanted.
    """
    module = _ByEdges(model, leave_out)
    names = [name for name, _ in module.named_parameters()]
    layout = batch.layout

    def work(weights: list[Tensor], fields: list[Tensor], places: Tensor | None) -> list[Tensor]:
        values: dict[str, Any] = dict(zip(FIELDS, fields, strict=True))
        given = replace(batch, **values)
        given._layout = EdgeLayout(layout.n_atoms, layout.width, places)
        out: list[Tensor] = functional_call(module, dict(zip(names, weights, strict=True)), (given,))
        return out

    weights = [weight.detach().clone().requires_grad_() for weight in model.parameters()]
    with traceable():
        graph: Any = make_fx(work)(weights, [getattr(batch, name) for name in FIELDS], layout.places)
    # What the model detaches once it has its forces shall still be differentiated by the weights.
    for node in list(graph.graph.nodes):
        if node.target == torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return Recording(graph, module.names)
