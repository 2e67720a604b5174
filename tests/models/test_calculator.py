from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet

from atomfoundry.errors import ModelError
from atomfoundry.models import Allegro, AllegroConfig, FoundryCalculator, HeadConfig, save_model


@pytest.fixture(scope="module")
def model() -> Allegro:
    config = AllegroConfig(
        type_names=["H", "O", "Al"],
        cutoff=4.5,
        num_channels=4,
        two_body_dims=[8, 12],
        latent_dims=[12],
        avg_num_neighbors=12.0,
        dtype="float64",
        heads=[HeadConfig(name="pt", isolated_energies={"H": -1.0, "O": -2.0, "Al": -3.0}, scale=3.0)],
    )
    return Allegro(config)


def rattled(atoms: Atoms) -> Atoms:
    atoms.rattle(0.1, seed=0)
    return atoms


@pytest.mark.parametrize("atoms", [bulk("Al") * (1, 1, 2), molecule("H2O"), fcc111("Al", (1, 1, 2), vacuum=3.0)])
def test_agrees_with_finite_differences(model, atoms):
    atoms = rattled(atoms.copy())
    atoms.calc = FoundryCalculator(model)
    assert np.abs(atoms.get_forces() - calculate_numerical_forces(atoms, eps=1e-5)).max() < 1e-8
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-13)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    if atoms.pbc.all():
        numerical = calculate_numerical_stress(atoms, eps=1e-6, voigt=True)
        assert np.abs(atoms.get_stress() - numerical).max() < 1e-8
    else:
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()


def test_single_atom_and_later_change(model):
    atoms = Atoms("O")
    atoms.calc = FoundryCalculator(model)
    assert atoms.get_potential_energy() == -2.0
    assert not atoms.get_forces().any()
    atoms.symbols[:] = "H"
    assert atoms.get_potential_energy() == -1.0


def test_last_output_is_kept(model):
    calculator = FoundryCalculator(model)
    atoms = rattled(molecule("H2O"))
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    features = calculator.output["features"]
    assert not features.requires_grad
    assert float(features[0] @ model.readout_weights("pt").detach()) - 4.0 == pytest.approx(energy, rel=1e-12)


@pytest.mark.parametrize("variant", ["A", "B"])
def test_edge_energies_in_the_output(model, variant):
    """Those of an atom's edges, with its isolated-atom energy and repulsion, are its energy."""
    calculator = FoundryCalculator(Allegro(model.config.model_copy(update={"variant": variant, "zbl": True})))
    atoms = rattled(molecule("H2O"))
    atoms.positions *= 0.8
    atoms.calc = calculator
    atomic = atoms.get_potential_energies()
    centre, neighbour = calculator.graph.edge_index.numpy()
    assert len(centre) == len(calculator.output["edge_energy"]) == 6
    assert (centre != neighbour).all()
    sums = np.array([-2.0, -1.0, -1.0]) + calculator.output["zbl_energy"].numpy()
    np.add.at(sums, centre, calculator.output["edge_energy"].numpy())
    assert np.allclose(sums, atomic, rtol=0, atol=1e-13)
    assert calculator.output["zbl_energy"].sum() > 0.01
    assert "charges" not in calculator.implemented_properties
    atoms.set_initial_charges([1.0, 0.5, -0.5])
    assert np.array_equal(atoms.get_potential_energies(), atomic)


def test_heads(model, tmp_path):
    two = Allegro(model.config)
    two.load_state_dict(model.state_dict())
    two.add_head(HeadConfig(name="ft", isolated_energies={"Al": 0.5}))
    save_model(two, tmp_path / "model", metadata={})
    assert FoundryCalculator(model).head == "pt"
    calculator = FoundryCalculator(tmp_path / "model")
    assert calculator.head == "ft"
    assert calculator.get_potential_energy(Atoms("Al")) == 0.5
    assert FoundryCalculator(two, head="pt").get_potential_energy(Atoms("Al")) == -3.0
    with pytest.raises(ModelError, match="'ft' has no isolated-atom energy of H"):
        calculator.get_potential_energy(Atoms("H"))
    with pytest.raises(ModelError, match="does not know the element Si"):
        calculator.get_potential_energy(Atoms("Si"))
    with pytest.raises(ModelError, match="no head 'zz'; it has pt, ft"):
        FoundryCalculator(two, head="zz")


def test_energy_is_conserved(model):
    """Half the time step, a quarter of the energy's wobble: it is the integrator's, not the forces'."""
    wobble = []
    for steps in (20, 40):
        atoms = rattled(bulk("Al", cubic=True))
        atoms.calc = FoundryCalculator(model)
        dynamics = VelocityVerlet(atoms, timestep=20 / steps * units.fs)
        totals: list[float] = []
        dynamics.attach(lambda atoms=atoms, totals=totals: totals.append(atoms.get_total_energy()))
        dynamics.run(steps)
        wobble.append(np.ptp(totals))
    assert 3.5 < wobble[0] / wobble[1] < 4.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu(model):
    atoms = rattled(bulk("Al", cubic=True))
    here = FoundryCalculator(model)
    there = FoundryCalculator(model, device="cuda")
    assert next(model.parameters()).device.type == "cpu"
    assert np.abs(here.get_forces(atoms) - there.get_forces(atoms)).max() < 1e-10
