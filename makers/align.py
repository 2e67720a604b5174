"""The Maker of Total Energy Alignment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobflow import Maker

from atomfoundry.documents import AlignmentDoc, LabelSetDoc
from atomfoundry.makers.dataset import isolated_energies
from atomfoundry.makers.frames import open_dataset, store_frames
from atomfoundry.makers.job import foundry_job
from atomfoundry.results import current_artifacts


@dataclass
class AlignMaker(Maker):
    """Align labels of one level of theory to another (ALGORITHMS section 1).

    Parameters
    ----------
    name
        Name of the job.
    mode
        ``"atoms"`` or ``"bridge"``.
    scale_forces
        Scale forces and stress with the energy (they then stay derivatives of it).
    force
        Align even where the procedure would refuse.
    """

    name: str = "align"
    mode: str = "bridge"
    scale_forces: bool = True
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
            (mode ``atoms``).
        overlap_isolated
            Isolated atoms at the level of ``overlap``.

        Raises
        ------
        AlignmentError
            If the data do not support an alignment (ALGORITHMS 1.4 step 5).
        """
        from atomfoundry.alignment import fit_alignment

        frames = list(open_dataset(source.frames).frames())
        overlap_frames = list(open_dataset(overlap.frames).frames())
        result = fit_alignment(
            frames,
            overlap_frames,
            mode=self.mode,
            source_level=source.level,
            target_level=target_isolated.level,
            bridge_level=overlap.level if self.mode == "bridge" else None,
            source_isolated=isolated_energies(source_isolated),
            target_isolated=isolated_energies(target_isolated),
            bridge_isolated=isolated_energies(overlap_isolated) if self.mode == "bridge" else None,
            scale_forces=self.scale_forces,
            force=self.force,
        )
        aligned = [result.alignment.apply(atoms) for atoms in frames]
        path = Path("alignment.json")
        path.write_text(result.alignment.model_dump_json(indent=2))
        return AlignmentDoc(
            **result.document_fields(),
            alignment=current_artifacts().put(path, media_type="application/json"),
            dataset=store_frames(aligned, name=f"{source.name}, aligned", level=target_isolated.level),
            n_aligned=len(aligned),
        )
