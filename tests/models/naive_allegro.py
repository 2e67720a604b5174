"""Allegro written as its equations stand (ALGORITHMS 2.1-2.15), slowly, with e3nn's harmonics and 3j symbols.

Every edge gets its own environment by a sum over the other edges of its centre; every path is one einsum.
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


def kept_irreps(n_layers: int, l_max: int) -> list[list[tuple[int, int]]]:
    """Irreps before and after each layer, by walking every chain of couplings that ends in 0e."""
    environment = [(degree, (-1) ** degree) for degree in range(l_max + 1)]

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
    order = {True: 0, False: 1}
    return [
        sorted({chain[step] for chain in chains}, key=lambda i: (i[0], order[i[1] == (-1) ** i[0]]))
        for step in range(n_layers + 1)
    ]


def edge_latents(model: Allegro, batch: GraphBatch, vectors: Tensor) -> Tensor:
    config, n_degrees = model.config, model.config.l_max + 1
    centre, neighbour = batch.edge_index
    r = vectors.norm(dim=1)
    x, p = r / config.cutoff, config.polynomial_p
    u = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    basis = torch.stack([u * torch.sin(b * r) / (pi * x) for b in model.embedding.frequencies], dim=1)
    embedded = torch.cat(
        [model.embedding.centre[batch.types[centre]], model.embedding.neighbour[batch.types[neighbour]]],
        dim=1,
    )
    latents = mlp(embedded * (basis @ model.embedding.mixing / sqrt(config.num_basis)), list(model.two_body.weights))
    harmonics = [
        o3.spherical_harmonics(degree, vectors, normalize=True, normalization="component")
        for degree in range(n_degrees)
    ]
    same_centre = (centre[:, None] == centre[None]).double() - torch.eye(len(centre), dtype=torch.float64)
    irreps = kept_irreps(config.n_layers, config.l_max)
    tensors: dict[tuple[int, int], Tensor] = {}
    for layer in range(config.n_layers):
        weights = latents @ model.track.environments[layer] / sqrt(config.latent_width)
        weights = weights.view(len(centre), -1, n_degrees, config.num_channels)  # (V and E) or E, degree, channel
        if layer == 0:
            tensors = {
                (degree, (-1) ** degree): weights[:, 0, degree, :, None] * harmonics[degree][:, None]
                for degree in range(n_degrees)
            }
        environments = {}
        for degree in range(n_degrees):
            own = weights[:, -1, degree, :, None] * harmonics[degree][:, None] / sqrt(config.avg_num_neighbors - 1)
            environments[(degree, (-1) ** degree)] = torch.einsum("ef,fcm->ecm", same_centre, own)
        made: dict[tuple[int, int], Tensor] = {}
        path_weights = iter(model.track.couplings[layer].weights)
        for out in irreps[layer + 1]:
            terms = []
            for left in irreps[layer]:
                for right in environments:
                    if left[1] * right[1] != out[1] or not abs(left[0] - right[0]) <= out[0] <= left[0] + right[0]:
                        continue
                    symbol = o3.wigner_3j(left[0], right[0], out[0], dtype=torch.float64)
                    product = torch.einsum("abk,eca,ecb->eck", symbol, tensors[left], environments[right])
                    terms.append(next(path_weights) * product)
            made[out] = sum(terms) * sqrt((2 * out[0] + 1) / len(terms))
        assert next(path_weights, None) is None
        tensors = made
        new = mlp(torch.cat([latents, tensors[(0, 1)][:, :, 0]], dim=1), list(model.latents[layer].weights))
        latents = sqrt((layer + 1) / (layer + 2)) * latents + sqrt(1 / (layer + 2)) * new
    return latents


def edge_energies(model: Allegro, batch: GraphBatch, vectors: Tensor) -> Tensor:
    latents = edge_latents(model, batch, vectors)
    centre = batch.edge_index[0]
    energies = torch.empty(len(centre), dtype=torch.float64)
    for edge in range(len(centre)):
        head = int(batch.head[batch.batch[centre[edge]]])
        value = latents[edge]
        for weight in model.readouts.heads[head]:
            value = value @ weight / sqrt(weight.shape[0])
        scale = model.config.heads[head].scale
        element = model.config.type_names[int(batch.types[centre[edge]])]
        scale = scale[element] if isinstance(scale, dict) else scale
        energies[edge] = value[0] * scale / sqrt(model.config.avg_num_neighbors)
    return energies
