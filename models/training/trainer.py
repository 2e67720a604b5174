"""The training loop: deterministic, resumable bit for bit, one head or several, one process or many (ALGORITHMS 3)."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from atomfoundry.deadline import must_stop, stop_requested
from atomfoundry.documents.model import EpochRecord
from atomfoundry.errors import TrainingError
from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.graph import GraphBatch, collate
from atomfoundry.models.kernel import find_kernel, kernel_first
from atomfoundry.models.training.batches import Pack, Sizes, deal, plan_steps, warn_of_large
from atomfoundry.models.training.checkpoint import load_checkpoint, save_checkpoint
from atomfoundry.models.training.course import Course
from atomfoundry.models.training.edge_cache import fill_cache
from atomfoundry.models.training.fingerprint import differences, fingerprint
from atomfoundry.models.training.freezing import frozen, trained_parameters
from atomfoundry.models.training.loader import (
    FramesByHead,
    by_head,
    graph_force_rms,
    prepare_graphs,
    without_isolated,
)
from atomfoundry.models.training.logs import EpochLog, open_logs
from atomfoundry.models.training.loss import Loss
from atomfoundry.models.training.monitor import warn_of_large_errors, worst_first
from atomfoundry.models.training.processes import Processes
from atomfoundry.models.training.result import TrainingResult
from atomfoundry.models.training.schedule import weights_of
from atomfoundry.models.training.settings import TrainingSettings
from atomfoundry.models.training.step import Stepper
from atomfoundry.models.training.validation import ValidationErrors, in_chunks, on_device, validate

logger = logging.getLogger(__name__)

STOPS = (None, "wall_time", "signal")
"""Why a training has to stop within an epoch, the strongest last."""


def train(
    model_or_config: Allegro | AllegroConfig,
    train_frames: FramesByHead,
    valid_frames: FramesByHead | None = None,
    *,
    settings: TrainingSettings | None = None,
    directory: str | Path | None = None,
    head_weights: Mapping[str, float] | None = None,
    edge_cache: str | Path | None = None,
    callback: Callable[[EpochRecord], None] | None = None,
) -> TrainingResult:
    """Train a model; where a ``torch.distributed`` process group is initialised, all its processes together.

    Parameters
    ----------
    model_or_config
        A model, which is trained in place, or the configuration of a new one.
    train_frames, valid_frames
        Labelled frames (or graphs) of the first head, or head name -> frames. Missing labels are left out of
        the loss; structures without edges are dropped, for their energy is E0 whatever the weights. Several
        processes get all frames each.
    settings
        How to train.
    directory
        Where ``checkpoint/`` and the logs are kept. If there is a checkpoint, training goes on from it, with the
        same further course as if it had never stopped. None: no checkpoints. Several processes need one folder
        that all of them see; the first one writes.
    head_weights
        Head name -> weight of its loss; 1 where not given.
    edge_cache
        Folder that keeps the edges for further trainings on the same structures; None: they are not kept.
    callback
        Called with each epoch's record, in the first process.

    Raises
    ------
    TrainingError
        If there is nothing to train on, the checkpoint belongs to another training, a setting needs
        validation frames that are not there, the loss stays NaN, or the processes differ.
    """
    settings = settings or TrainingSettings()
    model = Allegro(model_or_config) if isinstance(model_or_config, AllegroConfig) else model_or_config
    with _threads(settings.num_threads), nullcontext() if find_kernel(model) is None else kernel_first():
        trainer = _Trainer(
            model,
            train_frames,
            valid_frames,
            settings=settings,
            directory=directory,
            head_weights=head_weights,
            edge_cache=edge_cache,
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


class _Trainer:
    """One training: its data, one epoch after the other, when to save and when to stop."""

    def __init__(
        self,
        model: Allegro,
        train_frames: FramesByHead,
        valid_frames: FramesByHead | None,
        *,
        settings: TrainingSettings,
        directory: str | Path | None,
        head_weights: Mapping[str, float] | None,
        edge_cache: str | Path | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.processes = Processes.current()
        self.processes.spread(model.state_dict().values())
        self.directory = None if directory is None else Path(directory)
        self.checkpoint_dir = None if self.directory is None else self.directory / "checkpoint"
        self.edge_cache = edge_cache
        self.head_weights = {model.head_index(name): w for name, w in (head_weights or {}).items()}
        self.graphs = self._graphs(train_frames)
        valid = self._graphs(valid_frames)
        if not self.graphs:
            raise TrainingError("There is no training frame with neighbours.")
        self._check_validation(valid)
        self.has_validation = bool(valid)
        self.valid_batches = in_chunks(valid, settings.eval_batch_size, processes=self.processes)
        self.sizes = Sizes.of(self.graphs)
        warn_of_large(self.sizes, settings.max_edges)
        self.batches_per_step = settings.batches_per_step or self.processes.size
        heads = sorted(set(self.sizes.heads.tolist()))
        self.force_rms = {h: graph_force_rms([g for g in self.graphs if int(g.head[0]) == h]) for h in heads}
        self.course = Course(trained_parameters(model, settings.freeze), settings)
        self.stepper = Stepper(model, self.course, settings, self.processes)
        self.logs: list[EpochLog] = []
        self.fingerprint = fingerprint(
            model,
            settings.model_copy(update={"batches_per_step": self.batches_per_step}),
            [*self.graphs, *valid],
            head_weights=self.head_weights,
        )
        self.processes.require_same(json.dumps(self.fingerprint, sort_keys=True), what="settings and data")
        self.loss = self._loss()
        self._started = time.perf_counter()
        self._saved = self._started

    def _graphs(self, frames: FramesByHead | None) -> list[GraphBatch]:
        graphs: list[GraphBatch] = []
        for head, entries in by_head(self.model, frames).items():
            if self.edge_cache is not None and not self.processes.alone:
                fill_cache(self.model, entries, folder=self.edge_cache, processes=self.processes)
            graphs += prepare_graphs(self.model, entries, head=head, edge_cache=self.edge_cache)
        return without_isolated(graphs)

    def _check_validation(self, valid: list[GraphBatch]) -> None:
        if valid:
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

    def _loss(self) -> Loss:
        factor = self.settings.stage_two_energy_factor if self.course.progress.in_stage_two else 1.0
        return Loss(
            self.settings.loss,
            force_rms=self.force_rms,
            head_weights=self.head_weights,
            energy_factor=factor,
        )

    @property
    def elapsed_s(self) -> float:
        return self.course.progress.elapsed_s + time.perf_counter() - self._started

    def run(self, callback: Callable[[EpochRecord], None] | None) -> TrainingResult:
        """Train to the end and return the result."""
        course = self.course
        self._resume()
        if self.processes.first:
            self.logs = open_logs(self.settings, self.directory, history=course.history, parts=course.parts)
        with frozen(self.model, self.settings.freeze):
            while course.progress.stop_reason is None:
                record = self._epoch()
                if record is not None:
                    course.history.append(record)
                    self._tell(record, callback)
                    self._save_when_due()
        self._save()
        self.processes.wait()  # torchrun ends the others as soon as one has ended
        for log in self.logs:
            log.close()
        course.adopt_best()
        progress = course.progress
        elements = worst_first(course.parts.of(progress.best_epoch).elements)
        if self.processes.first and not progress.interrupted:
            warn_of_large_errors(elements)
        return TrainingResult(
            model=self.model,
            history=course.history,
            stop_reason=progress.stop_reason or "",
            n_epochs=progress.epoch,
            wall_time_s=self.elapsed_s,
            best_epoch=progress.best_epoch,
            best_loss=progress.best_loss,
            n_skipped=progress.n_skipped,
            gradient_shares=progress.gradient_shares,
            elements=elements,
            interrupted=progress.interrupted,
        )

    def _tell(self, record: EpochRecord, callback: Callable[[EpochRecord], None] | None) -> None:
        if not self.processes.first:
            return
        parts = self.course.parts.of(record.epoch)
        for log in self.logs:
            log.add(record, parts)
        if callback is not None:
            callback(record)

    def _epoch(self) -> EpochRecord | None:
        """Do (the rest of) one epoch; None if time ran out within it or none is left."""
        progress, settings = self.course.progress, self.settings
        if progress.epoch >= settings.max_epochs:
            progress.stop_reason = "max_epochs"
            return None
        self._enter_stage_two()
        # of no effect on like machines; on unlike ones rounding would let the weights drift apart
        self.processes.spread(self.course.parameters)
        plan = plan_steps(self.sizes, settings, epoch=progress.epoch, batches_per_step=self.batches_per_step)
        while progress.step < len(plan):
            if self._must_stop():
                return None
            done = (progress.epoch + (progress.step + 0.5) / len(plan)) / settings.max_epochs
            self._step(plan[progress.step], done)
            progress.step += 1
            if time.perf_counter() - self._saved > settings.checkpoint_interval_s:
                self._save()
        train_loss = progress.loss_sum / progress.frames_sum if progress.frames_sum else math.nan
        progress.epoch += 1
        progress.step, progress.loss_sum, progress.frames_sum = 0, 0.0, 0
        return self._evaluate(train_loss)

    def _enter_stage_two(self) -> None:
        course, progress, settings = self.course, self.course.progress, self.settings
        start = round(settings.max_epochs * (1 - settings.stage_two_fraction))
        if settings.stage_two_fraction and progress.epoch >= start and not progress.in_stage_two:
            progress.in_stage_two = True
            # the loss means something else from here on, so older ones do not compare
            progress.best_loss = progress.best_epoch = course.best = None
            progress.bad_evaluations = 0
            course.schedule.state.best = None
            self.loss = self._loss()

    def _step(self, step: list[Pack], done: float) -> None:
        """Do one step with this process's part of the structures."""
        parts = deal(step, self.sizes.edges, processes=self.processes.size, turn=self.course.progress.step)
        device = next(self.model.parameters()).device
        batches = [
            on_device(collate([self.graphs[index] for index in members]), device)
            for members in parts[self.processes.rank]
        ]
        names = [name for members in step for index in members for name in self.graphs[index].frame_ids]
        in_parts = max(map(len, parts)) > 1
        self.stepper(batches, names, loss=self.loss, done=done, in_parts=in_parts)

    def _evaluate(self, train_loss: float) -> EpochRecord:
        """Validate if it is time, keep the best weights, decide about the end."""
        progress, settings = self.course.progress, self.settings
        record = EpochRecord(epoch=progress.epoch, train_loss=train_loss, learning_rate=self.course.learning_rate)
        last = progress.epoch >= settings.max_epochs
        if self.has_validation and (last or progress.epoch % settings.eval_interval == 0):
            with weights_of(self.model, self.course.averaged):
                errors = validate(self.model, self.valid_batches, self.loss, processes=self.processes)
            record.valid_loss = errors.loss
            record.energy_mae, record.forces_mae = errors.energy_mae, errors.forces_mae
            record.stress_mae = errors.stress_mae
            self.course.parts.add(record.epoch, errors.parts)
            self._judge(self._measure(errors))
        record.wall_time_s = self.elapsed_s
        if progress.stop_reason is None and last:
            progress.stop_reason = "max_epochs"
        return record

    def _measure(self, errors: ValidationErrors) -> float:
        """Return what validation is judged by; less is better."""
        if self.settings.judge == "loss":
            return errors.loss
        energy_weight, forces_weight, _ = self.settings.loss.weights
        factor = self.settings.stage_two_energy_factor if self.course.progress.in_stage_two else 1.0
        known = [(factor * energy_weight, errors.energy_mae), (forces_weight, errors.forces_mae)]
        parts = [weight * error for weight, error in known if weight and error is not None]
        return sum(parts) if parts else errors.loss

    def _judge(self, loss: float) -> None:
        progress = self.course.progress
        if math.isfinite(loss) and (progress.best_loss is None or loss < progress.best_loss):
            progress.best_loss, progress.best_epoch, progress.bad_evaluations = loss, progress.epoch, 0
            self.course.keep_best()
        else:
            progress.bad_evaluations += 1
        self.course.schedule.evaluated(loss)
        if self.settings.patience is not None and progress.bad_evaluations >= self.settings.patience:
            progress.stop_reason = "early_stop"
        elif self.course.schedule.exhausted:
            progress.stop_reason = "min_lr"

    def _must_stop(self) -> bool:
        """Tell whether any process has to stop; all of them get the same answer."""
        limit = self.settings.max_wall_time_s
        own_limit = limit is not None and self.elapsed_s > limit
        outside = must_stop()
        reason = 2 if outside and stop_requested() is not None else int(own_limit or outside)
        # twice the reason, plus one if the process has to end: one message for both
        code = self.processes.largest(2 * reason + int(outside))
        self.course.progress.stop_reason = STOPS[code // 2]
        self.course.progress.interrupted = bool(code % 2)
        return code > 0

    def _save_when_due(self) -> None:
        overdue = time.perf_counter() - self._saved > self.settings.checkpoint_interval_s
        if overdue or self.course.progress.epoch % self.settings.checkpoint_epochs == 0:
            self._save()

    def _save(self) -> None:
        self._saved = time.perf_counter()
        if self.checkpoint_dir is not None and self.processes.first:
            checkpoint = self.course.checkpoint(fingerprint=self.fingerprint, elapsed_s=self.elapsed_s)
            save_checkpoint(self.checkpoint_dir, checkpoint)

    def _resume(self) -> None:
        checkpoint = None if self.checkpoint_dir is None else load_checkpoint(self.checkpoint_dir)
        state = {} if checkpoint is None else checkpoint.state
        self.processes.require_same(json.dumps(state, sort_keys=True), what="checkpoint")
        if checkpoint is None:
            return
        if differing := differences(self.fingerprint, state["fingerprint"]):
            raise TrainingError(
                f"The checkpoint in {self.checkpoint_dir} belongs to another training: "
                f"{' and '.join(differing)} differ.",
                remedy="Remove the checkpoint folder, or train elsewhere.",
            )
        self.course.restore(checkpoint)
        progress, limit = self.course.progress, self.settings.max_wall_time_s
        limited = progress.stop_reason == "wall_time" and limit is not None and limit <= progress.elapsed_s
        if progress.stop_reason in STOPS and not limited:
            progress.stop_reason, progress.interrupted = None, False
        self.loss = self._loss()
        logger.info("Training goes on from epoch %d", progress.epoch)
