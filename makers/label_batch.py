"""One batch of labels as a job: single points one after the other, as far as the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseResult
from atomate2.ase.utils import AseRelaxer
from jobflow import CURRENT_JOB, Response

from atomfoundry.datasets import Dataset
from atomfoundry.deadline import NoTimeLeftError, must_stop, reason_to_stop, working_time
from atomfoundry.documents import Artifact
from atomfoundry.engines import get_engine
from atomfoundry.engines.isolation import isolated
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.label_frames import LabelBatchDoc, label_frames, unsettled
from atomfoundry.makers.label_time import TimePlan
from atomfoundry.results import current_artifacts, current_labels

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from atomfoundry.engines import Engine


@dataclass
class LabelBatchMaker(AseRelaxMaker):
    """Label some frames of a structure set, one after the other; a frame that fails costs only itself.

    Built on atomate2's relaxation Maker with one step and a fixed cell: a single point whose observer records
    energy, forces and stress.

    Parameters
    ----------
    name
        Name of the job.
    engine
        Name of the engine.
    engine_settings
        Its settings.
    isolate
        Compute in a child process where the code would otherwise compute in this one.
    timeout
        Seconds a label may take.
    memory_limit
        Memory that a label may take in a child process, on top of what the loaded code has, MB.
    """

    name: str = "label batch"
    relax_cell: bool = False
    steps: int = 1
    engine: str = "espresso"
    engine_settings: dict[str, Any] = field(default_factory=dict)
    isolate: bool = True
    timeout: float | None = None
    memory_limit: float | None = None

    def build_engine(self) -> Engine:
        """Return the engine as it computes here: with its limits, and in a child process if it is to be.

        Raises
        ------
        ConfigurationError
            If a limit is given that cannot be kept.
        """
        engine = get_engine(self.engine, **self.engine_settings)
        if engine.in_process and self.isolate:
            return isolated(engine, timeout=self.timeout, memory_limit=self.memory_limit)
        if self.memory_limit is not None or (engine.in_process and self.timeout is not None):
            raise ConfigurationError(
                f"The limits of '{self.name}' hold for a code in a child process, and '{self.engine}' has none.",
                remedy="Take 'isolate: true', or leave 'timeout' and 'memory_limit' out.",
            )
        if self.timeout is None:
            return engine
        if "timeout" not in engine.settings():
            raise ConfigurationError(
                f"Engine '{self.engine}' has no time limit for '{self.name}'.", remedy="Leave 'timeout' out."
            )
        return get_engine(self.engine, **{**self.engine_settings, "timeout": self.timeout})

    def _get_calculator(self) -> Calculator:
        return self.build_engine().calculator()

    def run_ase(self, mol_or_struct: Atoms, prev_dir: str | Path | None = None) -> AseResult:
        """Run one single point on ASE atoms, whose positions a pymatgen round trip would change.

        Parameters
        ----------
        mol_or_struct
            The structure.
        prev_dir
            Unused, part of the signature.

        Returns
        -------
        AseResult
            With the labels in the trajectory's only frame.
        """
        atoms = mol_or_struct.copy()
        # pymatgen, which holds the result, refuses a missing cell vector; where nothing repeats it means
        # nothing.
        atoms.cell = atoms.cell.complete()
        engine = self.build_engine()
        if hasattr(engine, "timeout"):
            limits = [limit for limit in (engine.timeout, working_time()) if limit is not None]
            engine.timeout = min(limits, default=None)
        calculator = engine.calculator(atoms)
        relaxer = AseRelaxer(calculator, relax_cell=self.relax_cell)
        return relaxer.relax(
            atoms, steps=self.steps, final_atoms_object_file=None, use_emmet_models=False, **self.relax_kwargs
        )

    def _labels(self, atoms: Atoms) -> dict[str, Any]:
        (properties,) = self.run_ase(atoms).trajectory.frame_properties
        stress = properties.get("stress")
        return {
            "energy": float(properties["energy"]),
            "forces": np.asarray(properties["forces"]).tolist(),
            "stress": None if stress is None else np.asarray(stress).tolist(),
        }

    @foundry_job(output_schema=LabelBatchDoc)
    def make(
        self, structures: Artifact, indices: Sequence[int], tried: dict[str, list[float]] | None = None
    ) -> LabelBatchDoc | Response:
        """Label frames of a structure set; where the time of this job ends, the next one goes on.

        Parameters
        ----------
        structures
            A dataset folder.
        indices
            Which of its frames.
        tried
            Frame id -> seconds that a frame had in vain before the end of each earlier job.

        Returns
        -------
        LabelBatchDoc or Response
            Counts; the labels are in the table of labels. Where frames are left, this job is replaced by one that
            goes on: the same uuid, so that what was computed counts as its own, and the next index.

        Raises
        ------
        InputError
            If the engine's code is not installed.
        NoTimeLeftError
            If this job ends before anything could be begun.
        """
        engine = self.build_engine()
        frames = list(Dataset.open(current_artifacts().fetch(structures)).frames(list(indices)))
        if unsettled(frames, current_labels(), engine.level.id):
            if must_stop():
                raise NoTimeLeftError(
                    f"No label of '{self.name}' was begun, because {reason_to_stop()}.",
                    remedy="Run the flow again: what has been computed is kept.",
                )
            engine.check_available()
        plan = TimePlan(tried)
        batch = label_frames(
            frames,
            self._labels,
            current_labels(),
            engine=self.engine,
            level_id=engine.level.id,
            job_uuid=_job_uuid(),
            plan=plan,
        )
        if batch.n_left == 0:
            return batch
        return Response(output=batch, replace=self.make(structures, list(indices), tried=plan.tried))


def _job_uuid() -> str | None:
    return CURRENT_JOB.job.uuid if CURRENT_JOB.job is not None else None
