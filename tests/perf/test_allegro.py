"""The bookkeeping of ``perf/allegro.py``, and our side of it under the clock."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PERF = Path(__file__).parents[2] / "perf"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(PERF)
    return importlib.import_module("allegro")


def options(folder, **changes):
    values = {"folder": folder, "torch_index": None, "limit": 900.0, "max_memory": 8.0, "dtype": "float32"}
    return argparse.Namespace(**(values | {"seconds": 0.1, "repeat": 3} | changes))


def test_patterns_choose_subjects_and_measurements(bench):
    assert bench.chosen(["ours:train-64"], ours_eager=False) == [("train-64", "ours")]
    inference = bench.chosen(["nequip*:infer-512"], ours_eager=False)
    assert {subject for _, subject in inference} == {
        "nequip-eager", "nequip-aoti", "nequip-uncoupled-eager", "nequip-uncoupled-aoti",
    }  # fmt: skip
    assert ("train-64", "ours-eager") in bench.chosen([], ours_eager=True)
    assert ("train-64", "ours-eager") not in bench.chosen([], ours_eager=False)
    with pytest.raises(SystemExit, match="orb"):
        bench.chosen(["ours", "orb*"], ours_eager=False)


def test_ratios_linearity_and_threads(bench):
    def infer(atoms, seconds, threads=1):
        return {
            "kind": "infer",
            "threads": threads,
            "atoms": atoms,
            "cpu_s": seconds,
            "median_s": 2 * seconds,
            "growth_bytes": atoms * 1e6,
        }

    results = {
        "infer-512": {"ours": infer(512, 0.512), "mace-64x0e": infer(512, 1.024), "nequip-aoti": {"failed": "no"}},
        "infer-1000": {"ours": infer(1000, 1.0)},
        "infer-4096": {"ours": infer(4096, 4.096)},
        "infer-512-threads-2": {"ours": infer(512, 0.32, threads=2)},
        "memory-infer-1000": {"ours": {"bytes_per_edge": 100}, "mace-64x0e": {"bytes_per_edge": 250}},
    }
    assert bench.ratios(results) == {
        "infer-512": {"mace-64x0e": {"cpu": 2.0, "wall": 2.0}},
        "memory-infer-1000": {"mace-64x0e": {"memory": 2.5}},
    }
    told = bench.linearity(results)["ours"]
    assert told["cpu_us_per_atom"] == {512: 1000.0, 1000: 1000.0, 4096: 1000.0}
    assert told["exponent_from_512_atoms"] == 1.0
    assert bench.two_threads(results) == {"ours": {"infer": 1.6}}


def test_what_would_take_too_much_is_left_out_with_its_reason(bench, tmp_path):
    figures = {"kind": "infer", "atoms": 1000, "median_s": 2.0, "growth_bytes": 1e9}
    results = {"infer-1000": {"ours": figures}}
    assert bench.estimate("infer-4096", "ours", results, options(tmp_path)) is None
    assert "10.0 GB" in bench.estimate("infer-10000", "ours", results, options(tmp_path))
    assert "120 s" in bench.estimate("infer-10000", "ours", results, options(tmp_path, limit=100, max_memory=64))


def test_a_peer_that_cannot_be_installed_is_reported_with_its_reason(bench, tmp_path, monkeypatch):
    from peers import install

    asked = []

    def fail(command, *, doing, timeout=1800):
        asked.append(doing)
        raise install.Unavailable(f"{doing} exited with 1: no space left")

    monkeypatch.setattr(install, "run", fail)
    output = tmp_path / "out.json"
    monkeypatch.setattr(
        sys, "argv", ["x", "--folder", str(tmp_path), "--only", "mace*:train-64", "--output", str(output)]
    )
    bench.main()
    entries = json.loads(output.read_text())["results"]["train-64"]
    assert set(entries) == {"mace-16x0e-16x1o", "mace-64x0e"}
    for entry in entries.values():
        assert "no space left" in entry["failed"]
    assert len(asked) == 1


def test_a_peer_that_is_there_is_not_installed(bench, tmp_path, monkeypatch):
    from peers import install

    output = tmp_path / "out.json"
    there = tmp_path / "there" / "python"
    command = ["x", "--folder", str(tmp_path), "--output", str(output), "--only", "mace-64x0e:train-64"]
    monkeypatch.setattr(sys, "argv", [*command, "--python", f"mace={there}"])
    bench.main()
    # nothing is there yet
    assert str(there) in json.loads(output.read_text())["results"]["train-64"]["mace-64x0e"]["failed"]
    asked = []

    def pretend(command, *, doing, timeout=1800):
        asked.append(command[0])
        return json.dumps({"torch": "2.13.0", "pip": "26"})

    monkeypatch.setattr(install, "run", pretend)
    monkeypatch.setattr(bench, "measure", lambda name, subject, python, options: {"python": str(python)})
    bench.main()
    report = json.loads(output.read_text())
    assert report["results"]["train-64"]["mace-64x0e"] == {"python": str(there)}
    assert report["versions"] == {"mace": {"torch": "2.13.0"}}
    assert set(asked) == {str(there)}
    monkeypatch.setattr(sys, "argv", [*command, "--python", "orb=/opt/orb"])
    with pytest.raises(SystemExit, match="orb"):
        bench.main()


def test_a_failing_command_tells_its_last_words(bench):
    from peers import install

    with pytest.raises(install.Unavailable, match=r"trying exited with 3: last words"):
        install.run(
            [sys.executable, "-c", "import sys; print('last words', file=sys.stderr); sys.exit(3)"], doing="trying"
        )


@pytest.mark.slow
def test_our_side_is_measured_and_kept_on_resumption(tmp_path):
    output = tmp_path / "out.json"
    command = [sys.executable, str(PERF / "allegro.py"), "--folder", str(tmp_path), "--output", str(output), "--resume"]
    command += ["--only", "ours:train-16-eight-frames", "--repeat", "3"]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads(output.read_text())
    figures = report["results"]["train-16-eight-frames"]["ours"]
    assert figures["parameters"] == 42982
    assert figures["edges_per_atom"] == 28.0
    assert figures["cpu_ms_per_step"] > 0 and figures["calls"] == 3
    report["results"]["train-16-eight-frames"]["ours"]["mark"] = "kept"
    output.write_text(json.dumps(report))
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads(output.read_text())["results"]["train-16-eight-frames"]["ours"]["mark"] == "kept"


# On a GPU ---------------------------------------------------------------------------------------------------

GPU = {"name": "a card", "bytes": 10**10, "compute_capability": "9.0", "cuda": "13.0", "torch": "2.13.0+cu130"}


def test_on_a_gpu_other_work_is_chosen(bench):
    there, here = (set(bench.chosen([], ours_eager=False, device=device)) for device in ("cuda", "cpu"))
    assert ("infer-512", "nequip-aoti-triton") in there - here
    assert ("train-64", "ours-compiled") in there - here
    assert ("train-8192", "mace-64x0e") in there - here
    assert {measurement for measurement, _ in here - there} == {"train-64-threads-2", "infer-512-threads-2"}


def test_figures_of_a_gpu_are_of_the_wall_clock(bench):
    def infer(atoms, seconds):
        figures = {"kind": "infer", "threads": 1, "atoms": atoms, "cpu_s": 9.0, "median_s": seconds}
        return figures | {"device": "a card", "bytes_per_edge": 100}

    results = {
        f"infer-{atoms}": {"ours": infer(atoms, 1e-6 * atoms), "nequip-aoti": infer(atoms, 2e-6 * atoms)}
        for atoms in (512, 1000, 4096)
    }
    assert bench.ratios(results)["infer-512"] == {"nequip-aoti": {"wall": 2.0}}
    told = bench.linearity(results)["ours"]
    assert told == {"us_per_atom": {512: 1.0, 1000: 1.0, 4096: 1.0}, "exponent_from_512_atoms": 1.0}


@pytest.mark.parametrize(
    ("cuda", "index", "asked"),
    [
        (None, None, None),
        (None, "https://cpu", "https://cpu"),
        ("13.0", None, "https://download.pytorch.org/whl/cu130"),
        ("12.6", "https://mine", "https://mine"),
    ],
)
def test_which_torch_a_peer_gets(bench, tmp_path, monkeypatch, cuda, index, asked):
    from peers import install

    commands = []
    home = tmp_path / ("mace" if cuda is None else "mace-cuda")

    def pretend(command, *, doing, timeout=1800):
        commands.append(command)
        home.mkdir(exist_ok=True)
        if install.CUDA_OF_TORCH in command:
            return f"{cuda}\n"
        return json.dumps({"torch": "2.13.0", "pip": "26"}) if install.VERSIONS in command else ""

    monkeypatch.setattr(install, "run", pretend)
    assert install.versions("mace", tmp_path, cuda=cuda) is None
    for _ in range(2):
        assert install.interpreter("mace", tmp_path, torch_index=index, cuda=cuda) == home / "bin" / "python"
    # the second time nothing had to be installed
    (of_torch,) = [command for command in commands if "pip" in command and command[-1] == install.TORCH]
    given = of_torch[of_torch.index("--index-url") + 1] if "--index-url" in of_torch else None
    assert given == asked
    assert any(install.CUDA_OF_TORCH in command for command in commands) == (cuda is not None)
    assert install.versions("mace", tmp_path, cuda=cuda) == {"torch": "2.13.0"}
    if cuda is not None:
        commands.clear()
        install.interpreter("mace", tmp_path, torch_index=index, cuda="12.8")
        assert "--clear" in commands[0]


def test_a_torch_without_cuda_is_no_torch_for_a_gpu(bench, tmp_path, monkeypatch):
    from peers import install

    monkeypatch.setattr(install, "run", lambda command, *, doing, timeout=1800: "\n")
    with pytest.raises(install.Unavailable, match="--torch-index"):
        install.interpreter("mace", tmp_path, cuda="13.0")


def test_figures_of_two_devices_are_not_mixed(bench, tmp_path, monkeypatch):
    output = tmp_path / "out.json"
    output.write_text(json.dumps({"machine": {"cores": 2}, "results": {}}))
    monkeypatch.setattr(bench, "ask_gpu", lambda: GPU)
    command = ["x", "--folder", str(tmp_path), "--output", str(output), "--resume", "--device", "cuda"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="another device"):
        bench.main()


def test_a_gpu_has_its_own_environments_caches_and_limits(bench, tmp_path, monkeypatch):
    seen = {}

    def pretend(command, **settings):
        seen.update(json.loads(command[-1]), **settings["env"])
        Path(seen["result"]).write_text(json.dumps({"device": "a card", "cpu_s": 1.0, "median_s": 0.5, "edges": 1}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(bench, "ask_gpu", lambda: GPU)
    monkeypatch.setattr(bench.subprocess, "run", pretend)
    output = tmp_path / "out.json"
    command = ["x", "--folder", str(tmp_path), "--output", str(output), "--device", "cuda", "--only", "ours:train-64"]
    monkeypatch.setattr(sys, "argv", command)
    bench.main()
    assert seen["device"] == "cuda"
    assert seen["TRITON_CACHE_DIR"].startswith(seen["TORCHINDUCTOR_CACHE_DIR"])
    assert "-cuda" in seen["TORCHINDUCTOR_CACHE_DIR"]
    report = json.loads(output.read_text())
    assert report["machine"]["gpu"] == GPU
    assert report["results"]["train-64"]["ours"]["ms_per_step"] == 500.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_nothing_to_measure(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--folder", str(tmp_path), "--device", "cuda"])
    with pytest.raises(SystemExit, match="sees no CUDA device"):
        bench.main()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_our_side_is_measured_on_a_gpu(tmp_path):
    output = tmp_path / "out.json"
    command = [sys.executable, str(PERF / "allegro.py"), "--folder", str(tmp_path), "--output", str(output)]
    command += ["--device", "cuda", "--repeat", "3", "--only", "ours:train-64", "ours:infer-64", "ours:memory-*"]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads(output.read_text())
    name = torch.cuda.get_device_name()
    assert report["machine"]["gpu"]["name"] == name
    for measurement in ("train-64", "infer-64"):
        figures = report["results"][measurement]["ours"]
        assert figures["device"] == name and figures["median_s"] > 0
        assert figures["growth_bytes"] > 0
    assert report["results"]["memory-train-1024"]["ours"]["bytes_per_edge"] > 100
