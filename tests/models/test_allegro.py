from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
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
import contract as checks
import naive_allegro
from contract import ELEMENTS, ISOLATED, ethanol, silica, slab

from atomfoundry.errors import ModelError
from atomfoundry.models import (
    Allegro,
    AllegroConfig,
    HeadConfig,
    allegro_fm64,
    allegro_fm256,
    allegro_fm512,
    alumina,
    collate,
)
from atomfoundry.models.allegro.angular import (
    harmonic_coefficients,
    harmonic_slices,
    parallel_coupling,
    wigner_3j,
)
from atomfoundry.models.allegro.couplings import list_paths, natural_irreps, plan_irreps
from atomfoundry.models.allegro.dense_track import LongDenseTrack
from atomfoundry.models.allegro.derivatives import couple, silu
from atomfoundry.models.allegro.long_track import LongTrack
from atomfoundry.models.allegro.radial import agnesi_transform, envelope


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


SHAPES = [(1, 2), (2, 0), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1)]
MODELS = [{"n_layers": n_layers, "l_max": l_max} for n_layers, l_max in SHAPES]
MODELS += [{"n_layers": n_layers, "l_max": 2, "parity": "so3"} for n_layers in (1, 2, 3)]
MODELS += [{"n_layers": n_layers, "l_max": 2, "variant": "B"} for n_layers in (1, 2, 3)]
MODELS += [{"n_layers": n_layers, "l_max": 2, "variant": "B", "parity": "so3"} for n_layers in (2, 3)]


@pytest.fixture(scope="module", params=MODELS, ids=lambda m: "-".join(f"{key}{value}" for key, value in m.items()))
def model(request) -> Allegro:
    return Allegro(small_config(**request.param))


# Size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "count"), [(allegro_fm64, 44_390), (allegro_fm256, 690_518), (allegro_fm512, 2_552_086)]
)
def test_parameter_counts_of_table_1(preset, count):
    assert Allegro(preset(chemical_symbols[1:90], avg_num_neighbors=30.0)).num_parameters == count


@pytest.mark.parametrize(
    ("preset", "count"), [(allegro_fm64, 60_728), (allegro_fm256, 949_448), (allegro_fm512, 3_192_840)]
)
def test_parameter_counts_of_variant_b(preset, count):
    """By the formula of docs/models.md, and as counted."""
    config = preset(chemical_symbols[1:90], avg_num_neighbors=30.0, variant="B")
    rows = (config.l_max + 1) * config.num_channels
    widths, latents = config.two_body_dims, config.latent_dims
    expected = len(config.type_names) * widths[0] + config.num_basis * (widths[0] + 1) + _pairs(widths)
    expected += latents[-1] * (latents[-1] + 2 * rows)
    for layer in range(config.n_layers):
        made = latents[-1] + (rows if layer < config.n_layers - 1 else 0)
        expected += _pairs([(layer + 1) * latents[-1] + config.num_channels, *latents[:-1], made])
    expected += config.num_channels * (11 + 3)
    expected += _pairs([(config.n_layers + 1) * latents[-1], *config.edge_energy_dims, 1])
    assert Allegro(config).num_parameters == expected == count


def _pairs(dims: list[int]) -> int:
    return sum(a * b for a, b in pairwise(dims))


def test_kept_irreps_and_paths():
    before, after, last = plan_irreps(2, 2)
    assert before == after == [(0, 1), (1, -1), (2, 1)]
    assert last == [(0, 1)]
    paths = list_paths(before, natural_irreps(2), after)
    assert [sum(path.positions[2] == out for path in paths) for out in range(3)] == [3, 4, 4]
    assert len(list_paths(after, natural_irreps(2), last)) == 3
    for n_layers in (1, 2, 3, 4):
        for l_max in range(4):
            for parity in ("o3_full", "so3"):
                expected = naive_allegro.kept_irreps(n_layers, l_max, parity)
                assert plan_irreps(n_layers, l_max, parity) == expected
    before, after, _ = plan_irreps(2, 2, "so3")
    assert len(list_paths(before, natural_irreps(2, "so3"), after)) == 15


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


@pytest.mark.parametrize("parity", ["o3_full", "so3"])
@pytest.mark.parametrize(("variant", "long_track"), [("A", LongTrack), ("B", LongDenseTrack)])
def test_long_form_equals_short_form(variant, long_track, parity):
    """Including the gradient of a loss with forces, where A's short form has derivatives of its own."""
    short = Allegro(small_config(variant=variant, parity=parity))
    long = Allegro(short.config)
    long.track = long_track(long.config, generator=torch.Generator(), dtype=torch.float64)
    long.load_state_dict(short.state_dict())
    assert type(short.track) is not type(long.track)
    batch = collate([checks.graph_of(short, atoms) for atoms in (silica(), ethanol())])
    gradients = []
    for each in (short, long):
        out = each(batch, create_graph=True)
        loss = out["energy"].square().sum() + out["forces"].square().sum() + out["stress"][0].square().sum()
        gradients.append(torch.autograd.grad(loss, list(each.parameters())))
    for left, right in zip(*gradients, strict=True):
        checks.close(left, right, 1e-12)


def test_one_layer_knows_no_parity():
    """Its only couplings are l x l -> 0, which mirror images share."""
    one, other = Allegro(small_config(n_layers=1)), Allegro(small_config(n_layers=1, parity="so3"))
    other.load_state_dict(one.state_dict())
    checks.close(checks.evaluate(one, ethanol())["energy"], checks.evaluate(other, ethanol())["energy"], 1e-14)


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


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dimer_does_not_see_the_tensor_product(shape):
    """In variant A, with no other neighbour the environment is zero, so path weights cannot matter."""
    model = Allegro(small_config(n_layers=shape[0], l_max=shape[1]))
    dimer = Atoms("CO", [[0, 0, 0], [0.3, 0.5, 1.0]])
    before = checks.evaluate(model, dimer)["energy"]
    other = Allegro(model.config)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for coupling in other.track.couplings:
            coupling.weights += 1.0
    checks.close(checks.evaluate(other, dimer)["energy"], before, 1e-15)
    assert abs(float(checks.evaluate(other, ethanol())["energy"] - checks.evaluate(model, ethanol())["energy"])) > 1e-9


def test_alumina_preset():
    atoms = bulk("Al", cubic=True)
    atoms.symbols[:2] = "O"
    atoms.rattle(0.1, seed=0)
    model = Allegro(alumina(avg_num_neighbors=12.0))
    assert model.dtype == torch.float64
    checks.check_derivatives(model, atoms)


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


@pytest.mark.parametrize("variant", ["A", "B"])
def test_heads(variant):
    model = Allegro(small_config(variant=variant))
    model.add_head(HeadConfig(name="ft", isolated_energies={"H": 1.0, "O": 2.0}, scale=3.4))
    assert model.head_index("ft") == 1
    assert [head.name for head in model.config.heads] == ["pt", "ft"]
    water = molecule("H2O")
    graphs = [checks.graph_of(model, water, head) for head in (0, 1)]
    out = model(collate(graphs))
    cohesion = out["energy"] - torch.tensor([2 * -0.5 - 2.0, 4.0], dtype=torch.float64)
    checks.close(cohesion[1], 2 * cohesion[0], 1e-12)  # a copied readout, twice the scale
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
        ({"variant": "B", "two_body_dims": [12]}, "two numbers at least"),
        ({"parity": "o3"}, "parity"),
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
