"""The fitted transform: apply it to frames, invert it, keep it as JSON."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomfoundry.datasets import attach_labels, labels_of
from atomfoundry.documents import AlignmentDoc, Artifact, EnergyMetrics, LevelOfTheory
from atomfoundry.errors import AlignmentError

Mode = Literal["atoms", "bridge", "overlap", "model"]

ALIGNED_FLAG = "aligned"
"""Flag of frames whose labels were transformed."""


class AlignmentReport(BaseModel):
    """How good the fit is, on the overlap structures. Energies are per atom."""

    model_config = ConfigDict(extra="forbid")

    n_overlap: int
    overlap_per_element: dict[str, int] = Field(default_factory=dict, description="Element -> structures")
    reference: str = Field(description="What the metrics compare with, in words")
    metrics: dict[str, EnergyMetrics] = Field(
        default_factory=dict,
        description="Against the reference. 'raw': source energies as they are; 'icea': plus the shifts; "
        "'aec': the alignment; 'cross_validated': the alignment fitted without the structure; "
        "'least_squares': what fitting one shift per element, without scale, would give",
    )
    cross_validation: str = Field(default="", description="How the structures were parted for it")
    residuals_per_element: dict[str, float] = Field(
        default_factory=dict, description="Mean of aligned minus reference over structures with it, eV/atom"
    )
    points: list[dict] = Field(default_factory=list, description="As in AlignmentDoc")
    scale_error: float | None = Field(default=None, description="Standard error of the scale")
    condition_number: float | None = Field(default=None, description="Of the design matrix, columns normalised")
    n_outliers: int = Field(default=0, description="Structures that the robust fit weighs less")
    estimated: list[str] = Field(
        default_factory=list,
        description="Elements whose source E0 was estimated by least squares, not computed",
    )
    overridden: list[str] = Field(default_factory=list, description="Refusals that force=True overrode")


class Alignment(BaseModel):
    """Total Energy Alignment of one source level to one target level (ALGORITHMS 1.4, 1.5).

    E_TEA = sum n E0^t + a (E^s - sum n E0^s), F_TEA = a F^s, stress_TEA = a stress^s. An ``apply``-ed frame
    carries the target level's id, so it may stand beside frames of that level.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    mode: Mode
    source_level: LevelOfTheory
    target_level: LevelOfTheory
    bridge_level: LevelOfTheory | None = None
    scale: float = Field(gt=0, description="a")
    source_isolated_energies: dict[str, float] = Field(description="Element -> E0^s, eV")
    target_isolated_energies: dict[str, float] = Field(description="Element -> E0^t, eV; fitted if unknown")
    shifts: dict[str, float] = Field(
        default_factory=dict,
        description="Element -> ICEA shift, eV: E0^t - E0^b with a bridge, else E0^t - E0^s",
    )
    scale_forces: bool = Field(default=True, description="False leaves forces and stress as they are")
    report: AlignmentReport

    # -- transforming ---------------------------------------------------------------------------

    def energy(self, energy: float, composition: Mapping[str, int]) -> float:
        """Return the aligned energy of a source energy.

        Parameters
        ----------
        energy
            Total energy at the source level, eV.
        composition
            Element -> number of atoms.

        Raises
        ------
        AlignmentError
            If an element has no isolated-atom energy at both levels.
        """
        source, target, shift = self._offsets(composition)
        # With a = 1 only the difference of the offsets counts: without it the energy stays bit for bit.
        return energy + shift if self.scale == 1.0 else target + self.scale * (energy - source)

    def inverse_energy(self, energy: float, composition: Mapping[str, int]) -> float:
        """Return the source energy of an aligned energy; the inverse of ``energy``."""
        source, target, shift = self._offsets(composition)
        return energy - shift if self.scale == 1.0 else (energy - target) / self.scale + source

    def apply(self, atoms: Atoms) -> Atoms:
        """Return the frame with aligned labels.

        Parameters
        ----------
        atoms
            A frame whose labels are of the source level.

        Returns
        -------
        ase.Atoms
            A copy with energy, forces and stress on the target scale, the target level's id, the flag
            ``aligned`` and, in ``info``, ``energy_raw`` (eV) and ``aligned_from`` (source level id).

        Raises
        ------
        AlignmentError
            If the frame is of another level, has no energy, or has an element that cannot be aligned.
        """
        own = atoms.info.get("level") or ""
        if own not in ("", self.source_level.id):
            raise AlignmentError(
                f"A frame of {atoms.get_chemical_formula()} has labels of level {own}; this alignment takes "
                f"those of {self.source_level.id} ({self.source_level.label}).",
                remedy="Align every level with its own alignment, and only once.",
            )
        energy, forces, stress = labels_of(atoms)
        if energy is None:
            raise AlignmentError(f"A frame of {atoms.get_chemical_formula()} has no energy to align.")
        factor = self.scale if self.scale_forces else 1.0
        aligned = attach_labels(
            atoms,
            self.energy(energy, atoms.symbols.formula.count()),
            None if forces is None else factor * forces,
            None if stress is None else factor * stress,
        )
        flags = [flag for flag in atoms.info.get("flags", []) if flag != ALIGNED_FLAG]
        aligned.info.update(
            level=self.target_level.id,
            flags=[*flags, ALIGNED_FLAG],
            energy_raw=energy,
            aligned_from=self.source_level.id,
        )
        return aligned

    def invert(self, atoms: Atoms) -> Atoms:
        """Return the frame with labels taken back to the source level; the inverse of ``apply``.

        Raises
        ------
        AlignmentError
            If the frame is of another level than the target's, or has no energy.
        """
        own = atoms.info.get("level") or ""
        if own not in ("", self.target_level.id):
            raise AlignmentError(
                f"A frame of {atoms.get_chemical_formula()} has labels of level {own}, not of the target "
                f"level {self.target_level.id} ({self.target_level.label})."
            )
        energy, forces, stress = labels_of(atoms)
        if energy is None:
            raise AlignmentError(f"A frame of {atoms.get_chemical_formula()} has no energy to take back.")
        factor = self.scale if self.scale_forces else 1.0
        restored = attach_labels(
            atoms,
            self.inverse_energy(energy, atoms.symbols.formula.count()),
            None if forces is None else forces / factor,
            None if stress is None else stress / factor,
        )
        for key in ("energy_raw", "aligned_from"):
            restored.info.pop(key, None)
        restored.info["level"] = self.source_level.id
        restored.info["flags"] = [flag for flag in atoms.info.get("flags", []) if flag != ALIGNED_FLAG]
        return restored

    def _offsets(self, composition: Mapping[str, int]) -> tuple[float, float, float]:
        tables = (self.source_isolated_energies, self.target_isolated_energies)
        missing = sorted({symbol for symbol in composition for table in tables if symbol not in table})
        if missing:
            raise AlignmentError(
                f"No isolated-atom energy of {', '.join(missing)} at both levels, so nothing that contains "
                "it can be aligned.",
                remedy="Compute the isolated atoms at both levels and fit again.",
            )
        source, target = (sum(n * table[symbol] for symbol, n in composition.items()) for table in tables)
        shift = sum(
            n * (self.target_isolated_energies[symbol] - self.source_isolated_energies[symbol])
            for symbol, n in composition.items()
        )
        return source, target, shift

    # -- keeping --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the alignment as JSON, atomically; return the path."""
        target = Path(path)
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                stream.write(self.model_dump_json(indent=1) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    @classmethod
    def load(cls, path: str | Path) -> Alignment:
        """Read an alignment written by ``save``.

        Raises
        ------
        AlignmentError
            If the file is missing, broken or of a newer schema.
        """
        try:
            alignment = cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise AlignmentError(f"'{path}' is not an alignment: {error}.", remedy="Fit it again.") from error
        if alignment.schema_version > cls.model_fields["schema_version"].default:
            raise AlignmentError(f"'{path}' is of a newer schema.", remedy="Update Atomfoundry.")
        return alignment

    def document(self, alignment: Artifact, *, dataset: Artifact | None = None, n_aligned: int = 0) -> AlignmentDoc:
        """Return the document for the results database.

        Parameters
        ----------
        alignment
            The file written by ``save``.
        dataset
            The source dataset with aligned labels, where there is one.
        n_aligned
            Its frames.
        """
        return AlignmentDoc(
            mode=self.mode,
            source_level=self.source_level,
            target_level=self.target_level,
            bridge_level=self.bridge_level,
            scale=self.scale,
            source_isolated_energies=self.source_isolated_energies,
            target_isolated_energies=self.target_isolated_energies,
            shifts=self.shifts,
            n_overlap=self.report.n_overlap,
            overlap_per_element=self.report.overlap_per_element,
            metrics=self.report.metrics,
            residuals_per_element=self.report.residuals_per_element,
            points=self.report.points,
            alignment=alignment,
            dataset=dataset,
            n_aligned=n_aligned,
        )
