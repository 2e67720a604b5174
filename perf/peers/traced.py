"""Our model as one list of operations that ``torch.compile`` takes: energies, forces and stresses, to train and to run.

Forces in a loss need derivatives of derivatives, which ``torch.compile`` does not make. So the first derivative is
recorded as operations like any other (``make_fx``), and what is compiled is differentiated once, by the weights. The
record holds for batches of the same shape: as many structures, atoms and edges, placed alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from atomfoundry.models import Allegro, GraphBatch
from atomfoundry.models.allegro.derivatives import traceable
from atomfoundry.models.padding import EdgeLayout

FIELDS = ("types", "positions", "cell", "periodic", "edge_index", "shifts", "batch", "head")
"""What of a batch the model reads."""
RESULTS = ("energy", "forces", "stress")


class _ByEdges(nn.Module):
    """The model's evaluation with PyTorch, as a module's forward."""

    def __init__(self, model: Allegro) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: GraphBatch) -> list[Tensor]:
        out = self.model.forward_edges(batch)
        return [out[name] for name in RESULTS]


def traced(model: Allegro, batch: GraphBatch) -> GraphModule:
    """Return a function of (weights, fields of a batch, places of its edges) that gives `RESULTS`.

    Parameters
    ----------
    model
        Its weights are arguments of what is returned.
    batch
        Shapes are taken from it.
    """
    module = _ByEdges(model)
    names = [name for name, _ in module.named_parameters()]
    layout = batch.layout

    def work(weights: list[Tensor], fields: list[Tensor], places: Tensor | None) -> list[Tensor]:
        given = replace(batch, **dict(zip(FIELDS, fields, strict=True)))
        given._layout = EdgeLayout(layout.n_atoms, layout.width, places)
        return functional_call(module, dict(zip(names, weights, strict=True)), (given,))

    weights = [weight.detach().clone().requires_grad_() for weight in model.parameters()]
    with traceable():
        graph = make_fx(work)(weights, [getattr(batch, name) for name in FIELDS], layout.places)
    # What the model detaches once it has its forces shall still be differentiated by the weights.
    for node in list(graph.graph.nodes):
        if node.target == torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def compiled(model: Allegro, batch: GraphBatch, *, backend: str = "inductor") -> Callable[[GraphBatch], dict[str, Any]]:
    """Return the model compiled for batches of this shape; call it with such a batch for `RESULTS`.

    Parameters
    ----------
    model
        Later changes of its weights count.
    batch
        Of the shape; not more is taken from it.
    backend
        Of ``torch.compile``; "aot_eager" differentiates without generating code.
    """
    work = torch.compile(traced(model, batch), dynamic=False, backend=backend)
    return partial(called, work, model)


def called(work: Callable[..., Any], model: Allegro, batch: GraphBatch) -> dict[str, Any]:
    """Call what :func:`traced` returned, or its compiled form, with a model's weights and a batch."""
    found = work(list(model.parameters()), [getattr(batch, name) for name in FIELDS], batch.layout.places)
    return dict(zip(RESULTS, found, strict=True))
