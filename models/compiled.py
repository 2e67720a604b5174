"""Models where the C++ kernel does not reach (GPUs, variant B, three and more layers), by ``torch.compile``.

``ATOMFOUNDRY_COMPILE=on`` turns it on. Compiled code holds for one shape, so batches are filled up with a structure of
its own, whose edges are longer than the cutoff, to one of few shapes. What is compiled is kept in ``compiled`` of
Atomfoundry's home folder. Before it is used it has to give PyTorch's own numbers, gradients by weights included; where
it does not, or does not compile, PyTorch evaluates the model and the log says why.
"""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atomfoundry.errors import ModelError
from atomfoundry.models.graph import GraphBatch
from atomfoundry.models.padding import EdgeLayout
from atomfoundry.models.recording import Recording, record
from atomfoundry.settings import settings

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro

logger = logging.getLogger(__name__)

BACKEND = "inductor"
STEPS = 4
"""Sizes between one and its double, so that a batch grows by a fifth at most and by a tenth on average."""
MOST_SHAPES = 32
"""Batches of further shapes are left to PyTorch."""
SAME = {torch.float32: 1e-3, torch.float64: 1e-9}
"""By how much of the largest number results may differ."""
UNUSED = {False: ("edge_latents",), True: ("edge_latents", "features", "atomic_features")}
"""Results that are not wanted, without and with a loss to be differentiated."""
PER_GRAPH = ("energy", "stress", "features")
PER_EDGE = ("edge_energy", "edge_vectors", "edge_gradients")


def rung(number: int) -> int:
    """Return the least size of the ladder that is not below a number."""
    if number <= STEPS:
        return number
    octave = STEPS * (number.bit_length() - 1)
    sizes = (math.ceil(2 ** (step / STEPS) - 1e-9) for step in range(octave, octave + STEPS + 1))
    return next(size for size in sizes if size >= number)


@dataclass(frozen=True)
class Shape:
    """What compiled code is made for.

    Attributes
    ----------
    graphs, atoms, edges
        Numbers of structures, atoms and directed edges.
    width
        Most edges of one atom.
    """

    graphs: int
    atoms: int
    edges: int
    width: int

    @classmethod
    def of(cls, batch: GraphBatch) -> Shape:
        """Return the shape that a batch is filled up to."""
        width = rung(max(1, batch.layout.width))
        edges = rung(max(1, batch.num_edges))
        carriers = math.ceil((edges - batch.num_edges) / width)
        return cls(batch.num_graphs + 1, rung(batch.num_nodes + carriers), edges, width)


def fill(batch: GraphBatch, shape: Shape, cutoff: float) -> GraphBatch:
    """Return the batch with one structure more, at its end, that brings it to a shape.

    Parameters
    ----------
    batch
        Of at least one atom.
    shape
        What :meth:`Shape.of` says of it.
    cutoff
        A; the edges of the further structure are twice as long.
    """
    n_atoms, n_edges = shape.atoms - batch.num_nodes, shape.edges - batch.num_edges
    where = batch.positions.device
    number = torch.arange(n_edges, device=where)
    carrier = batch.num_nodes + number // shape.width
    shift = batch.shifts.new_zeros((n_edges, 3))
    shift[:, 0] = 1.0
    cell = 2 * cutoff * torch.eye(3, dtype=batch.cell.dtype, device=where)[None]
    centre = batch.edge_index[0]
    degree = torch.bincount(centre, minlength=batch.num_nodes)
    rank = torch.arange(batch.num_edges, device=where) - (torch.cumsum(degree, 0) - degree)[centre]

    def more(name: str, rows: int) -> Tensor:
        """Repeat the first row: the element and head of an atom that there is."""
        values: Tensor = getattr(batch, name)
        return torch.cat([values, values[:1].expand(rows, *values.shape[1:])])

    filled = replace(
        batch,
        types=more("types", n_atoms),
        positions=more("positions", n_atoms),
        cell=torch.cat([batch.cell, cell]),
        periodic=torch.cat([batch.periodic, torch.ones_like(batch.periodic[:1])]),
        edge_index=torch.cat([batch.edge_index, carrier.expand(2, -1)], dim=1),
        shifts=torch.cat([batch.shifts, shift]),
        batch=torch.cat([batch.batch, batch.batch.new_full((n_atoms,), batch.num_graphs)]),
        head=more("head", 1),
    )
    places = torch.cat([centre * shape.width + rank, carrier * shape.width + number % shape.width])
    filled._layout = EdgeLayout(shape.atoms, shape.width, places)
    return filled


