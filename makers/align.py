"""The Makers of Total Energy Alignment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobflow import Maker

from atomfoundry.documents import AlignmentDoc, DatasetDoc, LabelFailure, LabelSetDoc, ModelDoc
from atomfoundry.errors import AlignmentError, ConfigurationError
from atomfoundry.makers.dataset import isolated_energies
from atomfoundry.makers.frames import DATASET_MEDIA_TYPE, store_frames, usable_dataset
from atomfoundry.makers.job import foundry_job
from atomfoundry.results import current_artifacts

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.alignment import AlignmentSettings
    from atomfoundry.datasets import Dataset


@dataclass
class AlignMaker(Maker):
    """Align labels of one level of theory to another (ALGORITHMS section 1).

    Parameters
    ----------
    name
        Name of the job.
    mode
        ``"atoms"``, ``"bridge"``, or, with all shifts fitted, ``"overlap"`` or ``"pairs"`` (with bond terms).
    scale_forces
        Scale forces and stress with the energy (they then stay derivatives of it).
    dispersion
        Where only one level has a D3 correction: ``"keep"``, or ``"subtract_source"`` or ``"add_source"``, which change
        the source's labels by that of its functional.
    force
        Align even where the procedure would refuse.
    """

    name: str = "align"
    mode: Literal["atoms", "bridge", "overlap", "pairs"] = "bridge"
    scale_forces: bool = True
    dispersion: Literal["keep", "subtract_source", "add_source"] = "keep"
    force: bool = False

    @foundry_job(output_schema=AlignmentDoc)
    def make(
        self,
        source: LabelSetDoc,
        source_isolated: LabelSetDoc,
        target_isolated: LabelSetDoc,
        overlap: LabelSetDoc,
        overlap_isolated: LabelSetDoc,
    ) -> AlignmentDoc:
        """Fit the alignment and apply it to the source labels.

        Parameters
        ----------
        source
            Labels to be aligned, e.g. hybrid DFT on molecules.
        source_isolated, target_isolated
            Isolated atoms at the source and at the target level.
        overlap
            Structures of the source set, labelled at the bridge level (mode ``bridge``) or at the target level
            (other modes).
        overlap_isolated
            Isolated atoms at the level of ``overlap``.

        Raises
        ------
        AlignmentError
            If the data do not support an alignment (ALGORITHMS 1.4 step 5).
        """
        with ExitStack() as stack:
            frames, gone = stack.enter_context(usable_dataset(source.frames))
            overlap_frames, _ = stack.enter_context(usable_dataset(overlap.frames))
            return self._aligned(
                frames,
                overlap_frames,
                source=source,
                source_isolated=source_isolated,
                target_isolated=target_isolated,
                overlap=overlap,
                overlap_isolated=overlap_isolated,
                left_out={"withdrawn": len(gone)} if gone else {},
            )

    def _aligned(
        self,
        frames: Dataset,
        overlap_frames: Dataset,
        *,
        source: LabelSetDoc,
        source_isolated: LabelSetDoc,
        target_isolated: LabelSetDoc,
        overlap: LabelSetDoc,
        overlap_isolated: LabelSetDoc,
        left_out: dict[str, int],
    ) -> AlignmentDoc:
        from atomfoundry.alignment import AlignedFrames, fit_alignment

        target_atoms = isolated_energies(target_isolated)
        in_between: dict[str, Any] = {"target": overlap_frames.frames()}
        if self.mode in ("overlap", "pairs"):
            # These fit the shifts: dissociation limits for a smaller error where atoms are bound.
            target_atoms = {}
        if self.mode == "bridge":
            in_between = {
                "bridge": overlap_frames.frames(),
                "bridge_level": overlap.level,
                "bridge_isolated_energies": isolated_energies(overlap_isolated),
            }
        alignment = fit_alignment(
            frames.frames(),
            source_level=source.level,
            target_level=target_isolated.level,
            source_isolated_energies=isolated_energies(source_isolated),
            target_isolated_energies=target_atoms,
            mode=self.mode,
            scale_forces=self.scale_forces,
            dispersion=self.dispersion,
            force=self.force,
            **in_between,
        )
        path = alignment.save(Path("alignment.json"))
        aligned = AlignedFrames(frames.frames(), alignment)
        return alignment.document(
            current_artifacts().put(path, media_type="application/json"),
            dataset=store_frames(aligned, name=f"{source.name}, aligned", level=target_isolated.level),
            n_aligned=len(aligned.kept),
            left_out=left_out,
        )


@dataclass
class AlignDatasetsMaker(Maker):
    """Align datasets of any number of levels to one, over the path of least expected error.

    Parameters
    ----------
    name
        Name of the job.
    mode
        As for :func:`~atomfoundry.alignment.fit_datasets`: ``"auto"``, ``"atoms"``, ``"overlap"``, ``"pairs"``,
        ``"bridge"`` or ``"model"``.
    molecules
        Match molecules whatever box they are in, instead of equal frame ids.
    leave_out
        Leave out frames that cannot be aligned instead of stopping; the document counts them.
    scale_forces, dispersion, force
        As for :class:`AlignMaker`.
    settings
        Fields of :class:`~atomfoundry.alignment.AlignmentSettings` that differ from its defaults.
    """

    name: str = "align datasets"
    mode: Literal["auto", "atoms", "overlap", "pairs", "bridge", "model"] = "auto"
    molecules: bool = False
    leave_out: bool = False
    scale_forces: bool = True
    dispersion: Literal["keep", "subtract_source", "add_source"] = "keep"
    force: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @foundry_job
    def make(
        self,
        sources: list[DatasetDoc],
        target: DatasetDoc,
        through: list[DatasetDoc] | None = None,
        model: ModelDoc | None = None,
    ) -> list[AlignmentDoc]:
        """Fit the alignments and write every source with aligned labels.

        Parameters
        ----------
        sources
            Datasets to be aligned, each of one level.
        target
            A dataset of the target level.
        through
            Datasets of levels in between; the bridge in mode ``bridge``.
        model
            A model of the target level, for mode ``model``.

        Returns
        -------
        list
            One document a source, in their order.

        Raises
        ------
        AlignmentError
            If a source cannot be aligned (ALGORITHMS 1.4 step 5).
        ConfigurationError
            If a setting is wrong.
        """
        with ExitStack() as stack:

            def usable(documents: list[DatasetDoc]) -> list[tuple[Dataset, list[LabelFailure]]]:
                return [stack.enter_context(usable_dataset(document.dataset)) for document in documents]

            opened = usable(sources)
            return self._documents(
                sources,
                [dataset for dataset, _ in opened],
                withdrawn=[len(gone) for _, gone in opened],
                end=usable([target])[0][0],
                through=[dataset for dataset, _ in usable(through or [])],
                model=model,
            )

    def _documents(
        self,
        sources: list[DatasetDoc],
        datasets: list[Dataset],
        *,
        withdrawn: list[int],
        end: Dataset,
        through: list[Dataset],
        model: ModelDoc | None,
    ) -> list[AlignmentDoc]:
        from atomfoundry.alignment import align_dataset, fit_datasets, molecule_key
        from atomfoundry.datasets import frame_id

        alignments = fit_datasets(
            datasets,
            end,
            through=through,
            mode=self.mode,
            predictor=model_energy(current_artifacts().fetch(model.model)) if model else None,
            key=molecule_key if self.molecules else frame_id,
            scale_forces=self.scale_forces,
            dispersion=self.dispersion,
            force=self.force,
            settings=alignment_settings(self.settings, where=self.name),
        )
        documents = []
        for dataset, document, n_withdrawn in zip(datasets, sources, withdrawn, strict=True):
            if dataset.level is None or dataset.level.id not in alignments:
                raise AlignmentError(
                    f"Dataset '{document.name}' is of the target's level already.", remedy="Leave it out of sources."
                )
            alignment = alignments[dataset.level.id]
            with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="aligned-") as folder:
                path = alignment.save(Path(folder) / "alignment.json")
                aligned, left_out = align_dataset(
                    dataset, alignment, Path(folder) / "dataset", leave_out=self.leave_out
                )
                documents.append(
                    alignment.document(
                        current_artifacts().put(path, media_type="application/json"),
                        dataset=current_artifacts().put(aligned.path, media_type=DATASET_MEDIA_TYPE),
                        n_aligned=len(aligned),
                        left_out=left_out | ({"withdrawn": n_withdrawn} if n_withdrawn else {}),
                    )
                )
        return documents


def model_energy(model: Path) -> Callable[[Atoms], float]:
    """Return what asks a model folder, or any calculator by its name or description, for total energies (eV)."""
    from atomfoundry.engines.foreign import calculator_of, read_calculator_spec

    calculator = calculator_of(read_calculator_spec(str(model)))

    def energy(atoms: Atoms) -> float:
        return float(calculator.get_property("energy", atoms))

    return energy


def alignment_settings(changes: dict[str, Any], *, where: str) -> AlignmentSettings:
    """Build alignment settings from a dictionary.

    Raises
    ------
    ConfigurationError
        If a key or value is wrong.
    """
    from pydantic import ValidationError

    from atomfoundry.alignment import AlignmentSettings

    try:
        return AlignmentSettings.model_validate(changes)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"{where}: alignment setting '{key}': {first['msg']}.",
            remedy=f"Valid: {', '.join(AlignmentSettings.model_fields)}.",
        ) from error
