"""``atomfoundry train`` and ``atomfoundry evaluate``, from files to tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from atomfoundry.cli.main import main
from atomfoundry.datasets import Dataset, attach_labels, labels_of, read_extxyz, with_metadata, write_extxyz

SETTINGS = """
preset = "fm64"
valid_fraction = 0.2
[architecture]
cutoff = 3.5
num_channels = 4
l_max = 1
n_layers = 1
two_body_dims = [8, 8]
latent_dims = [8, 8]
edge_energy_dims = [8]
[training]
max_epochs = 2
batch_size = 4
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frames = []
    for seed in range(8):
        atoms = bulk("Cu") * (1, 1, 2)
        atoms.rattle(0.05 + 0.01 * seed, seed=seed)
        atoms.calc = EMT()
        labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        frames.append(attach_labels(with_metadata(atoms, source="ab"[seed % 2], group_id=str(seed)), *labels))
    atom = attach_labels(
        with_metadata(Atoms("Cu"), sampling="isolated_atom"), EMT().get_property("energy", Atoms("Cu"))
    )
    write_extxyz("cu.xyz", [*frames, atom])
    Dataset.create("cu", frames, splits={"train": [0, 1, 2, 3, 4], "valid": [5], "test": [6, 7]})
    Path("small.toml").write_text(SETTINGS)


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["atomfoundry", *words])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_from_files_to_a_model_and_its_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", "cu.xyz", "-o", "run", "-s", "small.toml", "--set", "lr=1e-3", "--set", "loss.forces_weight=2")
    code, out, err = command(capsys, monkeypatch, *words)
    assert code == 0, err
    assert "7 frames to train on, 1 to validate" in err
    assert "Errors after 2 epochs (max_epochs)" in out
    record = json.loads(Path("run/training.json").read_text())
    assert record["settings"]["lr"] == 1e-3
    assert record["settings"]["loss"]["forces_weight"] == 2
    assert record["provenance"]["command"] == ["atomfoundry", *words]
    assert record["provenance"]["packages"]["torch"]
    code, out, _ = command(capsys, monkeypatch, *words)
    assert code == 0
    assert "finished before" in out

    code, out, err = command(
        capsys, monkeypatch, "evaluate", "run", "cu.xyz", "--html", "page.html", "--predictions", "out.xyz", "--json"
    )
    assert code == 0, err
    (found,) = json.loads(out)["sets"]
    assert found["metrics"]["n_frames"] == 8
    assert found["n_isolated_atoms"] == 1
    assert set(found["by_source"]) == {"a", "b"}
    assert [entry["element"] for entry in found["by_element"]] == ["Cu"]
    assert "Errors of run/model" in Path("page.html").read_text()
    predicted = list(read_extxyz("out.xyz"))
    reference = list(read_extxyz("cu.xyz"))
    assert len(predicted) == 9
    error = [(labels_of(p)[0] - labels_of(r)[0]) / len(r) for p, r in zip(predicted[:8], reference[:8], strict=True)]
    assert np.abs(error).mean() == pytest.approx(found["metrics"]["energy_mae"])


