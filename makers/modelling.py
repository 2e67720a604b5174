"""What the Makers of models share: frames by split, documents, predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from atomfoundry.deadline import NoTimeLeftError, reason_to_stop
from atomfoundry.documents import DatasetDoc, EpochRecord, HeadDoc, ModelDoc
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers.frames import open_dataset
from atomfoundry.results import current_artifacts, current_project, report_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ase import Atoms

    from atomfoundry.models import Allegro
    from atomfoundry.models.training.result import TrainingResult
    from atomfoundry.models.training.settings import TrainingSettings

MODEL_MEDIA_TYPE = "application/vnd.atomfoundry.model"


def frames_of(dataset: DatasetDoc, *splits: str) -> list[Atoms]:
    """Read the frames of some splits of a dataset."""
    opened = open_dataset(dataset.dataset)
    return [atoms for split in splits for atoms in opened.frames(opened.splits.get(split, []))]


def load_artifact_model(model: ModelDoc) -> Allegro:
    """Load the model behind a document; its hash is checked."""
    from atomfoundry.models import load_model

    return load_model(current_artifacts().fetch(model.model))


def training_settings(changes: dict[str, Any], *, seed: int, where: str) -> TrainingSettings:
    """Build training settings from a Maker's dictionary.

    Raises
    ------
    ConfigurationError
        If a key or value is wrong.
    """
    from pydantic import ValidationError

    from atomfoundry.models.training.process_group import threads_asked_for
    from atomfoundry.models.training.settings import TrainingSettings

    threads = threads_asked_for() or 1  # a profile's `threads` come as OMP_NUM_THREADS
    try:
        return TrainingSettings.model_validate({"num_threads": threads, **changes, "seed": seed})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{where}: training setting '{key}': {first['msg']}.",
            remedy=f"Valid: {', '.join(TrainingSettings.model_fields)}.",
        ) from error


def progress_callback(max_epochs: int) -> Callable[[EpochRecord], None]:
    """Return a callback that shows the current losses in the runner's display."""
    from atomfoundry.models.training.logs import describe

    def show(record: EpochRecord) -> None:
        report_progress(describe(record, max_epochs), record.epoch / max(max_epochs, 1))

    return show


def edge_folder(edge_cache: str | None) -> Path | None:
    """Return the folder that keeps edges: a relative path is one of the project's folder."""
    return None if edge_cache is None else current_project().path / Path(edge_cache).expanduser()


def require_end(training: TrainingResult, *, where: str) -> None:
    """Let a later job go on with a training that had to stop because its process must end.

    Parameters
    ----------
    training
        What there is; its checkpoint is in the job's folder.
    where
        The job's name.

    Raises
    ------
    NoTimeLeftError
        If the training is not at its end.
    """
    if training.interrupted:
        raise NoTimeLeftError(
            f"The training of '{where}' was interrupted in epoch {training.n_epochs + 1}, because {reason_to_stop()}.",
            remedy="Run the flow again: it goes on from its checkpoint.",
        )


def model_document(
    model: Allegro,
    datasets: Mapping[str, DatasetDoc],
    *,
    name: str,
    kind: str,
    history: list[EpochRecord],
    stop_reason: str,
    n_epochs: int,
    wall_time_s: float,
    settings: TrainingSettings,
) -> ModelDoc:
    """Evaluate a trained model on every split of its datasets, store it and describe it."""
    from atomfoundry.models import save_model
    from atomfoundry.models.element_metrics import element_metrics
    from atomfoundry.models.evaluation import evaluate, write_predictions
    from atomfoundry.models.training.loader import prepare_graphs

    metrics, elements, predictions = [], [], []
    for head in (head.name for head in model.config.heads if head.name in datasets):
        dataset = datasets[head]
        for split in ("train", "valid", "test"):
            frames = frames_of(dataset, split)
            if frames:
                graphs = prepare_graphs(model, frames, head=model.head_index(head))
                errors, predicted = evaluate(model, graphs, head=head, split=split)
                metrics.append(errors)
                elements += element_metrics(predicted, [graph.num_edges > 0 for graph in graphs])
                predictions.append(predicted)
    folder = save_model(
        model,
        Path("model"),
        metadata={
            "name": name,
            "datasets": {head: dataset.dataset.sha256 for head, dataset in datasets.items()},
            "training": settings.model_dump(mode="json"),
            "metrics": [m.model_dump(mode="json") for m in metrics],
        },
    )
    artifacts = current_artifacts()
    predictions_path = write_predictions(Path("predictions.parquet"), predictions)
    return ModelDoc(
        name=name,
        kind=kind,
        architecture="allegro",
        config=model.config.model_dump(mode="json"),
        training=settings.model_dump(mode="json"),
        n_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        elements=list(model.config.type_names),
        heads=[
            HeadDoc(
                name=head.name,
                level_id=head.level_id,
                isolated_energies=head.isolated_energies,
                datasets=[datasets[head.name].dataset.sha256] if head.name in datasets else [],
            )
            for head in model.config.heads
        ],
        model=artifacts.put(folder, media_type=MODEL_MEDIA_TYPE),
        predictions=artifacts.put(predictions_path, media_type="application/vnd.apache.parquet"),
        metrics=metrics,
        element_metrics=elements,
        history=TypeAdapter(list[EpochRecord]).validate_python(history),
        stop_reason=stop_reason,
        n_epochs=n_epochs,
        training_time_s=wall_time_s,
    )
