"""Documents of structures, labels and datasets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atomfoundry.documents.base import Artifact, FoundryDocument
from atomfoundry.documents.level import LevelOfTheory


class StructureSetDoc(FoundryDocument):
    """Structures without labels; the artifact is a dataset folder without energies."""

    name: str
    n_structures: int
    formulas: dict[str, int] = Field(default_factory=dict, description="Reduced formula -> count")
    samplings: dict[str, int] = Field(default_factory=dict, description="Sampling method -> count")
    elements: list[str] = Field(default_factory=list)
    structures: Artifact


class LabelDoc(FoundryDocument):
    """One label: one frame at one level, or the reason why there is none. Key: (frame_id, level_id)."""

    frame_id: str
    level_id: str
    engine: str
    status: Literal["ok", "failed", "withdrawn"]
    reason: str | None = Field(default=None, description="Reason code of a failure, e.g. 'unconverged', or 'withdrawn'")
    message: str | None = Field(default=None, description="What failed, or why the label was withdrawn")
    energy: float | None = Field(default=None, description="eV, the energy that the forces are derivatives of")
    forces: list[list[float]] | None = Field(default=None, description="eV/A, (N, 3)")
    stress: list[float] | None = Field(default=None, description="eV/A^3, Voigt, tension positive; None: none")
    formula: str = ""
    n_atoms: int = 0
    wall_time_s: float = 0.0
    computed_at: str = Field(default="", description="UTC, ISO 8601")
    host: str = ""
    job_uuid: str | None = None
    attempts: int = 1
    withdrawn_at: str | None = Field(default=None, description="UTC, ISO 8601")


class LabelFailure(BaseModel):
    """One frame that has no label, and why."""

    model_config = ConfigDict(extra="forbid")

    frame_id: str
    reason: str
    message: str = ""
    formula: str = ""
    source: str = ""


class LabelSetDoc(FoundryDocument):
    """The labels of one structure set at one level; the artifact is a dataset folder of the good ones."""

    name: str
    engine: str
    level: LevelOfTheory
    level_id: str
    n_requested: int
    n_labelled: int
    n_reused: int = Field(default=0, description="Labels that were in the database already")
    n_failed: int = 0
    failures: list[LabelFailure] = Field(default_factory=list)
    reasons: dict[str, int] = Field(default_factory=dict, description="Reason -> frames without a label")
    compute_time_s: float = Field(default=0.0, description="Sum over the labels computed now")
    frames: Artifact


class DatasetDoc(FoundryDocument):
    """A dataset on disk, with what was refused and how it is split."""

    name: str
    dataset: Artifact
    n_frames: int
    n_atoms: int
    elements: dict[str, int] = Field(default_factory=dict, description="Element -> number of atoms")
    level: LevelOfTheory | None = Field(default=None, description="None where levels are aligned or mixed")
    level_ids: list[str] = Field(default_factory=list)
    isolated_energies: dict[str, float] = Field(default_factory=dict, description="Element -> eV")
    splits: dict[str, int] = Field(default_factory=dict, description="'train', 'valid', 'test' -> frames")
    sources: dict[str, int] = Field(default_factory=dict)
    samplings: dict[str, int] = Field(default_factory=dict)
    rejections: dict[str, int] = Field(default_factory=dict, description="Reason -> frames refused")
    rejected: list[LabelFailure] = Field(default_factory=list)
    energy_range: tuple[float, float] | None = Field(default=None, description="eV/atom above isolated atoms")
    max_force: float | None = Field(default=None, description="eV/A")


class CoverageDoc(FoundryDocument):
    """What a dataset covers, and what it lacks."""

    name: str
    n_frames: int
    counts: dict = Field(default_factory=dict, description="As CoverageReport: elements, pairs, histograms, ...")
    gaps: list[str] = Field(default_factory=list)
    html: Artifact


class EnergyMetrics(BaseModel):
    """Errors of total energies, per atom."""

    model_config = ConfigDict(extra="forbid")

    rmse: float = Field(description="eV/atom")
    mae: float = Field(description="eV/atom")
    r2: float = Field(description="of atomization energies per structure where possible, else total energies")
    n: int


class AlignmentStep(BaseModel):
    """One alignment on the way from a level to another."""

    model_config = ConfigDict(extra="forbid")

    source_id: str
    source: str = Field(description="Label of the level")
    target_id: str
    target: str
    mode: str
    scale: float
    inverted: bool = Field(default=False, description="Fitted in the other direction")
    error: float | None = Field(description="Expected RMSE of this step alone, eV/atom")
    accumulated: float | None = Field(description="Up to here, on the scale of this step's target, eV/atom")


class AlignmentDoc(FoundryDocument):
    """A Total Energy Alignment and its report."""

    mode: str
    source_level: LevelOfTheory
    target_level: LevelOfTheory
    bridge_level: LevelOfTheory | None = None
    scale: float = Field(description="a of E_TEA = sum n E0^t + a (E^s - sum n E0^s)")
    source_isolated_energies: dict[str, float]
    target_isolated_energies: dict[str, float]
    shifts: dict[str, float] = Field(default_factory=dict, description="Element -> eV, ICEA")
    n_overlap: int
    overlap_per_element: dict[str, int] = Field(default_factory=dict)
    metrics: dict[str, EnergyMetrics] = Field(
        default_factory=dict,
        description="'raw', 'icea', 'aec', 'cross_validated', 'least_squares', 'least_squares_cross_validated'",
    )
    metrics_per_element: dict[str, dict[str, EnergyMetrics]] = Field(
        default_factory=dict, description="Element -> the same over the structures that hold it"
    )
    cross_validation: str = Field(default="", description="How the structures were parted for it")
    residuals_per_element: dict[str, float] = Field(default_factory=dict, description="Mean residual, eV/atom")
    points: list[dict] = Field(
        default_factory=list,
        description="Overlap structures: formula, n_atoms, target and the keys of 'metrics' (all eV/atom, atomization)",
    )
    n_pair_terms: int = Field(default=0, description="Bond terms, mode 'pairs'")
    dispersion: str = Field(default="keep", description="'keep', 'subtract_source' or 'add_source'")
    dispersion_note: str = Field(default="", description="The same in words, where the levels differ in dispersion")
    path: list[AlignmentStep] = Field(default_factory=list, description="Steps of an alignment over other levels")
    expected_error: float | None = Field(default=None, description="RMSE to expect of a new structure, eV/atom")
    uncovered: dict[str, int] = Field(
        default_factory=dict, description="Elements that cannot be aligned -> source frames with them"
    )
    left_out: dict[str, int] = Field(
        default_factory=dict, description="Why frames of the source are not in 'dataset' -> how many"
    )
    alignment: Artifact
    dataset: Artifact | None = Field(default=None, description="The source dataset with aligned labels")
    n_aligned: int = 0
