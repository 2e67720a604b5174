"""What sits in a model's seat: one description of any calculator."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

KINDS = ("calculator_class", "force_field", "engine", "model")


def short_name(path: str) -> str:
    """Return what an import path is called: the class, also where a method of the class makes it.

    Parameters
    ----------
    path
        ``"package.module:Calculator"`` or ``"package.module.Calculator.from_file"``: both are ``"Calculator"``.
    """
    parts = ["", *path.replace(":", ".").split(".")]
    return parts[-2] if parts[-2][:1].isupper() else parts[-1]


class CalculatorSpec(BaseModel):
    """Any calculator, described by plain values: a class, a force field's name, an engine, or a model folder.

    Exactly one of ``calculator_class``, ``force_field``, ``engine`` and ``model`` is given.
    """

    model_config = ConfigDict(extra="forbid")

    calculator_class: str | None = Field(
        default=None, description="Import path of an ASE calculator, e.g. 'mace.calculators.MACECalculator'"
    )
    force_field: str | None = Field(default=None, description="Name of atomate2's force field, e.g. 'CHGNet'")
    engine: str | None = Field(default=None, description="Name of a label engine, e.g. 'xtb'")
    model: str | None = Field(default=None, description="Folder of a model of ours")
    kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the calculator (for an engine: its settings)"
    )
    interpreter: str | None = Field(
        default=None, description="Python of another environment that has the class's package"
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Environment variables there, with 'interpreter'"
    )
    timeout: float | None = Field(default=None, gt=0, description="s a structure may take, with 'interpreter'")
    packages: dict[str, str] = Field(default_factory=dict, description="Package -> exact version that is needed")
    elements: list[str] = Field(default_factory=list, description="What it can compute; empty: unknown")
    name: str = Field(default="", description="How reports call it")
    profile: str = Field(default="light", description="Resource profile of jobs that use it, e.g. 'gpu'")

    @model_validator(mode="after")
    def _one_kind(self) -> CalculatorSpec:
        given = [kind for kind in KINDS if getattr(self, kind)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}; given: {', '.join(given) or 'none'}")
        if self.interpreter and not self.calculator_class:
            raise ValueError(f"'interpreter' goes with 'calculator_class', not with '{given[0]}'")
        for key in ("environment", "timeout"):
            if getattr(self, key) and not self.interpreter:
                raise ValueError(f"'{key}' goes with 'interpreter'")
        if self.engine and (self.packages or self.elements):
            raise ValueError("an engine's packages and elements belong into its settings ('kwargs')")
        return self

    @property
    def label(self) -> str:
        """How reports call it."""
        what = self.calculator_class or self.force_field or self.engine or self.model or ""
        short = short_name(what) if self.calculator_class else what
        if self.model:
            short = self.model.rstrip("/").rpartition("/")[2]
            head = self.kwargs.get("head")
            short += f" [{head}]" if head else ""
        versions = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return self.name or (f"{short} ({versions})" if versions else short)
