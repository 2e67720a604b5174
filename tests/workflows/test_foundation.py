"""The whole pipeline, shortened to an analytic potential: every stage, resumption, and many kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from atomfoundry.results import Project, ResultsDB, open_results
from atomfoundry.results.lineage import lineage
from atomfoundry.running import RunResult, run
from atomfoundry.workflows import FoundationFlowMaker, load_preset

SOURCE_EPSILON, TARGET_EPSILON = 0.40, 0.42


def lennard_jones(epsilon: float) -> dict[str, Any]:
    return {
        "engine": "ase",
        "engine_settings": {
            "calculator_class": "ase.calculators.lj.LennardJones",
            "calculator_kwargs": {"sigma": 2.0, "epsilon": epsilon, "rc": 5.0, "smooth": True},
            "elements": ["H", "Si"],
        },
    }


def short_flow() -> FoundationFlowMaker:
    maker = load_preset(
        "instant",
        {
            "name": "short",
            "crystal_labels": {**lennard_jones(TARGET_EPSILON), "batch_size": 5},
            "molecule_labels": {**lennard_jones(SOURCE_EPSILON), "batch_size": 5},
            "align": {"mode": "atoms", "force": False},
            "dataset": {"fractions": [0.6, 0.2, 0.2], "max_force": 1000.0},
            "task_dataset": {"max_force": 1000.0},
            "train": {"training": {"max_epochs": 3}},
            "finetune": {"training": {"max_epochs": 2}},
            "retrain": {"training": {"max_epochs": 2}},
            "explore": {"n_steps": 20},
        },
    )
    assert isinstance(maker, FoundationFlowMaker)
    maker.benchmarks = [b for b in maker.benchmarks if b.benchmark in ("equation_of_state", "parity")]
    return maker


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(short_flow().make(), project=tmp_path_factory.mktemp("undisturbed"), workers=2, progress=False)


@pytest.fixture(scope="module")
def database(undisturbed: RunResult) -> ResultsDB:
    return open_results(undisturbed.project)


def test_every_stage_leaves_its_document(undisturbed: RunResult, database: ResultsDB) -> None:
    assert undisturbed.ok, undisturbed.failures
    assert [r.document.kind for r in database.models()].count("base") == 1
    assert {r.document.kind for r in database.models()} == {"base", "naive", "replay", "active_learning"}
    assert len(database.label_sets()) == 9
    assert {r.document.name for r in database.datasets()} == {"dataset", "task dataset", "extended dataset"}
    assert {r.document.benchmark for r in database.benchmarks()} == {"equation_of_state", "parity"}
    assert len(database.uncertainties()) == len(database.selections()) == len(database.forgetting()) == 1
    for result in [*database.models(), *database.datasets(), *database.benchmarks(), *database.reports()]:
        assert result.document.provenance is not None
        assert result.document.provenance.job_uuid == result.uuid


def test_alignment_recovers_the_scale(database: ResultsDB) -> None:
    (alignment,) = database.alignments()
    assert alignment.document.scale == pytest.approx(TARGET_EPSILON / SOURCE_EPSILON, rel=1e-9)
    assert alignment.document.metrics["aec"].rmse < 1e-9
    assert alignment.document.n_aligned == 12


def test_no_label_is_computed_twice(database: ResultsDB) -> None:
    labels = [result.document for result in database.labels()]
    keys = Counter((label.frame_id, label.level_id) for label in labels)
    assert max(keys.values()) == 1
    assert all(label.attempts == 1 and label.status == "ok" for label in labels)


def test_report_is_one_file(database: ResultsDB, undisturbed: RunResult) -> None:
    (report,) = database.reports()
    html = undisturbed.project.artifacts.fetch(report.document.html).read_text()
    assert "Pipeline" in html
    for result in database.models():
        assert result.document.model.sha256 in html
    assert {target["name"] for target in report.document.targets}


def test_lineage_reaches_the_structures(database: ResultsDB) -> None:
    final = database.models({"kind": "active_learning"})[0]
    graph = lineage(database, final.uuid)
    assert {node.name for node in graph.of_kind("StructureSetDoc")} >= {
        "crystals",
        "molecules",
        "task structures",
        "sample crystals",
        "selected structures",
    }
    assert not [node for node in graph.nodes.values() if node.missing]


def test_a_finished_flow_is_not_run_again(undisturbed: RunResult) -> None:
    again = run(short_flow().make(), project=undisturbed.project, workers=2, progress=False)
    assert again.nothing_to_do
    assert again.total == undisturbed.total


def test_another_seed_is_another_flow(undisturbed: RunResult) -> None:
    from atomfoundry.running.identity import prepare

    maker = short_flow()
    assert prepare(maker.make()).run_id == undisturbed.run_id
    maker.seed = 1
    assert prepare(maker.make()).run_id != undisturbed.run_id


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
from test_foundation import short_flow
from atomfoundry.running import run
sys.exit(0 if run(short_flow().make(), project=sys.argv[1], workers=2, progress=False).ok else 1)
"""


def killed_run(project: Path, rng: random.Random, kills: int) -> int:
    """Run the flow, killing its whole process group up to so many times; return how often it was killed."""
    done = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", SCRIPT, str(project), str(Path(__file__).parent)],
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + rng.uniform(3.0, 15.0)
        while process.poll() is None and (done >= kills or time.monotonic() < deadline):
            time.sleep(0.05)
        if process.returncode is not None:
            assert process.returncode == 0
            return done
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done += 1


def contents(project: Project) -> dict[str, list[str]]:
    """Return what the run made, without what the clock decides."""
    volatile = {"provenance", "wall_time_s", "training_time_s", "compute_time_s", "n_reused", "html", "headline"}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in volatile}
        return [plain(item) for item in value] if isinstance(value, list) else value

    seen: set[tuple[str, int]] = set()
    found: dict[str, list[str]] = {}
    for document in project.job_store().query():
        key = document["uuid"], document["index"]
        assert key not in seen
        seen.add(key)
        # How labels are dealt into batches, and with that the uuids of batches and of references to what joins
        # them, depends on which of two label sets with common frames came first.
        if document["name"].endswith(" batch") or document["name"] == "store_inputs":
            continue
        found.setdefault(document["name"], []).append(json.dumps(plain(document["output"]), sort_keys=True))
    return {name: sorted(outputs) for name, outputs in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1])
def test_kills_change_nothing(undisturbed: RunResult, tmp_path: Path, kills: int) -> None:
    rng = random.Random(2026)
    expected = contents(undisturbed.project)
    left = kills
    for number in range(kills):
        project = Project.open_or_create(tmp_path / str(number))
        left -= killed_run(project.path, rng, left)
        assert contents(project) == expected
        labels = Counter((r.document.frame_id, r.document.level_id) for r in open_results(project).labels())
        assert labels == Counter(
            (r.document.frame_id, r.document.level_id) for r in open_results(undisturbed.project).labels()
        )
        if left <= 0:
            break
    assert left <= 0
