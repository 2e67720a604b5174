"""Maker that turns finished calculations into a dataset."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobflow import JobStore, Maker

from atomfoundry.documents import HarvestDoc, LevelOfTheory
from atomfoundry.errors import DatasetError, InputError
from atomfoundry.makers.frames import DATASET_MEDIA_TYPE
from atomfoundry.makers.job import foundry_job
from atomfoundry.results import current_artifacts

MAX_LISTED = 1000
"""Rejections that are listed one by one in the document; all of them are counted."""


@contextmanager
def _opened(description: str) -> Iterator[JobStore]:
    """Open the store that a file describes."""
    path = Path(description).expanduser()
    if not path.is_file():
        raise InputError(f"There is no description of a store '{path}'.", remedy="Write one, as jobflow's manual says.")
    store = JobStore.from_file(path)
    store.connect()
    try:
        yield store
    finally:
        store.close()


@dataclass
class HarvestMaker(Maker):
    """Read finished calculations of any supported code into a dataset, and count what was refused and why.

    Parameters
    ----------
    name
        Name of the job and of the dataset.
    steps
        ``last`` or ``all`` ionic steps.
    energy
        ``free`` (force-consistent) or ``sigma0``.
    level
        Level of theory of all files; read from each output by default.
    require_level
        Refuse frames of files that state no level of theory (trajectories, XYZ, npz).
    max_force
        Frames with a larger force (eV/A) are ``exploded``.
    max_energy_rise
        eV/atom; steps further above an earlier one of their run are ``exploded``.
    processes
        Worker processes.
    timeout
        Seconds a file may take.
    """

    name: str = "harvest"
    steps: Literal["last", "all"] = "last"
    energy: Literal["free", "sigma0"] = "free"
    level: LevelOfTheory | None = None
    require_level: bool = True
    max_force: float = 50.0
    max_energy_rise: float = 5.0
    processes: int = 1
    timeout: float = 300.0

    @foundry_job(output_schema=HarvestDoc)
    def make(
        self,
        paths: str | list[str] | None = None,
        store: str | None = None,
        query: dict[str, Any] | None = None,
    ) -> HarvestDoc:
        """Harvest files and folders, or the TaskDocs of a database.

        Parameters
        ----------
        paths
            One or more files or folders, on the machine that runs the job.
        store
            Instead of paths: the JSON or YAML file that describes a jobflow ``JobStore``, so that no password enters
            the results. Its atomate2 TaskDocs are read.
        query
            Which documents of the store (MongoDB's filter); all TaskDocs by default.

        Raises
        ------
        DatasetError
            If no frame is good.
        InputError
            If a path does not exist, or both or neither of ``paths`` and ``store`` are given.
        """
        from atomfoundry.datasets import CurationSettings, Dataset
        from atomfoundry.harvest import harvest_dataset, harvest_store_dataset

        if (paths is None) == (store is None):
            raise InputError("A harvest reads either paths or a store.", remedy="Give one of them.")
        options: dict[str, Any] = {
            "name": self.name,
            "steps": self.steps,
            "energy": self.energy,
            "level": self.level,
            "require_level": self.require_level,
            "settings": CurationSettings(max_force=self.max_force),
            "max_energy_rise": self.max_energy_rise,
        }
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="harvest-") as folder:
            path = Path(folder) / "dataset"
            if store is not None:
                with _opened(store) as opened:
                    report = harvest_store_dataset(opened, path, query=query, **options)
            else:
                report = harvest_dataset(paths or [], path, processes=self.processes, timeout=self.timeout, **options)
            if not report.n_frames:
                raise DatasetError(
                    f"None of {len(report.files)} files of {paths or store} gave a good frame: {report.reasons}.",
                    remedy="`atomfoundry harvest` lists each file and its reason.",
                )
            counts = Dataset.open(path).metadata.counts
            artifact = current_artifacts().put(path, media_type=DATASET_MEDIA_TYPE)
            shutil.rmtree(path, ignore_errors=True)
        levels = sorted(report.levels.values(), key=lambda record: record.id)
        return HarvestDoc(
            name=self.name,
            dataset=artifact,
            n_files=len(report.files),
            n_files_with_frames=sum(number > 0 for number in report.files.values()),
            n_skipped=report.skipped,
            n_frames=report.n_frames,
            n_atoms=counts.atoms,
            elements=counts.elements,
            levels=levels,
            n_without_level=report.without_level,
            rejections=report.reasons,
            rejected=report.rejections[:MAX_LISTED],
        )
