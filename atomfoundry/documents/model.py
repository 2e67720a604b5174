"""Documents of models, their uncertainty and what active learning selects."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from atomfoundry.documents.base import Artifact, FoundryDocument


class ErrorMetrics(BaseModel):
    """Errors of a model on labelled frames of one split and head."""

    model_config = ConfigDict(extra="forbid")

    split: str
    head: str
    n_frames: int
    energy_mae: float = Field(description="eV/atom")
    energy_rmse: float = Field(description="eV/atom")
    energy_r2: float | None = None
    forces_mae: float | None = Field(default=None, description="eV/A, over components")
    forces_rmse: float | None = None
    forces_r2: float | None = None
    stress_mae: float | None = Field(default=None, description="eV/A^3, over the six components")
    stress_rmse: float | None = None
    stress_r2: float | None = None


class ElementMetrics(BaseModel):
    """Errors of a model on the atoms of one element, of one split and head (ALGORITHMS 3.7)."""

    model_config = ConfigDict(extra="forbid")

    split: str
    head: str
    element: str
    n_atoms: int = Field(description="With force labels")
    forces_mae: float | None = Field(default=None, description="eV/A, over components")
    forces_rmse: float | None = None
    energy_mae: float | None = Field(default=None, description="eV/atom, weighted by the element's share of the atoms")
    alerts: list[str] = Field(default_factory=list, description="'few_atoms', 'large_error'")


class EpochRecord(BaseModel):
    """One line of a learning curve."""

    model_config = ConfigDict(extra="forbid")

    epoch: int
    train_loss: float
    valid_loss: float | None = None
    learning_rate: float = 0.0
    energy_mae: float | None = Field(default=None, description="validation, eV/atom")
    forces_mae: float | None = Field(default=None, description="validation, eV/A")
    stress_mae: float | None = Field(default=None, description="validation, eV/A^3")
    wall_time_s: float = Field(default=0.0, description="since training began")


class HeadDoc(BaseModel):
    """One readout head of a model."""

    model_config = ConfigDict(extra="forbid")

    name: str
    level_id: str | None = None
    isolated_energies: dict[str, float] = Field(default_factory=dict, description="Element -> eV")
    datasets: list[str] = Field(default_factory=list, description="sha256 of the training datasets")


class ModelDoc(FoundryDocument):
    """A trained model and how it was trained."""

    name: str
    kind: str = Field(default="base", description="'base', 'naive', 'replay' or 'active_learning'")
    architecture: str
    config: dict = Field(default_factory=dict)
    training: dict = Field(default_factory=dict, description="Training settings")
    n_parameters: int
    elements: list[str]
    heads: list[HeadDoc]
    model: Artifact
    predictions: Artifact | None = Field(default=None, description="Parquet: predicted and reference labels")
    metrics: list[ErrorMetrics] = Field(default_factory=list)
    element_metrics: list[ElementMetrics] = Field(default_factory=list, description="The worst element first")
    history: list[EpochRecord] = Field(default_factory=list)
    stop_reason: str = ""
    n_epochs: int = 0
    training_time_s: float = 0.0


class ForgettingRecord(BaseModel):
    """Errors on one task before and after fine-tuning (ALGORITHMS 4.5)."""

    model_config = ConfigDict(extra="forbid")

    method: str = Field(description="'naive' or 'replay'")
    head: str
    task: str
    quantity: str = Field(description="'energy', 'forces' or 'stress'")
    before: float = Field(description="RMSE of the pretrained model")
    after: float = Field(description="RMSE of the fine-tuned model")
    ratio: float


class ForgettingDoc(FoundryDocument):
    """Naive against replay fine-tuning."""

    task: str = Field(description="Name of the fine-tuning task")
    records: list[ForgettingRecord]
    task_metrics: dict[str, ErrorMetrics] = Field(
        default_factory=dict, description="'pretrained', 'naive', 'replay' -> errors on the fine-tuning task"
    )
    n_replay: int = 0


class UncertaintyDoc(FoundryDocument):
    """An LLPR uncertainty: its matrices and its calibration, per head."""

    model_sha256: str
    kind: str = "llpr"
    heads: list[str]
    alpha: dict[str, float] = Field(description="Head -> calibration factor")
    ridge: dict[str, float] = Field(default_factory=dict)
    quantiles: dict[str, float] = Field(default_factory=dict, description="'HEAD/energy' or 'HEAD/forces' -> q")
    coverage_target: float = 0.9
    thresholds: dict[str, float] = Field(default_factory=dict, description="'low', 'high': eV/A, for forces")
    n_training: int = 0
    n_calibration: int = 0
    points: list[dict] = Field(default_factory=list, description="Calibration frames: head, error and sigma in eV/atom")
    llpr: Artifact


class TrajectoryRecord(BaseModel):
    """One MD run of an exploration."""

    model_config = ConfigDict(extra="forbid")

    structure: str
    temperature: float = Field(description="K")
    n_steps: int
    timestep: float = Field(description="fs")
    stop_reason: str
    times: list[float] = Field(default_factory=list, description="fs")
    temperatures: list[float] = Field(default_factory=list, description="K")
    sigma_max: list[float] = Field(default_factory=list, description="max_i sigma_F,i, eV/A")
    n_flagged: int = 0


class SelectionDoc(FoundryDocument):
    """What one round of active learning found and chose."""

    round: int = 1
    uncertainty: str = Field(default="LLPR", description="What the choice rests on, in words")
    thresholds: dict[str, float] = Field(default_factory=dict)
    trajectories: list[TrajectoryRecord] = Field(default_factory=list)
    n_candidates: int = 0
    n_rejected: dict[str, int] = Field(default_factory=dict, description="Reason -> frames")
    n_selected: int = 0
    selected: Artifact
