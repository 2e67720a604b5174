"""Fine-tuning, naive or with several heads and replay, and what it forgets (ALGORITHMS section 4)."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from atomfoundry.datasets import attach_labels
from atomfoundry.documents.model import EpochRecord, ErrorMetrics, ForgettingRecord
from atomfoundry.errors import TrainingError
from atomfoundry.models.allegro.config import HeadConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.descriptors import structure_descriptors
from atomfoundry.models.evaluation import evaluate, predictions_of
from atomfoundry.models.replay import ReplayFilter, ReplayMethod, ReplaySelection, replay_subset
from atomfoundry.models.training.result import TrainingResult
from atomfoundry.models.training.settings import TrainingSettings, finetune_profile
from atomfoundry.models.training.trainer import train

if TYPE_CHECKING:
    from ase import Atoms

logger = logging.getLogger(__name__)

FINE_HEAD = "ft"


@dataclass
class FineTuning:
    """A fine-tuned model and how it came to be.

    Parameters
    ----------
    method
        'naive' or 'replay'.
    training
        Result of the training; its model has the old head and the new one.
    old_head, fine_head
        Names of the two.
    selection
        What was replayed; None for naive.
    frames_per_epoch
        Frames shown in one epoch, repetitions counted.
    """

    method: Literal["naive", "replay"]
    training: TrainingResult
    old_head: str
    fine_head: str
    selection: ReplaySelection | None
    frames_per_epoch: int

    @property
    def model(self) -> Allegro:
        """The fine-tuned model."""
        return self.training.model


def with_fine_head(
    model: Allegro,
    *,
    name: str = FINE_HEAD,
    copy_from: str | None = None,
    isolated_energies: Mapping[str, float] | None = None,
    scale: float | dict[str, float] | None = None,
    level_id: str | None = None,
) -> Allegro:
    """Return a copy of a model with one more head, whose readout is a copy of an old one.

    Parameters
    ----------
    model
        Stays as it is.
    name
        Of the new head.
    copy_from
        The old head; None: the first.
    isolated_energies
        Element -> eV at the new level; None: those of the old head, right only at the same level of theory.
    scale
        eV; None: the old head's, so that the new head begins where the old one ended.
    level_id
        Level of theory of the new head; None: the old head's.

    Raises
    ------
    TrainingError
        If the model has a head of that name.
    """
    tuned = copy.deepcopy(model)
    old = tuned.config.heads[0 if copy_from is None else tuned.head_index(copy_from)]
    if any(head.name == name for head in tuned.config.heads):
        raise TrainingError(f"The model already has a head '{name}'.", remedy="Choose another name for the new head.")
    head = HeadConfig(
        name=name,
        isolated_energies=dict(old.isolated_energies if isolated_energies is None else isolated_energies),
        scale=old.scale if scale is None else scale,
        level_id=old.level_id if level_id is None else level_id,
    )
    tuned.add_head(head, copy_from=old.name)
    return tuned


def _check_elements(model: Allegro, frames: Sequence[Atoms], head: str) -> None:
    table = model.config.heads[model.head_index(head)].isolated_energies
    if not table:
        return
    elements = {symbol for frame in frames for symbol in frame.get_chemical_symbols()}
    missing = sorted(elements - set(table))
    if missing:
        raise TrainingError(
            f"Head '{head}' has no isolated-atom energy of {', '.join(missing)}, which new frames hold.",
            remedy="Give 'isolated_energies' with these elements.",
        )


def finetune_naive(
    model: Allegro,
    fine_frames: Sequence[Atoms],
    valid_frames: Sequence[Atoms] | None = None,
    *,
    settings: TrainingSettings | None = None,
    directory: str | Path | None = None,
    isolated_energies: Mapping[str, float] | None = None,
    level_id: str | None = None,
    head: str | None = None,
    fine_head: str = FINE_HEAD,
    edge_cache: str | Path | None = None,
    callback: Callable[[EpochRecord], None] | None = None,
) -> FineTuning:
    """Go on training on the fine-tuning frames alone.

    The shared weights move under a copy of the readout; the old head stays as it was, to measure what it
    forgets.

    Parameters
    ----------
    model
        Pretrained; not changed.
    fine_frames, valid_frames
        Labelled frames.
    settings
        None: the fine-tuning profile.
    directory
        For checkpoints, see `train`.
    isolated_energies, level_id
        Of the new head, see `with_fine_head`.
    head
        The old head; None: the first.
    fine_head
        Name of the new head.
    edge_cache
        Folder that keeps the edges, see `train`.
    callback
        Called with each epoch's record.

    Raises
    ------
    TrainingError
        As `train`, and if a head lacks an element.
    """
    old_head = model.config.heads[0].name if head is None else head
    tuned = with_fine_head(
        model, name=fine_head, copy_from=old_head, isolated_energies=isolated_energies, level_id=level_id
    )
    _check_elements(tuned, fine_frames, fine_head)
    result = train(
        tuned,
        {fine_head: list(fine_frames)},
        {fine_head: list(valid_frames)} if valid_frames else None,
        settings=settings or finetune_profile(),
        directory=directory,
        edge_cache=edge_cache,
        callback=callback,
    )
    return FineTuning("naive", result, old_head, fine_head, None, len(fine_frames))


def finetune_replay(
    model: Allegro,
    fine_frames: Sequence[Atoms],
    pretraining_frames: Sequence[Atoms],
    valid_frames: Sequence[Atoms] | None = None,
    pretraining_valid_frames: Sequence[Atoms] | None = None,
    *,
    settings: TrainingSettings | None = None,
    directory: str | Path | None = None,
    isolated_energies: Mapping[str, float] | None = None,
    level_id: str | None = None,
    head: str | None = None,
    fine_head: str = FINE_HEAD,
    n_replay: int | None = None,
    rule: ReplayFilter = "shared_pair",
    method: ReplayMethod = "fps",
    pseudo_labels: bool = False,
    head_weights: Mapping[str, float] | None = None,
    seed: int = 0,
    edge_cache: str | Path | None = None,
    callback: Callable[[EpochRecord], None] | None = None,
) -> FineTuning:
    """Train a new head on the fine-tuning frames while the old one sees part of its pretraining set again.

    Parameters
    ----------
    model
        Pretrained; not changed.
    fine_frames, pretraining_frames
        Labelled frames of the new and the old head.
    valid_frames, pretraining_valid_frames
        Of the two heads.
    settings
        None: the fine-tuning profile.
    directory
        For checkpoints, see `train`.
    isolated_energies, level_id
        Of the new head, see `with_fine_head`.
    head
        The old head; None: the first.
    fine_head
        Name of the new head.
    n_replay, rule, method
        Which pretraining frames, see `replay_subset`.
    pseudo_labels
        Replay the pretrained model's own predictions instead of the labels.
    head_weights
        Head name -> weight of its loss.
    seed
        Of the choice.
    edge_cache
        Folder that keeps the edges, see `train`.
    callback
        Called with each epoch's record.

    Raises
    ------
    TrainingError
        As `train` and `replay_subset`, and if a head lacks an element.
    """
    old_head = model.config.heads[0].name if head is None else head
    tuned = with_fine_head(
        model, name=fine_head, copy_from=old_head, isolated_energies=isolated_energies, level_id=level_id
    )
    _check_elements(tuned, fine_frames, fine_head)
    # On the CPU: a GPU rounds otherwise, and a training that goes on elsewhere must find the same frames.
    judge = model if next(model.parameters()).device.type == "cpu" else copy.deepcopy(model).to("cpu")
    selection = replay_subset(
        pretraining_frames,
        fine_frames,
        n_replay=n_replay,
        rule=rule,
        method=method,
        descriptors=lambda frames: structure_descriptors(judge, frames),
        seed=seed,
    )
    replayed = [pretraining_frames[index] for index in selection.indices]
    if pseudo_labels:
        replayed = pseudo_label(judge, replayed, head=old_head)
    shown = {old_head: replayed, fine_head: list(fine_frames) * selection.fine_repeats}
    valid = {
        name: list(frames)
        for name, frames in ((old_head, pretraining_valid_frames), (fine_head, valid_frames))
        if frames
    }
    logger.info(
        "Replay: %d of %d pretraining frames (%d passed the filter), fine frames shown %d times an epoch",
        len(replayed),
        len(pretraining_frames),
        selection.n_matching,
        selection.fine_repeats,
    )
    result = train(
        tuned,
        shown,
        valid or None,
        settings=settings or finetune_profile(),
        directory=directory,
        head_weights=head_weights,
        edge_cache=edge_cache,
        callback=callback,
    )
    n_shown = sum(len(frames) for frames in shown.values())
    return FineTuning("replay", result, old_head, fine_head, selection, n_shown)


def equal_budget(settings: TrainingSettings, *, n_frames: int, reference_frames: int) -> TrainingSettings:
    """Return settings whose epochs show as many frames in all as those of another training.

    For naive against replay: an epoch of the former is shorter.

    Parameters
    ----------
    settings
        Of the other training.
    n_frames
        Frames in one epoch of this training.
    reference_frames
        Frames in one epoch of the other.
    """
    epochs = max(1, round(settings.max_epochs * reference_frames / n_frames))
    return settings.model_copy(update={"max_epochs": epochs})


def pseudo_label(model: Allegro, frames: Sequence[Atoms], *, head: str | None = None) -> list[Atoms]:
    """Return copies of frames labelled by a model instead (energy, forces, stress where periodic).

    Parameters
    ----------
    model
        The frozen model.
    frames
        Structures.
    head
        None: the first.

    Raises
    ------
    ModelError
        If a prediction is not finite.
    """
    bare = []
    for frame in frames:
        bare.append(frame.copy())
        bare[-1].calc = None
    name = model.config.heads[0].name if head is None else head
    predictions = predictions_of(model, bare, head=name)
    return [
        attach_labels(
            frame,
            energy=predictions.energy_pred[i],
            forces=predictions.forces_pred[i],
            stress=predictions.stress_pred[i],
        )
        for i, frame in enumerate(bare)
    ]


def forgetting_ratios(
    before: Mapping[str, ErrorMetrics],
    after: Mapping[str, ErrorMetrics],
    *,
    method: str,
    shifted_before: Mapping[str, float] | None = None,
    shifted_after: Mapping[str, float] | None = None,
) -> list[ForgettingRecord]:
    """Return RMSE after over RMSE before, per task and quantity (ALGORITHMS 4.2).

    Parameters
    ----------
    before, after
        Task -> metrics of the pretrained and of the fine-tuned model.
    method
        'naive' or 'replay'.
    shifted_before, shifted_after
        Task -> energy RMSE after the best shift per element, eV/atom; adds 'energy_shifted'.

    Raises
    ------
    TrainingError
        If the tasks differ.
    """
    if set(before) != set(after):
        raise TrainingError(f"Forgetting: tasks before {sorted(before)} and after {sorted(after)} differ.")
    records = []
    for task, old in before.items():
        new = after[task]
        pairs = {
            "energy": (old.energy_rmse, new.energy_rmse),
            "energy_shifted": ((shifted_before or {}).get(task), (shifted_after or {}).get(task)),
            "forces": (old.forces_rmse, new.forces_rmse),
            "stress": (old.stress_rmse, new.stress_rmse),
        }
        for quantity, (first, second) in pairs.items():
            if first is None or second is None:
                continue
            ratio = second / first if first > 0 else (1.0 if second == 0 else math.inf)
            records.append(
                ForgettingRecord(
                    method=method,
                    head=new.head,
                    task=task,
                    quantity=quantity,
                    before=first,
                    after=second,
                    ratio=ratio,
                )
            )
    return records


def measure_forgetting(
    pretrained: Allegro,
    tuned: Allegro,
    tasks: Mapping[str, Sequence[Atoms]],
    *,
    method: str,
    old_head: str = "pt",
    fine_head: str = FINE_HEAD,
) -> list[ForgettingRecord]:
    """Evaluate both models on tasks at the pretraining level, with the new head and with the old one.

    The new head is what is deployed, the old one what is retained; the paper does not say which it used.

    Parameters
    ----------
    pretrained, tuned
        The model before and after.
    tasks
        Name -> labelled frames that neither training saw; not the fine-tuning task.
    method
        'naive' or 'replay', for the records.
    old_head, fine_head
        Names of the heads.
    """
    records = []
    old = {t: evaluate(pretrained, list(f), head=old_head, split=t) for t, f in tasks.items()}
    for head in (fine_head, old_head):
        new = {t: evaluate(tuned, list(f), head=head, split=t) for t, f in tasks.items()}
        records += forgetting_ratios(
            {task: metrics for task, (metrics, _) in old.items()},
            {task: metrics for task, (metrics, _) in new.items()},
            method=method,
            shifted_before={task: p.shifted_energy_rmse() for task, (_, p) in old.items()},
            shifted_after={task: p.shifted_energy_rmse() for task, (_, p) in new.items()},
        )
    return records
