"""The Maker of Total Energy Alignment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
    mode: Literal["atoms", "bridge"] = "bridge"
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
        in_between: dict[str, Any] = {"target": overlap_frames}
        if self.mode == "bridge":
            in_between = {
                "bridge": overlap_frames,
                "bridge_level": overlap.level,
                "bridge_isolated_energies": isolated_energies(overlap_isolated),
            }
        alignment = fit_alignment(
            frames,
            source_level=source.level,
            target_level=target_isolated.level,
            source_isolated_energies=isolated_energies(source_isolated),
            target_isolated_energies=isolated_energies(target_isolated),
            mode=self.mode,
            scale_forces=self.scale_forces,
            force=self.force,
            **in_between,
        )
        path = alignment.save(Path("alignment.json"))
        aligned = [alignment.apply(atoms) for atoms in frames]
        return alignment.document(
            current_artifacts().put(path, media_type="application/json"),
            dataset=store_frames(aligned, name=f"{source.name}, aligned", level=target_isolated.level),
            n_aligned=len(aligned),
        )
