"""What the Makers of models share: frames by split, documents, predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from atomfoundry.documents import DatasetDoc, EpochRecord, HeadDoc, ModelDoc
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers.frames import open_dataset
from atomfoundry.results import current_artifacts, report_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ase import Atoms

    from atomfoundry.models import Allegro
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

    from atomfoundry.models.training.settings import TrainingSettings

    try:
        return TrainingSettings.model_validate({**changes, "seed": seed})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{where}: training setting '{key}': {first['msg']}.",
            remedy=f"Valid: {', '.join(TrainingSettings.model_fields)}.",
        ) from error


def progress_callback(max_epochs: int) -> Callable[[EpochRecord], None]:
    """Return a callback that shows the current losses in the runner's display."""

    def show(record: EpochRecord) -> None:
        text = f"epoch {record.epoch}/{max_epochs}, loss {record.train_loss:.2e}"
        if record.energy_mae is not None:
            text += f", E {record.energy_mae * 1000:.1f} meV/atom"
        if record.forces_mae is not None:
            text += f", F {record.forces_mae * 1000:.0f} meV/A"
        report_progress(text, record.epoch / max(max_epochs, 1))

    return show


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
    from atomfoundry.models.evaluation import evaluate, write_predictions

    metrics, predictions = [], []
    for head in (head.name for head in model.config.heads if head.name in datasets):
        dataset = datasets[head]
        for split in ("train", "valid", "test"):
            frames = frames_of(dataset, split)
            if frames:
                errors, predicted = evaluate(model, frames, head=head, split=split)
                metrics.append(errors)
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
        history=TypeAdapter(list[EpochRecord]).validate_python(history),
        stop_reason=stop_reason,
        n_epochs=n_epochs,
        training_time_s=wall_time_s,
    )
