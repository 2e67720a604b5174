from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import chemical_symbols
from e3nn import o3
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parent))
import model_checks as checks
import naive_allegro

from atomfoundry.errors import ModelError
from atomfoundry.models import (
    Allegro,
    AllegroConfig,
    HeadConfig,
    allegro_fm64,
    allegro_fm256,
    allegro_fm512,
    alumina,
    build_graph,
    collate,
)
from atomfoundry.models.allegro.angular import (
    harmonic_coefficients,
    harmonic_slices,
    parallel_coupling,
    wigner_3j,
)
from atomfoundry.models.allegro.couplings import list_paths, natural_irreps, plan_irreps
from atomfoundry.models.allegro.derivatives import couple, silu
from atomfoundry.models.allegro.long_track import LongTrack
from atomfoundry.models.allegro.radial import agnesi_transform, envelope

ELEMENTS = ["H", "C", "O", "Si"]
ISOLATED = {"H": -13.6, "C": -1029.0, "O": -2043.0, "Si": -7870.0}


def small_config(**changes) -> AllegroConfig:
    settings = {
        "type_names": ELEMENTS,
        "cutoff": 4.0,
        "num_channels": 4,
        "two_body_dims": [8, 12],
        "latent_dims": [12, 12],
        "edge_energy_dims": [6],
        "avg_num_neighbors": 10.0,
        "heads": [HeadConfig(name="pt", isolated_energies=ISOLATED, scale=1.7)],
        "dtype": "float64",
        "seed": 3,
    }
    return AllegroConfig(**(settings | changes))


def silica(seed: int = 0) -> Atoms:
    """A small skewed cell, smaller than the cutoff: self-images, several images of a pair, ragged degrees."""
    cell = [[3.1, 0.1, 0.0], [-0.4, 3.3, 0.2], [0.5, 0.3, 3.6]]
    positions = [[0.1, 0.0, 0.2], [1.6, 1.5, 0.3], [0.2, 1.7, 1.9]]
    atoms = Atoms(
        "SiO2",
        scaled_positions=np.linalg.solve(np.array(cell).T, np.array(positions).T).T,
        cell=cell,
        pbc=True,
    )
    atoms.rattle(0.05, seed=seed)
    return atoms


def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.03, seed=1)
    return atoms


def slab() -> Atoms:
    atoms = silica(5)
    atoms.pbc = (True, True, False)
    return atoms


MODELS = [
    {"n_layers": n_layers, "l_max": l_max}
    for n_layers, l_max in [(1, 2), (2, 0), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1)]
]


@pytest.fixture(scope="module", params=MODELS, ids=lambda m: f"layers{m['n_layers']}-lmax{m['l_max']}")
def model(request) -> Allegro:
    return Allegro(small_config(**request.param))


# Size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "count"), [(allegro_fm64, 44_390), (allegro_fm256, 690_518), (allegro_fm512, 2_552_086)]
)
def test_parameter_counts_of_table_1(preset, count):
    assert Allegro(preset(chemical_symbols[1:90], avg_num_neighbors=30.0)).num_parameters == count


def test_kept_irreps_and_paths():
    before, after, last = plan_irreps(2, 2)
    assert before == after == [(0, 1), (1, -1), (2, 1)]
    assert last == [(0, 1)]
    paths = list_paths(before, natural_irreps(2), after)
    assert [sum(path.positions[2] == out for path in paths) for out in range(3)] == [3, 4, 4]
    assert len(list_paths(after, natural_irreps(2), last)) == 3
    for n_layers in (1, 2, 3, 4):
        for l_max in range(4):
            assert plan_irreps(n_layers, l_max) == naive_allegro.kept_irreps(n_layers, l_max)


def test_initial_statistics():
    """Latents and edge energies start neither dead nor wild (0.45 and 0.38-0.46 in the reference)."""
    atoms = molecule("CH3CH2OH")
    graph = build_graph(atoms, cutoff=5.2, type_names=["H", "C", "O"])
    rms = []
    for seed in range(6):
        config = allegro_fm64(["H", "C", "O"], avg_num_neighbors=graph.num_edges / len(atoms), seed=seed)
        out = Allegro(config).forward_edges(graph)
        ehat = out["edge_energy"] * config.avg_num_neighbors**0.5
        rms.append([float(out["edge_latents"].square().mean()), float(ehat.square().mean())])
    latent, energy = np.sqrt(np.mean(rms, axis=0))
    assert 0.2 < latent < 2
    assert 0.2 < energy < 2


# Against the equations as they stand
# ----------------------------------------------------------------------------


