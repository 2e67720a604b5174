"""The bookkeeping of ``perf/allegro.py``, and our side of it under the clock."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

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
