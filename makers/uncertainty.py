"""The Maker that fits and calibrates a model's uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobflow import Maker

from atomfoundry.documents import DatasetDoc, ModelDoc, UncertaintyDoc
from atomfoundry.makers.checkpoints import job_checkpoints
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.modelling import frames_of, load_artifact_model
from atomfoundry.results import current_artifacts


@dataclass
class UncertaintyMaker(Maker):
    """LLPR uncertainty with conformal calibration (ALGORITHMS 5.1, 5.2).

    Parameters
    ----------
    name
        Name of the job.
    coverage
        Share of the errors that the calibrated intervals shall cover.
    calibration_splits
        Splits of the datasets that calibrate; the training split gives the covariance.
    low_percentile
        A force is uncertain above this percentile of the largest sigma of each calibration frame; lower it where
        those frames are wilder than what shall be explored.
    seed
        Seed of the sampled force uncertainties.
    """

    name: str = "uncertainty"
    coverage: float = 0.8
    calibration_splits: list[str] | tuple[str, ...] = ("valid", "test")
    low_percentile: float = 95.0
    seed: int = 0

    @foundry_job(output_schema=UncertaintyDoc, profile="md")
    def make(self, model: ModelDoc, datasets: dict[str, DatasetDoc]) -> UncertaintyDoc:
        """Fit and calibrate.

        Parameters
        ----------
        model
            A trained model.
        datasets
            Head -> the dataset it was trained on.

        Raises
        ------
        NoTimeLeftError
            If the process must end: the job goes on from its checkpoint.
        """
        from atomfoundry.models.uncertainty.llpr import fit_uncertainty, save_uncertainty

        with job_checkpoints() as checkpoints:
            uncertainty = fit_uncertainty(
                load_artifact_model(model),
                {head: frames_of(doc, "train") for head, doc in datasets.items()},
                {head: frames_of(doc, *self.calibration_splits) for head, doc in datasets.items()},
                coverage=self.coverage,
                low_percentile=self.low_percentile,
                seed=self.seed,
                checkpoints=checkpoints,
            )
        folder = save_uncertainty(uncertainty, Path("llpr"))
        return UncertaintyDoc(
            model_sha256=model.model.sha256,
            **uncertainty.summary(),
            llpr=current_artifacts().put(folder, media_type="application/vnd.atomfoundry.llpr"),
        )
