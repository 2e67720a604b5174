"""pair_style foundry in the real LAMMPS against our calculator."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io.lammpsdata import write_lammps_data
from typer.testing import CliRunner

from atomfoundry.cli.main import app
from atomfoundry.models import Allegro, AllegroConfig, FoundryCalculator, HeadConfig, save_model
from atomfoundry.models.kernel.exported import write_exported
from atomfoundry.models.lammps import export_lammps, find_lammps, find_program

sys.path.insert(0, str(Path(__file__).parent))
from lammps_run import BAR, needs_lammps, preamble, run_lammps, single_point

pytestmark = needs_lammps
ELEMENTS = ["Si", "O"]


def make_model(**changes) -> Allegro:
    energies = {"Si": -3.0, "O": -5.0, "H": -1.0}
    settings = {
        "type_names": ["O", "H", "Si"],  # not the order of LAMMPS's types
        "cutoff": 4.2,
        "num_channels": 4,
        "two_body_dims": [8, 12],
        "latent_dims": [12],
        "avg_num_neighbors": 12.0,
        "dtype": "float64",
        "heads": [
            HeadConfig(name="pt", isolated_energies=energies, scale=4.0),
            HeadConfig(name="ft", isolated_energies={"Si": 0.5, "O": 0.25}, scale={"Si": 2.0, "O": 6.0, "H": 1.0}),
        ],
    }
    return Allegro(AllegroConfig(**(settings | changes))).eval()


@pytest.fixture(scope="module")
def model() -> Allegro:
    return make_model(zbl=True)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    return export_lammps(model, tmp_path_factory.mktemp("export"))


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    for name in ("foundry.so", "model.foundry"):
        (tmp_path / name).symlink_to(exported / name)
    return tmp_path


def crystal() -> Atoms:
    """A sheared, rattled cell of two elements."""
    atoms = bulk("Si", cubic=True) * (2, 2, 1)
    atoms.symbols[::3] = "O"
    atoms.rattle(0.2, seed=1)
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0, 0], [0.1, 1, 0], [0.05, -0.08, 1]]), scale_atoms=True)
    return atoms


def small_cell() -> Atoms:
    """Two atoms and hundreds of ghosts: the cutoff is longer than the cell."""
    cell = [[2.5, 0, 0], [0.3, 2.6, 0], [0.2, 0.1, 2.7]]
    return Atoms("SiO", positions=[[0, 0, 0], [1.3, 0.4, 0.9]], cell=cell, pbc=True)


def molecule() -> Atoms:
    return Atoms("SiO2", positions=[[5, 5, 5], [6.3, 5.1, 5], [5, 6, 6.0]], cell=[10, 10, 10])


def slab() -> Atoms:
    """Periodic in two directions, atoms outside of the cell in those."""
    atoms = small_cell() * (2, 2, 2)
    atoms.pbc = [True, True, False]
    atoms.cell[2] = [0, 0, 12]
    atoms.positions[:, 2] += 2
    atoms.positions[3] += atoms.cell[0]
    return atoms


def centroid_virials(output, pairs: np.ndarray, n: int) -> np.ndarray:
    """Sum over the edges that end in each atom of (r_j - r_i) (x) force, in LAMMPS's order."""
    outer = -output["edge_vectors"].numpy()[:, :, None] * output["edge_gradients"].numpy()[:, None, :]
    rows, columns = [0, 1, 2, 0, 0, 1, 1, 2, 2], [0, 1, 2, 1, 2, 2, 0, 0, 1]
    out = np.zeros((n, 9))
    np.add.at(out, pairs[1], outer[:, rows, columns])
    return out


def check(folder: Path, atoms: Atoms, model: Allegro, head: str, *, tolerance: float = 1e-9, **changes) -> None:
    from atomfoundry.models import build_graph

    found = single_point(folder, atoms, ELEMENTS, style=f"foundry head {head}", **changes)
    atoms.calc = FoundryCalculator(model, head=head)
    assert np.abs(found.energy - atoms.get_potential_energy()) < tolerance * len(atoms)
    assert np.abs(found.energies - atoms.get_potential_energies()).max() < tolerance
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 0.1
    assert np.abs(found.forces - forces).max() < tolerance
    # The calculator has the same kernel; PyTorch has not.
    index = model.head_index(head)
    graph = build_graph(atoms, cutoff=model.config.cutoff, type_names=model.config.type_names, head=index)
    output = model.forward_edges(graph)
    assert np.abs(found.forces - output["forces"].numpy()).max() < tolerance
    assert np.abs(found.energies - output["atomic_energy"].detach().numpy()).max() < tolerance
    expected = centroid_virials(output, graph.edge_index.numpy(), len(atoms))
    # LAMMPS's pressures have its own constant for a bar, 8e-8 off.
    tolerance_virial = max(tolerance, 2e-7) * max(1.0, np.abs(expected).max()) * len(atoms)
    assert np.abs(found.centroid_virials - expected).max() < tolerance_virial
    total = expected.sum(axis=0)[:6]
    assert np.abs(found.virial - total).max() < tolerance_virial
    assert np.abs(found.atom_virials.sum(axis=0) - total).max() < tolerance_virial
    if atoms.pbc.all():
        stress = -found.virial / atoms.get_volume()
        assert np.abs(stress[[0, 1, 2, 5, 4, 3]] - atoms.get_stress()).max() < max(tolerance, 2e-7)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("make", [crystal, small_cell, molecule, slab])
