"""The Makers of alignment, run by jobflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from jobflow import run_locally

from atomfoundry.alignment import Alignment, DispersionTerm
from atomfoundry.datasets import Dataset, attach_labels, labels_of, with_metadata
from atomfoundry.documents import AlignmentDoc, DatasetDoc, LabelSetDoc, LevelOfTheory
from atomfoundry.makers.align import AlignDatasetsMaker, AlignMaker
from atomfoundry.results import Project, use_project

LEVELS = {name: LevelOfTheory(code="test", method=name) for name in ("low", "middle", "high")}
CORRECTED = LevelOfTheory(code="test", method="PBE-D3(BJ)")
E0 = {"low": {"H": -13.0, "O": -2041.0}, "middle": {"H": -12.0, "O": -2000.0}, "high": {"H": -12.5, "O": -430.0}}
SCALES = {"low": 1.0, "middle": 1.02, "high": 0.98}


def document(project: Project, tmp_path: Path, name: str) -> DatasetDoc:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(20):
        symbols = [str(s) for s in rng.choice(["H", "O"], size=rng.integers(2, 8))]
        atoms = with_metadata(Atoms(symbols, positions=rng.normal(size=(len(symbols), 3))))
        atomization = -len(atoms) * rng.uniform(2, 6)
        energy = sum(E0[name][s] for s in symbols) + SCALES[name] * atomization
        frames.append(attach_labels(atoms, energy, SCALES[name] * rng.normal(size=(len(atoms), 3))))
    dataset = Dataset.create(tmp_path / name, frames, level=LEVELS[name], isolated_energies=E0[name])
    return DatasetDoc(
        name=name, dataset=project.artifacts.put(dataset.path), n_frames=20, n_atoms=1, level=LEVELS[name]
    )


def test_many_datasets_align_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = Project.open_or_create(tmp_path / "project")
    with use_project(project):
        sets = {name: document(project, tmp_path, name) for name in LEVELS}
        job = AlignDatasetsMaker().make([sets["low"], sets["middle"]], sets["high"])
        output = run_locally(job, store=project.job_store(), ensure_success=True, log=False)
        documents = [AlignmentDoc.model_validate(found) for found in output[job.uuid][1].output]
        assert [d.source_level.method for d in documents] == ["low", "middle"]
        for found in documents:
            assert found.provenance is not None
            assert found.n_aligned == 20
            alignment = Alignment.load(project.artifacts.fetch(found.alignment))
            assert alignment.scale == pytest.approx(0.98 / SCALES[found.source_level.method])
            aligned = Dataset.open(project.artifacts.fetch(found.dataset))
            assert aligned.level == LEVELS["high"]
            truth = Dataset.open(tmp_path / "high")
            for one, other in zip(aligned, truth, strict=True):
                assert labels_of(one)[0] == pytest.approx(labels_of(other)[0], abs=1e-6)


def labels(project: Project, tmp_path: Path, name: str, *, atoms: bool = False) -> LabelSetDoc:
    level = LEVELS[name]
    if atoms:
        frames = [
            attach_labels(with_metadata(Atoms(symbol), sampling="isolated_atom"), energy)
            for symbol, energy in E0[name].items()
        ]
        dataset = Dataset.create(tmp_path / f"{name} atoms", frames, level=level)
    else:
        document(project, tmp_path, name)
        dataset = Dataset.open(tmp_path / name)
    return LabelSetDoc(
        name=name,
        engine="test",
        level=level,
        level_id=level.id,
        n_requested=len(dataset),
        n_labelled=len(dataset),
        frames=project.artifacts.put(dataset.path),
    )


@pytest.mark.parametrize("mode", ["atoms", "bridge", "overlap", "pairs"])
def test_label_sets_align(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = Project.open_or_create(tmp_path / "project")
    other = "middle" if mode == "bridge" else "high"
    with use_project(project):
        overlap, overlap_atoms = labels(project, tmp_path, other), labels(project, tmp_path, other, atoms=True)
        target_atoms = labels(project, tmp_path, "high", atoms=True) if mode == "bridge" else overlap_atoms
        job = AlignMaker(mode=mode, force=mode == "pairs").make(  # type: ignore[arg-type]
            labels(project, tmp_path, "low"),
            labels(project, tmp_path, "low", atoms=True),
            target_atoms,
            overlap,
            overlap_atoms,
        )
        output = run_locally(job, store=project.job_store(), ensure_success=True, log=False)
        found = AlignmentDoc.model_validate(output[job.uuid][1].output)
        assert found.mode == mode
        assert found.n_aligned == 20
        assert found.scale == pytest.approx(SCALES[other], abs=1e-6 if mode != "pairs" else 0.1)
        aligned = Dataset.open(project.artifacts.fetch(found.dataset))
        assert aligned.level == LEVELS["high"]
        assert all(atoms.info["flags"] == ["aligned"] for atoms in aligned)


@pytest.mark.parametrize("many", [True, False])
def test_dispersion_of_the_source_is_subtracted(many: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The level ``low`` with PBE-D3(BJ) on top: without it the levels differ by shifts and a scale only."""
    monkeypatch.chdir(tmp_path)
    term = DispersionTerm(functional="PBE", variant="D3(BJ)", coefficient=1.0)
    project = Project.open_or_create(tmp_path / "project")
    with use_project(project):
        low, low_atoms = labels(project, tmp_path, "low"), labels(project, tmp_path, "low", atoms=True)
        high, high_atoms = labels(project, tmp_path, "high"), labels(project, tmp_path, "high", atoms=True)
        frames = []
        for atoms in Dataset.open(tmp_path / "low"):
            (energy, forces, _), more = labels_of(atoms), term.evaluate(atoms)
            bare = with_metadata(atoms, level=CORRECTED.id)
            frames.append(attach_labels(bare, energy + more[0], forces + more[1]))
        source = Dataset.create(tmp_path / "corrected", frames, level=CORRECTED, isolated_energies=E0["low"])
        put = project.artifacts.put(source.path)
        if many:
            target = DatasetDoc(name="high", dataset=high.frames, n_frames=20, n_atoms=1, level=LEVELS["high"])
            document_in = DatasetDoc(name="low", dataset=put, n_frames=20, n_atoms=1, level=CORRECTED)
            job = AlignDatasetsMaker(mode="atoms", dispersion="subtract_source").make([document_in], target)
        else:
            level = {"level": CORRECTED, "level_id": CORRECTED.id}
            job = AlignMaker(mode="atoms", dispersion="subtract_source").make(
                low.model_copy(update={"frames": put, **level}),
                low_atoms.model_copy(update=level),
                high_atoms,
                high,
                high_atoms,
            )
        output = run_locally(job, store=project.job_store(), ensure_success=True, log=False)[job.uuid][1].output
        found = AlignmentDoc.model_validate(output[0] if many else output)
        assert found.dispersion == "subtract_source"
        assert found.scale == pytest.approx(SCALES["high"], abs=1e-9)
        assert found.metrics["aec"].rmse < 1e-8
        aligned = Dataset.open(project.artifacts.fetch(found.dataset))
        for one, other in zip(aligned, Dataset.open(tmp_path / "high"), strict=True):
            assert labels_of(one)[0] == pytest.approx(labels_of(other)[0], abs=1e-7)
            assert np.allclose(labels_of(one)[1], labels_of(other)[1], atol=1e-9)
