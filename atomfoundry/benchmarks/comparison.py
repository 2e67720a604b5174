"""One benchmark next to another: the model's numbers beside the label engine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from atomfoundry.benchmarks.birch_murnaghan import birch_murnaghan_energy
from atomfoundry.benchmarks.records import json_safe
from atomfoundry.documents import BenchmarkDoc
from atomfoundry.errors import ConfigurationError
from atomfoundry.units import GPA

COMPARED: dict[str, tuple[str, ...]] = {
    "equation_of_state": ("V0", "a", "E0", "B0", "B0_prime"),
    "elasticity": (
        *(f"C{i}{j}" for i in range(1, 7) for j in range(i, 7)),
        *("K_V", "K_R", "K_VRH", "G_V", "G_R", "G_VRH", "E", "nu", "zener_anisotropy"),
    ),
    "diatomic": ("r_min", "well_depth"),
    "nve_drift": (),
    "parity": (),
}
"""Which numbers of a summary get an error, per benchmark."""

_SAME_SETTINGS = {"elasticity": ("ions", "normal_strains", "shear_strains")}
"""Settings that change the number itself, so that both sides need the same."""


def compare(doc: BenchmarkDoc, reference_doc: BenchmarkDoc) -> BenchmarkDoc:
    """Put a reference beside a benchmark.

    Parameters
    ----------
    doc
        The benchmark to judge; it is not changed.
    reference_doc
        The same benchmark of the same system by what counts as the truth.

    Returns
    -------
    BenchmarkDoc
        A copy with ``reference``, ``reference_summary`` and ``reference_records``; its summary has, for
        each number ``X`` that both know, ``X_error`` (value - reference) and ``X_relative_error`` (the
        former over the reference's magnitude; None where that is zero). Equations of state also get
        ``delta`` (meV/atom, root mean square difference of the two curves within +-6 % of the mean volume;
        Lejaeghere et al., Science 351, aad3000 (2016)), diatomics ``energy_mae`` and ``force_mae`` at the
        reference's distances.

    Raises
    ------
    ConfigurationError
        If the two are not the same property of the same system, or are elastic constants by other strains or
        with the ions treated otherwise.
    """
    _check_same(doc, reference_doc)
    errors: dict[str, Any] = {}
    for key in COMPARED.get(doc.benchmark, ()):
        value, truth = doc.summary.get(key), reference_doc.summary.get(key)
        if not isinstance(value, float) or not isinstance(truth, float):
            continue
        errors[f"{key}_error"] = value - truth
        errors[f"{key}_relative_error"] = (value - truth) / abs(truth) if truth else None
    curve = _CURVES.get(doc.benchmark)
    if curve is not None:
        errors |= curve(doc, reference_doc)
    return doc.model_copy(
        update={
            "reference": reference_doc.calculator,
            "reference_summary": dict(reference_doc.summary),
            "reference_records": list(reference_doc.records),
            "summary": {**doc.summary, **json_safe(errors)},
        }
    )


def _check_same(doc: BenchmarkDoc, reference_doc: BenchmarkDoc) -> None:
    if doc.benchmark != reference_doc.benchmark:
        raise ConfigurationError(
            f"Benchmark '{doc.benchmark}' cannot be compared with '{reference_doc.benchmark}'.",
            remedy="Give a reference of the same property.",
        )
    if doc.system and reference_doc.system and doc.system != reference_doc.system:
        raise ConfigurationError(
            f"Benchmark '{doc.benchmark}': {doc.system} cannot be compared with {reference_doc.system}.",
            remedy="Give a reference of the same structure.",
        )
    for key in _SAME_SETTINGS.get(doc.benchmark, ()):
        ours, theirs = doc.settings.get(key), reference_doc.settings.get(key)
        if ours != theirs:
            raise ConfigurationError(
                f"Benchmark '{doc.benchmark}' with {key}={ours} cannot be compared with {key}={theirs}.",
                remedy=f"Use the same '{key}' for both.",
            )


def _delta(doc: BenchmarkDoc, reference_doc: BenchmarkDoc) -> dict[str, float | None]:
    """Root mean square difference of two fitted equations of state."""
    fits = []
    for summary in (doc.summary, reference_doc.summary):
        values = [summary.get(key) for key in ("V0", "B0", "B0_prime")]
        if not all(isinstance(value, float) for value in values):
            return {"delta": None}
        fits.append([float(value) for value in values if value is not None])
    centre = (fits[0][0] + fits[1][0]) / 2
    volumes = np.linspace(0.94 * centre, 1.06 * centre, 201)
    curves = [
        birch_murnaghan_energy(volumes, v0=v0, e0=0.0, b0=b0 * GPA, b0_prime=b0_prime) for v0, b0, b0_prime in fits
    ]
    squared = np.trapezoid((curves[0] - curves[1]) ** 2, volumes) / (volumes[-1] - volumes[0])
    return {"delta": 1000 * float(np.sqrt(squared))}


def _dimer_errors(doc: BenchmarkDoc, reference_doc: BenchmarkDoc) -> dict[str, float | None]:
    """Mean absolute differences of two binding curves at the reference's distances, by interpolation."""
    from scipy.interpolate import CubicSpline

    def points(document: BenchmarkDoc) -> np.ndarray:
        rows = [
            (record["distance"], record["energy"], record["force"])
            for record in document.records
            if record.get("status") == "ok" and record.get("force") is not None
        ]
        return np.array(sorted(rows)).reshape(-1, 3)

    ours, theirs = points(doc), points(reference_doc)
    if len(ours) >= 2:
        inside = (theirs[:, 0] >= ours[0, 0] - 1e-8) & (theirs[:, 0] <= ours[-1, 0] + 1e-8)
        theirs = theirs[inside]
    if len(ours) < 4 or len(theirs) < 2:
        return {"energy_mae": None, "force_mae": None}
    spline = CubicSpline(ours[:, 0], ours[:, 1:])(theirs[:, 0])
    # Both curves count from the largest distance they share, whatever their own zero is.
    energies = (spline[:, 0] - spline[-1, 0]) - (theirs[:, 1] - theirs[-1, 1])
    forces = spline[:, 1] - theirs[:, 2]
    return {"energy_mae": float(np.abs(energies).mean()), "force_mae": float(np.abs(forces).mean())}


_CURVES: dict[str, Callable[[BenchmarkDoc, BenchmarkDoc], dict[str, float | None]]] = {
    "equation_of_state": _delta,
    "diatomic": _dimer_errors,
}