def test_agrees_with_the_calculator(model, folder, make, ranks):
    check(folder, make(), model, "pt", ranks=ranks)


def test_other_head_and_threads(model, folder):
    check(folder, crystal(), model, "ft", threads=2)


@pytest.mark.slow
def test_single_precision(tmp_path):
    model = make_model(dtype="float32", zbl=False)
    export_lammps(model, tmp_path, "ft")
    check(tmp_path, crystal(), model, "ft", ranks=2, tolerance=1e-5)


def test_ranks_without_atoms(model, folder):
    check(folder, molecule(), model, "pt", ranks=4)


def test_default_head_is_the_exported_one(model, folder):
    found = single_point(folder, molecule(), ELEMENTS)
    assert found.energy == pytest.approx(FoundryCalculator(model).get_potential_energy(molecule()), abs=1e-9)


def test_atoms_without_neighbours(model, folder):
    atoms = Atoms("SiO", positions=[[1, 1, 1], [9, 9, 9]], cell=[10, 10, 10])
    found = single_point(folder, atoms, ELEMENTS, style="foundry head pt", ranks=2)
    assert found.energies.tolist() == [-3.0, -5.0]
    assert not found.forces.any()


def thermo_rows(log: str) -> np.ndarray:
    lines = [line.split() for line in log.splitlines()]
    rows, inside = [], False
    for words in lines:
        if words[:1] == ["Step"]:
            inside, width = True, len(words)
        elif words[:1] == ["Loop"]:
            inside = False
        elif inside and len(words) == width:
            rows.append([float(word) for word in words])
    return np.array(rows)


def relaxed_start() -> Atoms:
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.symbols[::3] = "O"
    atoms.rattle(0.02, seed=2)
    return atoms


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_energy_is_conserved(folder, ranks):
    atoms = relaxed_start()
    write_lammps_data(folder / "test.data", atoms, specorder=ELEMENTS, masses=True, units="metal")
    text = preamble(atoms, ELEMENTS, style="foundry head pt")
    text += """
minimize 0.0 0.05 60 600
reset_timestep 0
velocity all create 200 4 mom yes rot no dist gaussian
fix nve all nve
timestep 0.0005
thermo_style custom step etotal ke
thermo_modify format float %.12g
thermo 20
run 200
"""
    rows = thermo_rows(run_lammps(folder, text, ranks=ranks).partition("Setting up Verlet")[2])
    assert len(rows) == 11
    kinetic = 1.5 * (len(atoms) - 1) * 8.617e-5 * 200
    assert rows[0, 2] == pytest.approx(kinetic, rel=1e-3)
    assert np.ptp(rows[:, 2]) > 0.02 * kinetic
    assert np.ptp(rows[:, 1]) < 2e-3 * kinetic


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_relaxed_box_and_constant_pressure(model, folder, ranks):
    atoms = bulk("SiO", "rocksalt", a=4.4, cubic=True) * (2, 2, 2)
    write_lammps_data(folder / "test.data", atoms, specorder=ELEMENTS, masses=True, units="metal")
    text = preamble(atoms, ELEMENTS, style="foundry head ft")
    text += """
fix box all box/relax iso 0.0 vmax 0.005
thermo_style custom step press lx
thermo_modify format float %.12g
minimize 0.0 1e-6 200 2000
unfix box
reset_timestep 0
velocity all create 100 5 mom yes rot no dist gaussian
fix npt all npt temp 100 100 0.05 iso 0 0 0.5
timestep 0.0005
thermo_style custom step vol temp econserve
thermo_modify format float %.12g
thermo 20
run 200
"""
    before, _, after = run_lammps(folder, text, ranks=ranks).partition("Setting up Verlet")
    relaxed = thermo_rows(before)
    assert abs(relaxed[-1, 1]) < 1e-3 * abs(relaxed[0, 1])
    crystal = bulk("SiO", "rocksalt", a=relaxed[-1, 2] / 2, cubic=True)
    crystal.calc = FoundryCalculator(model, head="ft")
    assert np.abs(crystal.get_stress()).max() < 2e-3 * abs(relaxed[0, 1]) * BAR
    rows = thermo_rows(after)
    assert rows[-1, 0] == 200
    assert np.ptp(rows[:, 1]) > 1e-4 * rows[0, 1]
    assert np.ptp(rows[:, 3]) < 0.05 * 1.5 * len(atoms) * 8.617e-5 * 100


