"""Alignments on published energies at two levels; skipped where the data are absent."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from atomfoundry.alignment import fit_alignment
from atomfoundry.datasets import attach_labels, read_extxyz
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import AlignmentError


def data_folder() -> Path:
    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    return folder


def matpes(functional: str) -> tuple[list[Atoms], dict[str, float]]:
    path = data_folder() / f"reference/two_levels/MatPES-{functional}-Element-Refs.json.gz"
    frames, isolated = [], {}
    for symbol, entry in json.loads(gzip.decompress(path.read_bytes())).items():
        structure = entry["structure"]
        atoms = Atoms(
            [site["species"][0]["element"] for site in structure["sites"]],
            positions=[site["xyz"] for site in structure["sites"]],
            cell=structure["lattice"]["matrix"],
            pbc=True,
        )
        frames.append(attach_labels(atoms, entry["energy"], entry["forces"]))
        isolated[symbol] = entry["energy_atomic"]
    return frames, isolated


def test_matpes_elements_from_pbe_to_r2scan() -> None:
    source, source_atoms = matpes("PBE")
    target, target_atoms = matpes("r2SCAN")
    alignment = fit_alignment(
        source,
        target=target,
        source_level=LevelOfTheory(code="vasp", method="PBE"),
        target_level=LevelOfTheory(code="vasp", method="r2SCAN"),
        source_isolated_energies=source_atoms,
        target_isolated_energies=target_atoms,
    )
    report = alignment.report
    # So many elements have the same structure in both files.
    assert report.n_overlap == 63
    assert 0.9 < alignment.scale < 1.2
    assert report.metrics["aec"].rmse <= report.metrics["icea"].rmse < report.metrics["raw"].rmse
    assert report.metrics["aec"].r2 > 0.95


def test_ani_basis_sets() -> None:
    folder = data_folder() / "datasets" / "ani1ccx"
    source, target = (list(read_extxyz(folder / f"ani1_n5_wb97x_{basis}.extxyz")) for basis in ("dz", "tz"))
    levels = {
        "source_level": LevelOfTheory(code="gaussian", method="wB97X", basis="6-31G*"),
        "target_level": LevelOfTheory(code="orca", method="wB97X", basis="def2-TZVPP"),
    }
    with pytest.raises(AlignmentError, match="fewer than 10"):
        fit_alignment(source, target=target, mode="overlap", source_isolated_energies={}, **levels)
    alignment = fit_alignment(source, target=target, mode="overlap", source_isolated_energies={}, force=True, **levels)
    assert alignment.report.estimated == ["C", "H", "N", "O"]
    assert alignment.report.overridden
    metrics = alignment.report.metrics
    assert metrics["aec"].rmse < 0.02 < metrics["raw"].rmse
    assert np.isfinite(alignment.scale)
