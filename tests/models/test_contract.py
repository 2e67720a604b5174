"""The contract of `contract.py` over Allegro's variants and options."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from ase import Atoms

sys.path.insert(0, str(Path(__file__).parent))
import contract

from atomfoundry.models import Allegro, AllegroConfig, HeadConfig

SCALE = {"H": 0.8, "C": 1.2, "O": 1.7, "Si": 1.4}
ONE_HEAD = [HeadConfig(name="pt", isolated_energies=contract.ISOLATED, scale=1.7)]
TWO_HEADS = [
    HeadConfig(name="pt", isolated_energies=contract.ISOLATED, scale=1.3),
    HeadConfig(name="ft", isolated_energies={name: 0.1 * z for z, name in enumerate(contract.ELEMENTS)}, scale=SCALE),
]
SCALES = [HeadConfig(name="pt", isolated_energies=contract.ISOLATED, scale=SCALE)]


def config(**changes) -> AllegroConfig:
    settings = {
        "type_names": contract.ELEMENTS,
        "cutoff": contract.CUTOFF,
        "num_channels": 4,
        "two_body_dims": [8, 12],
        "latent_dims": [12, 12],
        "edge_energy_dims": [6],
        "avg_num_neighbors": 10.0,
        "heads": ONE_HEAD,
        "dtype": "float64",
        "seed": 3,
    }
    return AllegroConfig(**(settings | changes))


def potential(**settings) -> contract.Potential:
    made = config(**settings)
    handed = made.parity == "so3" and made.n_layers > 1 and made.l_max > 0
    return contract.Potential(
        make=lambda **changes: Allegro(config(**(settings | changes))),
        mirror=not handed,
        smooth_scale=1e4 if made.radial_transform == "agnesi" else 1.0,
        # Sums of paths without 1 / sqrt(n_paths), as in the public model: four layers of l_max 3 begin wild.
        calm=not (made.variant == "B" and made.n_layers == 4 and made.l_max == 3),
    )


def name_of(settings: dict) -> str:
    return "-".join(
        str({True: key, "so3": "so3"}.get(value, value) if key != "heads" else f"{len(value)}heads")
        if key in ("variant", "zbl", "parity", "radial_transform", "heads")
        else f"{key}{value}"
        for key, value in settings.items()
    )


def variant(letter: str, n_layers: int, l_max: int, **options) -> dict:
    return {"variant": letter, "n_layers": n_layers, "l_max": l_max, **options}


SOME = [
    variant("A", 1, 2),
    variant("A", 2, 0),
    variant("A", 2, 2, zbl=True, heads=SCALES),
    variant("A", 2, 3),
    variant("A", 3, 1),
    variant("A", 2, 2, parity="so3"),
    variant("A", 3, 1, parity="so3"),
    variant("A", 2, 1, radial_transform="agnesi", heads=TWO_HEADS),
    variant("B", 2, 2),
    variant("B", 3, 1, parity="so3"),
    variant("B", 2, 1, zbl=True, radial_transform="agnesi", heads=TWO_HEADS),
]
OPTIONS = [
    {"zbl": zbl, "radial_transform": transform, "heads": heads}
    for zbl, transform, heads in product((False, True), ("none", "agnesi"), (ONE_HEAD, TWO_HEADS, SCALES))
]
SHAPES = [
    variant(letter, n_layers, l_max, parity=parity)
    for letter, n_layers, l_max, parity in product("AB", (1, 2, 3, 4), (0, 1, 2, 3), ("o3_full", "so3"))
]
ALL = [{**shape, **OPTIONS[5 * index % len(OPTIONS)]} for index, shape in enumerate(SHAPES)]
ALL += [variant(letter, 2, 2, **options) for letter, options in product("AB", OPTIONS)]


@pytest.fixture(scope="module", params=SOME, ids=name_of)
def some(request) -> contract.Potential:
    return potential(**request.param)


@pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
def test_contract(some, clause):
    clause(some)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ALL, ids=name_of)
def test_contract_everywhere(settings):
    each = potential(**settings)
    for clause in contract.CLAUSES:
        clause(each)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("letter", ["A", "B"])
def test_gpu_gives_the_same_numbers(letter):
    model = Allegro(config(variant=letter, dtype="float32", heads=[HeadConfig(name="pt")]))
    batch = contract.batch_of(model, contract.silica(), contract.ethanol(), Atoms("H"))
    here, there = model(batch), model.to("cuda")(batch.to("cuda"))
    energy = there["energy"].cpu()
    assert float((energy - here["energy"]).abs().max() / here["energy"].abs().max()) < 1e-6
    contract.close(there["forces"].cpu(), here["forces"], 1e-5)
    out = model(batch.to("cuda"), create_graph=True)
    out["forces"].square().sum().backward()
