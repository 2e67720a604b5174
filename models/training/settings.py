"""Settings of a training: optimiser, schedule, loss, stopping, checkpoints. An unknown key is an error."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

StressUnit = Literal["eV/A^3", "GPa", "eV/atom"]

DEFAULT_WEIGHTS: dict[str, tuple[float, float, float]] = {
    "allegro_fm": (8.0, 1.0, 1.0),
    "mace_universal": (1.0, 10.0, 10.0),
    "alumina": (1.0, 1.0, 0.0),
}
"""Energy, force and stress weight (Allegro-FM; MACE-MP-0 Eq. C1; AtomProNet Eq. 5)."""


class LossSettings(BaseModel):
    """Which loss, and its weights (ALGORITHMS 3.1).

    ``allegro_fm`` (L1) and ``alumina`` (L3) are squared errors, ``mace_universal`` (L2) is a Huber loss.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["allegro_fm", "mace_universal", "alumina"] = "allegro_fm"
    energy_weight: float | None = Field(default=None, ge=0, description="None: the loss's own weight")
    forces_weight: float | None = Field(default=None, ge=0, description="None: the loss's own weight")
    stress_weight: float | None = Field(default=None, ge=0, description="None: the loss's own weight")
    form: Literal["mse", "rmse"] = Field(
        default="mse", description="Of each squared-error term; the paper names RMSE, public code uses MSE"
    )
    normalise_by_force_rms: bool = Field(
        default=False, description="Divide every error by the training set's force RMS (L1 and L3)"
    )
    stress_unit: StressUnit | None = Field(
        default=None,
        description="Unit of the stress error in L1 and L3, without which its weight means nothing; "
        "'eV/atom' is the virial per atom, V dS / N",
    )

    @model_validator(mode="after")
    def _units_are_explicit(self) -> LossSettings:
        if self.kind == "mace_universal":
            if self.stress_unit not in (None, "eV/A^3"):
                raise ValueError("loss 'mace_universal' defines its stress errors in eV/A^3")
            if self.normalise_by_force_rms or self.form != "mse":
                raise ValueError(
                    "loss 'mace_universal' takes neither 'form' nor 'normalise_by_force_rms': "
                    "its Huber widths are in eV/A"
                )
        elif self.weights[2] > 0 and self.stress_unit is None:
            raise ValueError(
                f"loss '{self.kind}' with a stress weight needs 'stress_unit': 'eV/A^3', 'GPa' or 'eV/atom'"
            )
        if not any(self.weights):
            raise ValueError("all loss weights are zero")
        return self

    @property
    def weights(self) -> tuple[float, float, float]:
        """Energy, force and stress weight, defaults filled in."""
        given = (self.energy_weight, self.forces_weight, self.stress_weight)
        energy, forces, stress = (
            default if weight is None else weight
            for weight, default in zip(given, DEFAULT_WEIGHTS[self.kind], strict=True)
        )
        return energy, forces, stress