def test_heat_flux(model, folder):
    """J = sum over edges of (r_j - r_i) (force on j from i's energy) . v_j, as LAMMPS's own compute has it."""
    from atomfoundry.models import build_graph

    atoms = crystal()
    velocities = np.random.default_rng(0).normal(size=(len(atoms), 3))
    write_lammps_data(folder / "test.data", atoms, specorder=ELEMENTS, masses=True, units="metal")
    text = preamble(atoms, ELEMENTS, style="foundry head pt")
    text += "".join(f"set atom {n + 1} vx {v[0]} vy {v[1]} vz {v[2]}\n" for n, v in enumerate(velocities))
    text += """
compute ke all ke/atom
compute pe all pe/atom
compute stress all centroid/stress/atom NULL virial
compute flux all heat/flux ke pe stress
thermo_style custom step c_flux[*]
thermo_modify format float %.15g
run 0
"""
    row = thermo_rows(run_lammps(folder, text, ranks=2))[0, 1:]
    graph = build_graph(atoms, cutoff=model.config.cutoff, type_names=model.config.type_names)
    output = model(graph)
    power = -(output["edge_gradients"].numpy() * velocities[graph.edge_index[1].numpy()]).sum(axis=1)
    expected = (output["edge_vectors"].numpy() * power[:, None]).sum(axis=0)
    assert np.abs(expected).min() > 0.1
    assert row[:3] - row[3:] == pytest.approx(expected, rel=1e-6)


def test_styles_come_and_go(folder):
    """A second style, a second model, no style, no plugin: nothing is left behind, nothing is freed twice."""
    atoms = molecule()
    write_lammps_data(folder / "test.data", atoms, specorder=ELEMENTS, masses=True, units="metal")
    text = preamble(atoms, ELEMENTS, style="foundry head pt")
    text += """
thermo_modify format float %.15g
run 0
pair_coeff * * model.foundry Si O
run 0
pair_style foundry head ft
pair_coeff * * model.foundry Si O
run 0
pair_style zero 4.0
pair_coeff * *
plugin unload pair foundry
run 0
plugin load ./foundry.so
pair_style foundry head pt
pair_coeff * * model.foundry Si O
run 0
"""
    rows = thermo_rows(run_lammps(folder, text))
    energies = rows[:, 2]
    assert len(energies) == 5
    assert energies[0] == energies[1] == energies[4]
    assert energies[2] != energies[0]
    assert energies[3] == 0.0


def test_beside_another_style(model, folder):
    """Types that are NULL are not the model's: they neither have its energy nor change their neighbours'."""
    atoms = crystal()
    calculator = FoundryCalculator(model, head="pt")
    text = "hybrid/overlay foundry head pt zero 5.0"
    write_lammps_data(folder / "test.data", atoms, specorder=ELEMENTS, masses=True, units="metal")
    text = preamble(atoms, ["Si", "NULL"], style=text)
    text += """
pair_coeff * * zero
thermo_style custom step pe
thermo_modify format float %.15g
run 0
"""
    rows = thermo_rows(run_lammps(folder, text, ranks=2))
    silicon = atoms[[atom.symbol == "Si" for atom in atoms]]
    assert rows[0, 1] == pytest.approx(calculator.get_potential_energy(silicon), abs=1e-8)


