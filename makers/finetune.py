"""Makers of fine-tuning, and of the comparison between naive and replay fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobflow import Maker

from atomfoundry.documents import DatasetDoc, ForgettingDoc, ModelDoc
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.modelling import (
    edge_folder,
    frames_of,
    load_artifact_model,
    model_document,
    progress_callback,
    require_end,
    training_settings,
)
from atomfoundry.makers.profiles import profile_of_training


@dataclass
class FineTuneMaker(Maker):
    """Fine-tune a model on a small dataset, naively or with multi-head replay (ALGORITHMS section 4).

    Parameters
    ----------
    name
        Name of the job and of the model.
    method
        ``"naive"``: on the small set alone, with as many frames shown as replay would show; ``"replay"``: with part
        of the pretraining set on its own head.
    training
        Fields of :class:`~atomfoundry.models.training.settings.TrainingSettings` that differ from its defaults.
    n_replay
        Pretraining frames to replay; None: the rule of ALGORITHMS 4.1.
    rule
        Which pretraining frames qualify, see :func:`atomfoundry.models.replay.matches`.
    head
        Head to start from.
    fine_head
        Name of the new head.
    seed
        Seed of the choice and of the shuffling.
    edge_cache
        Folder that keeps the edges (neighbour lists) of the training structures for later jobs on them; a relative
        path is one of the project's folder. None: they are not kept.
    device
        ``"cuda"`` (``"cuda:1"``, ...), ``"cpu"``, or ``"auto"``: a GPU where there is one.
    """

    name: str = "fine-tune"
    method: Literal["naive", "replay"] = "replay"
    training: dict[str, Any] = field(default_factory=dict)
    n_replay: int | None = None
    rule: Literal["shared_pair", "none", "subset", "exact", "superset"] = "shared_pair"
    head: str = "pt"
    fine_head: str = "ft"
    seed: int = 0
    edge_cache: str | None = None
    device: str = "auto"

    @foundry_job(output_schema=ModelDoc, profile=profile_of_training)
    def make(self, model: ModelDoc, fine: DatasetDoc, pretraining: DatasetDoc) -> ModelDoc:
        """Fine-tune; a killed or interrupted job goes on from its last checkpoint.

        Parameters
        ----------
        model
            The pretrained model.
        fine
            The small dataset.
        pretraining
            What the model was trained on.

        Raises
        ------
        ConfigurationError
            If a setting is wrong, or there is no such device.
        """
        from atomfoundry.models.devices import find_device
        from atomfoundry.models.finetuning import equal_budget, finetune_naive, finetune_replay
        from atomfoundry.models.replay import default_replay_size, fine_repeats

        device = find_device(self.device, where=self.name)
        pretrained = load_artifact_model(model).to(device)
        settings = training_settings(self.training, seed=self.seed, where=self.name)
        fine_frames, fine_valid = frames_of(fine, "train"), frames_of(fine, "valid")
        old_frames, old_valid = frames_of(pretraining, "train"), frames_of(pretraining, "valid")
        head: dict[str, Any] = {
            "isolated_energies": fine.isolated_energies or None,
            "level_id": fine.level.id if fine.level else None,
            "head": self.head,
            "fine_head": self.fine_head,
            "edge_cache": edge_folder(self.edge_cache),
        }
        if self.method == "naive":
            n_replay = self.n_replay or default_replay_size(len(old_frames), len(fine_frames))
            shown = n_replay + len(fine_frames) * fine_repeats(len(fine_frames), n_replay)
            settings = equal_budget(settings, n_frames=len(fine_frames), reference_frames=shown)
            tuned = finetune_naive(
                pretrained,
                fine_frames,
                fine_valid or None,
                settings=settings,
                directory=Path.cwd(),
                callback=progress_callback(settings.max_epochs),
                **head,
            )
        else:
            tuned = finetune_replay(
                pretrained,
                fine_frames,
                old_frames,
                fine_valid or None,
                old_valid or None,
                settings=settings,
                directory=Path.cwd(),
                n_replay=self.n_replay,
                rule=self.rule,
                seed=self.seed,
                callback=progress_callback(settings.max_epochs),
                **head,
            )
        require_end(tuned.training, where=self.name)
        return model_document(
            tuned.model,
            {self.head: pretraining, self.fine_head: fine},
            name=self.name,
            kind=self.method,
            history=tuned.training.history,
            stop_reason=tuned.training.stop_reason,
            n_epochs=tuned.training.n_epochs,
            wall_time_s=tuned.training.wall_time_s,
            settings=settings,
        )


@dataclass
class ForgettingMaker(Maker):
    """How much fine-tuning made a model forget (ALGORITHMS 4.5).

    Parameters
    ----------
    name
        Name of the job.
    splits
        Splits of the pretraining set that none of the trainings saw.
    head, fine_head
        Heads of the fine-tuned models.
    """

    name: str = "forgetting"
    splits: list[str] = field(default_factory=lambda: ["test"])
    head: str = "pt"
    fine_head: str = "ft"

    @foundry_job(output_schema=ForgettingDoc)
    def make(
        self,
        pretrained: ModelDoc,
        naive: ModelDoc,
        replay: ModelDoc,
        pretraining: DatasetDoc,
        fine: DatasetDoc,
    ) -> ForgettingDoc:
        """Evaluate the three models on the pretraining task and on the new one.

        Parameters
        ----------
        pretrained, naive, replay
            The model before, and after both kinds of fine-tuning.
        pretraining, fine
            The datasets.
        """
        from atomfoundry.models.evaluation import evaluate
        from atomfoundry.models.finetuning import measure_forgetting

        before = load_artifact_model(pretrained)
        old_frames, fine_frames = frames_of(pretraining, *self.splits), frames_of(fine, "test", "valid")
        task_metrics = {"pretrained": evaluate(before, fine_frames, head=self.head, split=fine.name)[0]}
        records = []
        for method, document in (("naive", naive), ("replay", replay)):
            after = load_artifact_model(document)
            records += measure_forgetting(
                before,
                after,
                {pretraining.name: old_frames},
                method=method,
                old_head=self.head,
                fine_head=self.fine_head,
            )
            task_metrics[method] = evaluate(after, fine_frames, head=self.fine_head, split=fine.name)[0]
        return ForgettingDoc(task=fine.name, records=records, task_metrics=task_metrics)