def test_angular_functions_are_e3nns():
    unit = torch.nn.functional.normalize(torch.randn(7, 3, dtype=torch.float64), dim=1)
    powers = [torch.ones(7, 1, dtype=torch.float64)]
    for _ in range(3):
        powers.append((powers[-1][:, :, None] * unit[:, None]).flatten(1))
    mine = torch.cat(powers, dim=1) @ torch.tensor(harmonic_coefficients(3))
    theirs = o3.spherical_harmonics([0, 1, 2, 3], unit, normalize=False, normalization="component")
    assert torch.allclose(mine, theirs, atol=1e-13)
    slices = harmonic_slices(3)
    for l1 in range(4):
        for l2 in range(4):
            for l3 in range(abs(l1 - l2), min(3, l1 + l2) + 1):
                symbol = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
                assert np.allclose(wigner_3j(l1, l2, l3), symbol.numpy(), atol=1e-14)
                product = torch.einsum("abc,na,nb->nc", symbol, mine[:, slices[l1]], mine[:, slices[l2]])
                expected = parallel_coupling(l1, l2, l3) * mine[:, slices[l3]]
                assert torch.allclose(product, expected, atol=1e-13)


def test_equals_naive_form(model):
    batch = collate([checks.graph_of(model, atoms) for atoms in (silica(), ethanol(), Atoms("H"), slab())])
    out = model(batch)
    vectors = batch.edge_vectors().requires_grad_(True)
    energies = naive_allegro.edge_energies(model, batch, vectors)
    (gradients,) = torch.autograd.grad(energies.sum(), vectors)
    checks.close(out["edge_energy"], energies.detach(), 1e-12)
    checks.close(out["edge_gradients"], gradients, 1e-12)


def test_long_form_equals_short_form():
    """Including the gradient of a loss with forces, where the short form has derivatives of its own."""
    short = Allegro(small_config())
    long = Allegro(small_config())
    long.track = LongTrack(long.config, generator=torch.Generator(), dtype=torch.float64)
    long.load_state_dict(short.state_dict())
    batch = collate([checks.graph_of(short, atoms) for atoms in (silica(), ethanol())])
    gradients = []
    for each in (short, long):
        out = each(batch, create_graph=True)
        loss = out["energy"].square().sum() + out["forces"].square().sum() + out["stress"][0].square().sum()
        gradients.append(torch.autograd.grad(loss, list(each.parameters())))
    for left, right in zip(*gradients, strict=True):
        checks.close(left, right, 1e-12)


def test_own_derivatives_to_third_order():
    h = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(silu(h), h * torch.sigmoid(h))
    assert torch.autograd.gradcheck(silu, h)
    assert torch.autograd.gradgradcheck(silu, h)

    def second(x):
        (slope,) = torch.autograd.grad(silu(x).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, h)
    a, b, factors = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 2), (2, 2, 2), (3,)))

    def coupling(a, b, factors):
        return couple(a, b, factors, [(0, 1, 0), (2, 0, 1), (1, 1, 0)], 2)

    assert torch.autograd.gradcheck(coupling, (a, b, factors))
    assert torch.autograd.gradgradcheck(coupling, (a, b, factors))


# Physics ----------------------------------------------------------------------------------------------------


def test_rotations(model):
    checks.check_rotations(model, silica())
    checks.check_rotations(model, ethanol())


def test_permutation_translation_supercell(model):
    for atoms in (silica(), ethanol(), slab()):
        checks.check_permutation(model, atoms)
        checks.check_translation(model, atoms)
    checks.check_supercell(model, silica())


def test_isolated_atom(model):
    for element in ELEMENTS:
        checks.check_isolated_atom(model, element, ISOLATED[element])


def test_smooth_cutoff(model):
    checks.check_smooth_cutoff(model, ("H", "O"), ISOLATED["H"] + ISOLATED["O"])
    checks.check_third_atom_enters_smoothly(model, ("H", "O", "C"))


def test_dimer_does_not_see_the_tensor_product(model):
    """With no other neighbour the environment is zero, so path weights cannot matter."""
    dimer = Atoms("CO", [[0, 0, 0], [0.3, 0.5, 1.0]])
    before = checks.evaluate(model, dimer)["energy"]
    other = Allegro(model.config)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for coupling in other.track.couplings:
            coupling.weights += 1.0
    checks.close(checks.evaluate(other, dimer)["energy"], before, 1e-15)
    assert abs(float(checks.evaluate(other, ethanol())["energy"] - checks.evaluate(model, ethanol())["energy"])) > 1e-9


