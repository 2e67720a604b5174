"""The training loop: deterministic, resumable bit for bit, one head or several (ALGORITHMS section 3)."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atomfoundry.documents.model import EpochRecord
from atomfoundry.errors import TrainingError
from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.graph import GraphBatch, collate
from atomfoundry.models.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from atomfoundry.models.training.loader import (
    FramesByHead,
    by_head,
    data_fingerprint,
    graph_force_rms,
    plan_batches,
    prepare_graphs,
    without_isolated,
)
from atomfoundry.models.training.loss import Loss
from atomfoundry.models.training.schedule import MovingAverage, Schedule, weights_of
from atomfoundry.models.training.settings import RESUME_MAY_CHANGE, TrainingSettings
from atomfoundry.models.training.validation import in_chunks, validate

if TYPE_CHECKING:
    from torch.nn import Parameter

logger = logging.getLogger(__name__)

HALVE_AFTER = 3
"""NaN losses in a row that halve the learning rate."""
ABORT_AFTER = 10
"""NaN losses in a row that end the training."""


@dataclass
class TrainingResult:
    """A trained model and how it came to be.

    Parameters
    ----------
    model
        With the averaged weights of the best validation loss (of the end, without validation frames).
    history
        One record an epoch.
    stop_reason
        'max_epochs', 'early_stop', 'min_lr' or 'wall_time'.
    n_epochs
        Epochs done, over all resumptions.
    wall_time_s
        Over all resumptions.
    best_epoch, best_loss
        Of the weights returned; None without validation.
    n_skipped
        Steps skipped for a NaN loss.
    gradient_shares
        'HEAD/QUANTITY' -> share of the loss term in the sum of the gradient norms, at the first batch.
    """

    model: Allegro
    history: list[EpochRecord]
    stop_reason: str
    n_epochs: int
    wall_time_s: float
    best_epoch: int | None = None
    best_loss: float | None = None
    n_skipped: int = 0
    gradient_shares: dict[str, float] = field(default_factory=dict)


@dataclass
class _Progress:
    """All numbers of a training that go on; tensors live in the trainer."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    frames_sum: int = 0
    best_loss: float | None = None
    best_epoch: int | None = None
    bad_evaluations: int = 0
    in_stage_two: bool = False
    nan_streak: int = 0
    n_skipped: int = 0
    elapsed_s: float = 0.0
    stop_reason: str | None = None
    gradient_shares: dict[str, float] = field(default_factory=dict)


def train(
    model_or_config: Allegro | AllegroConfig,
    train_frames: FramesByHead,
    valid_frames: FramesByHead | None = None,
    *,
    settings: TrainingSettings | None = None,
    directory: str | Path | None = None,
    head_weights: Mapping[str, float] | None = None,
    callback: Callable[[EpochRecord], None] | None = None,
) -> TrainingResult:
    """Train a model.

    Parameters
    ----------
    model_or_config
        A model, which is trained in place, or the configuration of a new one.
    train_frames, valid_frames
        Labelled frames (or graphs) of the first head, or head name -> frames. Missing labels are left out of
        the loss; structures without edges are dropped, for their energy is E0 whatever the weights.
    settings
        How to train.
    directory
        Where ``checkpoint/`` is kept. If there is one, training goes on from it, with the same further
        course as if it had never stopped. None: no checkpoints.
    head_weights
        Head name -> weight of its loss; 1 where not given.
    callback
        Called with each epoch's record.

    Raises
    ------
    TrainingError
        If there is nothing to train on, the checkpoint belongs to another training, a setting needs
        validation frames that are not there, or the loss stays NaN.
    """
    settings = settings or TrainingSettings()
    model = Allegro(model_or_config) if isinstance(model_or_config, AllegroConfig) else model_or_config
    with _threads(settings.num_threads):
        trainer = _Trainer(
            model,
            train_frames,
            valid_frames,
            settings=settings,
            directory=directory,
            head_weights=head_weights,
        )
        return trainer.run(callback)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def frozen(model: Allegro, part: str) -> Iterator[None]:
    """Hold a part of the model's weights for a while.

    Parameters
    ----------
    model
        The model.
    part
        'none', 'descriptor' (all but the readouts) or 'two_body' (the two-body embedding).
    """
    held = [p for name, p in model.named_parameters() if p.requires_grad and _is_frozen(model, name, part)]
    if part != "none" and not held:
        raise TrainingError(f"Nothing to freeze: the model has no parameters of '{part}'.")
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _is_frozen(model: Allegro, name: str, part: str) -> bool:
    if part == "descriptor":
        return not name.startswith(READOUT_PREFIXES)
    if part == "two_body":
        return name.startswith(TWO_BODY_PREFIXES)
    return False


