"""The fitted transform: apply it to frames, invert it, keep it as JSON."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomfoundry.alignment.dispersion import Dispersion, DispersionTerm, dispersion_words
from atomfoundry.alignment.pairs import PairTerms
from atomfoundry.datasets import attach_labels, labels_of
from atomfoundry.documents import AlignmentDoc, AlignmentStep, Artifact, EnergyMetrics, LevelOfTheory
from atomfoundry.errors import AlignmentError

Mode = Literal["atoms", "bridge", "overlap", "pairs", "model", "path"]

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
        "'least_squares': what fitting one shift per element, without scale, would give, "
        "'least_squares_cross_validated': that fitted without the structure; 'affine_cross_validated': in mode "
        "'pairs', shifts and scale without bond terms, cross-validated",
    )
    metrics_per_element: dict[str, dict[str, EnergyMetrics]] = Field(
        default_factory=dict, description="Element -> the same over the structures that hold it"
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
    uncovered: dict[str, int] = Field(
        default_factory=dict, description="Elements that no overlap structure has -> source frames with them"
    )
    overridden: list[str] = Field(default_factory=list, description="Refusals that force=True overrode")

    @property
    def expected_error(self) -> float | None:
        """RMSE to expect of a new structure, eV/atom: cross-validated where it could be."""
        found = self.metrics.get("cross_validated") or self.metrics.get("aec")
        return found.rmse if found else None


class Alignment(BaseModel):
    """Total Energy Alignment of one source level to one target level (ALGORITHMS 1.4, 1.5).

    E_TEA = sum n E0^t + a (E^s - sum n E0^s), F_TEA = a F^s, stress_TEA = a stress^s; in mode ``pairs`` plus energy,
    forces and stress of the bond terms, and with ``dispersion_terms`` a times the D3 correction of the source that was
    subtracted or added (step 7). An ``apply``-ed frame carries the target level's id, so it may stand beside
    frames of that level.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 3
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
    pair_terms: list[PairTerms] = Field(default_factory=list, description="Bond terms of mode 'pairs'")
    dispersion_terms: list[DispersionTerm] = Field(
        default_factory=list, description="What is added to labels on the target's scale so that dispersion agrees"
    )
    uncovered: list[str] = Field(default_factory=list, description="Elements whose frames are refused")
    path: list[AlignmentStep] = Field(default_factory=list, description="Of an alignment over other levels")
    scale_forces: bool = Field(default=True, description="False leaves forces and stress as they are")
    report: AlignmentReport

    @property
    def expected_error(self) -> float | None:
        """RMSE to expect of a new structure, eV/atom; None where nothing was measured."""
        return self.path[-1].accumulated if self.path else self.report.expected_error

    @property
    def dispersion(self) -> Dispersion:
        """What is done about dispersion that only one of the levels has."""
        if not self.dispersion_terms:
            return "keep"
        return "subtract_source" if self.dispersion_terms[0].coefficient < 0 else "add_source"

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
            If an element cannot be aligned, or the alignment has bond or dispersion terms, which need the structure
            (``apply``).
        """
        self._refuse_without_structure()
        return self._affine(energy, composition)

    def inverse_energy(self, energy: float, composition: Mapping[str, int]) -> float:
        """Return the source energy of an aligned energy; the inverse of ``energy``."""
        self._refuse_without_structure()
        return self._inverse_affine(energy, composition)

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
        aligned_energy = self._affine(energy, atoms.symbols.formula.count())
        aligned_forces = None if forces is None else factor * forces
        aligned_stress = None if stress is None else factor * stress
        for terms in self._terms:
            more = terms.evaluate(atoms)
            aligned_energy += more[0]
            if self.scale_forces:
                aligned_forces = None if aligned_forces is None else aligned_forces + more[1]
                aligned_stress = None if aligned_stress is None else aligned_stress + more[2]
        aligned = attach_labels(atoms, aligned_energy, aligned_forces, aligned_stress)
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
        for terms in self._terms:
            more = terms.evaluate(atoms)
            energy -= more[0]
            if self.scale_forces:
                forces = None if forces is None else forces - more[1]
                stress = None if stress is None else stress - more[2]
        restored = attach_labels(
            atoms,
            self._inverse_affine(energy, atoms.symbols.formula.count()),
            None if forces is None else forces / factor,
            None if stress is None else stress / factor,
        )
        for key in ("energy_raw", "aligned_from"):
            restored.info.pop(key, None)
        restored.info["level"] = self.source_level.id
        restored.info["flags"] = [flag for flag in atoms.info.get("flags", []) if flag != ALIGNED_FLAG]
        return restored

    @property
    def _terms(self) -> list[PairTerms | DispersionTerm]:
        return [*self.pair_terms, *self.dispersion_terms]

    def _refuse_without_structure(self) -> None:
        kind = "bond" if self.pair_terms else "dispersion" if self.dispersion_terms else ""
        if kind:
            raise AlignmentError(
                f"This alignment has {kind} terms: the composition alone does not tell the energy.",
                remedy="Use apply and invert, which take the structure.",
            )

    def _affine(self, energy: float, composition: Mapping[str, int]) -> float:
        source, target, shift = self._offsets(composition)
        # With a = 1 only the difference of the offsets counts: without it the energy stays bit for bit.
        return energy + shift if self.scale == 1.0 else target + self.scale * (energy - source)

    def _inverse_affine(self, energy: float, composition: Mapping[str, int]) -> float:
        source, target, shift = self._offsets(composition)
        return energy - shift if self.scale == 1.0 else (energy - target) / self.scale + source

    def _offsets(self, composition: Mapping[str, int]) -> tuple[float, float, float]:
        tables = (self.source_isolated_energies, self.target_isolated_energies)
        missing = sorted({symbol for symbol in composition for table in tables if symbol not in table})
        if missing:
            raise AlignmentError(
                f"No isolated-atom energy of {', '.join(missing)} at both levels, so nothing that contains "
                "it can be aligned.",
                remedy="Compute the isolated atoms at both levels and fit again.",
            )
        refused = sorted(set(composition) & set(self.uncovered))
        if refused:
            raise AlignmentError(
                f"{', '.join(refused)}: no structure with it was computed at both {self.source_level.label} and "
                f"{self.target_level.label}, so the scale was never tested on it.",
                remedy="Label some structures with it at both levels, leave such frames out, or fit with "
                "allow_uncovered.",
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
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise AlignmentError(f"'{path}' is not an alignment: {error}.", remedy="Fit it again.") from error
        if alignment.schema_version > cls.model_fields["schema_version"].default:
            raise AlignmentError(f"'{path}' is of a newer schema.", remedy="Update Atomfoundry.")
        return alignment

    def document(
        self,
        alignment: Artifact,
        *,
        dataset: Artifact | None = None,
        n_aligned: int = 0,
        left_out: Mapping[str, int] | None = None,
    ) -> AlignmentDoc:
        """Return the document for the results database.

        Parameters
        ----------
        alignment
            The file written by ``save``.
        dataset
            The source dataset with aligned labels, where there is one.
        n_aligned
            Its frames.
        left_out
            Why frames of the source are not in it -> how many.
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
            metrics_per_element=self.report.metrics_per_element,
            cross_validation=self.report.cross_validation,
            n_pair_terms=sum(len(b) for terms in self.pair_terms for b in terms.coefficients.values()),
            dispersion=self.dispersion,
            dispersion_note=dispersion_words(self.source_level, self.target_level, self.dispersion_terms),
            path=self.path,
            expected_error=self.expected_error,
            uncovered=self.report.uncovered,
            left_out=dict(left_out or {}),
            alignment=alignment,
            dataset=dataset,
            n_aligned=n_aligned,
        )
