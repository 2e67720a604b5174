"""Datasets on disk: fitted, written with aligned labels, and the command that does it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from atomfoundry.alignment import Alignment, align_dataset, fit_datasets
from atomfoundry.cli.main import main
from atomfoundry.datasets import Dataset, attach_labels, labels_of, merge_datasets, with_metadata
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import AlignmentError

LEVELS = {name: LevelOfTheory(code="test", method=name) for name in ("low", "middle", "high")}
E0 = {
    "low": {"H": -13.0, "C": -1030.0, "O": -2041.0, "Ne": -3500.0},
    "middle": {"H": -12.9, "C": -1029.0, "O": -2040.0, "Ne": -3501.0},
    "high": {"H": -12.5, "C": -150.0, "O": -430.0, "Ne": -700.0},
}
SCALES = {"low": 1.0, "middle": 1.02, "high": 0.98}


def bare(n: int, seed: int, elements: tuple[str, ...] = ("H", "C", "O")) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        symbols = [str(s) for s in rng.choice(elements, size=rng.integers(2, 8))]
        atoms = Atoms(symbols, positions=rng.normal(size=(len(symbols), 3)))
        made.append(with_metadata(atoms, group_id=atoms.get_chemical_formula(), source="test"))
    return made


def dataset(path: Path, name: str, structures: list[Atoms], **options) -> Dataset:  # type: ignore[no-untyped-def]
    frames = []
    for atoms in structures:
        own = np.random.default_rng(int(1e6 * abs(atoms.positions[0, 0])))
        atomization = -len(atoms) * own.uniform(2, 6)
        energy = sum(E0[name][s] for s in atoms.symbols) + SCALES[name] * atomization
        frames.append(attach_labels(atoms, energy, SCALES[name] * own.normal(size=(len(atoms), 3))))
    isolated = {e: E0[name][e] for e in sorted({s for atoms in structures for s in atoms.symbols})}
    return Dataset.create(path / name, frames, level=LEVELS[name], isolated_energies=isolated, **options)


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Dataset]:
    first, second = bare(30, 0), bare(30, 1)
    return {
        "low": dataset(tmp_path, "low", first, splits={"train": list(range(25)), "test": list(range(25, 30))}),
        "middle": dataset(tmp_path, "middle", [*first, *second]),
        "high": dataset(tmp_path, "high", second),
    }


def test_levels_meet_over_the_middle_and_merge(sets: dict[str, Dataset], tmp_path: Path) -> None:
    alignments = fit_datasets([sets["low"], sets["middle"]], sets["high"])
    assert set(alignments) == {LEVELS["low"].id, LEVELS["middle"].id}
    aligned, left_out = align_dataset(sets["low"], alignments[LEVELS["low"].id], tmp_path / "aligned")
    assert left_out == {}
    assert aligned.level == LEVELS["high"]
    assert {key: len(rows) for key, rows in aligned.splits.items()} == {"train": 25, "test": 5}
    assert aligned.metadata.lineage["from"] == LEVELS["low"].id
    assert [step["target_id"] for step in aligned.metadata.lineage["path"]] == [LEVELS["middle"].id, LEVELS["high"].id]
    truth = dataset(tmp_path / "truth", "high", bare(30, 0))
    for one, other in zip(aligned, truth, strict=True):
        assert labels_of(one)[0] == pytest.approx(labels_of(other)[0], abs=1e-6)
        assert np.allclose(labels_of(one)[1], labels_of(other)[1], atol=1e-8)
        assert one.info["flags"] == ["aligned"]
        assert one.info["aligned_from"] == LEVELS["low"].id
    merged = merge_datasets(
        tmp_path / "merged",
        [sets["high"], sets["low"]],
        alignments={LEVELS["low"].id: alignments[LEVELS["low"].id].apply},
    )
    assert len(merged) == 60
    assert merged.level == LEVELS["high"]


def test_foreign_elements_stop_or_are_left_out(sets: dict[str, Dataset], tmp_path: Path) -> None:
    neon = bare(5, 2, ("Ne", "H"))
    source = dataset(tmp_path / "more", "low", [*bare(30, 0), *neon], splits={"train": [0, 1, 33], "test": [2, 34]})
    (alignment,) = fit_datasets([source], sets["middle"]).values()
    assert "Ne" in alignment.uncovered or "Ne" not in alignment.target_isolated_energies
    with pytest.raises(AlignmentError, match="Ne"):
        align_dataset(source, alignment, tmp_path / "stopped")
    assert not (tmp_path / "stopped").exists()
    aligned, left_out = align_dataset(source, alignment, tmp_path / "kept", leave_out=True)
    n_neon = sum("Ne" in atoms.symbols for atoms in neon)
    assert left_out == {"element Ne": n_neon}
    assert len(aligned) == 35 - n_neon
    assert aligned.splits["train"][:2] == [0, 1]
    assert labels_of(aligned[2])[0] == pytest.approx(labels_of(alignment.apply(source[2]))[0])


def test_bridge_and_model_modes(sets: dict[str, Dataset], tmp_path: Path) -> None:
    target = dataset(tmp_path / "both", "high", [*bare(30, 0), *bare(30, 1)])
    (bridged,) = fit_datasets([sets["low"]], target, through=[sets["middle"]], mode="bridge").values()
    assert bridged.bridge_level == LEVELS["middle"]
    assert bridged.scale == pytest.approx(1.02)
    with pytest.raises(AlignmentError, match="one bridge level, not 0"):
        fit_datasets([sets["low"]], target, mode="bridge")
    energies = {atoms.info["frame_id"]: labels_of(atoms)[0] for atoms in target}
    (asked,) = fit_datasets(
        [sets["low"]], sets["high"], mode="model", predictor=lambda atoms: energies[atoms.info["frame_id"]]
    ).values()
    assert asked.scale == pytest.approx(0.98)
    with pytest.raises(AlignmentError, match="target's level"):
        fit_datasets([sets["high"]], sets["high"])


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["atomfoundry", "dataset", "align", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_command(
    sets: dict[str, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(sets["low"].path), "--to", str(sets["high"].path), "--through", str(sets["middle"].path)]
    code, out, _ = run(monkeypatch, capsys, *words, "-o", str(tmp_path / "out"), "--json")
    assert code == 0
    (document,) = json.loads(out)
    assert [step["mode"] for step in document["path"]] == ["atoms", "atoms"]
    assert document["n_aligned"] == 30
    assert document["expected_error"] < 1e-6
    assert len(Dataset.open(tmp_path / "out" / "low")) == 30
    assert Alignment.load(tmp_path / "out" / "low.alignment.json").scale == pytest.approx(0.98)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The path of least expected error" in page
    code, _, err = run(monkeypatch, capsys, *words, "-o", str(tmp_path / "out"))
    assert code == 2
    assert "exists already" in err
    code, _, err = run(monkeypatch, capsys, *words, "-o", str(tmp_path / "x"), "--mode", "model")
    assert code == 2
    assert not (tmp_path / "x").exists()
    code, _, err = run(
        monkeypatch, capsys, str(sets["low"].path), "--to", str(sets["high"].path), "-o", str(tmp_path / "x")
    )
    assert code == 1
    assert "No alignment leads from" in err
    direct = [str(sets["low"].path), "--to", str(sets["middle"].path), "-o", str(tmp_path / "y")]
    assert run(monkeypatch, capsys, *direct)[0] == 0
    assert "RMSE over the structures that hold the element" in (tmp_path / "y" / "report.html").read_text()