def test_finite_differences(model):
    checks.check_finite_differences(Allegro(_without_shift(model.config)), silica())
    checks.check_finite_differences(Allegro(_without_shift(model.config)), ethanol())


def _without_shift(config: AllegroConfig) -> AllegroConfig:
    """Thousands of eV of isolated atoms would drown the differences in rounding."""
    return config.model_copy(update={"heads": [HeadConfig(name="pt", scale=1.7)]})


def test_edge_and_position_paths(model):
    checks.check_paths_agree(model, collate([checks.graph_of(model, a) for a in (silica(), ethanol(), slab())]))
    checks.check_paths_agree(model, checks.graph_of(model, silica()))


def test_linear_readout(model):
    checks.check_linear_readout(model, silica(), head="pt")
    checks.check_linear_readout(model, ethanol(), head="pt")


def test_strict_locality(model):
    checks.check_strict_locality(model, silica())


def test_batches_and_empty_graphs(model):
    checks.check_batching(model, [silica(), ethanol(), Atoms("H"), slab(), silica(2)])
    checks.check_batching(model, [Atoms("O"), Atoms("Si", cell=[20] * 3, pbc=True)])


def test_parameter_gradients(model):
    config = _without_shift(model.config)
    checks.check_parameter_gradients(
        Allegro(config), collate([checks.graph_of(model, atoms) for atoms in (silica(), ethanol())])
    )


def test_batched_backward(model):
    checks.check_batched_backward(model, collate([checks.graph_of(model, atoms) for atoms in (silica(), ethanol())]))


def test_slab_has_forces_but_no_stress():
    out = checks.evaluate(Allegro(small_config()), slab())
    assert torch.isnan(out["stress"]).all()
    assert out["forces"].abs().max() > 0
    checks.check_finite_differences(Allegro(_without_shift(small_config())), slab())


def test_agnesi_model_passes_too():
    model = Allegro(small_config(radial_transform="agnesi", heads=[HeadConfig(name="pt")]))
    checks.check_rotations(model, silica())
    checks.check_finite_differences(model, silica())
    checks.check_smooth_cutoff(model, ("H", "O"), 0.0, scale=1e4)
    checks.check_paths_agree(model, checks.graph_of(model, ethanol()))


def test_zbl_model_passes_too():
    model = Allegro(small_config(zbl=True, heads=[HeadConfig(name="pt")]))
    checks.check_rotations(model, silica())
    checks.check_finite_differences(model, ethanol())
    checks.check_paths_agree(model, collate([checks.graph_of(model, a) for a in (silica(), ethanol())]))
    atoms = ethanol()
    atoms.positions *= 0.8
    out = checks.evaluate(model, atoms)
    plain = Allegro(small_config(heads=[HeadConfig(name="pt")]))
    plain.load_state_dict(model.state_dict())
    without = checks.evaluate(plain, atoms)
    assert out["zbl_energy"].sum() > 0.5
    checks.close(out["energy"][0] - out["zbl_energy"].sum(), without["energy"][0], 1e-13)
    checks.close(out["edge_energy"], without["edge_energy"], 1e-15)


def test_alumina_preset():
    atoms = bulk("Al", cubic=True)
    atoms.symbols[:2] = "O"
    atoms.rattle(0.1, seed=0)
    model = Allegro(alumina(avg_num_neighbors=12.0))
    assert model.dtype == torch.float64
    checks.check_finite_differences(model, atoms)


def test_single_precision_stays_close():
    config = small_config(heads=[HeadConfig(name="pt")])
    double, single = Allegro(config), Allegro(config.model_copy(update={"dtype": "float32"}))
    for atoms in (silica(), ethanol()):
        left, right = checks.evaluate(single, atoms), checks.evaluate(double, atoms)
        assert left["energy"].dtype == left["forces"].dtype == left["features"].dtype == torch.float64
        graph = checks.graph_of(single, atoms)
        assert single.forward_edges(graph)["edge_latents"].dtype == torch.float32
        for key in ("energy", "forces"):
            checks.close(left[key], right[key], 2e-6)


