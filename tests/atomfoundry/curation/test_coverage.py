from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.curation import coverage
from atomfoundry.curation.coverage_report import ENERGY_EDGES, FORCE_EDGES, SIZE_EDGES, domain_of
from atomfoundry.datasets import Dataset


def test_counts(tmp_path):
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    forces = np.array([[0.5, 0, 0], [-0.5, 0, 0]])
    crystal.calc = SinglePointCalculator(crystal, energy=-6.0, forces=forces, stress=np.zeros(6))
    higher = bulk("NaCl", "rocksalt", a=5.8)
    higher.calc = SinglePointCalculator(higher, energy=-5.7, forces=12 * forces)
    ion = Atoms("H", info={"charge": 1, "spin_multiplicity": 1, "sampling": "isolated_atom"})
    ion.calc = SinglePointCalculator(ion, energy=0.0)
    slab = fcc111("Cu", (1, 1, 3), vacuum=10.0)
    dataset = Dataset.create(tmp_path / "d", [crystal, higher, ion, slab, molecule("H2O")])
    report = coverage(dataset)
    assert (report.n_frames, report.n_atoms) == (5, 11)
    assert report.elements == {"H": 2, "O": 1, "Na": 2, "Cl": 2, "Cu": 1}
    assert report.element_atoms["H"] == 3
    assert report.pairs == {"H-H": 1, "H-O": 1, "Na-Cl": 2, "Cu-Cu": 1}
    assert report.charges == {"0": 4, "+1": 1}
    assert report.domains == {"crystal": 2, "atom": 1, "molecule": 1, "surface": 1}
    assert (report.with_energy, report.with_forces, report.with_stress) == (3, 2, 1)
    assert report.forces[FORCE_EDGES.index(0.3)] == 2
    assert report.forces[FORCE_EDGES.index(6.0)] == 2
    assert report.energies[0] == 2
    assert report.energies[ENERGY_EDGES.index(0.1)] == 1
    assert report.sizes[SIZE_EDGES.index(2)] == 2
    assert sum(report.sizes) == 5
    gaps = " ".join(report.gaps)
    assert "1 to 6" in gaps
    assert "2 of 5 frames have no energy" in gaps
    assert "Na-Cu" in gaps
    assert "neutral" not in gaps


def test_domains():
    assert domain_of(bulk("Si")) == "crystal"
    assert domain_of(bulk("Si") * (3, 3, 3)) == "crystal"
    assert domain_of(bulk("Cu")) == "crystal"
    vacancy = bulk("Cu", cubic=True) * (2, 2, 2)
    del vacancy[0]
    vacancy.info["sampling"] = "vacancy"
    assert domain_of(vacancy) == "defect"
    assert domain_of(fcc111("Cu", (2, 2, 3), vacuum=8.0)) == "surface"
    assert domain_of(molecule("H2O")) == "molecule"


def test_an_empty_dataset_says_so(tmp_path):
    assert coverage(Dataset.create(tmp_path / "d", [])).gaps == ["There is no frame."]
