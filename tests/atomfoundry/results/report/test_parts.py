"""The parts of the report: numbers, grouping, placing, arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from atomfoundry.documents import ElementMetrics
from atomfoundry.errors import InputError
from atomfoundry.results.report import JobRow, Predictions, TargetRow, jobs_from_documents
from atomfoundry.results.report import text as words
from atomfoundry.results.report.benchmark_figures import birch_murnaghan
from atomfoundry.results.report.elements import elements_table
from atomfoundry.results.report.grouping import depths, group_jobs, reduced_edges
from atomfoundry.results.report.overview import judge
from atomfoundry.results.report.parity import _subsample, scores
from atomfoundry.results.report.placing import arrange, build, split_wide_layers
from atomfoundry.results.report.style import log_axis
from atomfoundry.results.report.timeline import timeline
from atomfoundry.results.report.uncertainty import coverage


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (4.326, "4.33"),
        (0.0083, "0.00830"),
        (9.999, "10.0"),
        (1234.5, "1,230"),
        (-0.5, "−0.500"),
        (44390, "44,390"),
        (0.0, "0"),
        (1.2e8, "1.20×10⁸"),
        (-3.4e-7, "−3.40×10⁻⁷"),
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
    ],
)
def test_number(value, expected: str) -> None:
    assert words.number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "200 ms"),
        (4.56, "4.6 s"),
        (59.7, "1 min 00 s"),
        (68.4, "1 min 08 s"),
        (3599.8, "1 h 00 min"),
        (90000, "25 h 00 min"),
        (200000, "2 d 07 h"),
        (None, "–"),
    ],
)
def test_duration(seconds, expected: str) -> None:
    assert words.duration(seconds) == expected


def test_size_moment_plain() -> None:
    assert words.size(1_234_567) == "1.23 MB"
    assert words.size(999) == "999 B"
    assert words.moment("2025-03-14T10:12:05+01:00") == "2025-03-14 09:12:05 UTC"
    assert words.moment("yesterday") == "yesterday"
    assert words.plain(10.0) == "10" and words.plain(0.1) == "0.1"
    assert words.r_squared(0.99712) == "0.9971" and words.r_squared(-1.2e8) == "−1.20×10⁸"


def chain(*names: str) -> list[JobRow]:
    rows = []
    for i, name in enumerate(names):
        rows.append(JobRow(uuid=name, name=name, parents=[names[i - 1]] if i else []))
    return rows


def test_like_jobs_share_a_node() -> None:
    jobs = [
        JobRow(uuid="s", name="structures"),
        *(JobRow(uuid=f"l{i}", name=f"label {i}/3", parents=["s"], n_labels=5, wall_time_s=2.0) for i in (1, 2, 3)),
        JobRow(uuid="h", name="harvest", parents=["l1", "l2", "l3", "s"]),
        JobRow(uuid="l4", name="label 4", parents=["h"], n_failed=1, state="failed"),
    ]
    nodes = group_jobs(jobs)
    assert [(n.name, len(n.jobs), n.depth) for n in nodes] == [
        ("structures", 1, 0),
        ("label", 3, 1),
        ("harvest", 1, 2),
        ("label 4", 1, 3),
    ]
    assert nodes[1].total("n_labels") == 15 and nodes[1].wall_time_s == 6.0
    assert nodes[3].state == "failed"
    assert nodes[2].parents == {0, 1}
    assert reduced_edges(nodes) == [(0, 1), (1, 2), (2, 3)], "structures to harvest is implied"


def test_depths_of_a_long_chain_and_of_a_cycle() -> None:
    names = [f"j{i}" for i in range(5000)]
    assert depths(chain(*names))["j4999"] == 4999
    loop = [JobRow(uuid="a", name="a", parents=["b"]), JobRow(uuid="b", name="b", parents=["a", "elsewhere"])]
    assert set(depths(loop)) == {"a", "b"}
    group_jobs(loop)


def test_boxes_never_overlap_and_stay_inside() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        n = int(rng.integers(2, 40))
        jobs = []
        for i in range(n):
            parents = rng.choice(i, size=min(i, int(rng.integers(0, 4))), replace=False) if i else []
            jobs.append(JobRow(uuid=str(i), name=f"job {chr(65 + i % 26)}{i}x", parents=[str(p) for p in parents]))
        nodes = group_jobs(jobs)
        layers = split_wide_layers({node.index: node.depth for node in nodes}, 5)
        edges = reduced_edges(nodes)
        assert all(layers[a] < layers[b] for a, b in edges)
        rows, routes = build(layers, edges, width=200.0, bend_width=10.0)
        width = arrange(rows, width=1060.0, gap=12.0)
        assert len(routes) == len(edges)
        for row in rows:
            for left, right in itertools.pairwise(row):
                assert right.x - left.x >= (left.width + right.width) / 2 + 12.0 - 1e-6
            assert row[0].x - row[0].width / 2 >= -1e-6
            assert row[-1].x + row[-1].width / 2 <= width + 1e-6


def test_timeline_cuts_long_pauses() -> None:
    jobs = [
        JobRow(uuid="a", name="before", start="2025-01-01T00:00:00", wall_time_s=60.0),
        JobRow(uuid="b", name="after", start="2025-01-03T00:00:00", wall_time_s=60.0, state="failed"),
    ]
    nodes = group_jobs(jobs)
    drawing = timeline(nodes, {"": "stage-0"})
    assert drawing is not None
    assert drawing.svg.count('class="break"') == 1
    assert "bar stage-0 failed" in drawing.svg
    assert "1 pause" in drawing.caption
    assert timeline(group_jobs(chain("a", "b")), {"": "stage-0"}) is None


def test_judge() -> None:
    cell, sentence = judge(TargetRow(name="x", value=12.5, target=10, unit="meV", passed=False))
    assert cell.kind == "bad" and sentence == "2.50 meV (25 %) above the limit."
    cell, sentence = judge(TargetRow(name="x", value=0.95, target=0.9, passed=True, direction="above"))
    assert cell.kind == "good" and sentence.endswith("above the limit.")
    assert judge(TargetRow(name="x", value=None, target=1))[0].text == "not measured"


def test_scores() -> None:
    ref = np.array([0.0, 1.0, 2.0, 3.0])
    mae, rmse, r2 = scores(ref, ref + np.array([0.1, -0.1, 0.1, -0.1]))
    assert (mae, rmse) == (pytest.approx(0.1), pytest.approx(0.1))
    assert r2 == pytest.approx(1 - 0.04 / 5)
    assert scores(np.ones(3), np.zeros(3))[2] is None


def test_subsample_keeps_the_worst() -> None:
    errors = np.random.default_rng(0).random(10_000)
    kept = _subsample(errors, 500)
    assert set(np.argsort(errors)[-40:]) <= set(kept)
    assert 460 <= kept.size <= 500
    assert np.array_equal(kept, _subsample(errors, 500))


def test_coverage() -> None:
    points = [{"head": "a", "sigma": 1.0, "error": e} for e in (0.5, -1.5, 2.5, -4.0)]
    assert coverage(points) == [0.25, 0.5, 0.75]
    assert coverage([]) == [None, None, None]


def test_log_axis_covers_its_data() -> None:
    axis = log_axis("x", [3.0, 4000.0, 0.0, float("nan")])
    low, high = axis["range"]
    assert 10**low < 3.0 and 10**high > 4000.0
    assert "1,000" in axis["ticktext"]
    assert log_axis("x", [])["range"][0] < log_axis("x", [])["range"][1]


def test_birch_murnaghan_curvature_is_the_bulk_modulus() -> None:
    summary = {"V0": 20.0, "B0": 90.0, "B0_prime": 4.2}
    h = 1e-3
    volumes = np.array([20.0 - h, 20.0, 20.0 + h])
    energies = birch_murnaghan(volumes, summary)
    assert energies is not None and energies[1] == 0.0
    assert 20.0 * (energies[0] + energies[2]) / h**2 * 160.21766208 == pytest.approx(90.0, rel=1e-5)
    assert birch_murnaghan(volumes, {"V0": 20.0, "B0": None, "B0_prime": 4.0}) is None


def test_predictions_from_parquet(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "split": ["test", "test", "test"],
        "head": ["a", "a", "a"],
        "n_atoms": [2, 1, 2],
        "baseline": [-10.0, -5.0, -10.0],
        "energy_ref": [-12.0, -5.0, None],
        "energy_pred": [-12.2, -5.0, -13.0],
        "forces_ref": [[0.0] * 6, [0.0] * 3, None],
        "forces_pred": [[0.1] * 6, [0.0] * 3, [0.0] * 6],
        "stress_ref": [[0.01] * 6, None, None],
        "stress_pred": [[0.02] * 6, None, [0.0] * 6],
    }
    path = tmp_path / "predictions.parquet"
    pq.write_table(pa.table(columns), path)
    found = Predictions.from_parquet(path)
    assert len(found.split) == 2, "the isolated atom is left out"
    ref, pred = found.pairs("energy", head="a", split="test")
    assert ref == pytest.approx([-1.0]) and pred == pytest.approx([-1.1])
    ref, pred = found.pairs("forces", head="a", split="test")
    assert ref.shape == (6,) and pred == pytest.approx(0.1)
    assert found.pairs("stress", head="a", split="train")[0].size == 0


def test_bad_predictions_are_refused(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(InputError, match="cannot be read"):
        Predictions.from_parquet(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(InputError, match="cannot be read"):
        Predictions.from_parquet(tmp_path / "text.parquet")
    pq.write_table(pa.table({"split": ["test"]}), tmp_path / "few.parquet")
    with pytest.raises(InputError, match="baseline"):
        Predictions.from_parquet(tmp_path / "few.parquet")
    with pytest.raises(InputError, match="energy_pred"):
        Predictions.from_arrays({"split": ["a"], "head": ["b"], "energy_ref": [1.0]})
    with pytest.raises(InputError, match="length"):
        Predictions.from_arrays({"split": ["a"], "head": ["b"], "energy_ref": [1.0, 2.0], "energy_pred": [1.0]})


def test_jobs_from_documents(sample) -> None:
    inputs = sample.full_inputs()
    rows = {row.name: row for row in jobs_from_documents(inputs.documents())}
    assert rows["harvest crystals"].counts == "100 frames", "the dataset came after the labels"
    assert rows["train base model"].stage == "training"
    assert rows["train base model"].peak_memory_mb == 910.0
    assert rows["fine-tune replay"].stage == "fine-tuning"
    labels = {row.name: row for row in jobs_from_documents(inputs.label_sets)}[inputs.label_sets[0].name]
    assert (labels.n_labels, labels.n_reused, labels.n_failed) == (102, 2, 2)
    assert jobs_from_documents([inputs.benchmarks[-1]]) == [], "no provenance, no job"


def test_a_typo_in_the_inputs_is_an_error() -> None:
    from pydantic import ValidationError

    from atomfoundry.results.report import ReportInputs

    with pytest.raises(ValidationError, match="modells"):
        ReportInputs(title="x", modells=[])
    with pytest.raises(ValidationError, match="walltime"):
        ReportInputs(title="x", jobs=[{"uuid": "a", "name": "b", "walltime": 3}])


def test_importing_is_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys, atomfoundry.results.report as r; r.render_report; "
        "heavy = {'plotly', 'pyarrow', 'ase', 'matplotlib', 'torch', 'jobflow'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _cells(row) -> list[str]:
    return [cell if isinstance(cell, str) else cell.text for cell in row]


def test_elements_are_those_of_the_split_that_counts_the_worst_first() -> None:
    numbers = {"n_atoms": 1200, "forces_mae": 0.03, "energy_mae": 0.002}
    found = [
        ElementMetrics(split="train", head="pt", element="Si", forces_rmse=9.0, **numbers),
        ElementMetrics(split="test", head="pt", element="H", n_atoms=0, energy_mae=0.004, alerts=["few_atoms"]),
        ElementMetrics(split="test", head="pt", element="Si", forces_rmse=0.04, **numbers),
        ElementMetrics(split="test", head="pt", element="O", forces_rmse=0.5, alerts=["large_error"], **numbers),
        ElementMetrics(split="valid", head="ft", element="Si", forces_rmse=0.06, **numbers),
        ElementMetrics(split="train", head="ft", element="Si", forces_rmse=0.05, **numbers),
    ]
    table = elements_table(found)
    assert [_cells(row) for row in table.rows] == [
        ["O", "pt", "test", "1,200", "30.0", "500", "2.00", "over three times the median"],
        ["Si", "pt", "test", "1,200", "30.0", "40.0", "2.00", ""],
        ["H", "pt", "test", "0", "–", "–", "4.00", "fewer than 100 atoms"],
        ["Si", "ft", "valid", "1,200", "30.0", "60.0", "2.00", ""],
    ]
    assert len(table.header) == len(table.rows[0])
    assert table.folded == ""
    many = [m.model_copy(update={"head": f"head {i}"}) for i in range(21) for m in found[2:3]]
    assert elements_table(many).folded == "Errors by element, 21 rows"
