"""CHGNet and NequIP, each in an environment of its own, in every seat that a model takes: the numbers are its own.

``ATOMFOUNDRY_TEST_CHGNET`` and ``ATOMFOUNDRY_TEST_NEQUIP`` name the environments (or their interpreters), e.g.::

    python -m venv chgnet && chgnet/bin/pip install torch chgnet==0.4.2
    python -m venv nequip && nequip/bin/pip install torch nequip==0.19.1

The NequIP model has random weights and is compiled once, which takes a minute; ``ATOMFOUNDRY_TEST_NEQUIP_MODEL`` names
the file where it is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.io import write
from ase.md.verlet import VelocityVerlet
from jobflow import Flow

from atomfoundry.datasets import attach_labels, with_metadata
from atomfoundry.documents import CalculatorSpec
from atomfoundry.engines.foreign import calculator_of, engine_of
from atomfoundry.engines.interpreter.process import find_interpreter
from atomfoundry.errors import EngineUnavailableError
from atomfoundry.makers import BenchmarkMaker, ExploreMaker, LabelMaker
from atomfoundry.makers.dataset import dataset_document
from atomfoundry.makers.frames import open_dataset, store_frames, structure_set
from atomfoundry.results import Project, use_project
from atomfoundry.running import run

THREADS = {"OMP_NUM_THREADS": "1"}

NEQUIP_MODEL = """
# what `nequip-compile --mode aotinductor --target ase` does, for a model that has not been trained
import torch
from ase.build import bulk
from nequip.data import from_ase
from nequip.integrations.utils import basic_transforms
from nequip.model import NequIPGNNModel
from nequip.scripts._compile_utils import AOTI_ASE_TARGET, COMPILE_TARGET_DICT
from nequip.utils.aot import aot_export_model
from nequip.utils.aoti_metadata import NEQUIP_AOTI_INPUTS_KEY, NEQUIP_AOTI_OUTPUTS_KEY, serialize_aoti_keys
from nequip.utils.global_state import get_latest_global_state, set_global_state

set_global_state()
model = NequIPGNNModel(
    seed=1, model_dtype="float64", type_names=["Si"], r_max=4.0, num_layers=2, l_max=1, num_features=4,
    radial_mlp_width=8, avg_num_neighbors=16.0, per_type_energy_scales=1.0, per_type_energy_shifts=-5.0,
).eval()
data = from_ase(bulk("Si", cubic=True))
for transform in basic_transforms(model.metadata, 4.0, ["Si"], {"Si": "Si"}):
    data = transform(data)
target = COMPILE_TARGET_DICT[AOTI_ASE_TARGET]
dims = {kind: torch.export.dynamic_shapes.Dim(f"num_{kind}s", min=2) for kind in ("graph", "node", "edge")}
metadata = model.metadata | get_latest_global_state(only_metadata_related=True)
metadata = {key: str(int(value)) if isinstance(value, bool) else str(value) for key, value in metadata.items()}
metadata[NEQUIP_AOTI_INPUTS_KEY] = serialize_aoti_keys(target["input"])
metadata[NEQUIP_AOTI_OUTPUTS_KEY] = serialize_aoti_keys(target["output"])
aot_export_model(
    model=model, device=torch.device("cpu"), input_fields=target["input"], output_fields=target["output"],
    data=target["data_settings"](data), batch_map=target["batch_map_settings"](dims), output_path=sys.argv[1],
    inductor_configs={"aot_inductor.metadata": metadata},
)
"""

DIRECT = """
# the calculator itself, without us: single point, then dynamics
import json, sys
import importlib
import numpy as np
from ase import units
from ase.io import read
from ase.md.verlet import VelocityVerlet

path, kwargs, structures, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
module, _, name = path.partition(":")
made = importlib.import_module(module)
for part in name.split("."):
    made = getattr(made, part)
calculator = made(**kwargs)
found = {}
for number, atoms in enumerate(read(structures, ":")):
    atoms.calc = calculator
    found[f"energy{number}"] = atoms.get_potential_energy()
    found[f"forces{number}"] = atoms.get_forces()
    found[f"stress{number}"] = atoms.get_stress()
