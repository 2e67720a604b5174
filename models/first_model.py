"""The model that a training begins with: a new one whose numbers come from the data, or one with heads added."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from atomfoundry.errors import ConfigurationError, DatasetError, LabelError, TrainingError
from atomfoundry.models.train_plan import HeadData, Preset, TrainingPlan

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.models.allegro.config import AllegroConfig
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.training.energies import ReferenceEnergies

logger = logging.getLogger(__name__)


@dataclass
class FirstModel:
    """What a training begins with.

    Attributes
    ----------
    model
        On the CPU, before its first step.
    references
        Head -> its isolated-atom energies and how well the data fix them, of those that were determined now.
    """

    model: Allegro
    references: dict[str, ReferenceEnergies] = field(default_factory=dict)

    def records(self) -> dict[str, dict[str, Any]]:
        """Return `references` as plain values."""
        return {name: asdict(reference) for name, reference in self.references.items()}


def first_model(plan: TrainingPlan, heads: Sequence[HeadData]) -> FirstModel:
    """Return the model that a training begins with.

    What the plan's architecture leaves out comes from the training frames: elements, neighbours, and of each head
    its isolated-atom energies and scale. A head that ``plan.start`` lacks begins as a copy of its first one.

    Parameters
    ----------
    plan
        Architecture, policies of energies and scale, the model to go on from, seed.
    heads
        Their frames.

    Raises
    ------
    ConfigurationError
        If a setting of the architecture is wrong, or does not go with a model to go on from.
    DatasetError
        If frames hold an element that the model to go on from does not know.
    TrainingError
        If an isolated-atom energy is missing, or there are no forces to take a scale from.
    """
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.training.process_group import first_process

    references: dict[str, ReferenceEnergies] = {}
    model = _start(plan, heads, references) if plan.start else Allegro(new_config(plan, heads, references))
    for name, reference in references.items():
        if reference.undetermined and first_process():
            logger.warning(
                "Head '%s': the frames do not determine the isolated-atom energies of %s (rank %d of %d): they fix "
                "sums of them alone, and of the energies that fit the smallest were taken. Frames of other "
                "compositions, or the energies themselves, would settle them.",
                name,
                ", ".join(reference.undetermined),
                reference.rank,
                len(reference.energies),
            )
    return FirstModel(model, references)


def new_config(
    plan: TrainingPlan, heads: Sequence[HeadData], references: dict[str, ReferenceEnergies] | None = None
) -> AllegroConfig:
    """Return the configuration of a new model, see :func:`first_model`.

    Parameters
    ----------
    plan, heads
        As there.
    references
        Takes what was found out about the isolated-atom energies.
    """
    values = {"seed": plan.seed, **plan.architecture}
    names = values.pop("type_names", None) or _elements(*heads)
    try:
        values["heads"] = _heads(plan, heads, names, {} if references is None else references)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"Architecture: {error}.", remedy="Correct it.") from error
    return sized_config(plan.preset, names, values, [atoms for head in heads for atoms in head.train])


def sized_config(
    preset: Preset, type_names: Sequence[str], values: Mapping[str, Any], frames: Sequence[Atoms], *, where: str = ""
) -> AllegroConfig:
    """Return the configuration of a preset with changes.

    Parameters
    ----------
    preset
        Size of the model.
    type_names
        Its elements.
    values
        Further fields of AllegroConfig, heads included; ``avg_num_neighbors`` comes from the frames otherwise.
    frames
        Training structures.
    where
        Who asks, for the error.

    Raises
    ------
    ConfigurationError
        If there is no such preset, or a value is wrong.
    """
    from pydantic import ValidationError

    from atomfoundry.models.allegro import config as architectures
    from atomfoundry.models.allegro.config import AllegroConfig
    from atomfoundry.models.training.energies import average_num_neighbors

    presets = {
        "fm64": architectures.allegro_fm64,
        "fm256": architectures.allegro_fm256,
        "fm512": architectures.allegro_fm512,
        "alumina": architectures.alumina,
    }
    told = f"{where}: architecture" if where else "Architecture"
    if preset not in presets:
        raise ConfigurationError(f"{told}: there is no preset '{preset}'.", remedy=f"Presets: {', '.join(presets)}.")
    default = 3.0 if preset == "alumina" else AllegroConfig.model_fields["cutoff"].default
    try:
        settings = dict(values)
        if "avg_num_neighbors" not in settings:
            cutoff = float(settings.get("cutoff", default))
            settings["avg_num_neighbors"] = average_num_neighbors(frames, cutoff=cutoff)
        return presets[preset](list(type_names), **settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{told} setting '{key}': {first['msg']}.",
            remedy=f"Valid: {', '.join(AllegroConfig.model_fields)}.",
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{told}: {error}.", remedy="Correct it.") from error


def _heads(
    plan: TrainingPlan, heads: Sequence[HeadData], elements: Sequence[str], references: dict[str, ReferenceEnergies]
) -> list[dict[str, Any]]:
    """Return the heads: what the architecture says of each, and the rest from its frames."""
    from atomfoundry.models.allegro.config import DEFAULT_HEAD
    from atomfoundry.models.training.energies import force_scale

    given = plan.architecture.get("heads")
    if given is None:
        given = [{"name": head.name} for head in heads]
    if not isinstance(given, Sequence) or not all(isinstance(each, Mapping) for each in given):
        raise ConfigurationError("Architecture: 'heads' is no list of tables.", remedy="E.g. [[architecture.heads]].")
    data = {head.name: head for head in heads}
    found = []
    for each in map(dict, given):
        head = data.get(each.get("name", DEFAULT_HEAD))
        if head is not None:
            if "isolated_energies" not in each:
                references[head.name] = _references(plan, head)
                each["isolated_energies"] = references[head.name].energies
            if "scale" not in each:
                each["scale"] = force_scale(head.train, elements, policy=plan.scale)
            each.setdefault("level_id", head.level.id if head.level else None)
        found.append(each)
    return found


def _elements(*heads: HeadData) -> list[str]:
    from ase.data import atomic_numbers

    found = {
        symbol
        for head in heads
        for atoms in head.train + head.valid + head.test
        for symbol in atoms.get_chemical_symbols()
    }
    return sorted(found, key=atomic_numbers.__getitem__)


def _references(plan: TrainingPlan, head: HeadData, model: Allegro | None = None) -> ReferenceEnergies:
    """Return the isolated-atom energies of a new head, of a new model or of one that exists."""
    from atomfoundry.models.training.energies import fit_reference_energies

    if plan.energies == "foundation_corrected" and model is None:
        raise ConfigurationError(
            "Isolated-atom energies 'foundation_corrected' are those of a model, corrected: there is none.",
            remedy="Name the model to go on from (start), or fit them: lstsq.",
        )
    old = _old_energies(model, head) if plan.energies == "foundation_corrected" and model is not None else {}
    try:
        return fit_reference_energies(
            head.train, _elements(head), policy=plan.energies, isolated_energies=head.isolated_energies, **old
        )
    except TrainingError as error:
        raise TrainingError(f"Head '{head.name}': {error.message}", remedy=_remedy(error)) from error


def _old_energies(model: Allegro, head: HeadData) -> dict[str, Any]:
    """Return what a model's first head says: isolated-atom energies, and the energies of the frames."""
    from atomfoundry.models.prediction import predict

    known = model.config.heads[0].isolated_energies or dict.fromkeys(model.config.type_names, 0.0)
    energies = []
    for _, prediction in predict(model, head.train):
        if isinstance(prediction, LabelError):
            raise TrainingError(prediction.message, remedy="Leave the frame out, or take other isolated-atom energies.")
        energies.append(prediction.energy)
    return {"foundation_energies": known, "foundation_predictions": energies}