def without_filling(out: dict[str, Tensor], batch: GraphBatch) -> dict[str, Tensor]:
    """Return the results of the batch alone."""
    rows = dict.fromkeys(PER_GRAPH, batch.num_graphs) | dict.fromkeys(PER_EDGE, batch.num_edges)
    return {name: value[: rows.get(name, batch.num_nodes)] for name, value in out.items()}


class Compiled:
    """The compiled forms of one model, one for each shape.

    The model itself is not kept.
    """

    def __init__(self) -> None:
        self._forms: dict[tuple[Shape, bool], Recording] = {}
        self._recorded: list[tuple[Tensor, int]] = []
        self.given_up = False

    def __call__(self, model: Allegro, batch: GraphBatch, *, create_graph: bool) -> dict[str, Tensor] | None:
        """Evaluate a batch; None, if PyTorch has to.

        Parameters
        ----------
        model
            The one model.
        batch
            On the model's device.
        create_graph
            Whether a loss will be differentiated by the weights.
        """
        if self.given_up or batch.num_nodes == 0:
            return None
        self._forget_what_has_changed(model)
        shape = Shape.of(batch)
        key = (shape, create_graph)
        filled = fill(batch, shape, model.config.cutoff)
        if key not in self._forms:
            if len(self._forms) >= MOST_SHAPES:
                return None
            try:
                self._forms[key] = _compile(model, filled, shape, create_graph=create_graph)
            except Exception as error:
                self.given_up = True
                said = str(error).strip().splitlines() or [""]
                logger.warning(
                    "torch.compile is not used: %s: %s. PyTorch evaluates the model as it is.",
                    type(error).__name__,
                    said[0],
                )
                return None
        with torch.set_grad_enabled(create_graph):
            return without_filling(self._forms[key](model, filled), batch)

    def _forget_what_has_changed(self, model: Allegro) -> None:
        """Drop all forms if isolated-atom energies, scales, heads or the device are others than were recorded."""
        now = [(buffer, buffer._version) for buffer in (model.readouts.isolated_energies, model.readouts.scales)]
        before = self._recorded
        if [(id(buffer), version) for buffer, version in now] != [(id(buffer), version) for buffer, version in before]:
            self._forms.clear()
            self._recorded = now


def _compile(model: Allegro, filled: GraphBatch, shape: Shape, *, create_graph: bool) -> Recording:
    """Compile for a shape and compare with PyTorch.

    Raises
    ------
    ModelError
        If numbers differ.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings().home_dir / "compiled"))
    logger.info("Compiling the model for batches of up to %d atoms and %d edges", shape.atoms, shape.edges)
    start = time.perf_counter()
    with torch.enable_grad():
        form = record(model, filled, leave_out=UNUSED[create_graph]).compiled(BACKEND)
    with torch.set_grad_enabled(create_graph):
        found = _numbers(model, form(model, filled), create_graph=create_graph)
    expected = _numbers(model, model.forward_edges(filled, create_graph=create_graph), create_graph=create_graph)
    for name, values in expected.items():
        # numbers that are not finite are the structure's own, and must be so in both
        finite = torch.isfinite(values)
        off = _largest((found[name] - values)[finite])
        # forces and stress may cancel to nothing but the rounding of what they sum up
        terms = expected["edge gradient"] if name in ("force", "stress") else values
        scale = max(_largest(terms[torch.isfinite(terms)]), 1e-6)
        if not (torch.equal(torch.isfinite(found[name]), finite) and off <= SAME[model.dtype] * scale):
            raise ModelError(f"compiled, the model has another {name}: by {off:.1e}, the largest is {scale:.1e}")
    logger.info("Compiled in %.0f s", time.perf_counter() - start)
    return form


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _numbers(model: Allegro, out: dict[str, Tensor], *, create_graph: bool) -> dict[str, Tensor]:
    """Return what is compared: energies and gradients of edges, forces, stress, and a gradient by the weights."""
    names = {"edge energy": "edge_energy", "edge gradient": "edge_gradients", "force": "forces", "stress": "stress"}
    found = {name: out[key].detach() for name, key in names.items()}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if create_graph and weights:
        # energies, forces and stress as they come from a loss of squares
        value = out["edge_energy"].square().sum() + out["forces"].square().sum()
        value = value + out["stress"].nan_to_num().square().sum()
        gradient = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
        found["gradient by the weights"] = torch.cat([part.flatten() for part in gradient])
    return found


_compiled: weakref.WeakKeyDictionary[Allegro, Compiled] = weakref.WeakKeyDictionary()


def find_compiled(model: Allegro) -> Compiled | None:
    """Return the compiled forms of a model, or None where compiling is not asked for."""
    if settings().compile == "off":
        return None
    return _compiled.setdefault(model, Compiled())
