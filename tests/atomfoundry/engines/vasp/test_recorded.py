"""Recorded VASP runs through atomate2's own ``monkeypatch_vasp``: inputs are checked, outputs are labels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms

from atomfoundry.engines import get_engine
from atomfoundry.errors import LabelError
from atomfoundry.units import KBAR


def recorded(name: str) -> Path:
    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[5] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    return folder / "dft_outputs" / "vasp" / name


@pytest.fixture
def replay(monkeypatch, tmp_path):
    """Make atomate2 hand out a recorded run after it has compared the inputs with the recorded ones."""
    recorded("")
    from atomate2.utils.testing.vasp import monkeypatch_vasp
    from jobflow import CURRENT_JOB
    from pymatgen.io.vasp import Kpoints, Poscar, Vasprun

    monkeypatch.setattr(CURRENT_JOB, "job", SimpleNamespace(name="recorded"))
    generator = monkeypatch_vasp(monkeypatch, tmp_path)
    start = next(generator)

    def _replay(name: str, **checks) -> tuple[Atoms, Vasprun]:
        path = recorded(name)
        run = Vasprun(str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
        inputs, outputs = tmp_path / "recorded" / "inputs", tmp_path / "recorded" / "outputs"
        inputs.mkdir(parents=True)
        outputs.mkdir()
        run.incar.write_file(str(inputs / "INCAR"))
        structure = run.ionic_steps[-1]["structure"]
        Poscar(structure).write_file(inputs / "POSCAR")
        (inputs / "POTCAR.spec").write_text("\n".join(title.split()[1] for title in run.potcar_symbols))
        if "KSPACING" not in run.incar:
            Kpoints.from_dict(run.kpoints.as_dict()).write_file(inputs / "KPOINTS")
        shutil.copy(path, outputs / "vasprun.xml.gz")
        start({"recorded": tmp_path / "recorded"}, {"recorded": checks})
        atoms = Atoms(
            [site.specie.Z for site in structure], structure.cart_coords, cell=structure.lattice.matrix, pbc=True
        )
        return atoms, run

    yield _replay
    with pytest.raises(StopIteration):
        next(generator)


LIF = {
    "ALGO": "All",
    "ENAUG": 1360.0,
    "ISMEAR": 2,
    "SIGMA": 0.2,
    "LREAL": "Auto",
    "LELF": True,
    "LORBIT": None,
    "MAGMOM": {"Li": 0, "F": 0},
}
SILICON = {
    "ENCUT": 100,
    "EDIFF": 2e-6,
    "SIGMA": 0.2,
    "LREAL": "Auto",
    "LASPH": None,
    "LORBIT": None,
}


@pytest.mark.parametrize(
    ("name", "settings", "checks", "energy"),
    [
        (
            "LiF_three_metaGGA/vasprun.r2scan.xml.gz",
            {"preset": "mp_static_r2scan", "user_incar_settings": LIF},
            {},
            -11.89059065,
        ),
        # VASP 5: the last block's energy for sigma -> 0 is 0. Its mesh is Monkhorst and Pack's.
        (
            "Si2_pbe_static/vasprun.xml.gz",
            {"preset": "static_pbe", "user_incar_settings": SILICON},
            {"check_inputs": ("incar", "poscar", "potcar")},
            -10.64527774,
        ),
    ],
)
def test_inputs_are_those_of_the_run_and_the_label_is_its_output(replay, name, settings, checks, energy):
    atoms, run = replay(name, **checks)
    engine = get_engine("vasp", keep_files=True, **settings)
    # Elements in another order than the run's, and whole lattice vectors away.
    order = np.argsort(-atoms.numbers, kind="stable")
    shuffled = atoms[order]
    shuffled.positions += atoms.cell.array[0] - 2 * atoms.cell.array[2]
    result = engine.single_point(shuffled)
    assert result.energy == pytest.approx(energy, abs=1e-8)
    assert np.array_equal(result.forces, np.array(run.ionic_steps[-1]["forces"])[order])
    kbar = np.array(run.ionic_steps[-1]["stress"])
    assert np.allclose(result.stress, -KBAR * kbar[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atol=1e-12)
    assert abs(kbar[0, 0]) > 10
    level = engine.level
    assert (level.method, level.cutoff) == (
        {"mp_static_r2scan": "r2SCAN", "static_pbe": "PBE"}[engine.preset],
        run.incar["ENCUT"],
    )


def test_another_input_is_noticed(replay):
    atoms, _ = replay("LiF_three_metaGGA/vasprun.r2scan.xml.gz")
    engine = get_engine("vasp", preset="mp_static_r2scan", keep_files=True, user_incar_settings={**LIF, "ENCUT": 600})
    with pytest.raises(LabelError, match="ENCUT is inconsistent"):
        engine.single_point(atoms)


def test_a_recorded_run_without_convergence(replay):
    atoms, run = replay("vasprun.unconverged.xml.gz", check_inputs=())
    assert not run.converged_electronic
    with pytest.raises(LabelError) as caught:
        get_engine("vasp").single_point(atoms)
    assert caught.value.reason == "unconverged"


def test_the_output_of_another_structure_is_refused(replay):
    atoms, _ = replay("Si2_pbe_static/vasprun.xml.gz", check_inputs=())
    atoms.rattle(0.01, seed=1)
    with pytest.raises(LabelError, match="another structure"):
        get_engine("vasp").single_point(atoms)
