"""Allegro written as its equations stand (ALGORITHMS 2.1-2.15, variant B 2.9), slowly, with e3nn's harmonics and 3j
symbols.

Every edge gets its own environment by a sum over the (other) edges of its centre; every path is one einsum.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
from e3nn import o3
from torch import Tensor

from atomfoundry.models import Allegro, GraphBatch

SILU_GAIN = 1.6750972886213323


def mlp(x: Tensor, weights: list[Tensor]) -> Tensor:
    for index, weight in enumerate(weights):
        if index:
            x = SILU_GAIN * x * torch.sigmoid(x)
        x = x @ weight / sqrt(weight.shape[0])
    return x


def harmonic_irreps(l_max: int, parity: str) -> list[tuple[int, int]]:
    return [(degree, (-1) ** degree if parity == "o3_full" else 1) for degree in range(l_max + 1)]


def kept_irreps(n_layers: int, l_max: int, parity: str = "o3_full") -> list[list[tuple[int, int]]]:
    """Irreps before and after each layer, by walking every chain of couplings that ends in 0e."""
    environment = harmonic_irreps(l_max, parity)

    def products(left):
        return {
            (degree, left[1] * right[1])
            for right in environment
            for degree in range(abs(left[0] - right[0]), min(l_max, left[0] + right[0]) + 1)
        }

    chains = [[start] for start in environment]
    for _ in range(n_layers):
        chains = [[*chain, out] for chain in chains for out in products(chain[-1])]
    chains = [chain for chain in chains if chain[-1] == (0, 1)]
    natural_first = {True: 0, False: 1}
    return [
        sorted({chain[step] for chain in chains}, key=lambda i: (i[0], natural_first[i in environment]))
        for step in range(n_layers + 1)
    ]


Tensors = dict[tuple[int, int], Tensor]


class Edges:
    """What both variants make of the edges before their layers."""

    def __init__(self, model: Allegro, batch: GraphBatch, vectors: Tensor) -> None:
        config = model.config
        centre, neighbour = batch.edge_index
        x, p = vectors.norm(dim=1) / config.cutoff, config.polynomial_p
        u = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
        frequencies = model.embedding.frequencies
        basis = torch.stack([u * torch.sin(b * vectors.norm(dim=1)) / (pi * x) for b in frequencies], dim=1)
        types = (model.embedding.centre[batch.types[centre]], model.embedding.neighbour[batch.types[neighbour]])
        self.embedded = mlp(
            torch.cat(types, dim=1) * (basis @ model.embedding.mixing / sqrt(config.num_basis)),
            list(model.two_body.weights),
        )
        self.same_centre = (centre[:, None] == centre[None]).double()
        self.environment_irreps = harmonic_irreps(config.l_max, config.parity)
        self.harmonics = [
            o3.spherical_harmonics(degree, vectors, normalize=True, normalization="component")
            for degree in range(config.l_max + 1)
        ]

    def weighted(self, weights: Tensor) -> Tensors:
        """Harmonics times weights (M, l, C)."""
        return {
            irrep: weights[:, irrep[0], :, None] * self.harmonics[irrep[0]][:, None]
            for irrep in self.environment_irreps
        }

    def summed(self, tensors: Tensors, *, itself: bool) -> Tensors:
        """Of each edge the sum over the edges of its centre, with or without the edge."""
        whom = self.same_centre if itself else self.same_centre - torch.eye(len(self.same_centre))
        return {irrep: torch.einsum("ef,fcm->ecm", whom, each) for irrep, each in tensors.items()}


def tensor_product(left: Tensors, right: Tensors, outputs: list[tuple[int, int]], weights: Tensor, variant: str):
    """All paths; weights one a path, or (C, paths)."""
    made: Tensors = {}
    path_weights = iter(weights.expand(1, -1).T if weights.ndim == 1 else weights.T)
    for out in outputs:
        terms = []
        for a in left:
            for b in right:
                if a[1] * b[1] != out[1] or not abs(a[0] - b[0]) <= out[0] <= a[0] + b[0]:
                    continue
                symbol = o3.wigner_3j(a[0], b[0], out[0], dtype=torch.float64)
                product = torch.einsum("abk,eca,ecb->eck", symbol, left[a], right[b])
                terms.append(next(path_weights)[None, :, None] * product)
        made[out] = sum(terms) * sqrt((2 * out[0] + 1) / (len(terms) if variant == "A" else 1))
    assert next(path_weights, None) is None
    return made


def edge_latents(model: Allegro, batch: GraphBatch, vectors: Tensor) -> Tensor:
    """Variant A."""
    config, edges = model.config, Edges(model, batch, vectors)
    irreps = kept_irreps(config.n_layers, config.l_max, config.parity)
    latents = edges.embedded
    tensors: Tensors = {}
    for layer in range(config.n_layers):
        weights = latents @ model.track.environments[layer] / sqrt(config.latent_width)
        weights = weights.view(len(latents), -1, config.l_max + 1, config.num_channels)  # (V and E) or E
        if layer == 0:
            tensors = edges.weighted(weights[:, 0])
        environment = edges.weighted(weights[:, -1] / sqrt(config.avg_num_neighbors - 1))
        environment = edges.summed(environment, itself=False)
        path_weights = model.track.couplings[layer].weights
        tensors = tensor_product(tensors, environment, irreps[layer + 1], path_weights, "A")
        new = mlp(torch.cat([latents, tensors[(0, 1)][:, :, 0]], dim=1), list(model.latents[layer].weights))
        latents = sqrt((layer + 1) / (layer + 2)) * latents + sqrt(1 / (layer + 2)) * new
    return latents


def dense_latents(model: Allegro, batch: GraphBatch, vectors: Tensor) -> Tensor:
    """Variant B."""
    config, edges = model.config, Edges(model, batch, vectors)
    irreps = kept_irreps(config.n_layers, config.l_max, config.parity)
    width, shape = config.latent_width, (-1, config.l_max + 1, config.num_channels)
    rows = shape[1] * shape[2]
    projected = edges.embedded @ model.latents.projection / sqrt(width)
    known = [projected[:, :width]]
    tensors = edges.weighted(projected[:, width : width + rows].reshape(shape))
    weights = projected[:, width + rows :]
    for layer in range(config.n_layers):
        environment = edges.weighted(weights.reshape(shape) / sqrt(config.avg_num_neighbors))
        environment = edges.summed(environment, itself=True)
        path_weights = model.track.couplings[layer].weights
        tensors = tensor_product(tensors, environment, irreps[layer + 1], path_weights, "B")
        new = mlp(torch.cat([*known, tensors[(0, 1)][:, :, 0]], dim=1), list(model.latents.layers[layer].weights))
        known.append(new[:, :width])
        weights = new[:, width:]
    return torch.cat(known, dim=1)


def edge_energies(model: Allegro, batch: GraphBatch, vectors: Tensor) -> Tensor:
    variant = model.config.variant
    latents = (edge_latents if variant == "A" else dense_latents)(model, batch, vectors)
    centre = batch.edge_index[0]
    energies = torch.empty(len(centre), dtype=torch.float64)
    for edge in range(len(centre)):
        head = int(batch.head[batch.batch[centre[edge]]])
        if variant == "A":
            value = latents[edge]
            for weight in model.readouts.heads[head]:
                value = value @ weight / sqrt(weight.shape[0])
        else:
            value = mlp(latents[edge : edge + 1], list(model.readouts.heads[head]))[0]
        scale = model.config.heads[head].scale
        element = model.config.type_names[int(batch.types[centre[edge]])]
        scale = scale[element] if isinstance(scale, dict) else scale
        energies[edge] = value[0] * scale / sqrt(model.config.avg_num_neighbors * (1 if variant == "A" else 2))
    return energies