def test_radial_functions():
    x = torch.linspace(0, 1.2, 400, dtype=torch.float64)
    u = envelope(x, 6)
    assert u[0] == 1
    assert (u[x >= 1] == 0).all()
    assert (u.diff() <= 1e-14).all()
    edge = torch.tensor(1 - 1e-4, dtype=torch.float64, requires_grad=True)
    value = envelope(edge, 6)
    (first,) = torch.autograd.grad(value, edge, create_graph=True)
    (second,) = torch.autograd.grad(first, edge)
    assert abs(value) < 1e-10
    assert abs(first) < 1e-5
    assert abs(second) < 0.1
    r = torch.linspace(1e-3, 6, 300, dtype=torch.float64)
    y = agnesi_transform(r, torch.full_like(r, 1.1))
    assert (y > 0).all()
    assert (y <= 1).all()
    assert (y.diff() < 0).all()
    # At r = r0: 1 / (1 + a / 2).
    assert float(agnesi_transform(torch.tensor(1.1), torch.tensor(1.1))) == pytest.approx(1 / (1 + 1.0805 / 2))


# Heads and configuration
# ----------------------------------------------------------------------------------------


def test_heads():
    model = Allegro(small_config())
    model.add_head(HeadConfig(name="ft", isolated_energies={"H": 1.0, "O": 2.0}, scale=3.4))
    assert model.head_index("ft") == 1
    assert [head.name for head in model.config.heads] == ["pt", "ft"]
    water = molecule("H2O")
    graphs = [checks.graph_of(model, water, head) for head in (0, 1)]
    out = model(collate(graphs))
    cohesion = out["energy"] - torch.tensor([2 * -13.6 - 2043.0, 4.0], dtype=torch.float64)
    checks.close(cohesion[1], 2 * cohesion[0], 1e-12)  # a copied readout, twice the scale
    for head in ("pt", "ft"):
        checks.check_linear_readout(model, water, head=head)
    out = model(collate(graphs), create_graph=True)
    (out["forces"][:3].square().sum() + out["energy"][0]).backward()
    assert all(not weight.grad.any() for weight in model.readouts.heads[1] if weight.grad is not None)
    assert model.readouts.heads[0][0].grad.abs().max() > 0
    # An element the head has no energy for has none, rather than zero.
    assert torch.isnan(model(checks.graph_of(model, molecule("CH4"), 1))["energy"]).all()
    with pytest.raises(ModelError, match="already has a head 'ft'"):
        model.add_head(HeadConfig(name="ft"))
    with pytest.raises(ModelError, match="no head 'xx'; it has pt, ft"):
        model.add_head(HeadConfig(name="new"), copy_from="xx")


def test_scale_of_each_element():
    scale = {"H": 1.0, "C": 2.0, "O": 3.0, "Si": 0.0}
    model = Allegro(small_config(heads=[HeadConfig(name="pt", scale=scale)]))
    plain = Allegro(small_config(heads=[HeadConfig(name="pt")]))
    left, right = checks.evaluate(model, ethanol()), checks.evaluate(plain, ethanol())
    factors = torch.tensor([scale[s] for s in ethanol().get_chemical_symbols()], dtype=torch.float64)
    checks.close(left["atomic_energy"], factors * right["atomic_energy"], 1e-13)
    checks.check_linear_readout(model, ethanol(), head="pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 2}, "n_layer"),
        ({"latent_dims": [8]}, "latent_dims must end"),
        ({"type_names": ["Xx", "H"]}, "chemical symbols"),
        ({"type_names": ["H", "H"]}, "chemical symbols"),
        ({"avg_num_neighbors": 1.0}, "greater than 1"),
        ({"heads": [HeadConfig(), HeadConfig()]}, "different names"),
        ({"heads": [HeadConfig(scale={"H": 1.0})]}, "scale lacks"),
        ({"two_body_dims": [7, 12]}, "even"),
    ],
)
def test_wrong_configuration(changes, message):
    with pytest.raises(ValidationError, match=message):
        small_config(**changes)


def test_same_seed_same_weights():
    one, two, other = (Allegro(small_config(seed=seed)) for seed in (7, 7, 8))
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(next(one.parameters()), next(other.parameters())) or not torch.equal(
        one.two_body.weights[0], other.two_body.weights[0]
    )


def test_import_is_lazy():
    code = "import sys, atomfoundry.models as m; assert 'Allegro' in dir(m); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_gives_the_same_numbers():
    model = Allegro(small_config(dtype="float32", heads=[HeadConfig(name="pt")]))
    batch = collate([checks.graph_of(model, atoms) for atoms in (silica(), ethanol(), Atoms("H"))])
    here, there = model(batch), model.to("cuda")(batch.to("cuda"))
    energy = there["energy"].cpu()
    assert float((energy - here["energy"]).abs().max() / here["energy"].abs().max()) < 1e-6
    checks.close(there["forces"].cpu(), here["forces"], 1e-5)
    out = model(batch.to("cuda"), create_graph=True)
    out["forces"].square().sum().backward()
