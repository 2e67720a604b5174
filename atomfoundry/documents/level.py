"""The level of theory of a label."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict, Field


class LevelOfTheory(BaseModel):
    """Everything that decides which energy surface a label lies on.

    Two records with equal content have equal ``id``. What only changes cost (cores, batch size) does not belong
    here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str = Field(description="Program, lower case, e.g. 'espresso', 'pyscf', 'tblite'")
    method: str = Field(description="Functional or method, e.g. 'PBE', 'wB97M-D3(BJ)', 'GFN1-xTB'")
    basis: str | None = Field(default=None, description="Gaussian basis, e.g. 'def2-SVP'")
    cutoff: float | None = Field(default=None, description="Plane-wave cutoff of the wave functions, eV")
    density_cutoff: float | None = Field(default=None, description="Plane-wave cutoff of the density, eV")
    pseudopotentials: str | None = Field(default=None, description="Family, e.g. 'SPMS-PBE-v1.0'")
    kpoint_spacing: float | None = Field(default=None, description="1/A, with the factor 2 pi")
    smearing: str | None = Field(default=None, description="Kind and width in eV, e.g. 'gaussian 0.05'")
    dispersion: str | None = None
    hubbard_u: dict[str, float] | None = None
    spin: str = Field(default="auto", description="'auto': open shells polarised, closed shells not")
    extra: dict[str, str | float | bool] = Field(default_factory=dict)

    @property
    def id(self) -> str:
        """Hash of the record, 16 hex digits."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """Short text for people, e.g. ``PBE/def2-SVP (pyscf)``."""
        body = self.method
        if self.basis:
            body += f"/{self.basis}"
        elif self.cutoff:
            body += f"/{self.cutoff:.0f} eV"
        return f"{body} ({self.code})"
