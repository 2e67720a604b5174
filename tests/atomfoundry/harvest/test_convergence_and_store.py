from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from atomfoundry.datasets import labels_of
from atomfoundry.harvest import convergence_table, harvest, harvest_store, molecular_dynamics, resubmission_list
from atomfoundry.units import KBAR


def data_folder() -> Path:
    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    return folder / "dft_outputs"


def test_convergence_and_resubmission() -> None:
    (relaxed,) = convergence_table(data_folder() / "vasp/Li_pbe_relax")
    assert relaxed.status == "relaxed"
    assert len(relaxed.energies) == len(relaxed.max_forces) == len(relaxed.pressures) == 3
    assert np.isnan(relaxed.energy_changes[0])
    assert relaxed.energy_changes[1] == pytest.approx(relaxed.energies[1] - relaxed.energies[0])
    states = dict(resubmission_list(data_folder() / "qe"))
    assert states["failed_scf_not_converged"] == "unconverged_electronic"
    assert states["failed_computing_cholesky_stdout"] == "crashed"
    assert states["relax_failed_not_converged_nstep"] == "unconverged_ionic"
    assert "relax_success" not in states
    assert "NaCl64_displaced" not in states


def test_molecular_dynamics() -> None:
    md = molecular_dynamics(data_folder() / "vasp/Al2O3_aimd/OUTCAR.gz")
    assert len(md.temperatures) == len(md.energies) == 10
    assert all(0 <= temperature < 5000 for temperature in md.temperatures)
    assert md.temperatures[-1] == 0.16, "a cold start"
    assert md.energies[-1] == pytest.approx(-591.23783728, abs=1e-6)


def taskdoc(**changes: Any) -> dict[str, Any]:
    structure = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    step = {
        "structure": structure.as_dict(),
        "e_fr_energy": -11.0,
        "e_0_energy": -10.9,
        "forces": [[0.1, 0, 0], [-0.1, 0, 0]],
        "stress": [[10, 4, 5], [4, 20, 6], [5, 6, 30]],
        "electronic_steps": [{}] * 12,
    }
    calc = {
        "input": {
            "incar": {"GGA": "PE", "ENCUT": 520, "NSW": 0},
            "parameters": {"NELM": 60, "ISPIN": 1, "IBRION": -1, "ISMEAR": 0, "SIGMA": 0.05},
            "potcar_spec": [{"titel": "PAW_PBE Mg 13Apr2007"}, {"titel": "PAW_PBE O 08Apr2002"}],
        },
        "output": {"ionic_steps": [step | changes]},
    }
    return {"calcs_reversed": [calc]}


def test_taskdocs_from_a_store_and_from_json(tmp_path: Path) -> None:
    store = MemoryStore(key="uuid")
    store.connect()
    unconverged = taskdoc(electronic_steps=[{}] * 60)
    store.update(
        [
            {"uuid": "a", "output": taskdoc()},
            {"uuid": "b", "output": unconverged},
            {"uuid": "c", "output": {"calcs_reversed": []}},
            {"uuid": "d", "output": {"other": 1}},
        ]
    )
    report = harvest_store(store)
    assert report.reasons == {"unconverged_electronic": 1, "unreadable": 1}
    (atoms,) = report.frames
    energy, forces, stress = labels_of(atoms)
    assert energy == -11.0
    assert atoms.info["energy_sigma0"] == -10.9
    assert forces is not None
    assert forces[0, 0] == 0.1
    assert np.allclose(stress, -KBAR * np.array([10, 20, 30, 6, 5, 4]))
    (level,) = report.levels.values()
    assert (level.method, level.cutoff) == ("PBE", 520.0)
    (tmp_path / "docs.json").write_text(json.dumps([taskdoc()]))
    assert len(harvest(tmp_path).frames) == 1


def test_energies_are_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "docs.json").write_text(json.dumps([taskdoc()]))
    free, cold = harvest(tmp_path), harvest(tmp_path, energy="sigma0")
    assert labels_of(free.frames[0])[0] == -11.0
    assert labels_of(cold.frames[0])[0] == -10.9
    assert not set(free.levels) & set(cold.levels)
    (tmp_path / "docs.json").write_text(json.dumps([taskdoc(e_0_energy=None)]))
    assert harvest(tmp_path, energy="sigma0").reasons == {"no_energy": 1}