READOUT_PREFIXES = ("readouts.",)
TWO_BODY_PREFIXES = ("embedding.", "two_body.")


class _Trainer:
    """One training: what it holds, one step, one epoch, its checkpoint."""

    def __init__(
        self,
        model: Allegro,
        train_frames: FramesByHead,
        valid_frames: FramesByHead | None,
        *,
        settings: TrainingSettings,
        directory: str | Path | None,
        head_weights: Mapping[str, float] | None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.checkpoint_dir = None if directory is None else Path(directory) / "checkpoint"
        self.head_weights = {model.head_index(name): w for name, w in (head_weights or {}).items()}
        self.graphs = self._graphs(train_frames)
        valid = self._graphs(valid_frames)
        if not self.graphs:
            raise TrainingError("There is no training frame with neighbours.")
        self.valid_batches = in_chunks(valid, settings.eval_batch_size)
        self._check_validation()
        heads = sorted({int(graph.head[0]) for graph in self.graphs})
        self.force_rms = {h: graph_force_rms([g for g in self.graphs if int(g.head[0]) == h]) for h in heads}
        self.parameters: list[tuple[str, Parameter]] = [
            (name, p) for name, p in model.named_parameters() if not _is_frozen(model, name, settings.freeze)
        ]
        self.names = [name for name, _ in self.parameters]
        self.optimizer = torch.optim.Adam(
            [parameter for _, parameter in self.parameters],
            lr=settings.lr,
            betas=settings.betas,
            amsgrad=settings.amsgrad,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.ema = None if settings.ema_decay is None else MovingAverage(self.parameters, decay=settings.ema_decay)
        self.best: dict[str, Tensor] | None = None
        self.schedule = Schedule(settings)
        self.progress = _Progress()
        self.history: list[EpochRecord] = []
        self.fingerprint = self._fingerprint([*self.graphs, *valid])
        self.loss = self._loss()
        self._started = time.perf_counter()
        self._saved = self._started

    def _graphs(self, frames: FramesByHead | None) -> list[GraphBatch]:
        graphs: list[GraphBatch] = []
        for head, entries in by_head(self.model, frames).items():
            graphs += prepare_graphs(self.model, entries, head=head)
        return without_isolated(graphs)

    def _check_validation(self) -> None:
        if self.valid_batches:
            return
        for wanted, name in (
            (self.settings.patience is not None, "patience"),
            (self.settings.schedule == "plateau", "schedule 'plateau'"),
        ):
            if wanted:
                raise TrainingError(
                    f"Setting {name} needs validation frames; there is none with neighbours.",
                    remedy="Give valid_frames, or another setting.",
                )

    def _fingerprint(self, graphs: list[GraphBatch]) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return {
            "settings": self.settings.model_dump(mode="json", exclude=set(RESUME_MAY_CHANGE)),
            "model": digest.hexdigest(),
            "data": data_fingerprint(graphs),
            "head_weights": {str(head): weight for head, weight in sorted(self.head_weights.items())},
        }

    def _loss(self) -> Loss:
        factor = self.settings.stage_two_energy_factor if self.progress.in_stage_two else 1.0
        return Loss(
            self.settings.loss,
            force_rms=self.force_rms,
            head_weights=self.head_weights,
            energy_factor=factor,
        )

    @property
    def averaged(self) -> dict[str, Tensor] | None:
        return None if self.ema is None else self.ema.values

    @property
    def elapsed_s(self) -> float:
        return self.progress.elapsed_s + time.perf_counter() - self._started

    # ------------------------------------------------------------------ the loop

    def run(self, callback: Callable[[EpochRecord], None] | None) -> TrainingResult:
        """Train to the end and return the result."""
        self._resume()
        with frozen(self.model, self.settings.freeze):
            while self.progress.stop_reason is None:
                record = self._epoch()
                if record is not None:
                    self.history.append(record)
                    if callback is not None:
                        callback(record)
                    self._save_when_due()
        self._save()
        values = self.best if self.best is not None else self.averaged
        if values is not None:
            with torch.no_grad():
                for name, parameter in self.parameters:
                    parameter.copy_(values[name])
        progress = self.progress
        return TrainingResult(
            model=self.model,
            history=self.history,
            stop_reason=progress.stop_reason or "",
            n_epochs=progress.epoch,
            wall_time_s=self.elapsed_s,
            best_epoch=progress.best_epoch,
            best_loss=progress.best_loss,
            n_skipped=progress.n_skipped,
            gradient_shares=progress.gradient_shares,
        )

    def _epoch(self) -> EpochRecord | None:
        """Do (the rest of) one epoch; None if time ran out within it or none is left."""
        progress, settings = self.progress, self.settings
        if progress.epoch >= settings.max_epochs:
            progress.stop_reason = "max_epochs"
            return None
        self._enter_stage_two()
        plan = plan_batches(
            self.graphs,
            batch_size=settings.batch_size,
            max_edges=settings.max_edges,
            seed=settings.seed,
            epoch=progress.epoch,
        )
        while progress.step < len(plan):
            if self._out_of_time():
                return None
            chosen = plan[progress.step]
            done = (progress.epoch + (progress.step + 0.5) / len(plan)) / settings.max_epochs
            self._step(collate([self.graphs[index] for index in chosen]), done)
            progress.step += 1
            if time.perf_counter() - self._saved > settings.checkpoint_interval_s:
                self._save()
        train_loss = progress.loss_sum / progress.frames_sum if progress.frames_sum else math.nan
        progress.epoch += 1
        progress.step, progress.loss_sum, progress.frames_sum = 0, 0.0, 0
        return self._evaluate(train_loss)

    def _enter_stage_two(self) -> None:
        progress, settings = self.progress, self.settings
        start = round(settings.max_epochs * (1 - settings.stage_two_fraction))
        if settings.stage_two_fraction and progress.epoch >= start and not progress.in_stage_two:
            progress.in_stage_two = True
            # the loss means something else from here on, so older ones do not compare
            progress.best_loss = progress.best_epoch = self.best = None
            progress.bad_evaluations = 0
            self.schedule.state.best = None
            self.loss = self._loss()

    def _step(self, batch: GraphBatch, done: float) -> None:
        """Do one optimiser step; a NaN skips it."""
        forces, stress = self.loss.needs
        outputs = self.model(batch, forces=forces, stress=stress, create_graph=True)
        terms = self.loss.terms(outputs, batch)
        if not terms.sums:
            return
        if not self.progress.gradient_shares:
            self.progress.gradient_shares = self._gradient_shares(terms)
        value = self.loss.total(terms)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        limit = self.settings.clip_norm if self.settings.clip_norm is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in self.parameters], limit)
        if not (math.isfinite(value.item()) and math.isfinite(norm.item())):
            self._skip(batch)
            return
        self.progress.nan_streak = 0
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(done)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.parameters)
        n_frames = batch.energy.shape[0]
        self.progress.loss_sum += value.item() * n_frames
        self.progress.frames_sum += n_frames

    def _skip(self, batch: GraphBatch) -> None:
        progress = self.progress
        progress.nan_streak += 1
        progress.n_skipped += 1
        names = ", ".join(batch.frame_ids)
        logger.warning("Loss or gradient is not finite in epoch %d; skipped %s", progress.epoch, names)
        if progress.nan_streak % HALVE_AFTER == 0:
            self.schedule.halve()
        if progress.nan_streak >= ABORT_AFTER:
            raise TrainingError(
                f"Loss or gradient was not finite in {ABORT_AFTER} steps in a row, "
                f"in epoch {progress.epoch}, last for the frames {names}.",
                remedy="Check these frames' labels, or lower the learning rate.",
            )

    def _gradient_shares(self, terms: Any) -> dict[str, float]:
        from atomfoundry.models.training.loss import LossTerms

        norms = {}
        for (head, quantity), value in terms.sums.items():
            part = self.loss.total(
                LossTerms({(head, quantity): value}, {(head, quantity): terms.counts[head, quantity]})
            )
            gradients = torch.autograd.grad(part, [p for _, p in self.parameters], retain_graph=True, allow_unused=True)
            total = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients if g is not None))
            norms[f"{self.model.config.heads[head].name}/{quantity}"] = total
        whole = sum(norms.values())
        shares = {name: norm / whole for name, norm in norms.items()} if whole > 0 else norms
        logger.info("Gradient shares of the loss terms: %s", shares)
        return shares

    def _evaluate(self, train_loss: float) -> EpochRecord:
        """Validate if it is time, keep the best weights, decide about the end."""
        progress, settings = self.progress, self.settings
        record = EpochRecord(
            epoch=progress.epoch,
            train_loss=train_loss,
            learning_rate=self.optimizer.param_groups[0]["lr"],
        )
        last = progress.epoch >= settings.max_epochs
        if self.valid_batches and (last or progress.epoch % settings.eval_interval == 0):
            with weights_of(self.model, self.averaged):
                errors = validate(self.model, self.valid_batches, self.loss)
            record.valid_loss = errors.loss
            record.energy_mae, record.forces_mae = errors.energy_mae, errors.forces_mae
            record.stress_mae = errors.stress_mae
            self._judge(errors.loss)
        record.wall_time_s = self.elapsed_s
        if progress.stop_reason is None and last:
            progress.stop_reason = "max_epochs"
        return record

    def _judge(self, loss: float) -> None:
        progress = self.progress
        if math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss):
            progress.best_loss, progress.best_epoch, progress.bad_evaluations = loss, progress.epoch, 0
            values = self.averaged or dict(self.parameters)
            self.best = {name: value.detach().clone() for name, value in values.items()}
        else:
            progress.bad_evaluations += 1
        self.schedule.evaluated(loss)
        if self.settings.patience is not None and progress.bad_evaluations >= self.settings.patience:
            progress.stop_reason = "early_stop"
        elif self.schedule.exhausted:
            progress.stop_reason = "min_lr"

    def _out_of_time(self) -> bool:
        limit = self.settings.max_wall_time_s
        if limit is not None and self.elapsed_s > limit:
            self.progress.stop_reason = "wall_time"
            return True
        return False

    # ------------------------------------------------------------------ checkpoints

    def _save_when_due(self) -> None:
        overdue = time.perf_counter() - self._saved > self.settings.checkpoint_interval_s
        if overdue or self.progress.epoch % self.settings.checkpoint_epochs == 0:
            self._save()

    def _save(self) -> None:
        self._saved = time.perf_counter()
        if self.checkpoint_dir is None:
            return
        groups: dict[str, Mapping[str, Tensor]] = {
            "model": dict(self.parameters),
            "ema": self.averaged or {},
            "best": self.best or {},
            "optimizer": optimizer_tensors(self.optimizer, self.names),
            "rng": {"torch": torch.get_rng_state()},
        }
        tensors = {f"{group}/{name}": value for group, entry in groups.items() for name, value in entry.items()}
        # clones: two groups may share memory, which the file format refuses
        tensors = {name: value.detach().clone() for name, value in tensors.items()}
        state = {
            "fingerprint": self.fingerprint,
            "progress": vars(self.progress) | {"elapsed_s": self.elapsed_s},
            "schedule": self.schedule.state.as_dict(),
            "ema_step": 0 if self.ema is None else self.ema.step,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "history": [record.model_dump() for record in self.history],
        }
        save_checkpoint(self.checkpoint_dir, Checkpoint(tensors, state))

    def _resume(self) -> None:
        checkpoint = None if self.checkpoint_dir is None else load_checkpoint(self.checkpoint_dir)
        if checkpoint is None:
            return
        state = checkpoint.state
        differing = [key for key, value in self.fingerprint.items() if state["fingerprint"].get(key) != value]
        if differing:
            raise TrainingError(
                f"The checkpoint in {self.checkpoint_dir} belongs to another training: "
                f"{' and '.join(differing)} differ.",
                remedy="Remove the checkpoint folder, or train elsewhere.",
            )
        values = checkpoint.group("model")
        with torch.no_grad():
            for name, parameter in self.parameters:
                parameter.copy_(values[name])
        restore_optimizer(self.optimizer, self.names, checkpoint.group("optimizer"))
        for group in self.optimizer.param_groups:
            group["lr"] = state["learning_rate"]
        if self.ema is not None:
            self.ema.step = state["ema_step"]
            for name, value in checkpoint.group("ema").items():
                self.ema.values[name].copy_(value)
        self.best = checkpoint.group("best") or None
        torch.set_rng_state(checkpoint.tensors["rng/torch"])
        self.schedule = Schedule(self.settings, state["schedule"])
        self.progress = _Progress(**state["progress"])
        self.history = [EpochRecord.model_validate(entry) for entry in state["history"]]
        limit = self.settings.max_wall_time_s
        if self.progress.stop_reason == "wall_time" and (limit is None or limit > self.progress.elapsed_s):
            self.progress.stop_reason = None
        self.loss = self._loss()
        logger.info("Training goes on from epoch %d", self.progress.epoch)
