"""One file with everything a program outside Python needs of a model, and the C++ that reads and evaluates it.

The interface is ``foundry_model.h``; ``exported.cpp`` implements it and is compiled together with the program's own
part.
"""

from __future__ import annotations

import hashlib
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase.data import atomic_numbers

from atomfoundry.errors import ModelError
from atomfoundry.models.allegro.radial import covalent_radii_of
from atomfoundry.models.kernel.build import sources
from atomfoundry.models.kernel.evaluation import kernel_sources
from atomfoundry.models.kernel.layout import kernel_weights, unsupported

if TYPE_CHECKING:
    from atomfoundry.models.allegro.model import Allegro

MAIN = "exported.cpp"
"""The file among :func:`exported_sources` to compile or include."""


def shape_id(model: Allegro) -> str:
    """Return a hash of everything that a compiled kernel depends on but weights, elements and heads."""
    return hashlib.sha256("\0".join(f"{k}\0{v}" for k, v in sorted(kernel_sources(model).items())).encode()).hexdigest()


def exported_sources(model: Allegro) -> dict[str, str]:
    """Return file name -> text of the C++ that implements ``foundry_model.h`` for models of this shape.

    Raises
    ------
    ModelError
        If the kernel does not know such models.
    """
    reason = unsupported(model.config)
    if reason is not None:
        raise ModelError(
            f"The model cannot be exported: {reason}.",
            remedy="Train a model of variant A with one or two layers, or use the model from Python.",
        )
    texts = kernel_sources(model)
    texts["foundry_config.hpp"] += f'#define FOUNDRY_SHAPE "{shape_id(model)}"\n'
    return texts | sources(("exported.cpp", "foundry_model.h"))


def write_exported(model: Allegro, path: Path, *, default_head: str | None = None) -> Path:
    """Write the model's file for ``foundry_open``.

    Parameters
    ----------
    model
        The model.
    path
        File to write.
    default_head
        Readout head used if none is named; default: ``"ft"`` if the model has it, else its first.

    Raises
    ------
    ModelError
        If the kernel does not know such models, or there is no such head.
    """
    config = model.config
    names = [head.name for head in config.heads]
    default = default_head or ("ft" if "ft" in names else names[0])
    if any(set(name) & set(" \t\n") for name in names):
        raise ModelError(f"Heads to export must have names without spaces, got {names}.", remedy="Rename the head.")
    with torch.no_grad():
        weights = kernel_weights(model).cpu().contiguous().numpy()
    scales = (model.readouts.scales / sqrt(config.avg_num_neighbors)).double().cpu().numpy()
    lines = [
        "foundry-model 1",
        f"shape {shape_id(model)}",
        f"types {' '.join(config.type_names)}",
        f"heads {' '.join(names)}",
        f"default {model.head_index(default)}",
        f"zbl {int(config.zbl)}",
        f"cutoff {config.cutoff!r}",
        f"weights {len(weights)}",
        "end",
    ]
    numbers = [
        covalent_radii_of(config.type_names),
        np.array([atomic_numbers[name] for name in config.type_names]),
        scales,
        model.readouts.isolated_energies.cpu().numpy(),
    ]
    content = "\n".join(lines).encode() + b"\n"
    content += b"".join(np.ascontiguousarray(part, dtype=np.float64).tobytes() for part in numbers) + weights.tobytes()
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path
