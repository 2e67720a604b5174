"""The compiled kernel against PyTorch's evaluation of the same model, and what happens without it."""

from __future__ import annotations

import ctypes
import gc
import logging
import os

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from atomfoundry.errors import ModelError
from atomfoundry.models import Allegro, AllegroConfig, FoundryCalculator, HeadConfig, build_graph, collate
from atomfoundry.models.allegro import model as model_module
from atomfoundry.models.kernel import build, evaluation, find_kernel, kernel_first
from atomfoundry.models.kernel.exported import MAIN, exported_sources, write_exported
from atomfoundry.models.kernel.threads import kernel_threads
from atomfoundry.settings import settings

ELEMENTS = ["Si", "C"]


def config(**changes) -> AllegroConfig:
    base = {
        "type_names": ELEMENTS,
        "avg_num_neighbors": 20.0,
        "cutoff": 4.0,
        "dtype": "float64",
        "num_channels": 4,
        "two_body_dims": [8, 16],
        "latent_dims": [16, 16],
        "edge_energy_dims": [8],
    }
    return AllegroConfig.model_validate(base | changes)


def carbide(seed: int = 1) -> Atoms:
    atoms = bulk("SiC", "zincblende", a=4.2, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def batch_of(*structures: Atoms, heads: tuple[int, ...] | None = None):
    return collate(
        [
            build_graph(atoms, cutoff=4.0, type_names=ELEMENTS, head=head)
            for atoms, head in zip(structures, heads or (0,) * len(structures), strict=True)
        ]
    )


def everything(model: Allegro, batch) -> dict[str, torch.Tensor]:
    """Outputs, and gradients of a loss of energies, forces and stresses by all weights."""
    model.zero_grad()
    out = model(batch, create_graph=True)
    weights = torch.sin(torch.arange(out["forces"].numel())).view_as(out["forces"])
    loss = (out["energy"] * torch.arange(1.0, batch.num_graphs + 1)).sum() + (out["forces"] * weights).sum()
    loss = loss + out["forces"].square().sum() + out["stress"].nan_to_num().square().sum()
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    plain = model(batch)
    found |= {key: plain[key] for key in ("energy", "atomic_energy", "edge_energy", "forces", "stress", "features")}
    with torch.no_grad():
        found["latents"] = model(batch, forces=False, stress=False)["edge_latents"]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_layers": 1},
        {"l_max": 0},
        {"l_max": 1, "num_channels": 16},
        {"l_max": 3, "num_channels": 5, "two_body_dims": [6, 20], "latent_dims": [33, 20], "edge_energy_dims": []},
        {"radial_transform": "agnesi"},
        {"zbl": True},
        {"parity": "so3"},
        {"dtype": "float32"},
        {"heads": [HeadConfig(name="pt", scale=2.0), HeadConfig(name="ft", scale={"Si": 1.0, "C": 3.0})]},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_the_kernel_gives_what_pytorch_gives(changes, monkeypatch):
    model = Allegro(config(**changes))
    assert find_kernel(model) is not None
    heads = (0, 1, 0, 1) if "heads" in changes else None
    batch = batch_of(carbide(), bulk("Si"), Atoms("C"), Atoms("SiC", [[0, 0, 0], [0, 0.3, 1.8]]), heads=heads)
    compiled = everything(model, batch)
    monkeypatch.setattr(model_module, "find_kernel", lambda model: None)
    reference = everything(model, batch)
    assert compiled.keys() == reference.keys()
    tolerance = 2e-5 if changes.get("dtype") == "float32" else 1e-11
    for key, value in reference.items():
        error = (compiled[key] - value).nan_to_num().abs().max()
        assert error <= tolerance * max(float(value.nan_to_num().abs().max()), 1e-3), key
        assert torch.equal(compiled[key].isnan(), value.isnan())


def test_threads_do_not_change_a_bit():
    model = Allegro(config(dtype="float32"))
    batch = batch_of(*(carbide(seed) for seed in range(12)))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(everything(model, batch))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[key].nan_to_num(), value.nan_to_num()) for key, value in found[0].items())


