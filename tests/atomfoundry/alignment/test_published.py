"""Alignments on published energies at two levels; skipped where the data are absent."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from atomfoundry.alignment import AlignmentSettings, LevelData, fit_alignment, fit_graph
from atomfoundry.datasets import attach_labels, labels_of, read_extxyz
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import AlignmentError
from atomfoundry.harvest import harvest


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


def test_matpes_elements_without_a_common_structure_are_refused_by_name() -> None:
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
    named = "Ag Ar As Au Ba C Ca Cl Co Er F H Hg Ho In Kr Lu Mn O Pa Pr Pu S Sr Tm Xe".split()  # noqa: SIM905
    assert alignment.uncovered == named
    assert alignment.report.uncovered == dict.fromkeys(named, 1)
    aligned = 0
    for atoms in source:
        (symbol,) = set(atoms.symbols)
        if symbol in named:
            with pytest.raises(AlignmentError, match=rf"^{symbol}: no structure with it"):
                alignment.apply(atoms)
        else:
            assert labels_of(alignment.invert(alignment.apply(atoms)))[0] == pytest.approx(labels_of(atoms)[0])
            aligned += 1
    assert aligned == 63
    metrics = alignment.report.metrics
    # One scale for metals and semiconductors: 0.28 eV/atom are left of 28.6.
    assert metrics["cross_validated"].rmse < 1.05 * metrics["aec"].rmse
    assert metrics["raw"].rmse > 20 * metrics["cross_validated"].rmse
    everything = fit_alignment(
        source,
        target=target,
        source_level=LevelOfTheory(code="vasp", method="PBE"),
        target_level=LevelOfTheory(code="vasp", method="r2SCAN"),
        source_isolated_energies=source_atoms,
        target_isolated_energies=target_atoms,
        settings=AlignmentSettings(allow_uncovered=True),
    )
    assert everything.uncovered == []
    assert everything.scale == alignment.scale


def test_ani_from_wb97x_to_coupled_cluster() -> None:
    """Six common structures are too few: refused element by element; shifts alone, forced, already help."""
    path = data_folder() / "datasets" / "ani1ccx" / "ani1_n5_wb97x_tz.extxyz"
    source = list(read_extxyz(path))
    comments = [atoms.info for atoms in read(path, index=":")]
    # Coupled-cluster energies exist of some structures only.
    target = [
        attach_labels(atoms, float(info["energy_ccsdt_cbs_eV"]))
        for atoms, info in zip(source, comments, strict=True)
        if "energy_ccsdt_cbs_eV" in info
    ]
    levels = {
        "source_level": LevelOfTheory(code="orca", method="wB97X", basis="def2-TZVPP"),
        "target_level": LevelOfTheory(code="orca", method="CCSD(T)", basis="CBS"),
        "source_isolated_energies": {},
    }
    with pytest.raises(AlignmentError) as caught:
        fit_alignment(source, target=target, mode="overlap", **levels)
    for element in "CHNO":
        assert f"{element} has no isolated-atom energy at the target level and is in 6" in str(caught.value)
    shifts = AlignmentSettings(fixed_scale=1.0)
    alignment = fit_alignment(source, target=target, mode="overlap", force=True, settings=shifts, **levels)
    assert alignment.scale == 1.0
    metrics = alignment.report.metrics
    assert metrics["raw"].rmse > 0.5
    assert metrics["cross_validated"].rmse < metrics["raw"].rmse / 20
    for before, after in zip(source, map(alignment.apply, source), strict=True):
        assert np.array_equal(labels_of(before)[1], labels_of(after)[1])


def test_lithium_fluoride_at_three_functionals() -> None:
    """One common structure fixes no scale: refused; with a given scale it carries one shift a level."""
    folder = data_folder() / "dft_outputs" / "vasp" / "LiF_three_metaGGA"
    levels = []
    for name in ("scan", "rscan", "r2scan"):
        report = harvest(folder / f"vasprun.{name}.xml.gz")
        levels.append(LevelData(next(iter(report.levels.values())), report.frames))
    assert len({data.level.id for data in levels}) == 3
    graph = fit_graph(levels)
    with pytest.raises(AlignmentError, match="Only 1 structures"):
        graph.best(levels[0].level.id, levels[2].level.id)
    settings = AlignmentSettings(fixed_scale=1.0, min_overlap=1)
    graph = fit_graph(levels, modes=["overlap"], force=True, settings=settings)
    truth = labels_of(levels[2].frames[0])[0]
    for data in levels[:2]:
        alignment = graph.best(data.level.id, levels[2].level.id)
        aligned = alignment.apply(data.frames[0])
        assert labels_of(aligned)[0] == pytest.approx(truth, abs=1e-6)
        assert alignment.report.overridden or alignment.path


def test_qm9_at_two_levels() -> None:
    """The one published number (ALGORITHMS 1.6): RMSE 0.8388 eV and R2 0.9965 of total energies."""
    folder = data_folder() / "reference" / "qm9_two_levels"
    if not folder.is_dir():
        pytest.skip("QM9 at PBE/PW and wB97M-D3(BJ) is not among the data")
    source, target = (list(read_extxyz(folder / f"{name}.extxyz")) for name in ("wb97m", "pbe"))
    alignment = fit_alignment(
        source,
        target=target,
        source_level=LevelOfTheory(code="psi4", method="wB97M-D3(BJ)", basis="def2-TZVPPD"),
        target_level=LevelOfTheory(code="vasp", method="PBE"),
        source_isolated_energies={},
        mode="overlap",
    )
    errors = [labels_of(alignment.apply(a))[0] - labels_of(b)[0] for a, b in zip(source, target, strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(0.8388, rel=0.1)
    assert alignment.report.metrics["aec"].r2 == pytest.approx(0.9965, abs=0.002)