class TrainingSettings(BaseModel):
    """How to train (ALGORITHMS 3.4 to 3.8).

    The defaults are for short trainings of minutes on some hundred small frames; :func:`allegro_fm_profile`
    and :func:`finetune_profile` give the published ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_epochs: int = Field(default=60, ge=0)
    batch_size: int = Field(default=2, ge=1, description="Most structures in a batch")
    max_edges: int | None = Field(default=None, ge=1, description="Most directed edges in a batch")
    batching: Literal["shuffled", "balanced"] = Field(
        default="shuffled",
        description="'balanced': batches of structures of similar size, steps of batches of similar cost; "
        "for sets of very different sizes. Heads whose structures differ in size then seldom share a batch",
    )
    batches_per_step: int | None = Field(
        default=1,
        ge=1,
        description="Batches of one optimiser step, shared by all processes. With a number the course does not "
        "depend on how many processes train; None: one for each process. A process that has several evaluates one "
        "after the other",
    )
    lr: float = Field(default=5e-3, gt=0, description="Peak learning rate")
    betas: tuple[float, float] = (0.9, 0.999)
    amsgrad: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    loss: LossSettings = Field(
        default=LossSettings(energy_weight=1.0, normalise_by_force_rms=True, stress_unit="eV/atom"),
        description="Of small sets: with equal weights energies, forces and stresses all come out better "
        "than with Allegro-FM's 8 : 1 : 1",
    )
    ema_decay: float | None = Field(
        default=0.99, ge=0, lt=1, description="Exponential moving average of the weights; None: none"
    )
    clip_norm: float | None = Field(default=None, gt=0, description="Global L2 norm of the gradient")
    sam_rho: float = Field(
        default=0.0,
        ge=0,
        description="Sharpness-aware minimisation (Allegro-Legato): length of the step uphill where the gradient is "
        "taken, e.g. 0.005; doubles the time of a step. 0: none",
    )
    sam_adaptive: bool = Field(default=False, description="The step uphill moves a weight in proportion to its size")
    schedule: Literal["constant", "plateau", "cosine", "one_cycle"] = "cosine"
    warmup_fraction: float = Field(default=0.02, ge=0, lt=1, description="Of max_epochs, learning rate linear from 0")
    final_lr_fraction: float = Field(
        default=0.01, ge=0, le=1, description="Learning rate at the end over peak (cosine, one_cycle)"
    )
    plateau_factor: float = Field(default=0.5, gt=0, lt=1)
    plateau_patience: int = Field(default=50, ge=1, description="Evaluations without a better validation loss")
    min_lr: float = Field(default=1e-5, ge=0, description="Plateau schedule: training stops below")
    stage_two_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Last part of the epochs with a higher energy weight; 0: none"
    )
    stage_two_energy_factor: float = Field(default=10.0, gt=0)
    judge: Literal["loss", "mae"] = Field(
        default="loss",
        description="What the best weights, patience and schedule 'plateau' go by on validation frames. 'mae': mean "
        "absolute errors of energies (eV/atom) and forces (eV/A) with the loss's weights; unlike a squared loss they "
        "are not decided by a few frames that are far off",
    )
    patience: int | None = Field(
        default=None, ge=1, description="Stop after so many evaluations without a better validation loss"
    )
    freeze: Literal["none", "descriptor", "two_body"] = Field(
        default="none",
        description="'descriptor': train readouts only; 'two_body': hold the two-body embedding",
    )
    eval_interval: int = Field(default=1, ge=1, description="Epochs between validations")
    eval_batch_size: int = Field(default=32, ge=1)
    checkpoint_epochs: int = Field(default=10, ge=1, description="Epochs between checkpoints")
    checkpoint_interval_s: float = Field(default=20.0, gt=0, description="Seconds between checkpoints")
    max_wall_time_s: float | None = Field(
        default=None, gt=0, description="Stop after so long; such a run is not reproducible"
    )
    csv_log: bool = Field(
        default=True,
        description="Write training.csv into the directory, one row an epoch, and the validation's errors by element "
        "and by size of the force into training_elements.csv and training_forces.csv",
    )
    tensorboard: bool = Field(
        default=False, description="Write TensorBoard events into the directory; needs 'atomfoundry[tensorboard]'"
    )
    num_threads: int | None = Field(
        default=1, ge=1, description="Of the kernel and of torch while training; None: as they are"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _schedule_fits(self) -> TrainingSettings:
        if self.schedule == "one_cycle" and self.warmup_fraction == 0:
            raise ValueError("schedule 'one_cycle' needs a 'warmup_fraction' above 0, e.g. 0.3")
        return self


RESUME_MAY_CHANGE = frozenset(
    {
        "checkpoint_epochs",
        "checkpoint_interval_s",
        "csv_log",
        "eval_batch_size",
        "max_wall_time_s",
        "num_threads",
        "tensorboard",
    }
)
"""Settings that do not change the course of a training, so a resumed one may differ in them."""


def allegro_fm_profile(**changes: object) -> TrainingSettings:
    """Return the Allegro-FM settings of ALGORITHMS 3.4, with changes.

    Parameters
    ----------
    **changes
        Fields of `TrainingSettings` that shall differ.
    """
    profile: dict[str, object] = {
        "loss": LossSettings(normalise_by_force_rms=True, stress_unit="eV/atom"),
        "max_epochs": 1000,
        "batch_size": 8,
        "lr": 1e-3,
        "ema_decay": 0.99,
        "schedule": "plateau",
        "plateau_factor": 0.5,
        "plateau_patience": 50,
        "min_lr": 1e-5,
    }
    return TrainingSettings.model_validate(profile | changes)


def finetune_profile(**changes: object) -> TrainingSettings:
    """Return the fine-tuning settings of MACE-MP-0 (ALGORITHMS 3.4, 4.4), with changes.

    Parameters
    ----------
    **changes
        Fields of `TrainingSettings` that shall differ.
    """
    profile: dict[str, object] = {
        "max_epochs": 100,
        "batch_size": 16,
        "lr": 1e-4,
        "ema_decay": 0.9999,
        "clip_norm": 100.0,
        "schedule": "constant",
    }
    return TrainingSettings.model_validate(profile | changes)
