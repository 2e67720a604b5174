"""Makers that judge whole datasets."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobflow import Maker

from atomfoundry.documents import CoverageDoc, DatasetDoc, LabelFailure
from atomfoundry.errors import DatasetError
from atomfoundry.makers.dataset import dataset_document
from atomfoundry.makers.frames import DATASET_MEDIA_TYPE, open_dataset, usable_dataset
from atomfoundry.makers.job import foundry_job
from atomfoundry.results import current_artifacts


@dataclass
class CurateMaker(Maker):
    """Sort out the frames of a dataset that must not be trained on, and weight the others (ALGORITHMS 9.2).

    Parameters
    ----------
    name
        Name of the job and of the new dataset.
    settings
        Fields of :class:`~atomfoundry.curation.FilterSettings` that differ from its defaults.
    """

    name: str = "curate"
    settings: dict[str, Any] = field(default_factory=dict)

    @foundry_job(output_schema=DatasetDoc)
    def make(self, dataset: DatasetDoc) -> DatasetDoc:
        """Curate a dataset; its splits keep their frames as far as they stay.

        Parameters
        ----------
        dataset
            What to curate.

        Raises
        ------
        DatasetError
            If no frame is good.
        """
        from atomfoundry.curation import FilterSettings, curate_dataset

        with (
            usable_dataset(dataset.dataset) as (usable, gone),
            tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="dataset-") as folder,
        ):
            kept, report = curate_dataset(
                usable,
                Path(folder) / "good",
                settings=FilterSettings(**self.settings),
                name=self.name,
            )
            if kept is None:
                raise DatasetError(
                    f"None of the {report.n_frames} frames of '{dataset.name}' is good: {report.reasons}.",
                    remedy="Look at the examples of each filter, and at the settings.",
                )
            artifact = current_artifacts().put(kept.path, media_type=DATASET_MEDIA_TYPE)
        rejections = dict(dataset.rejections)
        for reason, n in [*report.reasons.items(), *([("withdrawn", len(gone))] if gone else [])]:
            rejections[reason] = rejections.get(reason, 0) + n
        examples: list[LabelFailure] = [*dataset.rejected, *gone, *report.examples]
        return dataset_document(artifact, name=self.name, rejections=rejections, rejected=examples)


@dataclass
class CoverageMaker(Maker):
    """What a dataset covers and what it lacks, as a document and as a page with pictures.

    Parameters
    ----------
    name
        Name of the job.
    """

    name: str = "coverage"

    @foundry_job(output_schema=CoverageDoc)
    def make(self, dataset: DatasetDoc) -> CoverageDoc:
        """Count.

        Parameters
        ----------
        dataset
            The dataset.
        """
        from atomfoundry.curation import coverage
        from atomfoundry.results.report.coverage import write_coverage_page

        report = coverage(open_dataset(dataset.dataset))
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="coverage-") as folder:
            page = Path(folder) / "coverage.html"
            write_coverage_page(report, page, title=f"Coverage of {dataset.name}")
            html = current_artifacts().put(page, media_type="text/html")
        counts = report.as_dict()
        gaps = counts.pop("gaps")
        return CoverageDoc(name=dataset.name, n_frames=report.n_frames, counts=counts, gaps=gaps, html=html)
