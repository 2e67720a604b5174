"""A campaign for the tests of provenance; in a module of its own so that workers can import it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from ase import Atoms
from jobflow import Flow

from atomfoundry.datasets import frame_id, with_metadata
from atomfoundry.documents import BenchmarkDoc, DatasetDoc, ModelDoc, ReportDoc, StructureSetDoc
from atomfoundry.makers.align import AlignMaker
from atomfoundry.makers.dataset import DatasetMaker
from atomfoundry.makers.dataset_work import SelectMaker
from atomfoundry.makers.frames import structure_set
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.label import LabelMaker
from atomfoundry.results import current_artifacts

SOURCE, TARGET = 0.40, 0.42


def chain(n: int, spacing: float, source: str) -> Atoms:
    atoms = Atoms("H" * n, positions=[[spacing * i, 0.01 * i * i, 0.0] for i in range(n)], cell=3 * [30.0], pbc=True)
    return with_metadata(atoms, source=source, sampling="test", group_id=f"{source}{spacing:.3f}")


def atom() -> Atoms:
    return with_metadata(Atoms("H", positions=[[0.0, 0.0, 0.0]]), source="atom", sampling="isolated_atom")


def crystals() -> list[Atoms]:
    return [chain(3, 2.2 + 0.05 * i, "crystal") for i in range(4)]


def molecules() -> list[Atoms]:
    return [chain(2, 2.1 + 0.05 * i, "molecule") for i in range(4)]


def labels(epsilon: float, name: str) -> LabelMaker:
    return LabelMaker(
        name=name,
        engine="ase",
        isolate=False,
        batch_size=3,
        engine_settings={
            "calculator_class": "ase.calculators.lj.LennardJones",
            "calculator_kwargs": {"sigma": 2.0, "epsilon": epsilon, "rc": 9.0, "smooth": True},
            "elements": ["H"],
        },
    )


@foundry_job(output_schema=StructureSetDoc)
def structures(kind: str) -> StructureSetDoc:
    made = {"crystals": crystals, "molecules": molecules, "atoms": lambda: [atom()]}[kind]()
    return structure_set(made, name=kind)


@foundry_job(output_schema=ModelDoc)
def trained(dataset: DatasetDoc, name: str, seed: int = 3, start: ModelDoc | None = None) -> ModelDoc:
    path = Path(f"{name}.bin")
    path.write_bytes(np.random.default_rng(seed).bytes(64) + name.encode())
    return ModelDoc(
        name=name,
        architecture="none",
        n_parameters=len(dataset.elements),
        elements=list(dataset.elements),
        heads=[],
        model=current_artifacts().put(path),
    )


@foundry_job(output_schema=BenchmarkDoc)
def benchmark(model: ModelDoc) -> BenchmarkDoc:
    return BenchmarkDoc(benchmark="none", calculator=model.name, name=f"of {model.name}")


@foundry_job(output_schema=ReportDoc)
def report(benchmarks: list[BenchmarkDoc], title: str) -> ReportDoc:
    path = Path("report.html")
    path.write_text(f"<p>{title}</p>")
    return ReportDoc(title=title, html=current_artifacts().put(path, media_type="text/html"))


def campaign() -> SimpleNamespace:
    """Crystals at the target level, molecules at the source level and aligned; two datasets, models, one report.

    ``few`` holds a choice of the crystals; ``few model`` is trained on it alone.
    """
    jobs = {
        "crystals": structures("crystals"),
        "molecules": structures("molecules"),
        "atoms": structures("atoms"),
    }
    jobs["crystal labels"] = labels(TARGET, "crystal labels").make(jobs["crystals"].output)
    jobs["molecule labels"] = labels(SOURCE, "molecule labels").make(jobs["molecules"].output)
    jobs["molecules again"] = labels(TARGET, "molecules again").make(jobs["molecules"].output)
    jobs["atoms at target"] = labels(TARGET, "atoms at target").make(jobs["atoms"].output)
    jobs["atoms at source"] = labels(SOURCE, "atoms at source").make(jobs["atoms"].output)
    jobs["align"] = AlignMaker(mode="atoms", force=True).make(
        jobs["molecule labels"].output,
        jobs["atoms at source"].output,
        jobs["atoms at target"].output,
        jobs["molecules again"].output,
        jobs["atoms at target"].output,
    )
    jobs["dataset"] = DatasetMaker(fractions=(0.5, 0.25, 0.25), max_force=1000.0).make(
        [jobs["crystal labels"].output], jobs["atoms at target"].output, [jobs["align"].output]
    )
    jobs["crystal dataset"] = DatasetMaker(name="crystal dataset", max_force=1000.0).make(
        [jobs["crystal labels"].output], jobs["atoms at target"].output
    )
    jobs["few"] = SelectMaker(name="few", number=2, seed=1).make(jobs["crystal dataset"].output)
    jobs["model"] = trained(jobs["dataset"].output, "model")
    jobs["few model"] = trained(jobs["few"].output, "few model")
    jobs["tuned"] = trained(jobs["few"].output, "tuned", start=jobs["model"].output)
    for name in ("model", "few model", "tuned"):
        jobs[f"benchmark {name}"] = benchmark(jobs[name].output)
    jobs["report"] = report([jobs["benchmark model"].output, jobs["benchmark tuned"].output], "big")
    jobs["few report"] = report([jobs["benchmark few model"].output], "few")
    frames = {
        "crystals": [frame_id(atoms) for atoms in crystals()],
        "molecules": [frame_id(atoms) for atoms in molecules()],
        "atom": frame_id(atom()),
    }
    return SimpleNamespace(flow=Flow(list(jobs.values()), name="campaign"), jobs=jobs, frames=frames)
