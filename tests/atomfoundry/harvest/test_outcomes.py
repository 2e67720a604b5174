"""The table of real outputs and what becomes of each, and every reference value that is known of them."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atomfoundry.datasets import CurationSettings, labels_of
from atomfoundry.harvest.formats import kind_of, parser_of
from atomfoundry.harvest.judge import FileOutcome, HarvestOptions, judge_run, rejection
from atomfoundry.harvest.run import ParseFailure, Run
from atomfoundry.units import BOHR, HARTREE, KBAR, RYDBERG

OPEN = CurationSettings(
    max_force=1e9,
    max_stress=1e9,
    max_net_force_periodic=1e9,
    max_net_force_molecule=1e9,
    min_distance_factor=0,
    drop_duplicates=False,
)
GOOD = "frames"

# File: outcome with the last step and the default checks, and (frames, reasons) of all steps.
TABLE: dict[str, tuple[str, int, dict[str, int]]] = {
    "abinit/supercell-001.out": ("unconverged_electronic", 0, {"unconverged_electronic": 1}),
    "ase_traj/sample_traj.traj": ("no_energy", 8, {"no_energy": 2}),
    "castep/Si8-md-NPT.castep": (GOOD, 11, {}),
    "cp2k/H2O-32_md/H2O-32-pos-1.xyz": ("no_energy", 0, {"no_energy": 11}),
    "cp2k/H2O-32_md/H2O-32.out": ("no_forces", 0, {"no_forces": 11}),
    "cp2k/Si-truncated.out": ("truncated", 0, {"truncated": 1}),
    "cp2k/Si.out": ("no_forces", 0, {"no_forces": 1}),
    # Forces and energy, but the coordinates were not printed.
    "cp2k/Si_bulk8.out": ("unreadable", 0, {"unreadable": 1}),
    "cp2k/custodian/cp2k.out.conv": ("truncated", 0, {"truncated": 1}),
    "cp2k/custodian/cp2k.out.hybrid": ("truncated", 0, {"truncated": 1}),
    "cp2k/custodian/cp2k.out.imprecise": ("truncated", 0, {"truncated": 1}),
    "cp2k/custodian/cp2k.out.unconverged": ("unconverged_electronic", 0, {"unconverged_electronic": 1}),
    "cp2k/pmg/cp2k.out": ("nan", 0, {"nan": 1}),
    "cp2k/si_bulk8/si_bulk8.out": (GOOD, 1, {}),
    "fhiaims/Fe_spin/out.out.gz": ("no_forces", 0, {"no_forces": 1}),
    "fhiaims/Si_opt.out.gz": (GOOD, 5, {}),
    "fhiaims/diamond_disp/aims.out.gz": (GOOD, 1, {}),
    "gpaw/H2_fd.gpw2": (GOOD, 1, {}),
    "gpaw/Si_pw.gpw2": ("no_forces", 0, {"no_forces": 1}),
    # ORCA ends an optimisation with an energy without gradient; the result is the cycle that converged before.
    "orca/orca.out.gz": (GOOD, 3, {"no_forces": 1}),
    "qe/Li2O4_vcrelax_mp-1018789/pw.out.gz": ("unconverged_ionic", 46, {"too_close": 3, "exploded": 1}),
    "qe/NaCl64_displaced/NaCl-001.out": (GOOD, 1, {}),
    "qe/NaCl64_displaced/NaCl-002.out": (GOOD, 1, {}),
    "qe/default_xml_211101/aiida.out": (GOOD, 1, {}),
    "qe/default_xml_211101/data-file-schema.xml": (GOOD, 1, {}),
    "qe/default_xml_230310/aiida.out": (GOOD, 1, {}),
    "qe/default_xml_230310/data-file-schema.xml": (GOOD, 1, {}),
    "qe/failed_computing_cholesky_stdout/aiida.out": ("crashed", 0, {"crashed": 1}),
    "qe/failed_interrupted_relax/aiida.out": ("truncated", 0, {"truncated": 1}),
    # The XML beside it is that of an older, good run.
    "qe/failed_interrupted_relax/data-file-schema.xml": (GOOD, 1, {}),
    "qe/failed_out_of_walltime_interrupted/aiida.out": ("truncated", 0, {"truncated": 1}),
    "qe/failed_out_of_walltime_interrupted/data-file-schema.xml": (
        "unconverged_electronic",
        0,
        {"unconverged_electronic": 1},
    ),
    "qe/failed_scf_not_converged/aiida.out": ("unconverged_electronic", 0, {"unconverged_electronic": 1}),
    "qe/failed_scf_not_converged/data-file-schema.xml": ("unconverged_electronic", 0, {"unconverged_electronic": 1}),
    "qe/relax_failed_electronic/aiida.out": ("unconverged_electronic", 0, {"unconverged_electronic": 1}),
    "qe/relax_failed_electronic/data-file-schema.xml": ("unconverged_electronic", 0, {"unconverged_electronic": 1}),
    "qe/relax_failed_not_converged_nstep/aiida.out": ("unconverged_ionic", 1, {}),
    "qe/relax_failed_not_converged_nstep/data-file-schema.xml": ("unconverged_ionic", 1, {}),
    "qe/relax_success/aiida.out": (GOOD, 1, {}),
    "qe/relax_success/data-file-schema.xml": (GOOD, 1, {}),
    "qe/scf_success_rVV10/aiida.out": ("no_forces", 0, {"no_forces": 1}),
    "qe/scf_success_rVV10/data-file-schema.xml": ("no_forces", 0, {"no_forces": 1}),
    "qe/tot_magnetization/aiida.out": ("no_forces", 0, {"no_forces": 1}),
    "qe/tot_magnetization/data-file-schema.xml": ("no_forces", 0, {"no_forces": 1}),
    # The final scf repeats the last structure.
    "qe/vcrelax_failed_bfgs_history/aiida.out": (GOOD, 4, {"duplicate": 1}),
    "qe/vcrelax_failed_bfgs_history/data-file-schema.xml": (GOOD, 2, {}),
    "qe/vcrelax_success/aiida.out": (GOOD, 2, {"duplicate": 1}),
    "qe/vcrelax_success/data-file-schema.xml": (GOOD, 2, {}),
    "vasp/Al2O3_aimd/OUTCAR.gz": (GOOD, 10, {}),
    "vasp/Al2O3_relax/OUTCAR.gz": (GOOD, 20, {}),
    "vasp/Cu_etest/OUTCAR.etest1.gz": (GOOD, 7, {"exploded": 1}),
    "vasp/Cu_etest/OUTCAR.etest2.gz": (GOOD, 7, {"exploded": 1}),
    "vasp/Cu_etest/OUTCAR.etest3.gz": (GOOD, 6, {"exploded": 1, "large_stress": 2}),
    "vasp/Cu_etest/OUTCAR.etest4.gz": (GOOD, 6, {"exploded": 1, "large_stress": 1}),
    "vasp/Cu_etest/vasprun.etest1.xml.gz": (GOOD, 7, {"exploded": 1}),
    "vasp/Cu_etest/vasprun.etest2.xml.gz": (GOOD, 7, {"exploded": 1}),
    "vasp/Cu_etest/vasprun.etest3.xml.gz": (GOOD, 6, {"exploded": 1, "large_stress": 2}),
    "vasp/Cu_etest/vasprun.etest4.xml.gz": (GOOD, 6, {"exploded": 1, "large_stress": 1}),
    "vasp/Fe2_sample/OUTCAR": (GOOD, 1, {}),
    "vasp/Fe2_sample/vasprun.xml": (GOOD, 1, {}),
    "vasp/FeS2_potim/OUTCAR.gz": ("exploded", 2, {"exploded": 1}),
    "vasp/LPS_npt/OUTCAR.gz": (GOOD, 10, {}),
    "vasp/LiF_three_metaGGA/vasprun.r2scan.xml.gz": (GOOD, 1, {}),
    "vasp/LiF_three_metaGGA/vasprun.rscan.xml.gz": (GOOD, 1, {}),
    "vasp/LiF_three_metaGGA/vasprun.scan.xml.gz": (GOOD, 1, {}),
    "vasp/LiF_three_metaGGA/vasprun.unknown.xml.gz": ("unknown_level", 0, {"unknown_level": 1}),
    "vasp/LiH_r2scan_relax/OUTCAR": (GOOD, 1, {}),
    "vasp/LiH_r2scan_relax/vasprun.xml.gz": (GOOD, 1, {}),
    "vasp/Li_pbe_relax/OUTCAR": (GOOD, 3, {}),
    "vasp/Li_pbe_relax/vasprun.xml.gz": (GOOD, 3, {}),
    "vasp/OUTCAR.CL.gz": (GOOD, 79, {}),
    "vasp/OUTCAR.NiO_SOC.gz": (GOOD, 1, {}),
    # Its lines were lost and doubled on the way: one step has no lattice, another two stresses.
    "vasp/OUTCAR.electrostaticerror.gz": ("truncated", 17, {"unreadable": 2}),
    "vasp/OUTCAR.stopped.gz": ("unconverged_ionic", 1, {}),
    "vasp/OUTCAR.vasp.6.2.1.mpi.gz": (GOOD, 1, {}),
    "vasp/OUTCAR_merged_numbers2.gz": (GOOD, 1, {}),
    "vasp/Si2_pbe_static/OUTCAR": (GOOD, 1, {}),
    "vasp/Si2_pbe_static/vasprun.xml.gz": (GOOD, 1, {}),
    "vasp/aborted/OUTCAR": ("truncated", 0, {"truncated": 1}),
    "vasp/aborted/vasprun.xml": ("truncated", 0, {"truncated": 1}),
    "vasp/bad_vasprun/vasprun.xml.gz": ("unconverged_electronic", 0, {"unconverged_electronic": 5}),
    **{
        f"vasp/hydrostatic_strain/strain_{strain}/OUTCAR.gz": (GOOD, 1, {})
        for strain in ("-0.0100", "-0.0200", "-0.0300", "-0.0500", "0.0000", "0.0100", "0.0200", "0.0300", "0.0500")
    },
    "vasp/hydrostatic_strain/strain_0.1000/OUTCAR.gz": (GOOD, 1, {}),
    "vasp/hydrostatic_strain/strain_-0.1000/OUTCAR.gz": ("large_stress", 0, {"large_stress": 1}),
    "vasp/no_nions/OUTCAR": ("truncated", 0, {"truncated": 1}),
    "vasp/vasprun.bad.xml.gz": ("truncated", 1, {}),
    "vasp/vasprun.bad_random_seed.xml.gz": (GOOD, 264, {}),
    "vasp/vasprun.charged.xml.gz": (GOOD, 5, {}),
    "vasp/vasprun.hse06.xml.gz": ("unconverged_electronic", 0, {"unconverged_electronic": 1}),
    "vasp/vasprun.lifepo4.xml.gz": (GOOD, 11, {}),
    "vasp/vasprun.magmom_ldau.xml.gz": (GOOD, 3, {}),
    "vasp/vasprun.md.xml.gz": (GOOD, 10, {}),
    # Its forces do not sum to zero: up to 0.24 eV/A an atom.
    "vasp/vasprun.ml_md.xml.gz": ("net_force", 0, {"net_force": 20}),
    "vasp/vasprun.pbesol_vdw.xml.gz": (GOOD, 5, {}),
    "vasp/vasprun.unconverged.xml.gz": ("unconverged_electronic", 0, {"unconverged_electronic": 5}),
    "vasp/vasprun.wrong_sp.xml.gz": ("unreadable", 0, {"unreadable": 1}),
    "vasp/vasprun.xml.ionic.gz": ("unconverged_ionic", 2, {}),
    "vasp/vasprun.xml.scan.gz": ("unconverged_electronic", 0, {"unconverged_electronic": 1}),
    "vasp/vasprun_spoilt.xml": ("truncated", 0, {"truncated": 1}),
}
INPUTS = {".in", ".inp"}
NSTEP = "relax_failed_not_converged_nstep"


def data_folder() -> Path:
    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    return folder


@cache
def parsed(name: str) -> Run | ParseFailure:
    path = data_folder() / "dft_outputs" / name
    kind = kind_of(path)
    assert kind is not None, f"{name} is not recognised"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return parser_of(kind)(path)
    except ParseFailure as failure:
        return failure


def outcome(name: str, steps: Any, strict: bool) -> FileOutcome:
    """Judge a file; each is parsed once for all tests."""
    options = HarvestOptions(steps=steps, settings=None if strict else OPEN, max_energy_rise=5.0 if strict else np.inf)
    run = parsed(name)
    if isinstance(run, ParseFailure):
        return FileOutcome(name, rejections=[rejection(name, run.reason, str(run))])
    return judge_run(copy.deepcopy(run), name, name, options)


def test_the_table_names_every_file() -> None:
    folder = data_folder() / "dft_outputs"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    rest = files - set(TABLE)
    assert all(Path(name).suffix in INPUTS or Path(name).name == "CRASH" for name in rest), rest
    assert not set(TABLE) - files


@pytest.mark.parametrize("name", sorted(TABLE))
def test_outcome(name: str) -> None:
    last, number, reasons = TABLE[name]
    one = outcome(name, "last", True)
    assert (GOOD if one.frames else one.rejections[0].reason) == last, one.rejections
    assert len(one.frames) + len(one.rejections) == 1
    every = outcome(name, "all", True)
    assert (len(every.frames), dict(Counter(item.reason for item in every.rejections))) == (number, reasons)
    for item in every.rejections:
        assert item.message and item.source.startswith(name)
    if not reasons or number:
        assert every.level is not None or name.startswith("ase_traj"), "the level comes from the output"


# -- reference values -----------------------------------------------------------------------------


def reference() -> dict[str, dict[str, Any]]:
    values = json.loads((data_folder() / "reference/dft_reference_values.json").read_text())
    return {name.removeprefix("dft_outputs/"): record for name, record in values.items()}


def read_all(name: str) -> tuple[FileOutcome, Any, Any]:
    every = outcome(name, "all", False)
    return every, every.frames[0], every.frames[-1]


def with_frames(prefix: str, kind: str) -> list[str]:
    """Name the files of the table that give frames; checks that refuse all of a file do not count here."""
    opened = ("net_force", "large_stress", "exploded", "too_close")
    return sorted(
        name
        for name, (_, number, reasons) in TABLE.items()
        if name.startswith(prefix) and kind in Path(name).name and (number or set(reasons) & set(opened))
    )


CONTRIBUTIONS = {"qe/default_xml_211101/aiida.out", "qe/relax_failed_not_converged_nstep/aiida.out"}


@pytest.mark.parametrize("name", with_frames("vasp/", "vasprun"))
def test_vasprun_reference(name: str) -> None:
    known = reference()[name]
    every, first, last = read_all(name)
    assert len(every.frames) == known["n_closed_calculation_blocks"]
    energy, forces, stress = labels_of(last)
    assert labels_of(first)[0] == pytest.approx(known["e_fr_energy_first_last"][0], abs=1e-6)
    assert energy == pytest.approx(known["e_fr_energy_first_last"][1], abs=1e-6)
    assert last.info["energy_sigma0"] == pytest.approx(known["E0_best"], abs=1e-6)
    assert forces is not None
    assert np.allclose(forces[0], known["last_force_atom0"], atol=1e-5)
    assert np.allclose(forces.sum(axis=0), known["last_sum_force"], atol=1e-5)
    assert np.linalg.norm(forces, axis=1).max() == pytest.approx(known["last_max_abs_force"], abs=1e-5) or np.abs(
        forces
    ).max() == pytest.approx(known["last_max_abs_force"], abs=1e-5)
    if "last_stress_kB" in known:
        kbar = np.array(known["last_stress_kB"])
        voigt = [(kbar[i, j] + kbar[j, i]) / 2 for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
        assert np.allclose(stress, -KBAR * np.array(voigt), atol=1e-5)
    else:
        assert stress is None, "no stress is absent, not zero"


@pytest.mark.parametrize("name", with_frames("vasp/", "OUTCAR"))
def test_outcar_reference(name: str) -> None:
    known = reference()[name]
    every, first, last = read_all(name)
    lost = len(every.rejections)
    assert len(every.frames) + lost == known["n_force_blocks"]
    energy, forces, stress = labels_of(last)
    assert labels_of(first)[0] == pytest.approx(known["TOTEN_first_last"][0], abs=1e-6)
    assert energy == pytest.approx(known["TOTEN_first_last"][1], abs=1e-6)
    assert last.info["energy_sigma0"] == pytest.approx(known["sigma0_last"], abs=1e-6)
    assert forces is not None
    assert np.allclose(forces[0], known["last_force_atom0"], atol=1e-5)
    if known["n_in_kB"] == known["n_force_blocks"]:
        kbar = np.array(known["in_kB_last_xx_yy_zz_xy_yz_zx"], dtype=float)
        assert np.allclose(stress, -KBAR * kbar[[0, 1, 2, 4, 5, 3]], atol=1e-5)


@pytest.mark.parametrize("name", with_frames("qe/", "out"))
def test_espresso_reference(name: str) -> None:
    known = reference()[name]
    every, first, last = read_all(name)
    assert len(every.frames) == known["n_energies"]
    energy, forces, stress = labels_of(last)
    assert labels_of(first)[0] == pytest.approx(known["energy_Ry_first_last"][0] * RYDBERG, rel=1e-9, abs=1e-6)
    assert energy == pytest.approx(known["energy_Ry_first_last"][1] * RYDBERG, rel=1e-9, abs=1e-6)
    # With high verbosity the recorded row is that of a contribution, not of the total forces.
    if known["force_atom1_last_RyBohr"] is not None and name not in CONTRIBUTIONS:
        assert forces is not None
        assert np.allclose(forces[0], np.array(known["force_atom1_last_RyBohr"]) * RYDBERG / BOHR, atol=1e-5)
    if known["pressure_kbar_last"] is not None:
        assert stress is not None
        # The file rounds the pressure to 0.01 kbar.
        assert -np.mean(stress[:3]) == pytest.approx(known["pressure_kbar_last"] * KBAR, abs=1e-5)


@pytest.mark.parametrize(
    "folder", ["default_xml_211101", "default_xml_230310", "relax_success", "vcrelax_success", NSTEP]
)
def test_espresso_text_and_xml_agree(folder: str) -> None:
    text, xml = (outcome(f"qe/{folder}/{file}", "all", False) for file in ("aiida.out", "data-file-schema.xml"))
    assert text.level == xml.level
    for one, two in zip(labels_of(text.frames[-1]), labels_of(xml.frames[-1]), strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            assert np.allclose(one, two, atol=5e-6)
    # The text rounds alat, and with it the cell.
    assert np.allclose(text.frames[-1].cell.array, xml.frames[-1].cell.array, atol=1e-5)


def test_energies_of_the_other_codes() -> None:
    known = reference()
    for name in ("cp2k/si_bulk8/si_bulk8.out",):
        frame = outcome(name, "last", False).frames[0]
        assert labels_of(frame)[0] == pytest.approx(known[name]["energy_Ha_first_last"][1] * HARTREE, abs=1e-6)
        assert np.allclose(frame.cell.lengths(), 5.431, atol=1e-3)
    orca = outcome("orca/orca.out.gz", "all", False)
    assert labels_of(orca.frames[0])[0] == pytest.approx(
        known["orca/orca.out.gz"]["energy_Ha_first_last"][0] * HARTREE, abs=1e-6
    )
    assert len(orca.frames) == known["orca/orca.out.gz"]["n_gradients"]
    for name in ("fhiaims/Si_opt.out.gz", "fhiaims/diamond_disp/aims.out.gz"):
        frames = outcome(name, "all", False).frames
        values = known[name]["uncorrected_eV_first_last"]
        assert [labels_of(frames[0])[0], labels_of(frames[-1])[0]] == pytest.approx(values, abs=1e-6)
    castep = outcome("castep/Si8-md-NPT.castep", "last", False).frames[0]
    assert labels_of(castep)[0] == pytest.approx(-855.4802943941, abs=1e-6), "the free energy, not the final energy"
    assert castep.info["energy_sigma0"] == pytest.approx((-855.4802943941 - 855.4784770973) / 2, abs=1e-6)


def test_levels_of_theory() -> None:
    def level(name: str) -> Any:
        return outcome(name, "all", False).level

    for folder, pairs in {
        "Cu_etest": [(f"OUTCAR.etest{n}.gz", f"vasprun.etest{n}.xml.gz") for n in (1, 2, 3, 4)],
        "Si2_pbe_static": [("OUTCAR", "vasprun.xml.gz")],
        "Li_pbe_relax": [("OUTCAR", "vasprun.xml.gz")],
        "LiH_r2scan_relax": [("OUTCAR", "vasprun.xml.gz")],
        "Fe2_sample": [("OUTCAR", "vasprun.xml")],
    }.items():
        for one, two in pairs:
            assert level(f"vasp/{folder}/{one}") == level(f"vasp/{folder}/{two}")
    three = [level(f"vasp/LiF_three_metaGGA/vasprun.{name}.xml.gz").method for name in ("scan", "rscan", "r2scan")]
    assert three == ["SCAN", "rSCAN", "r2SCAN"]
    # VASP 5.4.1 writes IVDW into OUTCAR only.
    assert level("vasp/Cu_etest/vasprun.etest3.xml.gz").dispersion == "D3(BJ)"
    assert level("vasp/OUTCAR.NiO_SOC.gz").spin == "spin-orbit"
    assert level("vasp/OUTCAR.NiO_SOC.gz").hubbard_u == {"Ni": 5.0}
    assert level("qe/default_xml_230310/aiida.out").hubbard_u == {"Co": 5.0}
    assert level("orca/orca.out.gz").method == "wB97X-D3(BJ)"
    # A series of strained cells with one input is one level.
    strained = {level(name).id for name in TABLE if "hydrostatic" in name}
    assert len(strained) == 1
