"""The Maker that explores with a model and picks what it does not know."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jobflow import Maker

from atomfoundry.documents import DatasetDoc, ModelDoc, SelectionDoc, StructureSetDoc, UncertaintyDoc
from atomfoundry.makers.frames import open_dataset, store_frames, structure_set
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.modelling import frames_of, load_artifact_model
from atomfoundry.results import current_artifacts, report_progress


@dataclass
class ExploreMaker(Maker):
    """Molecular dynamics with a model that watches its own uncertainty; uncertain frames are kept (5.4, 5.5).

    Parameters
    ----------
    name
        Name of the job.
    temperatures
        K, one run each for every structure.
    min_atoms
        Structures with fewer atoms run in a supercell of at least so many; the conventional cell of a crystal if
        that is large enough.
    n_steps, timestep, friction, interval
        Length of a run, fs, 1/fs, and the steps between two looks at the uncertainty.
    n_select
        At most so many frames are labelled.
    head
        Readout head that drives the dynamics.
    round
        Number of this round.
    seed
        Seed of the dynamics.
    """

    name: str = "explore"
    temperatures: list[float] = field(default_factory=lambda: [600.0, 1500.0])
    min_atoms: int = 8
    n_steps: int = 400
    timestep: float = 2.0
    friction: float = 0.02
    interval: int = 10
    n_select: int = 4
    head: str = "pt"
    round: int = 1
    seed: int = 0

    @foundry_job(output_schema=SelectionDoc)
    def make(
        self, model: ModelDoc, uncertainty: UncertaintyDoc, structures: StructureSetDoc, dataset: DatasetDoc
    ) -> SelectionDoc:
        """Explore and select.

        Parameters
        ----------
        model, uncertainty
            The model and its calibrated uncertainty.
        structures
            Where the runs start.
        dataset
            What the model knows already.
        """
        from atomfoundry.models.descriptors import structure_descriptors
        from atomfoundry.models.exploration import explore, select_frames
        from atomfoundry.models.uncertainty.llpr import load_uncertainty
        from atomfoundry.sampling.enlarge import enlarge

        loaded = load_artifact_model(model)
        llpr = load_uncertainty(current_artifacts().fetch(uncertainty.llpr), loaded)
        thresholds = llpr.thresholds(self.head)
        candidates, runs = [], []
        starts = [enlarge(atoms, self.min_atoms) for atoms in open_dataset(structures.structures).frames()]
        for number, start in enumerate(starts):
            for temperature in self.temperatures:
                label = f"{start.get_chemical_formula()} at {temperature:.0f} K"
                report_progress(f"MD of {label}")
                found = explore(
                    start,
                    llpr,
                    temperature=temperature,
                    n_steps=self.n_steps,
                    timestep=self.timestep,
                    friction=self.friction,
                    interval=self.interval,
                    thresholds=thresholds,
                    head=self.head,
                    name=label,
                    seed=self.seed + 1000 * number + round(temperature),
                )
                runs.append(found.record)
                for frame in found.flagged:
                    frame.info["group_id"] = (
                        f"{start.info.get('group_id', number)}:md-{temperature:.0f}K-round-{self.round}"
                    )
                candidates.extend(found.flagged)
        known = frames_of(dataset, "train")
        selection = select_frames(
            candidates,
            self.n_select,
            sigmas=[frame.info["sigma_forces_max"] for frame in candidates],
            descriptors=structure_descriptors(loaded, candidates) if candidates else np.zeros((0, 1)),
            training_descriptors=structure_descriptors(loaded, known),
            thresholds=thresholds,
        )
        return SelectionDoc(
            round=self.round,
            thresholds=thresholds,
            trajectories=runs,
            n_candidates=len(candidates),
            n_rejected=selection.n_rejected,
            n_selected=len(selection.frames),
            selected=store_frames(selection.frames, name=f"selected in round {self.round}"),
        )


@dataclass
class SelectedStructuresMaker(Maker):
    """The frames that active learning chose, as a structure set for the label Makers."""

    name: str = "selected structures"

    @foundry_job(output_schema=StructureSetDoc)
    def make(self, selection: SelectionDoc) -> StructureSetDoc:
        """Hand the selected frames on.

        Parameters
        ----------
        selection
            What was chosen.
        """
        return structure_set(list(open_dataset(selection.selected).frames()), name=self.name)
