"""What the compiled kernel is told: sizes and coupling tables as a header, weights as one vector.

The header depends on the architecture alone, not on elements, heads or weights, so models of one shape share a
compiled kernel.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from atomfoundry.models.allegro.angular import harmonic_polynomials
from atomfoundry.models.allegro.couplings import Coupling
from atomfoundry.models.allegro.track import TensorTrack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atomfoundry.models.allegro.config import AllegroConfig
    from atomfoundry.models.allegro.mlp import Perceptron
    from atomfoundry.models.allegro.model import Allegro


def config_header(model: Allegro) -> str:
    """Return ``foundry_config.hpp``: number type, sizes and coupling tables."""
    config = model.config
    coupling = cast(Coupling, cast(TensorTrack, model.track).couplings[0])
    degrees = [degree for degree in range(config.l_max + 1) for _ in range(2 * degree + 1)]
    terms = term_positions(coupling) if config.n_layers == 2 else np.empty((0, 3), dtype=int)
    triples = [(k, i, j) for i, j, k in coupling.even_triples] if config.n_layers == 2 else []
    two_body = [config.two_body_dims[0], *config.two_body_dims]
    latent = [config.latent_width, *config.latent_dims]
    lines = [
        "#pragma once",
        f"typedef {'float' if config.dtype == 'float32' else 'double'} T;",
        f"constexpr int N_LAYERS = {config.n_layers}, DEGREES = {config.l_max + 1}, COMPONENTS = {len(degrees)};",
        f"constexpr int CHANNELS = {config.num_channels}, BASIS = {config.num_basis};",
        f"constexpr int POLYNOMIAL_P = {config.polynomial_p};",
        f"constexpr bool AGNESI = {'true' if config.radial_transform == 'agnesi' else 'false'};",
        f"constexpr int TWO_BODY_DIMS[] = {_braced(two_body)};",
        f"constexpr int LATENT_DIMS[] = {_braced(latent)};",
        f"constexpr int DEGREE_OF[] = {_braced(degrees)};",
        f"constexpr int N_TERMS = {len(terms)}, N_TRIPLES = {len(triples)};",
        f"constexpr int TERMS[][3] = {_table(terms)};",
        f"constexpr int TRIPLES[][3] = {_table(triples)};",
    ]
    return "\n".join(lines) + "\n"


def _braced(numbers: object) -> str:
    return "{" + ", ".join(str(int(number)) for number in numbers) + "}"  # type: ignore[attr-defined]


def _table(rows: object) -> str:
    lines = [_braced(row) for row in rows]  # type: ignore[attr-defined]
    return "{" + ", ".join(lines or ["{0, 0, 0}"]) + "}"


def harmonics_header(l_max: int) -> str:
    """Return ``foundry_harmonics.hpp``: harmonics of a unit vector, and the adjoint of the vector from theirs."""
    polynomials = [polynomial for degree in range(l_max + 1) for polynomial in harmonic_polynomials(degree)]
    values = [f"    out[{k}] = N({_expression(p)});" for k, p in enumerate(polynomials)]
    slopes = []
    for place, axis in enumerate("xyz"):
        parts = [
            f"adjoint[{k}] * ({_expression(derivative)})"
            for k, p in enumerate(polynomials)
            if (derivative := _derivative(p, axis))
        ]
        slopes.append(f"    out[{place}] = {' + '.join(parts) or 'T(0)'};")
    return "\n".join(
        [
            "#pragma once",
            '#include "numbers.hpp"',
            "namespace foundry {",
            "template <class N>",
            "inline void harmonics([[maybe_unused]] N x, [[maybe_unused]] N y, [[maybe_unused]] N z, N* out) {",
            *values,
            "}",
            "inline void harmonics_adjoint([[maybe_unused]] T x, [[maybe_unused]] T y, [[maybe_unused]] T z,",
            "                              [[maybe_unused]] const T* adjoint, T* out) {",
            *slopes,
            "}",
            "}  // namespace foundry",
            "",
        ]
    )


def _expression(polynomial: dict[str, float]) -> str:
    return " + ".join("*".join([f"T({factor!r})", *axes]) for axes, factor in polynomial.items())


def _derivative(polynomial: dict[str, float], axis: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for axes, factor in polynomial.items():
        if axis in axes:
            left = axes.replace(axis, "", 1)
            found[left] = found.get(left, 0.0) + factor * axes.count(axis)
    return found


def term_positions(coupling: Coupling) -> np.ndarray:
    """Return where the path-weighted 3j tensor can be other than zero, (n, 3): component in, of the fields S and S'."""
    return np.argwhere((coupling.tensors != 0).any(dim=0).view(coupling.shape).cpu().numpy())


def kernel_weights(model: Allegro) -> Tensor:
    """Return all weights with their constant factors as one vector in the kernel's order, differentiable."""
    config = model.config
    track = cast(TensorTrack, model.track)
    perceptrons = cast("Iterable[Perceptron]", model.latents)
    embedding = model.embedding
    parts = [embedding.frequencies, embedding.mixing / sqrt(config.num_basis)]
    parts += model.two_body.scaled_weights()
    gain = 1 / sqrt(config.latent_width)
    rows = track.n_degrees * track.n_channels
    tensor, environment = track.environments[0].split([rows, rows], dim=1)
    parts.append(torch.cat([tensor * gain, environment * (gain * track.environment_gain)], dim=1))
    first = cast(Coupling, track.couplings[0])
    if config.n_layers == 2:
        last = cast(Coupling, track.couplings[1]).scalar().repeat_interleave(track.n_channels)
        parts.append(track.environments[1] * (last * (gain * track.environment_gain)))
    for layer, perceptron in enumerate(perceptrons):
        parts += perceptron.scaled_weights(gain=sqrt(1 / (layer + 2)))
    parts.append(first.scalar())
    if config.n_layers == 2:
        places = torch.from_numpy(term_positions(first)).to(track.environments[0].device)
        parts.append(first.tensor()[places[:, 0], places[:, 1], places[:, 2]])
        parts.append(first.parallel_paths()[0])
    parts += [embedding.centre, embedding.neighbour]
    parts += [model.readouts.vector(head) for head in range(len(config.heads))]
    return torch.cat([part.reshape(-1) for part in parts])


def unsupported(config: AllegroConfig) -> str | None:
    """Return why the kernel cannot stand for such a model; None if it can."""
    if config.variant != "A":
        return f"it is of variant {config.variant} (the kernel knows A)"
    if config.n_layers > 2:
        return f"it has {config.n_layers} layers (the kernel knows one and two)"
    return None
