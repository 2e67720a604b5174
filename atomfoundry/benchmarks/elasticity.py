"""Elastic constants from the stress of strained cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from atomfoundry.benchmarks.base import system_label
from atomfoundry.benchmarks.crystal_symmetry import crystal_symmetry
from atomfoundry.benchmarks.elastic_tensor import (
    VOIGT,
    cubic_constants,
    deformation_gradient,
    fit_tensor,
    green_lagrange,
    invariant_tensors,
    is_determined,
    moduli,
    necessary_modes,
    rotate_tensor,
)
from atomfoundry.benchmarks.grid import GridBenchmark, Item
from atomfoundry.benchmarks.labelling import relax, single_point, stress_of
from atomfoundry.benchmarks.records import Failure
from atomfoundry.benchmarks.structures import require_crystal, tag
from atomfoundry.errors import ConfigurationError, LabelError
from atomfoundry.units import EV_PER_A3_IN_GPA

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

ZERO = 1e-7
"""Smaller entries of C are set to zero, GPa."""

_NAMES = ("xx", "yy", "zz", "yz", "xz", "xy")


@dataclass(kw_only=True)
class Elasticity(GridBenchmark):
    """The elastic tensor of a crystal, by linear fits of Cauchy stress against Green-Lagrange strain.

    The axes are the structure's own; ``C11``, ``C12``, ``C44`` of a cubic crystal are along its cubic axes,
    however the structure is turned. Under a residual stress the result is the stress-strain coefficient,
    which differs from the elastic constant by terms of the order of that stress.

    Parameters
    ----------
    normal_strains
        Amplitudes of the normal modes.
    shear_strains
        Amplitudes of the shear modes: tensor components, half the engineering strain.
    use_symmetry
        Strain only as many modes as the point group makes necessary (2 for a cubic crystal along its axes),
        and symmetrise the tensor.
    include_zero
        Let the undeformed structure take part in every fit.
    ions
        ``"clamped"``: ions follow the cell; ``"relaxed"``: relaxed in each cell, both tensors reported.
        Labels of an engine through `structures` are clamped; compare clamped with clamped.
    relax_cell
        Relax the structure and its cell first (`run` only).
    fmax
        Largest remaining force of a relaxation, eV/A.
    max_steps
        Steps of a relaxation after which the item counts as unconverged.
    symprec
        Tolerance of the symmetry search, A.
    """

    normal_strains: tuple[float, ...] = (-0.01, -0.005, 0.005, 0.01)
    shear_strains: tuple[float, ...] = (-0.06, -0.03, 0.03, 0.06)
    use_symmetry: bool = False
    include_zero: bool = True
    ions: Literal["clamped", "relaxed"] = "relaxed"
    relax_cell: bool = False
    fmax: float = 1e-3
    max_steps: int = 500
    symprec: float = 1e-3

    benchmark: ClassVar[str] = "elasticity"
    units: ClassVar[dict[str, str]] = {
        **{f"C{i}{j}": "GPa" for i in range(1, 7) for j in range(i, 7)},
        **dict.fromkeys(("K_V", "K_R", "K_VRH", "G_V", "G_R", "G_VRH", "E", "min_eigenvalue"), "GPa"),
        **dict.fromkeys(("nu", "universal_anisotropy", "zener_anisotropy"), ""),
        "residual_stress": "GPa",
    }

    def __post_init__(self) -> None:
        self.normal_strains = tuple(sorted(float(strain) for strain in self.normal_strains))
        self.shear_strains = tuple(sorted(float(strain) for strain in self.shear_strains))
        if self.ions not in ("clamped", "relaxed"):
            raise ConfigurationError(
                f"Elasticity: ions='{self.ions}' is unknown.", remedy="Use 'clamped' or 'relaxed'."
            )
        for name, strains in (("normal", self.normal_strains), ("shear", self.shear_strains)):
            enough = len(set(strains)) == len(strains) and len(strains) + self.include_zero >= 2
            if not enough or any(strain == 0 or abs(strain) >= 0.5 for strain in strains):
                raise ConfigurationError(
                    f"Elasticity: {name}_strains {list(strains)} are too few, doubled, zero or beyond +-0.5.",
                    remedy="Give pairs such as (-0.01, 0.01); include_zero adds the undeformed cell.",
                )

    @classmethod
    def small(cls, **settings: Any) -> Elasticity:
        """Return the profile for an expensive calculator: few labels, clamped ions.

        Parameters
        ----------
        **settings
            Override the profile's.

        Returns
        -------
        Elasticity
            One pair of strains +-0.01 for each mode that symmetry leaves; 4 labels for a cubic crystal
            along its axes.
        """
        profile: dict[str, Any] = {
            "normal_strains": (-0.01, 0.01),
            "shear_strains": (-0.01, 0.01),
            "use_symmetry": True,
            "include_zero": False,
            "ions": "clamped",
        }
        return cls(**(profile | settings))

    def structures(self, atoms: Atoms | None = None) -> list[Atoms]:
        """Return the strained cells, ions at the same fractional coordinates.

        Parameters
        ----------
        atoms
            The crystal.

        Returns
        -------
        list of Atoms
            The undeformed structure first, where it takes part, then mode by mode.

        Raises
        ------
        StructureError
            If the structure is not a crystal.
        """
        crystal = require_crystal(atoms, benchmark=self.benchmark)
        system = system_label(crystal)
        group = crystal.info.get("group_id", system)
        frames = []
        for mode, amplitude in self._points(crystal):
            frame = crystal.copy()
            frame.set_constraint()
            if mode is not None:
                deformation = deformation_gradient(green_lagrange(mode, amplitude))
                frame.set_cell(crystal.cell.array @ deformation.T, scale_atoms=True)
            item = "undeformed" if mode is None else f"{_NAMES[mode]} {amplitude:+.5f}"
            frames.append(
                tag(frame, benchmark=self.benchmark, system=system, item=item, sampling="strain", group=group)
            )
        return frames

    def _basis(self, atoms: Atoms) -> np.ndarray:
        if not self.use_symmetry:
            return invariant_tensors()
        return invariant_tensors(crystal_symmetry(atoms, symprec=self.symprec).rotations)

    def _points(self, atoms: Atoms) -> list[tuple[int | None, float]]:
        """Return Voigt index (None: undeformed) and amplitude of every structure."""
        modes = necessary_modes(self._basis(atoms)) if self.use_symmetry else tuple(range(6))
        points: list[tuple[int | None, float]] = [(None, 0.0)] if self.include_zero else []
        for mode in modes:
            points += [(mode, amplitude) for amplitude in self._amplitudes(mode)]
        return points

    def _amplitudes(self, mode: int) -> tuple[float, ...]:
        return self.normal_strains if mode < 3 else self.shear_strains

    def _check_relaxed(self, relaxed: bool) -> None:
        if relaxed != (self.ions == "relaxed"):
            frames = "relaxed" if relaxed else "clamped"
            raise ConfigurationError(
                f"Elasticity with ions='{self.ions}' was given labelled frames with {frames} ions.",
                remedy=f"Set ions='{frames}'.",
            )

    def _prepare(self, calculator: BaseCalculator, atoms: Atoms | None) -> Atoms | None:
        if not self.relax_cell:
            return atoms
        crystal = require_crystal(atoms, benchmark=self.benchmark)
        return relax(crystal, calculator, cell=True, fmax=self.fmax, max_steps=self.max_steps, what="cell relaxation")[
            0
        ]

    def _label(self, item: Item, calculator: BaseCalculator) -> None:
        clamped = single_point(item.structure, calculator, what=item.label)
        if stress_of(clamped) is None:
            raise LabelError(f"{item.label}: the calculator has no stress.", reason="no_stress")
        item.frame = clamped
        if self.ions == "relaxed":
            item.details["clamped_stress"] = _in_gpa(stress_of(clamped))
            item.frame, steps = relax(
                item.structure, calculator, fmax=self.fmax, max_steps=self.max_steps, what=item.label
            )
            item.details["relaxation_steps"] = steps

    def _records(self, items: list[Item], atoms: Atoms | None) -> list[dict[str, Any]]:
        crystal = require_crystal(atoms, benchmark=self.benchmark)
        records = []
        for item, (mode, amplitude) in zip(items, self._points(crystal), strict=True):
            stress = None if item.frame is None else _in_gpa(stress_of(item.frame))
            if stress is None and item.failure is None:
                item.failure = Failure(item=item.label, reason="no_stress", message="The label has no stress.")
            voigt = None if mode is None else VOIGT[mode]
            strain = amplitude if voigt is None or voigt[0] == voigt[1] else 2 * amplitude
            records.append(
                item.record(
                    mode=None if mode is None else _NAMES[mode],
                    strain=strain,
                    stress=stress,
                )
            )
        return records

    def _summarise(
        self, items: list[Item], records: list[dict[str, Any]], atoms: Atoms | None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        crystal = require_crystal(atoms, benchmark=self.benchmark)
        basis = self._basis(crystal)
        tensor = _tensor(records, "stress", basis)
        summary = self._constants(tensor, crystal)
        tensors = [{"kind": "tensor", "ions": self.ions, "C": tensor}]
        if any("clamped_stress" in record for record in records):
            clamped = _tensor(records, "clamped_stress", basis)
            summary |= {f"clamped_{key}": value for key, value in self._constants(clamped, crystal).items()}
            tensors.append({"kind": "tensor", "ions": "clamped", "C": clamped})
        zero = next((record["stress"] for record in records if record["mode"] is None), None)
        summary["residual_stress"] = None if zero is None else float(np.abs(zero).max())
        summary["ions"] = self.ions
        return summary, tensors

    def _constants(self, tensor: np.ndarray, crystal: Atoms) -> dict[str, Any]:
        symmetry = crystal_symmetry(crystal, symprec=self.symprec)
        if symmetry.system == "cubic":
            constants: dict[str, Any] = cubic_constants(rotate_tensor(tensor, symmetry.to_standard))
        else:
            constants = {f"C{i + 1}{j + 1}": tensor[i, j] for i in range(6) for j in range(i, 6)}
        return constants | moduli(tensor)


def _in_gpa(stress: np.ndarray | None) -> np.ndarray | None:
    return None if stress is None else stress * EV_PER_A3_IN_GPA


def _tensor(records: list[dict[str, Any]], key: str, basis: np.ndarray) -> np.ndarray:
    """Fit a slope per mode and find the closest tensor of the right symmetry."""
    good = [record for record in records if record.get(key) is not None]
    columns = {}
    for mode, name in enumerate(_NAMES):
        points = [record for record in good if record["mode"] in (name, None)]
        strains = np.array([record["strain"] for record in points])
        if len(np.unique(strains)) < 2 or not strains.any():
            continue
        stresses = np.array([record[key] for record in points])
        columns[mode] = np.linalg.lstsq(np.stack([strains, np.ones_like(strains)], axis=1), stresses, rcond=None)[0][0]
    if not is_determined(basis, sorted(columns)):
        raise LabelError(
            f"Stresses under strains {[_NAMES[mode] for mode in columns]} do not determine the tensor.",
            reason="too_few_points",
        )
    tensor = fit_tensor(columns, basis)
    tensor[np.abs(tensor) < ZERO] = 0.0
    return tensor