def _remedy(error: TrainingError) -> str | None:
    if "No isolated-atom energy" in error.message:
        return (
            "Add frames of the single atoms, give 'isolated_energies' in the settings file, or fit them: "
            "--energies lstsq."
        )
    return error.remedy


def _start(plan: TrainingPlan, heads: Sequence[HeadData], references: dict[str, ReferenceEnergies]) -> Allegro:
    """Return the model to go on from; a head that it lacks begins as a copy of its first one."""
    from atomfoundry.models.finetuning import with_fine_head
    from atomfoundry.models.io import load_model

    assert plan.start is not None
    for given, what in ((plan.architecture, "architecture"), (plan.scale != "global", "scale")):
        if given:
            raise ConfigurationError(
                f"The {what} of {plan.start} is given.", remedy=f"Leave '{what}' out, or the model to go on from."
            )
    model = foundation = load_model(plan.start)
    present = {each.name for each in model.config.heads}
    if plan.energies != "isolated" and all(head.name in present for head in heads):
        raise ConfigurationError(
            f"Isolated-atom energies '{plan.energies}' are for new heads; {plan.start} has "
            f"{', '.join(repr(head.name) for head in heads)}, which keep theirs.",
            remedy="Name a new head, e.g. --head ft=DATA, or leave 'energies' out.",
        )
    for head in heads:
        if head.name in present:
            own = model.config.heads[model.head_index(head.name)].isolated_energies
            known = set(own) or set(model.config.type_names)
        else:
            known = set(model.config.type_names)
        missing = [symbol for symbol in _elements(head) if symbol not in known]
        if missing:
            raise DatasetError(
                f"Head '{head.name}': {plan.start} does not know {', '.join(missing)}.",
                remedy="Train a new model, or leave these frames out.",
            )
        if head.name not in present:
            references[head.name] = _references(plan, head, foundation)
            model = with_fine_head(
                model,
                name=head.name,
                isolated_energies=references[head.name].energies,
                level_id=head.level.id if head.level else None,
            )
    return model
