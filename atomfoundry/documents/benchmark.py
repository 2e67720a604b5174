"""Documents of benchmarks and reports."""

from __future__ import annotations

from pydantic import Field

from atomfoundry.documents.base import Artifact, FoundryDocument


class BenchmarkDoc(FoundryDocument):
    """One property of one calculator, next to its reference where there is one."""

    benchmark: str = Field(description="'equation_of_state', 'elasticity', 'nve_drift', 'diatomic', 'parity'")
    name: str = ""
    calculator: str = Field(description="Model name and head, or engine")
    calculator_description: dict = Field(
        default_factory=dict, description="Of a foreign calculator: its CalculatorSpec, level id and versions"
    )
    system: str = ""
    records: list[dict] = Field(default_factory=list, description="One per item")
    summary: dict[str, float | bool | str | None] = Field(default_factory=dict)
    reference: str | None = Field(default=None, description="What the reference values come from")
    reference_summary: dict[str, float | bool | str | None] = Field(default_factory=dict)
    reference_records: list[dict] = Field(default_factory=list)
    settings: dict = Field(default_factory=dict)
    settings_hash: str = ""
    n_items: int = 0
    n_failed: int = 0
    failures: list[dict] = Field(default_factory=list)
    wall_time_s: float = 0.0


class ReportDoc(FoundryDocument):
    """A report for people: one HTML file, and its headline numbers."""

    title: str
    html: Artifact
    headline: dict[str, float | str | None] = Field(default_factory=dict)
    targets: list[dict] = Field(
        default_factory=list, description="name, value, target, unit, passed: what the run should reach"
    )