@pytest.mark.parametrize(
    ("changes", "elements", "said"),
    [
        ({"units": "real"}, ELEMENTS, "units are real. Write 'units metal'"),
        ({"before": "newton off"}, ELEMENTS, "Write 'newton on'"),
        ({"style": "foundry head dft"}, ELEMENTS, "model.foundry' has no head 'dft'"),
        ({"style": "foundry 5.0"}, ELEMENTS, "takes nothing or 'head NAME', not '5.0'"),
        ({}, ["Si", "Xe"], "does not know the element 'Xe' of atom type 2"),
        ({}, ["Si"], "one element for each of the 2 atom types"),
        ({"style": "foundry head ft"}, ["Si", "H"], "no finite energy"),
        ({}, ["Si", "NULL"], "pair coeffs are not set"),
    ],
)
def test_bad_input_says_what_to_do(folder, changes, elements, said):
    atoms = molecule()
    write_lammps_data(folder / "test.data", atoms, specorder=ELEMENTS, masses=True, units="metal")
    log = run_lammps(folder, preamble(atoms, elements, **changes) + "run 0\n", check=False)
    assert said in log.replace("\n", " ")
    assert "ERROR" in log
    assert "Loop time" not in log


@pytest.mark.parametrize("ranks", [1, 2])
def test_unreadable_model_file(folder, ranks):
    atoms = molecule()
    write_lammps_data(folder / "test.data", atoms, specorder=ELEMENTS, masses=True, units="metal")
    text = preamble(atoms, ELEMENTS) + "run 0\n"
    log = run_lammps(folder, text.replace("model.foundry", "absent.foundry"), check=False, ranks=ranks)
    assert "absent.foundry" in log
    (folder / "broken.foundry").write_bytes((folder / "model.foundry").read_bytes()[:-40])
    log = run_lammps(folder, text.replace("model.foundry", "broken.foundry"), check=False, ranks=ranks)
    assert "Cannot read model 'broken.foundry': it is cut short" in log
    write_exported(make_model(num_channels=2), folder / "other.foundry")
    log = run_lammps(folder, text.replace("model.foundry", "other.foundry"), check=False, ranks=ranks)
    assert "Cannot read model 'other.foundry': it has another shape" in log
    assert "Give the file exported together with this plugin" in log


def test_bonded_neighbours_are_not_lost_in_silence(folder):
    (folder / "bonds.data").write_text(
        "bonds\n\n2 atoms\n1 bonds\n2 atom types\n1 bond types\n0 9 xlo xhi\n0 9 ylo yhi\n0 9 zlo zhi\n\n"
        "Masses\n\n1 28\n2 16\n\nAtoms # molecular\n\n1 1 1 1 1 1\n2 1 2 2.6 1 1\n\nBonds\n\n1 1 1 2\n"
    )
    text = preamble(molecule(), ELEMENTS).replace("atom_style atomic", "atom_style molecular")
    text = text.replace("test.data", "bonds.data").replace("pair_style", "bond_style zero\nbond_coeff 1\npair_style", 1)
    assert "special_bonds lj/coul 1 1 1" in run_lammps(folder, text + "run 0\n", check=False)
    log = run_lammps(folder, text + "special_bonds lj/coul 1 1 1\nrun 0\n")
    assert "Loop time" in log


def test_atoms_at_the_same_place(folder):
    atoms = molecule()
    atoms.positions[1] = atoms.positions[0]
    write_lammps_data(folder / "test.data", atoms, specorder=ELEMENTS, masses=True, units="metal")
    log = run_lammps(folder, preamble(atoms, ELEMENTS) + "run 0\n", check=False)
    assert "Atoms 1 and 2 are at the same place" in log or "Atoms 2 and 1 are at the same place" in log


@pytest.mark.slow
def test_lammps_with_ids_of_another_size(model, tmp_path):
    """Its structures are laid out otherwise: going on would read nonsense."""
    export_lammps(model, tmp_path, lammps=replace(find_lammps(), defines=("LAMMPS_BIGBIG",)))
    atoms = molecule()
    write_lammps_data(tmp_path / "test.data", atoms, specorder=ELEMENTS, masses=True, units="metal")
    log = run_lammps(tmp_path, preamble(atoms, ELEMENTS) + "run 0\n", check=False)
    assert "compiled for atom ids of another size" in log
    assert "Loop time" not in log


def run_example(folder: Path) -> None:
    program = find_program()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": str(program.libraries or "")}
    command = program.command("-in", "in.example", "-var", "steps", "20", "-log", "none")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "last.data").is_file()


def test_example_runs(exported):
    run_example(exported)


def test_command_exports_a_molecule_that_moves(model, tmp_path):
    save_model(model, tmp_path / "model", metadata={})
    molecule().write(tmp_path / "molecule.xyz")
    words = ["export", tmp_path / "model", "--to", "lammps", "--out", tmp_path / "out", "--head", "pt"]
    done = CliRunner().invoke(app, [*map(str, words), "--structure", str(tmp_path / "molecule.xyz")])
    assert done.exit_code == 0, done.output
    run_example(tmp_path / "out")
