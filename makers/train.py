"""The Maker that trains a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobflow import Maker

from atomfoundry.documents import DatasetDoc, ModelDoc
from atomfoundry.errors import ConfigurationError, DatasetError
from atomfoundry.makers.frames import sort_elements
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

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.models import AllegroConfig


@dataclass
class TrainMaker(Maker):
    """Train an Allegro model on one or several datasets, one readout head each.

    Parameters
    ----------
    name
        Name of the job and of the model.
    kind
        What the model is for, as in :class:`~atomfoundry.documents.ModelDoc`.
    preset
        Size of a new model: ``"fm64"``, ``"fm256"``, ``"fm512"`` or ``"alumina"``.
    architecture
        Fields of :class:`~atomfoundry.models.AllegroConfig` that differ from the preset.
    training
        Fields of :class:`~atomfoundry.models.training.TrainingSettings` that differ from its defaults.
    head_weights
        Head -> weight of its loss; 1 where not given.
    scale
        Of a head of a new model: the RMS of all forces (``"global"``), or of those on each element
        (``"per_element"``).
    seed
        Seed of the initial weights and of the shuffling.
    edge_cache
        Folder that keeps the edges (neighbour lists) of the training structures for later jobs on them; a relative
        path is one of the project's folder. None: they are not kept.
    device
        ``"cuda"`` (``"cuda:1"``, ...), ``"cpu"``, or ``"auto"``: a GPU where there is one.
    """

    name: str = "train"
    kind: str = "base"
    preset: Literal["fm64", "fm256", "fm512", "alumina"] = "fm64"
    architecture: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    head_weights: dict[str, float] = field(default_factory=dict)
    scale: Literal["global", "per_element"] = "global"
    seed: int = 0
    edge_cache: str | None = None
    device: str = "auto"

    @foundry_job(output_schema=ModelDoc, profile=profile_of_training)
    def make(self, datasets: dict[str, DatasetDoc], start: ModelDoc | None = None) -> ModelDoc:
        """Train; a killed or interrupted job goes on from its last checkpoint.

        Parameters
        ----------
        datasets
            Head -> dataset, with splits.
        start
            A model to go on from; it must have all the heads.

        Raises
        ------
        ConfigurationError
            If a setting is wrong, or there is no such device.
        DatasetError
            If a dataset has no training frames or an element has no isolated-atom energy.
        """
        from atomfoundry.models import Allegro
        from atomfoundry.models.devices import find_device
        from atomfoundry.models.training.trainer import train

        device = find_device(self.device, where=self.name)
        # dictionaries of a stored job come back in alphabetical order; the pretraining head goes first
        datasets = dict(sorted(datasets.items(), key=lambda item: (item[0] != "pt", item[0])))
        training = {head: frames_of(doc, "train") for head, doc in datasets.items()}
        validation = {head: frames_of(doc, "valid") for head, doc in datasets.items()}
        validation = {head: frames for head, frames in validation.items() if frames}
        for head, frames in training.items():
            if not frames:
                raise DatasetError(f"Dataset '{datasets[head].name}' has no training frames.", remedy="Add structures.")
        unknown = sorted(set(self.head_weights) - set(datasets))
        if unknown:
            raise ConfigurationError(
                f"{self.name}: head_weights names {', '.join(unknown)}, which is no head.",
                remedy=f"The heads are {', '.join(datasets)}.",
            )
        settings = training_settings(self.training, seed=self.seed, where=self.name)
        model = Allegro(self._config(datasets, training)) if start is None else load_artifact_model(start)
        result = train(
            model.to(device),
            training,
            validation or None,
            settings=settings,
            directory=Path.cwd(),
            head_weights=self.head_weights,
            edge_cache=edge_folder(self.edge_cache),
            callback=progress_callback(settings.max_epochs),
        )
        require_end(result, where=self.name)
        return model_document(
            result.model,
            datasets,
            name=self.name,
            kind=self.kind,
            history=result.history,
            stop_reason=result.stop_reason,
            n_epochs=result.n_epochs,
            wall_time_s=result.wall_time_s,
            settings=settings,
        )

    def _config(self, datasets: dict[str, DatasetDoc], frames: dict[str, list[Atoms]]) -> AllegroConfig:
        from atomfoundry.models.allegro.config import HeadConfig
        from atomfoundry.models.first_model import sized_config
        from atomfoundry.models.training.energies import force_scale

        elements = sort_elements(symbol for doc in datasets.values() for symbol in doc.elements)
        values = {"seed": self.seed, **self.architecture}
        names = values.pop("type_names", None) or elements
        heads = []
        for head, doc in datasets.items():
            missing = [symbol for symbol in doc.elements if symbol not in doc.isolated_energies]
            if missing:
                raise DatasetError(
                    f"Dataset '{doc.name}' has no isolated-atom energy of {', '.join(missing)}.",
                    remedy="Label the free atoms at the same level.",
                )
            heads.append(
                HeadConfig(
                    name=head,
                    isolated_energies=doc.isolated_energies,
                    scale=force_scale(frames[head], names, policy=self.scale),
                    level_id=doc.level.id if doc.level else None,
                )
            )
        everything = [atoms for group in frames.values() for atoms in group]
        return sized_config(self.preset, names, {"heads": heads} | values, everything, where=self.name)
