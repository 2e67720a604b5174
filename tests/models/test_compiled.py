"""Compiled forms of the model: few shapes for all batches, PyTorch's numbers, and PyTorch where they fail."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

sys.path.insert(0, str(Path(__file__).parent))
import contract
from pretended_gpu import pretended_gpu

from atomfoundry.models import Allegro, AllegroConfig, FoundryCalculator, HeadConfig, build_graph, collate
from atomfoundry.models import compiled as module
from atomfoundry.models.compiled import UNUSED, Shape, fill, find_compiled, rung, without_filling
from atomfoundry.models.kernel import find_kernel
from atomfoundry.models.recording import Recording, record
from atomfoundry.models.training import TrainingSettings, train
from atomfoundry.settings import settings

SMALL = {"num_channels": 2, "l_max": 1, "two_body_dims": [4, 4], "latent_dims": [4], "edge_energy_dims": [4]}
VARIANTS = [
    {"variant": "A", "n_layers": 3},
    {"variant": "B", "zbl": True, "radial_transform": "agnesi"},
]


def small(**changes):
    heads = [
        HeadConfig(name="pt", isolated_energies={"Si": -1.0, "O": -2.0}, scale=1.3),
        HeadConfig(name="ft", isolated_energies={"Si": -1.5}, scale=0.7),
    ]
    values = {"type_names": ["Si", "O"], "cutoff": 4.0, "avg_num_neighbors": 12.0, "dtype": "float64", "seed": 1}
    return Allegro(AllegroConfig(**(values | SMALL | {"heads": heads} | changes)))


def clusters(seed=0):
    """A crystal, a molecule in a cell and one without: many edges and few, two heads, one stress less."""
    frames = [bulk("Si", cubic=True), molecule("SiO"), molecule("SiO")]
    frames[1].set_cell([9, 9, 9])
    frames[1].pbc = True
    for frame in frames:
        frame.rattle(0.02, seed=seed)
    heads = (1, 0, 0)
    graphs = [
        build_graph(frame, cutoff=4.0, type_names=["Si", "O"], head=head)
        for frame, head in zip(frames, heads, strict=True)
    ]
    return collate(graphs)


def agree(found, expected):
    for name, value in found.items():
        assert value.shape == expected[name].shape
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12, equal_nan=True)


def slopes(model, out):
    """The gradient by the weights of a loss of all three."""
    stress = out["stress"][:2]
    value = out["energy"].square().sum() + out["forces"].square().sum() + stress.square().sum()
    model.zero_grad()
    value.backward()
    return [weight.grad for weight in model.parameters()]


@pytest.fixture
def switch(monkeypatch):
    """Set settings by their environment variables."""

    def set_to(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"ATOMFOUNDRY_{name.upper()}", str(value))
        settings.cache_clear()

    yield set_to
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def on(monkeypatch, switch):
    """Compiling is asked for; operations are recorded and done one by one, since code takes its time to be made."""
    switch(compile="on")
    monkeypatch.setattr(Recording, "compiled", lambda recording, backend: recording)


def test_few_sizes():
    sizes = {rung(number) for number in range(1, 100_001)}
    assert len(sizes) == 4 + 4 * 14 + 3  # to 4, fourteen doublings, three steps of the last
    for number in (1, 2, 3, 4, 5, 17, 1000, 65_536, 99_999, 12_345_678):
        assert number <= rung(number) <= 1.19 * number + 1
        assert rung(rung(number)) == rung(number)


@pytest.mark.parametrize("changes", VARIANTS, ids=["A", "B"])
def test_filling_changes_nothing(changes):
    model, batch = small(**changes), clusters()
    shape = Shape.of(batch)
    filled = fill(batch, shape, 4.0)
    assert (filled.num_graphs, filled.num_nodes, filled.num_edges) == (shape.graphs, shape.atoms, shape.edges)
    assert filled.layout.width == shape.width
    # the places given by hand are those of edges sorted by their centres
    assert torch.equal(filled.edge_index[0], filled.edge_index[0].sort(stable=True).values)
    assert torch.equal(filled.layout.places // shape.width, filled.edge_index[0])
    assert filled.layout.places.unique().numel() == shape.edges
    assert bool((filled.edge_vectors()[batch.num_edges :].norm(dim=1) > 4.0).all())
    out = model.forward_edges(filled)
    del out["edge_latents"]  # not a result of compiled forms
    agree(without_filling(out, batch), model.forward_edges(batch))


@pytest.mark.parametrize("recorded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_filling_on_a_gpu(recorded):
    model, batch = small(**VARIANTS[1]), clusters()
    expected = model.forward_edges(batch)
    shape = Shape.of(batch)
    with pretended_gpu():
        there, moved = small(**VARIANTS[1]).to("cuda"), batch.to("cuda")
        assert Shape.of(moved) == shape
        filled = fill(moved, shape, 4.0)
        out = (record(there, filled, leave_out=UNUSED[False]) if recorded else type(there).forward_edges)(there, filled)
        found = {name: value.cpu() for name, value in without_filling(out, moved).items() if name != "edge_latents"}
    agree(found, expected)


@pytest.mark.parametrize(
    "frame", [Atoms("Si"), Atoms("Si", cell=[20, 20, 20], pbc=True), bulk("Si")], ids=["free", "periodic", "one shape"]
)
def test_structures_at_the_edge(frame, on):
    """No edge at all, and a number of edges that needs no filling."""
    model = small(n_layers=3)
    batch = build_graph(frame, cutoff=4.0, type_names=["Si", "O"])
    agree(model(batch), model.forward_edges(batch))


@pytest.mark.parametrize("changes", [VARIANTS[0], pytest.param(VARIANTS[1], marks=pytest.mark.slow)], ids=["A", "B"])
def test_the_numbers_are_those_of_pytorch(changes, on):
    model = small(**changes)
    assert find_kernel(model) is None
    for seed in (0, 1):
        batch = clusters(seed)
        expected = model.forward_edges(batch)
        found = model(batch)
        assert set(expected) - set(found) == {"edge_latents"}
        agree(found, expected)
        assert not any(value.requires_grad for value in found.values())
        out = model(batch, create_graph=True)
        agree(out, model.forward_edges(batch, create_graph=True))
        here = slopes(model, out)
        there = slopes(model, model.forward_edges(batch, create_graph=True))
        for one, other in zip(here, there, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        # weights are read anew; both batches have one shape
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
    forms = find_compiled(model)
    assert not forms.given_up and len(forms._forms) == 2
    assert set(model(batch, stress=False)) == set(found) - {"stress"}


def test_the_model_itself_is_recorded(on):
    """The contract of all models, by the compiled form: derivatives, invariance, locality."""
    model = small(n_layers=3, heads=[HeadConfig(isolated_energies={"Si": -1.0, "O": -2.0})])
    atoms = contract.silica()
    atoms.calc = FoundryCalculator(model)
    forces = atoms.get_forces()
    assert not find_compiled(model).given_up and find_compiled(model)._forms
    step = 1e-4
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 0] += sign * step
        moved.calc = atoms.calc
        forces[0, 0] += sign * moved.get_potential_energy() / (2 * step)
    assert abs(forces[0, 0]) < 1e-7


@pytest.mark.slow
def test_another_head_is_recorded_anew(on):
    model, batch = small(n_layers=3), clusters()
    model(batch)
    model.add_head(HeadConfig(name="new", isolated_energies={"Si": -9.0, "O": -8.0}, scale=2.0))
    agree(model(batch), model.forward_edges(batch))
    moved = replace(batch, head=torch.full_like(batch.head, 2))
    agree(model(moved), model.forward_edges(moved))
    with torch.no_grad():
        model.readouts.isolated_energies[2] += 1.0
    agree(model(moved), model.forward_edges(moved))


@pytest.mark.slow
def test_a_training_takes_the_same_course(on, switch):
    heads = [HeadConfig(isolated_energies={"Si": -1.0, "O": -2.0})]
    teacher = small(seed=5, heads=heads)
    graphs = []
    for seed in range(4):
        frame = bulk("Si", cubic=True)
        frame.rattle(0.05, seed=seed)
        graph = build_graph(frame, cutoff=4.0, type_names=["Si", "O"])
        out = teacher(graph)
        graphs.append(replace(graph, energy=out["energy"], forces=out["forces"], stress=out["stress"]))

    def trained():
        course = TrainingSettings(max_epochs=2, batch_size=3, seed=1)
        return train(small(n_layers=3, heads=heads), {"pt": graphs[:3]}, {"pt": graphs[3:]}, settings=course).model

    compiled = trained()
    assert find_compiled(compiled)._forms
    switch(compile="off")
    plain = trained()
    assert find_compiled(plain) is None
    for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_what_does_not_compile_is_told_and_evaluated(on, monkeypatch, caplog):
    def broken(recording, backend):
        raise RuntimeError("no code for this\nand more")

    monkeypatch.setattr(Recording, "compiled", broken)
    model, batch = small(n_layers=3), clusters()
    with caplog.at_level(logging.WARNING):
        agree(model(batch), model.forward_edges(batch))
        model(batch)
    (said,) = [record.getMessage() for record in caplog.records if "torch.compile" in record.getMessage()]
    assert "no code for this" in said and "PyTorch evaluates" in said
    assert find_compiled(model).given_up


@pytest.fixture
def distort(monkeypatch):
    """Let code give another result of one name."""

    def distort(name, change):
        def distorted(model, batch, *, leave_out=()):
            found = record(model, batch, leave_out=leave_out)
            place = found.names.index(name)

            def work(*arguments):
                values = list(found.work(*arguments))
                values[place] = change(values[place])
                return values

            return replace(found, work=work)

        monkeypatch.setattr(module, "record", distorted)

    return distort


def test_forces_that_cancel_may_round_differently(on, distort):
    """In a perfect crystal forces are the rounding of their terms alone, which code need not repeat."""
    model, batch = small(n_layers=3, dtype="float32"), build_graph(bulk("Si"), cutoff=4.0, type_names=["Si", "O"])
    expected = model.forward_edges(batch)
    rounding = 1e-6 * float(expected["edge_gradients"].abs().max())
    assert rounding > 1e-3 * float(expected["forces"].abs().max())
    distort("forces", lambda forces: forces + rounding)
    model(batch)
    assert not find_compiled(model).given_up


@pytest.mark.parametrize("wrong", ["edge_energy", "edge_gradients", "forces", "stress"])
def test_other_numbers_are_not_taken(on, distort, caplog, wrong):
    distort(wrong, lambda values: values * (1 + 1e-6))
    model, batch = small(n_layers=3), clusters()
    with caplog.at_level(logging.WARNING):
        agree(model(batch), model.forward_edges(batch))
    assert f"another {wrong.replace('_', ' ').removesuffix('s')}" in caplog.text


def test_further_shapes_are_left_to_pytorch(on, monkeypatch):
    monkeypatch.setattr(module, "MOST_SHAPES", 1)
    model = small(n_layers=3)
    batches = [build_graph(bulk("Si", cubic=True) * (1, 1, n), cutoff=4.0, type_names=["Si", "O"]) for n in (1, 2)]
    for batch in batches:
        agree(model(batch), model.forward_edges(batch))
    assert len(find_compiled(model)._forms) == 1


def test_the_kernel_goes_first(on):
    model = small()
    if find_kernel(model) is None:
        pytest.skip("no C++ compiler")
    model(clusters())
    assert not find_compiled(model)._forms


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_generated_code(monkeypatch, switch, tmp_path):
    """With code, kept in the home folder; float32 as in use, and two threads, which code of torch 2.13 cannot do."""
    switch(compile="on", kernel="off", home=tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that what is set below does not outlive the test
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    model, batch = small(**VARIANTS[1], dtype="float32"), clusters()
    out, expected = model(batch, create_graph=True), model.forward_edges(batch, create_graph=True)
    assert not find_compiled(model).given_up
    torch.testing.assert_close(out["forces"], expected["forces"], rtol=1e-4, atol=1e-5)
    for one, other in zip(slopes(model, out), slopes(model, expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert list((tmp_path / "compiled").rglob("*.py"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("changes", [{"variant": "A"}, *VARIANTS], ids=["A, 2 layers", "A", "B"])
def test_generated_code_on_a_gpu(switch, changes):
    switch(compile="on")
    model, batch = small(**changes), clusters()
    expected = model.forward_edges(batch)
    there = small(**changes).to("cuda")
    found = there(batch.to("cuda"))
    assert not find_compiled(there).given_up
    for name in ("energy", "forces"):
        torch.testing.assert_close(found[name].cpu(), expected[name], rtol=1e-9, atol=1e-9)
    out = there(batch.to("cuda"), create_graph=True)
    assert not find_compiled(there).given_up
    for one, other in zip(
        slopes(there, out), slopes(model, model.forward_edges(batch, create_graph=True)), strict=True
    ):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-7, atol=1e-9)