def test_heads_and_splits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "train",
        "-o",
        "run",
        "-s",
        "small.toml",
        "--head",
        "pt=cu",
        "--head",
        "other=cu.xyz",
        "--energies",
        "lstsq",
    )
    code, out, _ = command(capsys, monkeypatch, *words, "--valid", "0.25", "--epochs", "1", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["frames"] == {
        "pt": {"train": 5, "valid": 1, "test": 2},
        "other": {"train": 6, "valid": 2, "test": 0},
    }
    assert record["n_epochs"] == 1
    code, out, _ = command(
        capsys, monkeypatch, "evaluate", "run/model", "cu", "--split", "test", "--head", "other", "--json"
    )
    found = json.loads(out)
    assert (found["heads"], found["sets"][0]["metrics"]["n_frames"]) == (["other"], 2)
    code, out, _ = command(capsys, monkeypatch, "evaluate", "run", "cu", "cu.xyz", "--head", "all", "--json")
    metrics = [entry["metrics"] for entry in json.loads(out)["sets"]]
    assert [(m["head"], m["split"]) for m in metrics] == [
        (head, name) for head in ("pt", "other") for name in ("cu", "cu.xyz")
    ]
    assert metrics[0]["energy_mae"] != metrics[2]["energy_mae"]
    code, _, err = command(capsys, monkeypatch, "evaluate", "run", "cu", "--head", "all", "--predictions", "x.xyz")
    assert (code, Path("x.xyz").exists()) == (2, False)
    code, _, err = command(capsys, monkeypatch, "evaluate", "run", "cu", "--head", "none")
    assert code == 1
    assert "none" in err


def test_any_calculator_is_evaluated(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("emt.json").write_text(
        json.dumps({"calculator_class": "ase.calculators.emt.EMT", "interpreter": sys.executable, "name": "EMT there"})
    )
    for model, name in (("ase.calculators.emt.EMT", "EMT"), ("emt.json", "EMT there")):
        code, out, _ = command(capsys, monkeypatch, "evaluate", model, "cu", "cu.xyz", "--json")
        assert code == 0
        found = json.loads(out)
        assert found["model"] == name
        assert [entry["metrics"]["split"] for entry in found["sets"]] == ["cu", "cu.xyz"]
        assert found["sets"][1]["metrics"]["forces_rmse"] < 1e-9
    code, out, _ = command(capsys, monkeypatch, "evaluate", "ase.calculators.emt.EMT", "cu")
    assert "best shift per element" in out


def test_names_of_other_programs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_extxyz("mace.xyz", read_extxyz("cu.xyz"), keys="mace")
    words = ("evaluate", "ase.calculators.emt.EMT", "mace.xyz", "--json")
    assert command(capsys, monkeypatch, *words)[0] == 1
    code, out, _ = command(capsys, monkeypatch, *words, "--format", "mace")
    assert code == 0
    assert json.loads(out)["sets"][0]["metrics"]["energy_rmse"] < 1e-9


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "-o", "run"], ["nothing to train on", "--head NAME=DATA"]),
        (["train", "nowhere.xyz", "-o", "run"], ["nowhere.xyz"]),
        (["train", "cu.xyz", "-o", "run", "--head", "pt"], ["--head 'pt'", "NAME=DATA"]),
        (["train", "cu.xyz", "-o", "run", "-s", "nowhere.toml"], ["nowhere.toml"]),
        (["train", "cu.xyz", "-o", "run", "-s", "bad.toml"], ["bad.toml", "broken"]),
        (["train", "cu.xyz", "-o", "run", "--set", "max_epoch=3"], ["max_epoch"]),
        (["train", "cu.xyz", "-o", "run", "--set", "architecture.cut_off=3"], ["cut_off"]),
        (["train", "cu.xyz", "-o", "run", "--valid", "2"], ["valid_fraction"]),
        (["train", "cu.xyz", "-o", "run", "--valid", "x=cu"], ["names no head: 'x'", "pt"]),
        (["train", "cu.xyz", "--head", "b=cu", "-o", "run", "--valid", "cu"], ["does not say for which head"]),
        (["train", "cu.xyz", "-o", "run", "--energies", "foundation_corrected"], ["there is none", "start"]),
        (["train", "cu.xyz", "-o", "small.toml"], ["small.toml is a file"]),
        (["train", "cu.xyz", "-o", "run", "--format", "lammps"], ["no input format 'lammps'"]),
        (["evaluate", "nowhere/model", "cu.xyz"], ["nowhere/model"]),
        (["evaluate", "MACEE", "cu.xyz"], ["MACEE", "Did you mean 'MACE'"]),
        (["evaluate", "ase.calculators.emt.EMT", "nowhere.xyz"], ["nowhere.xyz"]),
        (["evaluate", "ase.calculators.emt.EMT", "cu.xyz", "--split", "test"], ["cu.xyz", "--split"]),
        (["evaluate", "ase.calculators.emt.EMT", "cu", "--split", "tset"], ["tset", "train, valid, test"]),
        (["evaluate", "ase.calculators.emt.EMT", "cu", "--head", "pt"], ["no heads"]),
        (["evaluate", "ase.calculators.emt.EMT", "cu", "--html", "no/page.html"], ["no/page.html"]),
    ],
)
def test_wrong_use(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: list[str],
) -> None:
    Path("bad.toml").write_text("= 3")
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = command(capsys, monkeypatch, *words)
    assert code == 2
    assert out == ""
    error = err.splitlines()[-1]
    assert error.startswith("Error: ")
    for word in expected:
        assert word in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_training_whose_time_is_up_ends_with_its_own_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "cu.xyz", "-o", "run", "-s", "small.toml", "-q"]
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", "1")
    code, _, err = command(capsys, monkeypatch, *words)
    assert code == 75
    assert "Run the same command again" in err
    assert not Path("run/model").exists()
    monkeypatch.delenv("ATOMFOUNDRY_DEADLINE")
    assert command(capsys, monkeypatch, *words)[0] == 0
    assert Path("run/model").is_dir()