def test_pytorch_leaves_its_threads_to_the_kernel():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with kernel_first():
            assert (torch.get_num_threads(), kernel_threads()) == (1, 2)
            with kernel_first():
                assert (torch.get_num_threads(), kernel_threads()) == (1, 2)
        assert (torch.get_num_threads(), kernel_threads()) == (2, 2)
    finally:
        torch.set_num_threads(before)


def test_threads_stop_at_a_fork():
    """A child of a process whose kernel has threads makes its own."""
    model = Allegro(config())
    batch = batch_of(*(carbide(seed) for seed in range(8)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = model(batch)["forces"]
        child = os.fork()
        if child == 0:  # pragma: no cover
            same = torch.equal(model(batch)["forces"], expected)
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)


def test_changed_weights_are_noticed():
    """Fused optimisers change weights without counting up their versions."""
    model = Allegro(config())
    batch = batch_of(carbide())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    before = model(batch)["energy"]
    model(batch, create_graph=True)["energy"].sum().backward()
    optimizer.step()
    after = model(batch)["energy"]
    assert not torch.equal(before, after)
    assert torch.allclose(after, model.forward_edges(batch)["energy"].detach(), rtol=1e-12)


def test_a_graph_keeps_the_weights_it_was_made_with():
    """The kernel's copy of the weights lives as long as a graph needs it."""
    model, batch = Allegro(config()), batch_of(carbide())
    parameters = list(model.parameters())
    value = model(batch, create_graph=True)["forces"].square().sum()
    expected = torch.autograd.grad(value, parameters, retain_graph=True)
    gc.collect()
    Allegro(config(seed=5))(batch, create_graph=True)["energy"].sum().backward()
    again = torch.autograd.grad(value, parameters)
    assert all(map(torch.equal, expected, again))


def test_no_edges_no_forces():
    model = Allegro(config(heads=[HeadConfig(isolated_energies={"Si": -3.0, "C": -2.0})]))
    out = model(batch_of(Atoms("SiC", [[0, 0, 0], [0, 0, 9.0]])))
    assert float(out["energy"][0]) == -5.0
    assert not out["forces"].any()


def test_a_new_head_is_seen():
    model = Allegro(config())
    model(batch_of(carbide()))
    model.add_head(HeadConfig(name="ft", scale=2.0))
    atoms = carbide()
    first, second = (FoundryCalculator(model, head=head).get_potential_energy(atoms) for head in ("pt", "ft"))
    assert second == pytest.approx(2 * first, rel=1e-12)


def test_without_a_compiler_pytorch_evaluates_and_says_so(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    evaluation._say_once.cache_clear()
    model = Allegro(config(seed=9))
    with caplog.at_level(logging.WARNING):
        out = model(batch_of(carbide()))
    assert "no-such-compiler" in caplog.text or "C++ compiler" in caplog.text
    assert torch.allclose(out["energy"], model.forward_edges(batch_of(carbide()))["energy"].detach(), rtol=1e-12)


def test_a_home_that_cannot_be_written_costs_speed_alone(monkeypatch, caplog, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(settings(), "home", tmp_path / "file")
    evaluation._say_once.cache_clear()
    model = Allegro(config(seed=9))
    with caplog.at_level(logging.WARNING):
        out = model(batch_of(carbide()))
    assert f"No kernel can be made in {tmp_path}" in caplog.text
    assert torch.allclose(out["energy"], model.forward_edges(batch_of(carbide()))["energy"].detach(), rtol=1e-12)


def test_a_library_that_the_system_does_not_load(tmp_path):
    (tmp_path / "kernel.so").write_bytes(b"no library")
    with pytest.raises(ModelError, match="cannot be loaded"):
        build.load_library(tmp_path / "kernel.so")


def test_a_setting_turns_it_off(monkeypatch):
    monkeypatch.setattr(settings(), "kernel", "off")
    assert find_kernel(Allegro(config())) is None


def test_three_layers_are_pytorchs(caplog):
    evaluation._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert find_kernel(Allegro(config(n_layers=3))) is None
    assert "3 layers" in caplog.text


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"wrong\.cpp"):
        build.compile_library({"wrong.cpp": "this is not C++"}, "wrong.cpp", name="wrong")


def test_a_library_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setattr(settings(), "home", tmp_path)
    text = {"one.cpp": 'extern "C" int one() { return 1; }'}
    first = build.compile_library(text, "one.cpp", name="one")
    stamp = first.stat().st_mtime_ns
    assert build.compile_library(text, "one.cpp", name="one") == first
    assert first.stat().st_mtime_ns == stamp
    assert build.compile_library({"one.cpp": text["one.cpp"] + "\n"}, "one.cpp", name="one") != first
    assert ctypes.CDLL(str(first)).one() == 1
    assert not list((tmp_path / "kernels").glob(".build-*"))


# -- the file for programs outside Python ------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    heads = [
        HeadConfig(name="pt", isolated_energies={"Si": -1.0, "C": -2.0}, scale=2.0),
        HeadConfig(name="hse", scale={"Si": 1.5, "C": 0.5}),
    ]
    model = Allegro(config(zbl=True, heads=heads))
    library = ctypes.CDLL(str(build.compile_library(exported_sources(model), MAIN, name="exported")))
    library.foundry_open.restype = ctypes.c_void_p
    library.foundry_open.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
    library.foundry_cutoff.restype = ctypes.c_double
    return model, library, write_exported(model, tmp_path_factory.mktemp("exported") / "model.foundry")


def opened(library, path) -> tuple[int | None, str]:
    message = ctypes.create_string_buffer(500)
    return library.foundry_open(str(path).encode(), message, 500), message.value.decode()


def test_an_exported_model_gives_the_same(exported):
    model, library, path = exported
    handle, _ = opened(library, path)
    pointer = ctypes.c_void_p(handle)
    assert library.foundry_cutoff(pointer) == 4.0
    assert [library.foundry_type(pointer, name) for name in (b"Si", b"C", b"O")] == [0, 1, -1]
    assert [library.foundry_head(pointer, name) for name in (b"", b"pt", b"hse", b"x")] == [0, 0, 1, -1]
    atoms = bulk("SiC", "zincblende", a=3.6, cubic=True)
    atoms.rattle(0.2, seed=3)
    graph = build_graph(atoms, cutoff=4.0, type_names=ELEMENTS, head=1)
    out = model(graph)
    assert out["zbl_energy"].abs().max() > 1e-3
    first = np.concatenate([[0], torch.bincount(graph.edge_index[0]).cumsum(0).numpy()]).astype(np.int64)
    types = graph.types.numpy().astype(np.int32)
    neighbours = np.ascontiguousarray(types[graph.edge_index[1].numpy()])
    vectors = np.ascontiguousarray(graph.edge_vectors().numpy())
    energies, gradients = np.zeros(len(atoms)), np.zeros_like(vectors)
    arrays = [ctypes.c_void_p(a.ctypes.data) for a in (first, types, neighbours, vectors, energies, gradients)]
    library.foundry_evaluate(pointer, 1, ctypes.c_int64(len(atoms)), *arrays, 2)
    assert np.abs(energies - out["atomic_energy"].numpy()).max() < 1e-12
    assert np.abs(gradients - out["edge_gradients"].numpy()).max() < 1e-12
    library.foundry_close(pointer)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-3], "cut short"),
        (lambda data: data + b"x", "too long"),
        (lambda data: b"something" + data, "not an exported model"),
        (lambda data: data.replace(b"shape ", b"shape 0", 1), "another shape"),
        (lambda data: data.replace(b"types Si C", b"types", 1), "damaged"),
        (lambda data: data.replace(b"weights ", b"weights 1", 1), "number of weights"),
    ],
)
def test_a_damaged_file_is_refused(exported, tmp_path, damage, said):
    _, library, path = exported
    (tmp_path / "bad.foundry").write_bytes(damage(path.read_bytes()))
    handle, message = opened(library, tmp_path / "bad.foundry")
    assert handle is None
    assert said in message
    assert "bad.foundry" in message


def test_a_missing_file_is_named(exported, tmp_path):
    handle, message = opened(exported[1], tmp_path / "none.foundry")
    assert handle is None
    assert "none.foundry" in message and "cannot be opened" in message
