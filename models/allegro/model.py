"""Allegro, variants A and B: a strictly local equivariant potential (ALGORITHMS section 2)."""

from __future__ import annotations

import copy
from math import sqrt
from typing import cast

import torch
from torch import Tensor, nn

from atomfoundry.errors import ModelError
from atomfoundry.models.allegro.config import AllegroConfig, HeadConfig
from atomfoundry.models.allegro.dense_latents import DenseLatents
from atomfoundry.models.allegro.dense_track import DenseTrack, LongDenseTrack
from atomfoundry.models.allegro.derivatives import geometry_only, is_traceable
from atomfoundry.models.allegro.long_track import LongTrack
from atomfoundry.models.allegro.mlp import Perceptron
from atomfoundry.models.allegro.radial import RadialChemicalEmbedding
from atomfoundry.models.allegro.readout import Readouts
from atomfoundry.models.allegro.short_track import ShortTrack
from atomfoundry.models.allegro.track import TensorTrack
from atomfoundry.models.compiled import find_compiled
from atomfoundry.models.graph import GraphBatch
from atomfoundry.models.kernel import Edges, Kernel, differentiable, evaluate, find_kernel, kernel_first
from atomfoundry.models.zbl import ZBL

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Allegro(nn.Module):
    """The model: ``Allegro(config)(batch)`` returns energies, forces and stresses.

    Parameters
    ----------
    config
        Architecture and heads; the initial weights follow from its seed.
    """

    def __init__(self, config: AllegroConfig) -> None:
        super().__init__()
        self.config = config.model_copy(deep=True)
        self.dtype = DTYPES[config.dtype]
        generator = torch.Generator().manual_seed(config.seed)
        self.embedding = RadialChemicalEmbedding(config, generator=generator, dtype=self.dtype)
        self.track: TensorTrack | DenseTrack
        self.latents: nn.ModuleList | DenseLatents
        if config.variant == "A":
            self._add_residual_layers(config, generator)
        else:
            self._add_dense_layers(config, generator)
        self.readouts = Readouts(config, generator=generator, dtype=self.dtype)
        self.zbl = ZBL(config.type_names, cutoff=config.cutoff) if config.zbl else None

    def _add_residual_layers(self, config: AllegroConfig, generator: torch.Generator) -> None:
        """Variant A."""
        dims = [config.two_body_dims[0], *config.two_body_dims]
        self.two_body = Perceptron(dims, generator=generator, dtype=self.dtype)
        track = ShortTrack if config.n_layers <= 2 else LongTrack
        self.track = track(config, generator=generator, dtype=self.dtype)
        dims = [config.latent_width + config.num_channels, *config.latent_dims]
        self.latents = nn.ModuleList(
            Perceptron(dims, generator=generator, dtype=self.dtype) for _ in range(config.n_layers)
        )

    def _add_dense_layers(self, config: AllegroConfig, generator: torch.Generator) -> None:
        """Variant B (ALGORITHMS 2.9)."""
        self.two_body = Perceptron(config.two_body_dims, generator=generator, dtype=self.dtype)
        track = DenseTrack if config.n_layers <= 2 else LongDenseTrack
        self.track = track(config, generator=generator, dtype=self.dtype)
        self.latents = DenseLatents(config, generator=generator, dtype=self.dtype)

    # Heads --------------------------------------------------------------------------------------------------

    def head_index(self, name: str) -> int:
        """Return the index of a head.

        Raises
        ------
        ModelError
            If there is no head of that name.
        """
        names = [head.name for head in self.config.heads]
        if name not in names:
            raise ModelError(f"The model has no head '{name}'; it has {', '.join(names)}.", remedy="Name one of these.")
        return names.index(name)

    def add_head(self, head: HeadConfig, copy_from: str = "pt") -> None:
        """Add a head whose readout begins as a copy of another's.

        Parameters
        ----------
        head
            Name, isolated-atom energies and scale of the new head.
        copy_from
            Head whose readout weights are copied.

        Raises
        ------
        ModelError
            If the name is taken or there is no head to copy from.
        """
        if head.name in [other.name for other in self.config.heads]:
            raise ModelError(f"The model already has a head '{head.name}'.", remedy="Choose another name.")
        config = self.config.model_dump()
        config["heads"].append(head.model_dump())
        checked = AllegroConfig.model_validate(config)
        weights = copy.deepcopy(self.readouts.heads[self.head_index(copy_from)])
        assert isinstance(weights, nn.ParameterList)
        self.readouts.append(head, weights, self.config.type_names)
        self.config = checked

    def readout_weights(self, head: str | int) -> Tensor:
        """Return w_h of (2.14), (d,) float64: ``energy - sum E0 (- ZBL) = features @ readout_weights``."""
        index = self.head_index(head) if isinstance(head, str) else head
        return self.readouts.vector(index).double()

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    # Evaluation ---------------------------------------------------------------------------------------------

    def forward(
        self, batch: GraphBatch, *, forces: bool = True, stress: bool = True, create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Evaluate a batch.

        Parameters
        ----------
        batch
            Structures on the model's device.
        forces, stress
            Whether to differentiate.
        create_graph
            Keep the graph, so that a loss of energies, forces and stresses can be differentiated by the weights
            (training).

        Returns
        -------
        dict
            ``energy`` (B,) eV, ``atomic_energy`` (N,), ``edge_energy`` (M,) float64; ``edge_vectors`` (M, 3)
            float64; with a model that has it, ``zbl_energy`` (N,). If differentiated: ``edge_gradients``
            G_e = dE/dr_e (M, 3), ``forces`` (N, 3) eV/A, ``stress`` (B, 3, 3) eV/A^3, NaN where the structure is
            not periodic in three directions. Without ``create_graph``: ``features`` (B, d) and
            ``atomic_features`` (N, d) float64. If not differentiated: ``edge_latents``
            (M, scalar_width), which all heads share.

            On a CPU this is the C++ kernel (:mod:`atomfoundry.models.kernel`), elsewhere PyTorch, with
            ``ATOMFOUNDRY_COMPILE=on`` compiled (:mod:`atomfoundry.models.compiled`). ``forward_edges`` has all of
            these whatever is asked for, as tensors that can be differentiated by the edge vectors too.
        """
        differentiate = forces or stress
        kernel = find_kernel(self) if differentiate or not torch.is_grad_enabled() else None
        if kernel is None:
            forms = find_compiled(self) if differentiate else None
            found = None if forms is None else forms(self, batch, create_graph=create_graph)
            if found is None:
                return self.forward_edges(batch, forces=forces, stress=stress, create_graph=create_graph)
            unasked = {name for name, asked in (("forces", forces), ("stress", stress)) if not asked}
            return {name: value for name, value in found.items() if name not in unasked}
        with kernel_first():
            vectors = batch.edge_vectors().detach()
            out = self._compiled(kernel, batch, vectors, differentiate=differentiate, create_graph=create_graph)
            return self._with_derivatives(out, batch, forces=forces, stress=stress)

    def forward_edges(
        self, batch: GraphBatch, *, forces: bool = True, stress: bool = True, create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Evaluate with PyTorch, derivatives by edge vectors (ALGORITHMS 2.7, edge path)."""
        differentiate = forces or stress
        vectors = batch.edge_vectors().detach()
        if not differentiate:
            return self._energies(batch, vectors)
        with torch.enable_grad():
            vectors.requires_grad_(True)
            out = self._energies(batch, vectors)
            with geometry_only():
                (gradients,) = torch.autograd.grad(
                    out["energy"].sum(), vectors, create_graph=create_graph, materialize_grads=True
                )
        if not create_graph:
            out = {key: value.detach() for key, value in out.items()}
        out["edge_gradients"] = gradients
        return self._with_derivatives(out, batch, forces=forces, stress=stress)

    @staticmethod
    def _with_derivatives(
        out: dict[str, Tensor], batch: GraphBatch, *, forces: bool, stress: bool
    ) -> dict[str, Tensor]:
        if forces:
            out["forces"] = forces_from_edges(batch, out["edge_gradients"])
        if stress:
            out["stress"] = stress_from_edges(batch, out["edge_vectors"], out["edge_gradients"])
        return out

    def _compiled(
        self, kernel: Kernel, batch: GraphBatch, vectors: Tensor, *, differentiate: bool, create_graph: bool
    ) -> dict[str, Tensor]:
        """Evaluate with the compiled kernel; features and latents only where no loss is differentiated."""
        edges = Edges(self, batch, vectors)
        out: dict[str, Tensor] = {"edge_vectors": vectors}
        gradients: Tensor | None
        if create_graph:
            unscaled, gradients = differentiable(self, kernel, edges)
        else:
            found = evaluate(
                kernel.prepare(self), edges, gradients=differentiate, features=True, latents=not differentiate
            )
            unscaled, gradients = found["energies"], found.get("gradients")
            out["atomic_features"] = found["features"] * edges.scales[:, None]
            out["features"] = _sum_by_graph(batch, out["atomic_features"])
            if not differentiate:
                out["edge_latents"] = found["latents"]
        centre = batch.edge_index[0]
        out["edge_energy"] = unscaled * edges.scales[centre]
        node_head = batch.head[batch.batch]
        energy = self.readouts.isolated_energies[node_head, batch.types]
        energy = energy + batch.layout.sum_over_edges(out["edge_energy"])
        if self.zbl is not None:
            with torch.enable_grad():
                leaf = vectors.detach().requires_grad_(True)
                repulsion = self.zbl(leaf.norm(dim=1), batch.types[centre], batch.types[batch.edge_index[1]])
                (slope,) = torch.autograd.grad(repulsion.sum(), leaf, materialize_grads=True)
            out["zbl_energy"] = batch.layout.sum_over_edges(repulsion.detach())
            energy = energy + out["zbl_energy"]
            gradients = None if gradients is None else gradients + slope
        if gradients is not None:
            out["edge_gradients"] = gradients
        out["atomic_energy"] = energy
        out["energy"] = _sum_by_graph(batch, energy)
        return out

    def edge_scales(self, batch: GraphBatch, node_head: Tensor) -> Tensor:
        """Return what multiplies the edge energies of each atom, s_{h, Z_i} Nbar^(-1/2), (N,) float64, eV."""
        return self.readouts.scales[node_head, batch.types] * self.config.edge_sum_norm

    def forward_positions(
        self, batch: GraphBatch, *, forces: bool = True, stress: bool = True, create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Evaluate with PyTorch, derivatives by positions and strain (2.7, position path): same numbers."""
        if not (forces or stress):
            return self._energies(batch, batch.edge_vectors())
        with torch.enable_grad():
            positions = batch.positions.detach().clone().requires_grad_(True)
            strain = torch.zeros_like(batch.cell).requires_grad_(True)
            symmetric = (strain + strain.mT) / 2
            moved = positions + torch.einsum("na,nab->nb", positions, symmetric[batch.batch])
            out = self._energies(batch, batch.edge_vectors(moved, batch.cell + batch.cell @ symmetric))
            by_position, by_strain = torch.autograd.grad(
                out["energy"].sum(), [positions, strain], create_graph=create_graph, materialize_grads=True
            )
        if not create_graph:
            out = {key: value.detach() for key, value in out.items()}
        if forces:
            out["forces"] = -by_position
        if stress:
            out["stress"] = _per_volume(batch, by_strain)
        return out

    def _energies(self, batch: GraphBatch, vectors: Tensor) -> dict[str, Tensor]:
        """Evaluate everything that is not a derivative, from the edge vectors (M, 3) float64."""
        centre, neighbour = batch.edge_index
        centre_types, neighbour_types = batch.types[centre], batch.types[neighbour]
        latents = self._edge_latents(batch, vectors, centre_types, neighbour_types)
        node_head = batch.head[batch.batch]
        single = len(self.config.heads) == 1
        every = single or not self.readouts.nonlinear or is_traceable()
        used = () if every else batch.head.unique().tolist()
        features, unscaled = self.readouts(latents, None if single else node_head[centre], used)
        scale = self.edge_scales(batch, node_head)
        edge_energy = unscaled.double() * scale[centre]
        isolated = self.readouts.isolated_energies[node_head, batch.types]
        atomic_energy = isolated + batch.layout.sum_over_edges(edge_energy)
        atomic_features = batch.layout.sum_over_edges(features.double()) * scale[:, None]
        out = {
            "edge_energy": edge_energy,
            "edge_latents": latents,
            "edge_vectors": vectors,
            "atomic_features": atomic_features,
            "features": _sum_by_graph(batch, atomic_features),
        }
        if self.zbl is not None:
            repulsion = self.zbl(vectors.norm(dim=1), centre_types, neighbour_types)
            out["zbl_energy"] = batch.layout.sum_over_edges(repulsion)
            atomic_energy = atomic_energy + out["zbl_energy"]
        out["atomic_energy"] = atomic_energy
        out["energy"] = _sum_by_graph(batch, atomic_energy)
        return out

    def _edge_latents(
        self, batch: GraphBatch, vectors: Tensor, centre_types: Tensor, neighbour_types: Tensor
    ) -> Tensor:
        """Return x^{n_layers}, in variant B the latents of all layers, (M, scalar_width)."""
        vectors = vectors.to(self.dtype)
        r = vectors.norm(dim=1, keepdim=True)
        state = self.track.begin(vectors / r, batch.layout)
        latents = self.two_body(self.embedding(r, centre_types, neighbour_types))
        if isinstance(self.latents, DenseLatents):
            return self.latents(self.track, state, latents)
        for layer, perceptron in enumerate(self.latents):
            # Equal weights of all latents so far: theta = 0 in (2.13), the two-body latent counting as one.
            old, new = sqrt((layer + 1) / (layer + 2)), sqrt(1 / (layer + 2))
            scalars = cast(TensorTrack, self.track).scalars(state, layer, latents)
            latents = perceptron(latents, scalars, residual=old * latents, gain=new)
        return latents


def _sum_by_graph(batch: GraphBatch, per_atom: Tensor) -> Tensor:
    """Sum (N, ...) over the atoms of each structure."""
    if batch.num_graphs == 1:
        return per_atom.sum(dim=0, keepdim=True)
    out = per_atom.new_zeros((batch.num_graphs, *per_atom.shape[1:]))
    return out.index_add(0, batch.batch, per_atom)


def _per_volume(batch: GraphBatch, virial: Tensor) -> Tensor:
    """Divide (B, 3, 3) by the volumes; NaN where a structure is not periodic in three directions."""
    identity = torch.eye(3, dtype=virial.dtype, device=virial.device)
    cell = torch.where(batch.periodic[:, None, None], batch.cell, identity)
    stress = virial / torch.linalg.det(cell).abs()[:, None, None]
    return torch.where(batch.periodic[:, None, None], stress, torch.nan)


def forces_from_edges(batch: GraphBatch, gradients: Tensor) -> Tensor:
    """Return F_i = sum_{centre i} G_e - sum_{neighbour i} G_e, (N, 3).

    Parameters
    ----------
    batch
        The structures.
    gradients
        G_e = dE/dr_e of any energy-like scalar, (M, 3).
    """
    return batch.layout.sum_over_edges(gradients).index_add(0, batch.edge_index[1], gradients, alpha=-1)


def stress_from_edges(batch: GraphBatch, vectors: Tensor, gradients: Tensor) -> Tensor:
    """Return sigma = sum_e r_e (x) G_e / V, (B, 3, 3), symmetrised; NaN where there is none.

    Parameters
    ----------
    batch
        The structures.
    vectors, gradients
        r_e and G_e, (M, 3).
    """
    if batch.num_graphs == 1:
        virial = (vectors.mT @ gradients)[None]
    else:
        outer = (vectors[:, :, None] * gradients[:, None, :]).flatten(1)
        virial = _sum_by_graph(batch, batch.layout.sum_over_edges(outer)).view(-1, 3, 3)
    return _per_volume(batch, (virial + virial.mT) / 2)
