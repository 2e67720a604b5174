"""Training, fine-tuning, uncertainty and exploration as jobs, on an analytic potential."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.build import bulk
from jobflow import Flow, run_locally

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from pretended_gpu import pretended_gpu

from atomfoundry.datasets import attach_labels, split, with_metadata
from atomfoundry.deadline import NoTimeLeftError
from atomfoundry.documents import DatasetDoc, LevelOfTheory
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers.active_learning import ExploreMaker
from atomfoundry.makers.dataset import dataset_document
from atomfoundry.makers.finetune import FineTuneMaker, ForgettingMaker
from atomfoundry.makers.frames import open_dataset, store_frames, structure_set
from atomfoundry.makers.train import TrainMaker
from atomfoundry.makers.uncertainty import UncertaintyMaker
from atomfoundry.results import Project, use_project

LEVEL = LevelOfTheory(code="matscipy", method="Stillinger-Weber")
ARCHITECTURE = {
    "cutoff": 4.0,
    "num_channels": 4,
    "latent_dims": [16],
    "two_body_dims": [8, 16],
    "edge_energy_dims": [8],
}
SHORT = {"max_epochs": 3, "batch_size": 5}


def labelled(atoms: Atoms, group: str) -> Atoms:
    from matscipy.calculators.manybody import Manybody
    from matscipy.calculators.manybody.explicit_forms import StillingerWeber
    from matscipy.calculators.manybody.explicit_forms.stillinger_weber import (
        Stillinger_Weber_PRB_31_5262_Si as PARAMETERS,
    )

    frame = atoms.copy()
    frame.calc = Manybody(**StillingerWeber(PARAMETERS))
    labels = frame.get_potential_energy(), frame.get_forces(), frame.get_stress()
    frame.calc = None
    frame = with_metadata(frame, group_id=group, sampling="strain", level=LEVEL.id, source="test")
    return attach_labels(frame, *labels)


def dataset(name: str, cell: Atoms, strains: Any, seed: int) -> DatasetDoc:
    rng = np.random.default_rng(seed)
    frames = []
    for strain in strains:
        for _ in range(3):
            atoms = cell.copy()
            atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
            atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
            frames.append(labelled(atoms, f"{name}-{strain:.3f}"))
    splits = split([atoms.info["group_id"] for atoms in frames], fractions=(0.6, 0.2, 0.2), seed=0)
    artifact = store_frames(frames, name=name, level=LEVEL, isolated_energies={"Si": 0.0}, splits=splits)
    return dataset_document(artifact, name=name, rejections={}, rejected=[])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project.open_or_create(tmp_path_factory.mktemp("modelling") / "project")
    with use_project(project):
        yield project


@pytest.fixture(scope="module")
def chain(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = dataset("base", bulk("Si"), np.linspace(-0.06, 0.06, 6), 0)
    task = dataset("task", bulk("Si", "sc", a=2.5) * (2, 1, 1), np.linspace(-0.04, 0.04, 5), 1)
    crystals = structure_set([with_metadata(bulk("Si"), group_id="si", sampling="input", source="test")], name="si")
    jobs = {"train": TrainMaker(architecture=ARCHITECTURE, training=SHORT).make({"pt": base})}
    for method in ("naive", "replay"):
        maker = FineTuneMaker(name=method, method=method, training=SHORT)
        jobs[method] = maker.make(jobs["train"].output, task, base)
    jobs["forgetting"] = ForgettingMaker().make(
        jobs["train"].output, jobs["naive"].output, jobs["replay"].output, base, task
    )
    jobs["uncertainty"] = UncertaintyMaker().make(jobs["replay"].output, {"pt": base, "ft": task})
    jobs["explore"] = ExploreMaker(temperatures=[400.0], n_steps=20, n_select=2).make(
        jobs["replay"].output, jobs["uncertainty"].output, crystals, base
    )
    jobs["final"] = TrainMaker(name="final", kind="active_learning", training=SHORT).make(
        {"pt": base, "ft": task}, start=jobs["replay"].output
    )
    root = tmp_path_factory.mktemp("jobs")
    done = run_locally(
        Flow(list(jobs.values())),
        store=project.job_store(),
        create_folders=True,
        root_dir=root,
        ensure_success=True,
    )
    documents = {name: done[job.uuid][1].output for name, job in jobs.items()}
    return {**documents, "base": base, "task": task, "uuids": {name: job.uuid for name, job in jobs.items()}}


def test_training_is_documented(chain: dict[str, Any], project: Project) -> None:
    doc = chain["train"]
    assert doc.n_epochs == len(doc.history) == 3
    assert {(m.split, m.head) for m in doc.metrics} == {("train", "pt"), ("valid", "pt"), ("test", "pt")}
    table = pq.read_table(project.artifacts.fetch(doc.predictions))
    assert table.num_rows == chain["base"].n_frames
    assert doc.heads[0].datasets == [chain["base"].dataset.sha256]
    assert doc.provenance is not None
    assert doc.provenance.job_uuid == chain["uuids"]["train"]
    assert sorted(path.name for path in project.artifacts.fetch(doc.model).iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_errors_by_element_are_documented(chain: dict[str, Any]) -> None:
    doc = chain["final"]
    assert {(m.head, m.split, m.element) for m in doc.element_metrics} == {
        (head, split, "Si") for head in ("pt", "ft") for split in ("train", "valid", "test")
    }
    whole = {(m.head, m.split): m for m in doc.metrics}
    for entry in doc.element_metrics:
        same = whole[entry.head, entry.split]
        assert entry.n_atoms == 2 * same.n_frames
        assert entry.alerts == ["few_atoms"]
        for name in ("forces_mae", "forces_rmse", "energy_mae"):
            assert getattr(entry, name) == pytest.approx(getattr(same, name), rel=1e-9)
    # of a version that kept none
    older = {key: value for key, value in doc.model_dump().items() if key != "element_metrics"}
    assert type(doc).model_validate(older).element_metrics == []


def test_stored_predictions_are_the_model_s(chain: dict[str, Any], project: Project) -> None:
    from atomfoundry.models import FoundryCalculator, load_model

    doc = chain["final"]
    rows = pq.read_table(project.artifacts.fetch(doc.predictions)).to_pylist()
    frames = {atoms.info["frame_id"]: atoms for atoms in open_dataset(chain["base"].dataset).frames()}
    calculator = FoundryCalculator(load_model(project.artifacts.fetch(doc.model)), head="pt")
    row = next(row for row in rows if row["head"] == "pt" and row["split"] == "test")
    atoms = frames[row["frame_id"]].copy()
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(row["energy_pred"], abs=1e-5)
    assert np.allclose(atoms.get_forces().ravel(), row["forces_pred"], atol=1e-5)


def test_fine_tuning_keeps_both_heads(chain: dict[str, Any]) -> None:
    for method in ("naive", "replay"):
        assert [head.name for head in chain[method].heads] == ["pt", "ft"]
        assert chain[method].kind == method
    assert [head.name for head in chain["final"].heads] == ["pt", "ft"]
    records = {(r.method, r.head, r.quantity) for r in chain["forgetting"].records}
    assert {(m, h, "forces") for m in ("naive", "replay") for h in ("pt", "ft")} <= records
    assert all(r.ratio == pytest.approx(r.after / r.before) for r in chain["forgetting"].records)


def test_naive_sees_as_many_frames_as_replay(chain: dict[str, Any]) -> None:
    shown = chain["base"].splits["train"] + chain["task"].splits["train"]
    assert chain["naive"].n_epochs == round(3 * shown / chain["task"].splits["train"])


def test_exploration_is_honest(chain: dict[str, Any]) -> None:
    doc = chain["explore"]
    (run,) = doc.trajectories
    assert run.structure == "Si8 at 400 K"
    assert len(run.sigma_max) == len(run.times) >= 1
    assert doc.n_selected == len(open_dataset(doc.selected)) <= 2
    assert doc.n_selected + sum(doc.n_rejected.values()) == doc.n_candidates
    assert set(doc.thresholds) == {"low", "high"}


def test_uncertainty_belongs_to_its_model(chain: dict[str, Any]) -> None:
    doc = chain["uncertainty"]
    assert doc.model_sha256 == chain["replay"].model.sha256
    assert set(doc.alpha) == {"pt", "ft"}
    assert all(alpha > 0 for alpha in doc.alpha.values())


def test_wrong_settings_are_named(project: Project, chain: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_epoch"):
        TrainMaker(training={"max_epoch": 3}).make.original(
            TrainMaker(training={"max_epoch": 3}), {"pt": chain["base"]}
        )
    with pytest.raises(ConfigurationError, match="head_weights names ft"):
        TrainMaker().make.original(TrainMaker(head_weights={"ft": 0.1}), {"pt": chain["base"]})
    with pytest.raises(ConfigurationError, match="cut_off"):
        TrainMaker(architecture={"cut_off": 3}).make.original(
            TrainMaker(architecture={"cut_off": 3}), {"pt": chain["base"]}
        )


def test_presets(project: Project) -> None:
    from atomfoundry.makers.modelling import frames_of
    from atomfoundry.models import Allegro

    data = dataset("sizes", bulk("Si"), [0.0, 0.01, 0.02], 3)
    frames = {"pt": frames_of(data, "train")}
    fm256 = TrainMaker(preset="fm256", architecture={"l_max": 1}, seed=4)._config({"pt": data}, frames)
    assert (fm256.num_channels, fm256.latent_dims, fm256.l_max, fm256.seed) == (64, [256] * 3, 1, 4)
    alumina = TrainMaker(preset="alumina")._config({"pt": data}, frames)
    assert (alumina.cutoff, alumina.avg_num_neighbors) == (3.0, 4.0)
    assert str(Allegro(alumina).dtype) == "torch.float64"
    with pytest.raises(ConfigurationError, match="train: architecture: there is no preset 'fm1'"):
        TrainMaker(preset="fm1")._config({"pt": data}, frames)  # type: ignore[arg-type]


def test_a_scale_for_each_element(project: Project) -> None:
    from atomfoundry.errors import ConfigurationError
    from atomfoundry.makers.modelling import frames_of
    from atomfoundry.models.training.energies import force_rms

    data = dataset("scaled", bulk("Si"), [0.0, 0.01, 0.02], 3)
    frames = {"pt": frames_of(data, "train")}

    def scale(**changes: Any) -> Any:
        maker = TrainMaker(architecture={**ARCHITECTURE, **changes.pop("architecture", {})}, **changes)
        return maker._config({"pt": data}, frames).heads[0].scale

    whole = pytest.approx(force_rms(frames["pt"]))
    assert scale() == whole
    assert scale(scale="per_element") == {"Si": whole}
    assert scale(scale="per_element", architecture={"type_names": ["Si", "O"]}) == {"Si": whole, "O": whole}
    with pytest.raises(ConfigurationError, match="no scale 'per-type'"):
        scale(scale="per-type")


@pytest.mark.parametrize("method", ["train", "replay"])
def test_a_training_whose_process_must_end_is_left_to_a_later_job(
    project: Project, chain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    if method == "train":
        job = TrainMaker(architecture=ARCHITECTURE, training=SHORT).make({"pt": chain["base"]})
    else:
        maker = FineTuneMaker(method=method, training=SHORT)
        job = maker.make(chain["train"], chain["task"], chain["base"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", "1")
    with pytest.raises(NoTimeLeftError, match=r"interrupted in epoch 1, because the job ends soon"):
        job.run(project.job_store())
    assert (tmp_path / "checkpoint").is_dir()
    assert not (tmp_path / "model").exists()
    monkeypatch.delenv("ATOMFOUNDRY_DEADLINE")
    document = job.run(project.job_store()).output
    assert (document.stop_reason, document.n_epochs) == ("max_epochs", 3)
    assert [r.train_loss for r in document.history] == [r.train_loss for r in chain[method].history]


@pytest.mark.parametrize("method", ["train", "replay"])
def test_kept_edges_of_a_job(
    project: Project, chain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from atomfoundry.models.training import edge_cache

    kept = {"training": SHORT, "edge_cache": f"edges-{method}"}
    if method == "train":
        job = TrainMaker(architecture=ARCHITECTURE, **kept).make({"pt": chain["base"]})
    else:
        job = FineTuneMaker(method="replay", **kept).make(chain["train"], chain["task"], chain["base"])
    folder = project.path / f"edges-{method}"
    histories = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        histories.append([r.train_loss for r in job.run(project.job_store()).output.history])
        if not number:
            files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
            assert files
            monkeypatch.setattr(edge_cache, "write_block", None)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == files
    assert histories[0] == histories[1] == [r.train_loss for r in chain[method].history]
    elsewhere = TrainMaker(architecture=ARCHITECTURE, training=SHORT, edge_cache=str(tmp_path / "absolute"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    elsewhere.make({"pt": chain["base"]}).run(project.job_store())
    assert any((tmp_path / "absolute").rglob("*"))


def no_gpu() -> bool:
    import torch

    return not torch.cuda.is_available()


@pytest.mark.skipif(not no_gpu(), reason="there is a GPU")
def test_where_there_is_no_gpu(chain: dict[str, Any]) -> None:
    for name in ("train", "replay", "final"):
        assert chain[name].provenance.device == "cpu"
    wrong = {"cuda": r"no GPU for device 'cuda'.*sees none", "gpu": r"no device 'gpu'.*Valid: 'auto'"}
    for maker, arguments in ((TrainMaker, ({},)), (FineTuneMaker, (None, None, None))):
        for device, message in wrong.items():
            with pytest.raises(ConfigurationError, match=message):
                maker.make.original(maker(device=device), *arguments)


REAL = pytest.param("real", marks=[pytest.mark.gpu, pytest.mark.skipif(no_gpu(), reason="no CUDA device")])


@pytest.mark.parametrize("gpu", [pytest.param("pretended", marks=pytest.mark.slow), REAL])
def test_jobs_on_a_gpu(
    project: Project, chain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: str
) -> None:
    """They train there, say so, and their models are files like any other; what follows is computed on the CPU."""
    from contextlib import nullcontext

    monkeypatch.chdir(tmp_path)
    once = {"max_epochs": 1, "batch_size": 5}
    trained = TrainMaker(architecture=ARCHITECTURE, training=once).make({"pt": chain["task"]})
    tuned = FineTuneMaker(training=once, device="cuda", n_replay=4).make(trained.output, chain["task"], chain["task"])
    again = TrainMaker(training=once, device="cpu").make({"pt": chain["task"]}, start=trained.output)
    jobs = [trained, tuned, again]
    with pretended_gpu() if gpu == "pretended" else nullcontext():
        done = run_locally(Flow(jobs), store=project.job_store(), create_folders=True, ensure_success=True)
    documents = [done[job.uuid][1].output for job in jobs]
    devices = [document.provenance.device for document in documents]
    assert all(device.startswith("cuda (") for device in devices[:2])
    assert devices[2] == "cpu"
    here = TrainMaker(architecture=ARCHITECTURE, training=once, device="cpu").make({"pt": chain["task"]})
    document = here.run(project.job_store()).output
    assert document.metrics[0].forces_mae == pytest.approx(documents[0].metrics[0].forces_mae, rel=1e-3)
    assert document.history[0].train_loss == pytest.approx(documents[0].history[0].train_loss, rel=1e-3)
