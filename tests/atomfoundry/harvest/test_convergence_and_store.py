from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maggma.stores import MemoryStore, MongoStore, MongoURIStore
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from atomfoundry.datasets import Dataset, labels_of
from atomfoundry.harvest import (
    HarvestReport,
    convergence_page,
    convergence_table,
    harvest,
    harvest_store,
    harvest_store_dataset,
    molecular_dynamics,
    resubmission_list,
    write_resubmission_list,
)
from atomfoundry.harvest.store import iterate_store
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


def test_page_and_list_of_runs(tmp_path: Path) -> None:
    from atomfoundry.cli.main import app

    tree = data_folder() / "vasp/Li_pbe_relax"
    page = convergence_page(tree)
    for word in ("Relaxations", "largest force", "energy change", "pressure (GPa)", "vasprun.xml.gz", "relaxed"):
        assert word in page
    assert "Molecular dynamics" not in page
    page = convergence_page(data_folder() / "vasp/Al2O3_aimd")
    assert "Molecular dynamics" in page
    assert "temperature (K)" in page
    assert "There is no output" in convergence_page(tmp_path)
    aborted = data_folder() / "vasp/aborted"
    command = ["harvest", str(aborted), "--plots", str(tmp_path / "p.html"), "--resubmit", str(tmp_path / "again")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again").read_text() == f"{aborted}\n"
    assert "truncated" in (tmp_path / "p.html").read_text()
    assert write_resubmission_list(tmp_path / "none", tree) == []
    assert (tmp_path / "none").read_text() == ""


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


def shifted(number: int) -> dict[str, Any]:
    """Return a document whose structure is like no other's."""
    document = taskdoc()
    (record,) = document["calcs_reversed"][0]["output"]["ionic_steps"]
    structure = Structure.from_dict(record["structure"])
    structure.translate_sites([1], [0.001 * number, 0, 0])
    record["structure"] = structure.as_dict()
    return document


@pytest.fixture
def mongo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A MongoStore on mongomock, or on a server where ATOMFOUNDRY_TEST_MONGODB_URI names one."""
    uri = os.environ.get("ATOMFOUNDRY_TEST_MONGODB_URI")
    if uri:
        store: Any = MongoURIStore(uri, "harvest_test", database="atomfoundry_test", key="uuid")
    else:
        import mongomock_ng

        monkeypatch.setattr("maggma.stores.mongolike.MongoClient", mongomock_ng.MongoClient)
        store = MongoStore("atomfoundry_test", "harvest_test", key="uuid")
    store.connect()
    store.remove_docs({})
    yield store
    store.remove_docs({})
    store.close()


def test_taskdocs_in_mongodb_become_a_dataset(mongo: Any, tmp_path: Path) -> None:
    mongo.update([{"uuid": f"u{n}", "name": "relax", "output": shifted(n)} for n in range(5)])
    mongo.update([{"uuid": "x", "name": "static", "output": shifted(7)}, {"uuid": "y", "output": {"other": 1}}])
    report = harvest_store_dataset(mongo, tmp_path / "all", name="mongo")
    assert (report.n_frames, report.frames, report.reasons) == (6, [], {})
    dataset = Dataset.open(tmp_path / "all")
    assert dataset.name == "mongo"
    assert dataset.level is not None
    assert {atoms.info["source"] for atoms in dataset} == {*(f"u{n}" for n in range(5)), "x"}
    some = harvest_store(mongo, query={"name": "static"})
    assert [atoms.info["source"] for atoms in some.frames] == ["x"]


def test_a_store_is_read_as_frames_are_taken() -> None:
    """Documents may not pile up: a database can hold a million."""
    given = []

    class Endless(MemoryStore):
        def query(self, *args: Any, **kwargs: Any) -> Any:
            for number in range(1_000_000):
                given.append(number)
                yield {"uuid": f"u{number}", "output": shifted(number)}

    frames = iterate_store(Endless(), HarvestReport())
    for _ in range(3):
        next(frames)
    assert len(given) == 3


def test_energies_at_zero_smearing_come_from_the_electronic_steps(tmp_path: Path) -> None:
    """VASP 5 writes a wrong one at the end of a step."""
    electronic = [{"e_fr_energy": -10.5, "e_0_energy": -10.4}] * 3
    (tmp_path / "docs.json").write_text(json.dumps([taskdoc(e_0_energy=0.0, electronic_steps=electronic)]))
    assert labels_of(harvest(tmp_path, energy="sigma0").frames[0])[0] == pytest.approx(-10.9)


def test_energies_are_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "docs.json").write_text(json.dumps([taskdoc()]))
    free, cold = harvest(tmp_path), harvest(tmp_path, energy="sigma0")
    assert labels_of(free.frames[0])[0] == -11.0
    assert labels_of(cold.frames[0])[0] == -10.9
    assert not set(free.levels) & set(cold.levels)
    (tmp_path / "docs.json").write_text(json.dumps([taskdoc(e_0_energy=None)]))
    assert harvest(tmp_path, energy="sigma0").reasons == {"no_energy": 1}
