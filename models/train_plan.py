"""What a training from files is made of: heads, architecture, settings; and its frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from atomfoundry.datasets import Dataset, read_frames
from atomfoundry.datasets.frame import frame_id
from atomfoundry.datasets.metadata import METADATA_FILE
from atomfoundry.datasets.splits import split
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import ConfigurationError, DatasetError
from atomfoundry.models.training.energies import EnergyPolicy, ScalePolicy
from atomfoundry.models.training.settings import TrainingSettings, allegro_fm_profile, finetune_profile

if TYPE_CHECKING:
    from ase import Atoms

PRESETS = ("fm64", "fm256", "fm512", "alumina")
Preset = Literal["fm64", "fm256", "fm512", "alumina"]
Profile = Literal["default", "allegro_fm", "finetune"]


class HeadPlan(BaseModel):
    """Data of one head."""

    model_config = ConfigDict(extra="forbid")

    data: list[str] = Field(min_length=1, description="Dataset folders or files of labelled frames")
    valid: list[str] = Field(default_factory=list, description="Validation sets; empty: a share of 'data'")
    format: str = Field(default="", description="Of files, e.g. 'mace' or 'nequip'; empty: by their names")
    weight: float = Field(default=1.0, gt=0, description="Of the head's loss")
    isolated_energies: dict[str, float] = Field(
        default_factory=dict, description="Element -> eV, before those of the data"
    )

    @field_validator("data", "valid", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class TrainingPlan(BaseModel):
    """A training: data by head, model, settings, seed. What the same plan gives again is the same model."""

    model_config = ConfigDict(extra="forbid")

    heads: dict[str, HeadPlan] = Field(min_length=1)
    preset: Preset = Field(default="fm64", description="Size of a new model")
    architecture: dict[str, Any] = Field(
        default_factory=dict, description="Fields of AllegroConfig that differ from the preset"
    )
    profile: Profile = Field(default="default", description="Settings to start from")
    training: dict[str, Any] = Field(
        default_factory=dict, description="Fields of TrainingSettings that differ from the profile"
    )
    energies: EnergyPolicy = Field(
        default="isolated",
        description="Isolated-atom energies: from labelled atoms, fitted to the frames, or those of the model to go on "
        "from, corrected by a fit to its errors ('foundation_corrected')",
    )
    scale: ScalePolicy = Field(
        default="global", description="Of a head of a new model: the RMS of all forces, or of those on each element"
    )
    valid_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the frames, by groups, that validates where no set is given"
    )
    split_groups: bool = Field(
        default=False, description="Validation frames may be of groups that are trained on, as of one trajectory"
    )
    start: str | None = Field(default=None, description="Folder of a model to go on from; heads it lacks are added")
    seed: int = Field(default=0, ge=0)

    def settings(self) -> TrainingSettings:
        """Return the training settings; fields of a loss of the profile's kind change those fields alone.

        Raises
        ------
        ConfigurationError
            Naming the setting that is wrong.
        """
        make = {"default": TrainingSettings, "allegro_fm": allegro_fm_profile, "finetune": finetune_profile}
        values = {**self.training, "seed": self.seed}
        given, own = values.get("loss"), make[self.profile]().loss  # type: ignore[operator]
        if isinstance(given, dict) and given.get("kind", own.kind) == own.kind:
            values["loss"] = own.model_dump() | given
        try:
            settings: TrainingSettings = make[self.profile](**values)  # type: ignore[operator]
        except ValidationError as error:
            raise _wrong(error, "training setting", TrainingSettings) from error
        return settings


def _wrong(error: ValidationError, what: str, model: type[BaseModel]) -> ConfigurationError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    said = f"{what} '{key}': {first['msg']}" if key else f"{what}s: {first['msg']}"
    return ConfigurationError(f"{said}.", remedy=f"Valid: {', '.join(model.model_fields)}.")


def training_plan(values: Mapping[str, Any], *, where: str = "plan") -> TrainingPlan:
    """Return a checked plan.

    Parameters
    ----------
    values
        Fields of `TrainingPlan`.
    where
        For messages: the settings file.

    Raises
    ------
    ConfigurationError
        Naming the key that is wrong.
    """
    try:
        return TrainingPlan.model_validate(dict(values))
    except ValidationError as error:
        raise _wrong(error, f"{where}: key", TrainingPlan) from error


@dataclass
class HeadData:
    """Frames of one head.

    Attributes
    ----------
    name
        Of the head.
    train, valid, test
        Frames; isolated atoms are in none.
    isolated_energies
        Element -> eV, as far as the data tell.
    level
        Of the labels; None where it is not known or not one.
    sources
        What was read: path, number of frames, and the content hash of datasets.
    """

    name: str
    train: list[Atoms] = field(default_factory=list)
    valid: list[Atoms] = field(default_factory=list)
    test: list[Atoms] = field(default_factory=list)
    isolated_energies: dict[str, float] = field(default_factory=dict)
    level: LevelOfTheory | None = None
    sources: list[dict[str, Any]] = field(default_factory=list)


def read_head(name: str, plan: HeadPlan, *, valid_fraction: float, seed: int, split_groups: bool = False) -> HeadData:
    """Read the frames of a head and part them, groups uncut unless asked for.

    The splits ``valid`` and ``test`` of a dataset are kept, its test frames are never trained on. What has no split
    ``valid`` is parted by ``valid_fraction``, the same frames in the same way each time.

    Parameters
    ----------
    name
        Of the head.
    plan
        Its data.
    valid_fraction
        Share for validation where no set is given; 0: none.
    seed
        Of the parting.
    split_groups
        Part the frames one by one.

    Raises
    ------
    DatasetError
        If something cannot be read, there is nothing to train on, all frames are of one group so that none can be
        held out, or two isolated-atom energies disagree.
    """
    data = HeadData(name)
    levels: dict[str, LevelOfTheory | None] = {}
    for path in plan.data:
        fraction = 0.0 if plan.valid else valid_fraction
        _read(path, data, levels, format=plan.format, valid_fraction=fraction, seed=seed, split_groups=split_groups)
    if not plan.valid and valid_fraction and not data.valid:
        _refuse_one_group(data, valid_fraction)
    if plan.valid:
        # the sets given validate alone; a dataset's own validation frames may be trained on
        data.train += data.valid
        data.valid = []
        held = HeadData(name)
        for path in plan.valid:
            _read(path, held, levels, format=plan.format, valid_fraction=0.0, seed=seed)
        data.valid = held.train + held.valid
        data.sources += held.sources
        _merge(data.isolated_energies, held.isolated_energies, name)
        known = {atoms.info["frame_id"] for atoms in data.valid}
        shared = sum(atoms.info["frame_id"] in known for atoms in data.train)
        if shared:
            raise DatasetError(
                f"Head '{name}': {shared} frames are both in the training and in the validation set.",
                remedy="Take them out of one, or let --valid part the data.",
            )
    data.isolated_energies.update(plan.isolated_energies)
    if not data.train:
        raise DatasetError(
            f"Head '{name}' has no labelled training frames in {', '.join(plan.data)}.",
            remedy="Give frames with energies or forces; a smaller --valid leaves more of them.",
        )
    if len(levels) == 1:
        data.level = next(iter(levels.values()))
    return data


def _read(
    path: str,
    data: HeadData,
    levels: dict[str, LevelOfTheory | None],
    *,
    format: str,
    valid_fraction: float,
    seed: int,
    split_groups: bool = False,
) -> None:
    """Add the frames of one file or folder."""
    folder = Path(path)
    if not folder.exists():
        raise DatasetError(f"There is no file or folder '{path}'.", remedy="Check the path.")
    source: dict[str, Any] = {"path": str(folder.absolute())}
    homes: dict[int, str] = {}
    if (folder / METADATA_FILE).is_file():
        dataset = Dataset.open(folder)
        source["content_hash"] = dataset.content_hash
        _merge(data.isolated_energies, dataset.isolated_energies, data.name)
        levels.update({level.id: level for level in dataset.levels})
        homes = {index: name for name in ("valid", "test") for index in dataset.splits.get(name, ())}
        frames = dataset.frames()
    else:
        frames = read_frames(folder, format=format)
    kept: list[Atoms] = []
    places: list[str] = []
    n_bare = 0
    for number, atoms in enumerate(frames):
        results = atoms.calc.results if atoms.calc is not None else {}
        if len(atoms) == 1 and not atoms.pbc.any():
            if results.get("energy") is not None:
                _merge(data.isolated_energies, {atoms.get_chemical_symbols()[0]: results["energy"]}, data.name)
            continue
        if results.get("energy") is None and results.get("forces") is None:
            n_bare += 1
            continue
        atoms.info["frame_id"] = str(atoms.info.get("frame_id") or frame_id(atoms))
        if atoms.info.get("level"):
            levels.setdefault(str(atoms.info["level"]), None)
        kept.append(atoms)
        places.append(homes.get(number, "train"))
    free = [index for index, place in enumerate(places) if place == "train"]
    if free and valid_fraction and "valid" not in places:
        parts = split(
            [kept[index].info["frame_id"] if split_groups else _group(kept[index]) for index in free],
            fractions=(1 - valid_fraction, valid_fraction, 0.0),
            seed=seed,
        )
        for index in parts["valid"]:
            places[free[index]] = "valid"
    for atoms, place in zip(kept, places, strict=True):
        getattr(data, place).append(atoms)
    data.sources.append(source | {"n_frames": len(kept), "n_unlabelled": n_bare})


def _group(atoms: Atoms) -> str:
    return str(atoms.info.get("group_id") or atoms.info["frame_id"])


def _refuse_one_group(data: HeadData, valid_fraction: float) -> None:
    """Refuse to train without validation where a part was to validate and groups forbid it."""
    groups = sorted({_group(atoms) for atoms in data.train})
    if len(groups) == len(data.train):
        return
    raise DatasetError(
        f"Head '{data.name}': {valid_fraction:g} of the frames were to validate, but none can be held out: all "
        f"{len(data.train)} are of {'one group' if len(groups) == 1 else 'groups with a file each'} "
        f"({', '.join(repr(group) for group in groups[:3])}{', ...' if len(groups) > 3 else ''}).",
        remedy="Give a validation set (--valid DATA), part frames of the group (--split-groups; errors are then "
        "those of frames like the trained ones), or train without validation (--valid 0).",
    )


def _merge(known: dict[str, float], new: Mapping[str, float], head: str) -> None:
    for symbol, energy in new.items():
        if abs(known.setdefault(symbol, float(energy)) - float(energy)) > 1e-3:
            raise DatasetError(
                f"Head '{head}': two isolated {symbol} atoms have energies {known[symbol]:.4f} and {energy:.4f} eV.",
                remedy="Keep one level of theory and one spin state a head, or give 'isolated_energies'.",
            )