def test_threads_are_those_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An option wins over the file, the file over OMP_NUM_THREADS; none of them makes it another training."""
    import torch

    from atomfoundry.models.kernel.threads import kernel_threads
    from atomfoundry.models.training import trainer

    seen: list[int] = []
    step = trainer.Stepper.__call__

    def spy(self: trainer.Stepper, *args: object, **kwargs: object) -> None:
        seen.append(kernel_threads())
        step(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.Stepper, "__call__", spy)
    words = ["train", "cu.xyz", "-s", "small.toml", "-q", "--epochs", "1"]
    before = torch.get_num_threads()
    weights = []
    for number, (variable, more) in enumerate(
        [("", []), ("2", []), ("2", ["--set", "num_threads=1"]), ("1", ["--set", "num_threads=1", "--threads", "2"])]
    ):
        seen.clear()
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
        code, _, err = command(capsys, monkeypatch, *words, *more, "-o", f"run{number}")
        assert code == 0, err
        assert set(seen) == {(1, 2, 1, 2)[number]}
        weights.append(Path(f"run{number}/model/model.safetensors").read_bytes())
    assert torch.get_num_threads() == before
    assert len(set(weights)) == 1
    assert "finished before" in command(capsys, monkeypatch, *words, "--threads", "2", "-o", "run0")[1]
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    code, _, err = command(capsys, monkeypatch, *words, "-o", "run")
    assert (code, Path("run").exists()) == (2, False)
    assert "OMP_NUM_THREADS is 'many'" in err


def test_the_device_is_one_that_there_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    # a driver that is too old for this PyTorch counts its GPUs all the same
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    words = ["train", "cu.xyz", "-s", "small.toml", "-q", "--epochs", "1", "-o"]
    code, _, err = command(capsys, monkeypatch, *words, "run", "--device", "cuda")
    assert (code, Path("run").exists()) == (2, False)
    assert "there is no GPU for device 'cuda'" in err
    assert "'auto'" in err
    assert command(capsys, monkeypatch, *words, "cpu", "--device", "cpu")[0] == 0
    assert command(capsys, monkeypatch, *words, "auto")[0] == 0
    records = [json.loads(Path(name, "training.json").read_text()) for name in ("cpu", "auto")]
    assert [(record["device"], record["n_processes"]) for record in records] == [("cpu", 1), ("cpu", 1)]
    assert records[0]["metrics"] == records[1]["metrics"]


def test_energies_that_are_not_determined_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    frames = []
    for seed in range(4):
        atoms = bulk("CuAu", "rocksalt", a=5.0)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        labels = atoms.get_potential_energy(), atoms.get_forces()
        frames.append(attach_labels(with_metadata(atoms, group_id=str(seed)), *labels))
    write_extxyz("cuau.xyz", frames)
    words = ["train", "cuau.xyz", "-s", "small.toml", "-q", "--epochs", "1", "-o", "run"]
    code, _, err = command(capsys, monkeypatch, *words, "--energies", "lstsq", "--scale", "per_element")
    assert code == 0, err
    assert "do not determine the isolated-atom energies of Cu, Au" in caplog.text
    record = json.loads(Path("run/training.json").read_text())
    kept = json.loads(Path("run/model/config.json").read_text())["metadata"]["reference_energies"]
    assert record["reference_energies"] == kept
    assert kept["pt"]["undetermined"] == ["Cu", "Au"]
    scale = record["config"]["heads"][0]["scale"]
    assert set(scale) == {"Cu", "Au"}
    assert record["plan"]["scale"] == "per_element"


def test_a_fine_tuned_model_is_evaluated_by_its_new_head(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "-s", "small.toml", "-q", "--head", "pt=cu.xyz", "--head", "ft=cu", "--energies", "lstsq"]
    code, _, err = command(capsys, monkeypatch, *words, "--epochs", "1", "-o", "run")
    assert code == 0, err
    sets = []
    for more in ([], ["--head", "ft"], ["--head", "pt"]):
        code, out, _ = command(capsys, monkeypatch, "evaluate", "run", "cu.xyz", "--json", *more)
        sets.append(json.loads(out)["sets"])
    assert sets[0][0]["metrics"]["head"] == "ft"
    assert sets[0] == sets[1] != sets[2]


def test_one_trajectory_needs_a_word_to_be_parted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = list(read_extxyz("cu.xyz"))
    for atoms in frames:
        atoms.info["group_id"] = "md"
    write_extxyz("md.xyz", frames)
    words = ["train", "md.xyz", "-o", "run", "-s", "small.toml"]
    code, _, err = command(capsys, monkeypatch, *words)
    assert code == 2
    assert "'md'" in err
    assert "--split-groups" in err
    code, _, err = command(capsys, monkeypatch, *words, "--split-groups")
    assert code == 0
    assert "7 frames to train on, 1 to validate" in err


def test_a_folder_that_is_no_model(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = command(capsys, monkeypatch, "evaluate", "cu", "cu.xyz")
    assert code == 1
    assert "cu is no model folder" in err
