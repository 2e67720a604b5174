"""The scalar track of variant B: each layer sees the scalars of all layers before it (ALGORITHMS 2.9)."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.dense_track import DenseTrack
from atomfoundry.models.allegro.mlp import Perceptron, unit_variance
from atomfoundry.models.allegro.track import TrackState


class DenseLatents(nn.Module):
    """Perceptrons of the layers, which also make the environment weights of the next.

    One matrix takes the scalar embedding to the first scalars, to the weights of the tensors and to those of the
    first environment, (S, S + 2 (l_max + 1) C).
    """

    def __init__(self, config: AllegroConfig, *, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.width, channels = config.latent_width, config.num_channels
        self.shape = (-1, config.l_max + 1, channels)
        self.rows = (config.l_max + 1) * channels
        self.projection = unit_variance(self.width, self.width + 2 * self.rows, generator=generator, dtype=dtype)
        self.layers = nn.ModuleList()
        for layer in range(config.n_layers):
            made = self.width + (self.rows if layer < config.n_layers - 1 else 0)
            dims = [(layer + 1) * self.width + channels, *config.latent_dims[:-1], made]
            self.layers.append(Perceptron(dims, generator=generator, dtype=dtype))

    def forward(self, track: DenseTrack, state: TrackState, embedded: Tensor) -> Tensor:
        """Return the scalars of all layers side by side, (M, (n_layers + 1) S).

        Parameters
        ----------
        track
            The tensor track.
        state
            What ``track.begin`` returned.
        embedded
            Scalar embedding of the edges, (M, S).
        """
        projected = embedded @ (self.projection / sqrt(self.width))
        scalars, tensor, environment = projected.split([self.width, self.rows, self.rows], dim=1)
        tensor = tensor.reshape(self.shape)
        known = [scalars]
        for layer, perceptron in enumerate(self.layers):
            new = track.scalars(state, layer, tensor, environment.reshape(self.shape))
            scalars, environment = perceptron(*known, new).tensor_split([self.width], dim=1)
            known.append(scalars)
        return torch.cat(known, dim=1)
