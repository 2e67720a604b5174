"""``perf/throughput.py``: its rows, and what happens where memory ends."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule

from atomfoundry.models import Allegro, AllegroConfig, save_model

PERF = Path(__file__).parents[2] / "perf"
SMALL = {"num_channels": 2, "l_max": 1, "two_body_dims": [4, 4], "latent_dims": [4], "edge_energy_dims": [4]}


def small(**changes):
    values = {"type_names": ["Si", "O"], "cutoff": 4.0, "avg_num_neighbors": 12.0, "dtype": "float64", "seed": 1}
    return Allegro(AllegroConfig(**(values | SMALL | changes)))


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(PERF)
    return importlib.import_module("throughput")


@pytest.fixture
def run(bench, monkeypatch, capsys):
    """Run the script; returns its report."""

    def work(*arguments):
        # a short run of others' tests shall not lose its threads
        monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
        monkeypatch.setattr(sys, "argv", ["throughput.py", *map(str, arguments), "--seconds", "0", "--repeat", "3"])
        bench.main()
        said = capsys.readouterr()
        return json.loads(said.out), said.err

    return work


@pytest.mark.slow
@pytest.mark.parametrize("compile_it", [False, True])
def test_a_run_on_the_cpu(run, tmp_path, compile_it):
    save_model(small(), tmp_path / "model", metadata={})
    output = tmp_path / "out.json"
    asked = ["--compiled-batches", 2, "--backend", "aot_eager"] if compile_it else []
    report, table = run(
        tmp_path / "model", "--device", "cpu", "--sizes", 16, 8, "--batches", 1, 3, "--frame-atoms", 8,
        "--output", output, *asked,
    )  # fmt: skip
    assert json.loads(output.read_text()) == report
    assert report["machine"]["torch"] == torch.__version__
    rows = {(row["kind"], row["mode"], row["structures"], row["atoms"]): row for row in report["rows"]}
    expected = {(kind, "plain", 1, atoms) for kind in ("evaluate", "dynamics") for atoms in (8, 16)}
    expected |= {(kind, "plain", n, 8 * n) for kind in ("evaluate", "train") for n in (1, 3)}
    if compile_it:
        expected |= {(kind, "torch.compile", 2, 16) for kind in ("evaluate", "train")}
    assert set(rows) == expected
    for row in rows.values():
        assert row["calls"] == 3
        assert row["atom_steps_per_s"] == pytest.approx(row["atoms"] / row["median_s"], abs=0.1)
        assert row["edges"] / row["atoms"] == pytest.approx(16, abs=1)
    assert "| train | plain | 3 | 24 |" in table
    assert report["limits"] == []


@pytest.mark.slow
def test_where_memory_ends_the_next_series_begins(bench, run, monkeypatch, tmp_path):
    measured = bench.Bench._measured

    def tight(self, kind, structures, atoms, *, compile_it):
        if kind == "evaluate" and structures * atoms > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
        if kind == "dynamics":
            raise RuntimeError("integer out of range")
        return measured(self, kind, structures, atoms, compile_it=compile_it) | {"peak_bytes": 4000}

    monkeypatch.setattr(bench.Bench, "_measured", tight)
    monkeypatch.setattr(bench, "machine", lambda device: {"device": "a card", "bytes": 10000})
    save_model(small(), tmp_path / "model", metadata={})
    asked = [tmp_path / "model", "--device", "cpu", "--sizes", 8, 16, 32, "--batches", 1, "--frame-atoms", 8]
    with pytest.raises(SystemExit, match="another reason than memory"):
        run(*asked, "--output", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    ends = [next(key for key in ("median_s", "out_of_memory", "failed") if key in row) for row in report["rows"]]
    assert ends == ["median_s", "out_of_memory", "failed", "median_s", "median_s"]
    assert report["rows"][1]["out_of_memory"] == "CUDA out of memory. Tried to allocate 2.00 GiB"
    assert [(limit["out_of_memory_at_atoms"], limit["fits_atoms"]) for limit in report["limits"]] == [(16, 20)]


def test_rows_that_did_not_fit(bench):
    def row(atoms, **found):
        return {"kind": "evaluate", "mode": "plain", "structures": 1, "atoms": atoms} | found

    rows = [
        row(8, peak_bytes=900),
        row(16, peak_bytes=1600),
        row(16, peak_bytes=9e9) | {"kind": "train"},
        row(64, out_of_memory="Tried to allocate"),
    ]
    (limit,) = bench.limits(rows, 5000)
    assert limit["out_of_memory_at_atoms"] == 64
    assert (limit["largest_atoms"], limit["bytes_per_atom"], limit["fits_atoms"]) == (16, 100, 50)
    line = bench.markdown([rows[-1]]).splitlines()[-1]
    assert line == "| evaluate | plain | 1 | 64 | out of memory |  | |"


def test_a_call_that_would_take_too_long_ends_its_series(run):
    report, _ = run("--device", "cpu", "--sizes", 8, 16, 24, "--batches", "--limit", 1e-9)
    assert [row["atoms"] for row in report["rows"]] == [8, 16, 8, 16]
    assert all("would take" in row["left_out"] for row in report["rows"] if row["atoms"] == 16)


def test_what_is_asked_for_wrongly(run, tmp_path):
    save_model(small(type_names=["Cu"]), tmp_path / "copper", metadata={})
    with pytest.raises(SystemExit, match="does not know Si"):
        run(tmp_path / "copper", "--device", "cpu")
    molecule("SiH4").write(tmp_path / "silane.xyz")
    with pytest.raises(SystemExit, match="not periodic"):
        run("--device", "cpu", "--structure", tmp_path / "silane.xyz")


def test_a_structure_of_ones_own(run, tmp_path):
    save_model(small(type_names=["Cu"]), tmp_path / "copper", metadata={})
    bulk("Cu").write(tmp_path / "copper.xyz")
    report, _ = run(
        tmp_path / "copper", "--device", "cpu", "--structure", tmp_path / "copper.xyz", "--sizes", 5, "--batches",
        "--dtype", "float32",
    )  # fmt: skip
    # primitive cells, until there are enough
    assert [row["atoms"] for row in report["rows"]] == [8, 8]
    assert report["model"]["dtype"] == "float32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(run):
    with pytest.raises(SystemExit, match="no CUDA device"):
        run("--device", "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_a_gpu(run):
    report, _ = run("--sizes", 64, 512, "--batches", 1, 2, "--compiled-sizes", 64, "--compiled-batches", 2)
    assert report["machine"]["device"] == torch.cuda.get_device_name()
    assert not report["kernel"]
    for row in report["rows"]:
        assert row["atom_steps_per_s"] > 0 and row["peak_bytes"] > row["growth_bytes"] > 0
    assert {row["mode"] for row in report["rows"]} == {"plain", "torch.compile"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_memory_of_a_gpu_ends_a_series(run):
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1e9 / torch.cuda.get_device_properties(0).total_memory))
    try:
        report, _ = run("--sizes", 64, 64000, "--batches", 1, "--compiled-sizes", "--compiled-batches")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    ends = {row["atoms"]: row for row in report["rows"] if row["kind"] == "evaluate"}
    assert "out_of_memory" in ends[64000]
    assert report["rows"][-1]["kind"] == "train" and report["rows"][-1]["median_s"] > 0
    assert report["limits"][0]["fits_atoms"] > 64