atoms = read(structures, 0)
atoms.calc = calculator
VelocityVerlet(atoms, 1.0 * units.fs).run(10)
np.savez(out, positions=atoms.positions, velocities=atoms.get_velocities(), **found)
"""


def _environment(name: str) -> str:
    variable = f"ATOMFOUNDRY_TEST_{name.upper()}"
    if variable not in os.environ:
        pytest.skip(f"no environment with {name} ({variable})")
    try:
        return find_interpreter(os.environ[variable])
    except EngineUnavailableError as error:
        pytest.skip(f"{variable}: {error.message}")


def _version(interpreter: str, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module", params=["chgnet", "nequip"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CalculatorSpec:
    """The description, as a user writes it."""
    interpreter = _environment(request.param)
    more: dict[str, Any] = {"interpreter": interpreter, "environment": THREADS, "timeout": 300.0}
    more["packages"] = {request.param: _version(interpreter, request.param)}
    if request.param == "chgnet":
        return CalculatorSpec(
            calculator_class="chgnet.model.dynamics:CHGNetCalculator", kwargs={"use_device": "cpu"}, **more
        )
    kept = os.environ.get("ATOMFOUNDRY_TEST_NEQUIP_MODEL")
    model = Path(kept) if kept else tmp_path_factory.mktemp("nequip") / "random.nequip.pt2"
    if not model.exists():
        subprocess.run([interpreter, "-c", NEQUIP_MODEL, str(model)], check=True, env={**os.environ, **THREADS})
    return CalculatorSpec(
        calculator_class="nequip.integrations.ase:NequIPCalculator.from_compiled_model",
        kwargs={"compile_path": str(model), "device": "cpu"},
        elements=["Si"],
        **more,
    )


def silicon() -> list[Atoms]:
    frames = []
    for number, scale in enumerate((1.0, 0.97, 1.03)):
        atoms = bulk("Si", "diamond", a=5.43 * scale, cubic=True)
        atoms.rattle(0.05, seed=number)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def direct(spec: CalculatorSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the calculator gives in its own environment, without us."""
    folder = tmp_path_factory.mktemp("direct")
    write(folder / "frames.traj", silicon())
    assert spec.calculator_class is not None
    subprocess.run(
        [
            str(spec.interpreter),
            "-c",
            DIRECT,
            spec.calculator_class,
            json.dumps(spec.kwargs),
            str(folder / "frames.traj"),
            str(folder / "out.npz"),
        ],
        check=True,
        env={**os.environ, **THREADS},
        cwd=folder,
    )
    with np.load(folder / "out.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project.open_or_create(tmp_path_factory.mktemp("foreign") / "project")
    with use_project(project):
        yield project


def test_the_calculator_and_the_engine(spec: CalculatorSpec, direct: dict[str, np.ndarray], tmp_path: Path) -> None:
    calculator, engine = calculator_of(spec), engine_of(spec)
    engine.check_available()
    for number, atoms in enumerate(silicon()):
        point = engine.evaluate(atoms, tmp_path)
        atoms.calc = calculator
        for energy, forces, stress in (
            (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()),
            (point.energy, point.forces, point.stress),
        ):
            assert energy == direct[f"energy{number}"]
            assert np.array_equal(forces, direct[f"forces{number}"])
            assert np.array_equal(stress, direct[f"stress{number}"])


def test_dynamics(spec: CalculatorSpec, direct: dict[str, np.ndarray]) -> None:
    atoms = silicon()[0]
    atoms.calc = calculator_of(spec)
    VelocityVerlet(atoms, 1.0 * units.fs).run(10)
    assert np.array_equal(atoms.positions, direct["positions"])
    assert np.array_equal(atoms.get_velocities(), direct["velocities"])
    assert not np.array_equal(atoms.positions, silicon()[0].positions)


def test_labels_benchmark_and_exploration(
    spec: CalculatorSpec, direct: dict[str, np.ndarray], project: Project, request: pytest.FixtureRequest
) -> None:
    frames = [with_metadata(atoms, group_id=str(n), source="made") for n, atoms in enumerate(silicon())]
    structures = structure_set(frames, name="silicon")
    crystals = structure_set([with_metadata(bulk("Si"), group_id="si", source="made")], name="si")
    level = engine_of(spec).level
    known = [
        attach_labels(
            with_metadata(atoms, group_id=str(n), level=level.id),
            float(direct[f"energy{n}"]),
            direct[f"forces{n}"],
            direct[f"stress{n}"],
        )
        for n, atoms in enumerate(silicon())
    ]
    artifact = store_frames(known, name="known", level=level, splits={"train": [0, 1], "test": [2]})
    dataset = dataset_document(artifact, name="known", rejections={}, rejected=[])
    label = LabelMaker.with_calculator(spec, batch_size=3).make(structures)
    curve = BenchmarkMaker(benchmark="equation_of_state").make(spec, crystals, dataset)
    parity = BenchmarkMaker(name="parity", benchmark="parity").make(spec, crystals, dataset)
    explore = ExploreMaker(temperatures=[300.0], n_steps=10, interval=5, n_select=1, min_atoms=2)
    explored = explore.make(spec, None, crystals, dataset)
    result = run(
        Flow([label, curve, parity, explored], name=request.node.name), project=project, workers=1, progress=False
    )
    assert result.ok, result.failures
    labels = result.output(label)
    assert labels.n_labelled == 3
    for atoms in open_dataset(labels.frames).frames():
        number = int(atoms.info["group_id"])
        assert atoms.get_potential_energy() == direct[f"energy{number}"]
        assert np.array_equal(atoms.get_forces(), direct[f"forces{number}"])
        assert np.array_equal(atoms.get_stress(), direct[f"stress{number}"])
    own = result.output(parity)
    assert own.summary["n_frames"] == 1
    assert own.summary["forces_mae"] < 1e-12
    assert own.calculator_description["versions"].items() >= spec.packages.items()
    found = result.output(curve)
    assert found.n_failed == 0
    assert found.calculator.startswith(("CHGNetCalculator (chgnet ", "NequIPCalculator (nequip "))
    if "chgnet" in str(spec.calculator_class):
        # PBE, which it was trained on, has 5.4695 A
        assert found.summary["a"] == pytest.approx(5.4695, abs=0.01)
    assert len(result.output(explored).trajectories) == 1
