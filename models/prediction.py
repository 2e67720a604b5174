"""Predictions of whole datasets, frame by frame in bounded memory, by our models and by any ASE calculator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atomfoundry.benchmarks.labelling import energy_of, forces_of, single_point, stress_of
from atomfoundry.errors import LabelError, ModelError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.graph import GraphBatch

BATCH_EDGES = 200_000
"""A batch is full with so many directed edges, whatever the number of its structures."""


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one frame.

    Attributes
    ----------
    energy
        eV.
    forces
        (N, 3) eV/A.
    stress
        (6,) eV/A^3, Voigt, tension positive; None where the frame is not periodic in three directions or the
        calculator has none.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None


def predict(
    predictor: Allegro | BaseCalculator,
    frames: Iterable[Atoms],
    *,
    head: str | None = None,
    batch_size: int = 16,
) -> Iterator[tuple[Atoms, Prediction | LabelError]]:
    """Predict frames one after the other; no more than a batch of them is in memory.

    Parameters
    ----------
    predictor
        A model of ours, which sees a batch at a time, or any ASE calculator.
    frames
        Read once; never changed.
    head
        Readout of a model; None: its first.
    batch_size
        Most structures in a batch.

    Yields
    ------
    tuple
        Frame, and its prediction or why there is none (reasons ``"unsupported"``, ``"nan"``, ``"crashed"`` and
        those of the calculator), in order.

    Raises
    ------
    ModelError
        If the model has no such head.
    InputError
        If the calculator can compute nothing at all, e.g. because its code is not installed.
    """
    from atomfoundry.models.allegro.model import Allegro

    if isinstance(predictor, Allegro):
        index = predictor.head_index(predictor.config.heads[0].name if head is None else head)
        return _by_model(predictor, frames, index, batch_size)
    return _by_calculator(predictor, frames)


def _by_calculator(
    calculator: BaseCalculator, frames: Iterable[Atoms]
) -> Iterator[tuple[Atoms, Prediction | LabelError]]:
    for number, frame in enumerate(frames):
        try:
            found = single_point(frame, calculator, what=str(frame.info.get("frame_id") or f"frame {number}"))
        except LabelError as error:
            yield frame, error
            continue
        energy, forces = energy_of(found), forces_of(found)
        assert energy is not None and forces is not None
        yield frame, Prediction(energy, forces, stress_of(found))


def _by_model(
    model: Allegro, frames: Iterable[Atoms], head: int, batch_size: int
) -> Iterator[tuple[Atoms, Prediction | LabelError]]:
    from atomfoundry.models.graph import build_graph

    config = model.config
    known = config.heads[head].isolated_energies
    waiting: list[tuple[Atoms, GraphBatch | LabelError]] = []
    graphs = edges = 0
    for frame in frames:
        item: GraphBatch | LabelError
        missing = sorted(set(frame.get_chemical_symbols()) - set(known)) if known else []
        try:
            item = build_graph(frame, cutoff=config.cutoff, type_names=config.type_names, head=head)
        except ModelError as error:
            item = LabelError(error.message, reason="unsupported", remedy=error.remedy)
        else:
            if missing:
                item = LabelError(
                    f"Head '{config.heads[head].name}' has no isolated-atom energy of {', '.join(missing)}.",
                    reason="unsupported",
                )
            else:
                graphs += 1
                edges += int(item.edge_index.shape[1])
        waiting.append((frame, item))
        if graphs >= batch_size or edges >= BATCH_EDGES or len(waiting) >= 64 * batch_size:
            yield from _evaluated(model, waiting)
            waiting, graphs, edges = [], 0, 0
    yield from _evaluated(model, waiting)


def _evaluated(
    model: Allegro, items: list[tuple[Atoms, GraphBatch | LabelError]]
) -> Iterator[tuple[Atoms, Prediction | LabelError]]:
    """Evaluate the graphs of a batch in one pass and give all items back in order."""
    from ase.stress import full_3x3_to_voigt_6_stress

    from atomfoundry.models.graph import collate

    graphs = [item for _, item in items if not isinstance(item, LabelError)]
    if graphs:
        device = next(model.parameters()).device
        output = model(collate(graphs).to(device), forces=True, stress=True, create_graph=False)
        energies = output["energy"].detach().cpu().double().numpy()
        all_forces = output["forces"].detach().cpu().double().numpy()
        stresses = output["stress"].detach().cpu().double().numpy()
    place = start = 0
    for frame, item in items:
        if isinstance(item, LabelError):
            yield frame, item
            continue
        forces = all_forces[start : start + len(frame)]
        start += len(frame)
        energy, stress = float(energies[place]), stresses[place]
        place += 1
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            name = frame.info.get("frame_id") or frame.get_chemical_formula()
            yield frame, LabelError(f"{name}: the model's energy or forces are not finite.", reason="nan")
            continue
        periodic = bool(frame.pbc.all()) and bool(np.isfinite(stress).all())
        yield frame, Prediction(energy, forces, full_3x3_to_voigt_6_stress(stress) if periodic else None)
