"""The Maker that explores with a model and picks what it does not know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jobflow import Maker

from atomfoundry.documents import DatasetDoc, ModelDoc, SelectionDoc, StructureSetDoc, UncertaintyDoc
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers.checkpoints import job_checkpoints
from atomfoundry.makers.frames import open_dataset, sort_elements, store_frames, structure_set
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.modelling import frames_of
from atomfoundry.makers.seats import ModelLike, Seat, take_seat
from atomfoundry.results import current_artifacts, report_progress

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.models.exploration import ForceUncertainty


@dataclass
class ExploreMaker(Maker):
    """Molecular dynamics with a model that watches its own uncertainty; uncertain frames are kept (5.4, 5.5).

    A model of ours has LLPR. Any other calculator takes a committee, whose disagreement on forces is calibrated on the
    dataset's validation frames; without one, frames are chosen by their distance to the training set alone, and the
    document says so.

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

    @foundry_job(output_schema=SelectionDoc, profile="md")
    def make(
        self,
        model: ModelLike,
        uncertainty: UncertaintyDoc | None,
        structures: StructureSetDoc,
        dataset: DatasetDoc,
        committee: list[ModelLike] | None = None,
    ) -> SelectionDoc:
        """Explore and select.

        Parameters
        ----------
        model
            The model that drives, or the description of any calculator
            (:class:`~atomfoundry.documents.CalculatorSpec`, also as a dictionary).
        uncertainty
            Its calibrated uncertainty; None for a calculator that has none.
        structures
            Where the runs start.
        dataset
            What the model knows already.
        committee
            Further models or descriptions, for a model without an uncertainty of its own.

        Raises
        ------
        ConfigurationError
            If both an uncertainty and a committee are given, or an uncertainty for a foreign calculator.
        NoTimeLeftError
            If the process must end: the job goes on from its checkpoint.
        """
        from atomfoundry.models.exploration import explore, select_frames
        from atomfoundry.models.uncertainty.committee import NoUncertainty
        from atomfoundry.sampling.enlarge import enlarge

        seat = take_seat(model, head=self.head)
        watched, words = self._uncertainty(seat, model, uncertainty, committee or [], dataset)
        alone = isinstance(watched, NoUncertainty)
        thresholds = watched.thresholds(self.head)
        candidates, runs = [], []
        starts = [enlarge(atoms, self.min_atoms) for atoms in open_dataset(structures.structures).frames()]
        with job_checkpoints() as checkpoints:
            for number, start in enumerate(starts):
                for temperature in self.temperatures:
                    label = f"{start.get_chemical_formula()} at {temperature:.0f} K"
                    report_progress(f"MD of {label}")
                    found = explore(
                        start,
                        watched,
                        temperature=temperature,
                        n_steps=self.n_steps,
                        timestep=self.timestep,
                        friction=self.friction,
                        interval=self.interval,
                        thresholds=thresholds,
                        head=self.head,
                        name=label,
                        seed=self.seed + 1000 * number + round(temperature),
                        checkpoints=checkpoints,
                    )
                    runs.append(found.record.model_copy(update={"sigma_max": []}) if alone else found.record)
                    for frame in found.flagged:
                        frame.info["group_id"] = (
                            f"{start.info.get('group_id', number)}:md-{temperature:.0f}K-round-{self.round}"
                        )
                    candidates.extend(found.flagged)
        sigmas = [frame.info["sigma_forces_max"] for frame in candidates]
        if alone:
            for frame in candidates:
                del frame.info["sigma_forces_max"]
        points, known = _descriptors(seat, candidates, frames_of(dataset, "train"))
        selection = select_frames(
            candidates,
            self.n_select,
            sigmas=sigmas,
            descriptors=points,
            training_descriptors=known,
            thresholds=thresholds,
            exponent=0.0 if alone else 1.0,
        )
        return SelectionDoc(
            round=self.round,
            uncertainty=words,
            thresholds={} if alone else thresholds,
            trajectories=runs,
            n_candidates=len(candidates),
            n_rejected=selection.n_rejected,
            n_selected=len(selection.frames),
            selected=store_frames(selection.frames, name=f"selected in round {self.round}"),
        )

    def _uncertainty(
        self,
        seat: Seat,
        model: ModelLike,
        uncertainty: UncertaintyDoc | None,
        committee: list[ModelLike],
        dataset: DatasetDoc,
    ) -> tuple[ForceUncertainty, str]:
        """Return what watches the runs, and what the choice rests on, in words."""
        from atomfoundry.models.uncertainty.committee import CommitteeUncertainty, NoUncertainty
        from atomfoundry.models.uncertainty.llpr import load_uncertainty

        if uncertainty is not None:
            if committee or seat.model is None or not isinstance(model, ModelDoc):
                raise ConfigurationError(
                    f"{self.name}: an LLPR uncertainty "
                    + ("and a committee are given." if committee else f"is given for {seat.label}, which has none."),
                    remedy="Give a trained model with its uncertainty, or a calculator with a committee.",
                )
            return load_uncertainty(current_artifacts().fetch(uncertainty.llpr), seat.model), "LLPR"
        if not committee:
            return NoUncertainty(seat.calculator), (
                f"none: {seat.label} tells no uncertainty; frames were chosen by their distance to the training set "
                "alone"
            )
        seats = [seat, *(take_seat(member, head=self.head) for member in committee)]
        watched = CommitteeUncertainty([each.calculator for each in seats], names=[each.label for each in seats])
        frames = frames_of(dataset, "valid")
        if not frames:
            raise ConfigurationError(
                f"{self.name}: the committee cannot be calibrated, because dataset '{dataset.name}' has no validation "
                "frames.",
                remedy="Give a dataset with a validation split.",
            )
        with job_checkpoints() as checkpoints:
            watched.calibrate(frames, checkpoints=checkpoints)
        return watched, (
            f"committee of {', '.join(watched.names)}, disagreement times {watched.quantile:.3g} from "
            f"{watched.n_calibration} validation frames"
        )


def _descriptors(seat: Seat, candidates: list[Atoms], known: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Return descriptors of candidates and of the training set: the model's own where it has some."""
    if seat.model is not None:
        from atomfoundry.models.descriptors import structure_descriptors

        return (
            structure_descriptors(seat.model, candidates) if candidates else np.zeros((0, 1)),
            structure_descriptors(seat.model, known),
        )
    from atomfoundry.models.foreign_descriptors import foreign_structure_descriptors

    elements = sort_elements(symbol for atoms in [*candidates, *known] for symbol in atoms.get_chemical_symbols())
    if not candidates:
        return np.zeros((0, 1)), np.zeros((0, 1))
    return (
        foreign_structure_descriptors(seat.calculator, candidates, elements=elements),
        foreign_structure_descriptors(seat.calculator, known, elements=elements),
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
