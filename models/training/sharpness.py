"""Sharpness: the ascent of sharpness-aware minimisation, and how sharp a minimum is (ALGORITHMS 3.5).

Allegro-Legato (Ibayashi et al., arXiv 2303.08169) trains Allegro this way, for molecular dynamics that stays stable
for longer; the method is that of Foret et al. (arXiv 2010.01412), its adaptive form that of Kwon et al.
(arXiv 2102.11600).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atomfoundry.errors import TrainingError

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.training.loader import FramesByHead
    from atomfoundry.models.training.settings import LossSettings

SMALLEST_NORM = 1e-12
"""Added to the norm of the gradient."""


@contextmanager
def ascended(parameters: Sequence[Tensor], *, rho: float, adaptive: bool = False) -> Iterator[None]:
    """Move weights uphill along their gradients for a while; afterwards they have their old bits again.

    ``eps = rho g / (||g|| + 1e-12)``, or with `adaptive` ``eps = rho theta^2 g / (|| |theta| g || + 1e-12)``, with one
    norm over all weights.

    Parameters
    ----------
    parameters
        With their gradients; those without one stay.
    rho
        Length of the step.
    adaptive
        Whether a weight moves in proportion to its size.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    kept = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        gradients = [parameter.grad.double() for parameter in moved if parameter.grad is not None]
        if adaptive:
            gradients = [value.double().abs() * gradient for value, gradient in zip(kept, gradients, strict=True)]
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt() if gradients else 0.0
        for parameter, value, gradient in zip(moved, kept, gradients, strict=True):
            direction = value.double().abs() * gradient if adaptive else gradient
            parameter.add_((rho / (norm + SMALLEST_NORM) * direction).to(parameter.dtype))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(moved, kept, strict=True):
                parameter.copy_(value)


@dataclass(frozen=True)
class Sharpness:
    """How much the loss rises about a minimum.

    Parameters
    ----------
    rise, uncertainty
        Mean of L(theta + scale xi) - L(theta) over the draws, and the standard error of that mean.
    loss
        L(theta).
    n_draws, scale
        How it was measured.
    """

    rise: float
    uncertainty: float
    loss: float
    n_draws: int
    scale: float


def measure_sharpness(
    model: Allegro,
    frames: FramesByHead,
    *,
    loss: LossSettings,
    n_draws: int = 100,
    scale: float = 0.05,
    batch_size: int = 32,
    seed: int = 0,
) -> Sharpness:
    """Return the mean rise of the loss under Gaussian noise on all weights (Allegro-Legato's metric).

    Parameters
    ----------
    model
        The model; its weights are the same afterwards.
    frames
        Training frames, or head name -> frames.
    loss
        Of the training.
    n_draws
        At least 2.
    scale
        Standard deviation of the noise.
    batch_size
        Structures at a time.
    seed
        Of the noise.

    Raises
    ------
    TrainingError
        If no frame has neighbours or there are too few draws.
    """
    from atomfoundry.models.training.loader import by_head, graph_force_rms, prepare_graphs, without_isolated
    from atomfoundry.models.training.loss import Loss
    from atomfoundry.models.training.schedule import weights_of
    from atomfoundry.models.training.validation import in_chunks, validate

    if n_draws < 2:
        raise TrainingError(f"Sharpness over {n_draws} draws has no uncertainty.", remedy="Take at least 2.")
    force_rms, graphs = {}, []
    for head, entries in by_head(model, frames).items():
        own = without_isolated(prepare_graphs(model, entries, head=head))
        if own:
            force_rms[head] = graph_force_rms(own)
        graphs += own
    if not graphs:
        raise TrainingError("There is no frame with neighbours to measure the sharpness on.", remedy="Give frames.")
    batches = in_chunks(graphs, batch_size)
    measure = Loss(loss, force_rms=force_rms)
    base = validate(model, batches, measure).loss
    generator = torch.Generator().manual_seed(seed)
    rises = []
    for _ in range(n_draws):
        noisy = {
            name: p.detach() + scale * torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
            for name, p in model.named_parameters()
        }
        with weights_of(model, noisy):
            rises.append(validate(model, batches, measure).loss - base)
    values = torch.tensor(rises, dtype=torch.float64)
    return Sharpness(
        rise=values.mean().item(),
        uncertainty=values.std().item() / n_draws**0.5,
        loss=base,
        n_draws=n_draws,
        scale=scale,
    )
