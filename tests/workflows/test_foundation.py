"""The whole pipeline, shortened to an analytic potential: every stage, resumption, and many kills."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atomfoundry.engines import get_engine
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


NURSERY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_foundation import short_flow
import torch, atomfoundry.models.finetuning, atomfoundry.models.uncertainty, atomfoundry.results.report
from atomfoundry.running import run
print("ready", flush=True)
for line in sys.stdin:
    workers, project = line.rstrip("\\n").split(" ", 1)
    child = os.fork()
    if not child:
        os.setsid()
        code = 1
        try:
            code = 0 if run(short_flow().make(), project=project, workers=int(workers), progress=False).ok else 1
        finally:
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """A process that has imported everything and forks the runs that shall be killed, so that each starts at once."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", NURSERY, str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, project: Path, *, workers: int, kill_after: float | None) -> bool:
        """Run the flow with so many worker processes (0: within the process itself); tell if it was killed."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{workers} {project}\n")
        self.process.stdin.flush()
        group = int(self._line())
        killer = threading.Timer(kill_after or 0.0, kill_group, [group])
        if kill_after is not None:
            killer.start()
        code = int(self._line())
        killer.cancel()
        assert code in (0, -signal.SIGKILL)
        return code != 0

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def contents(project: Project) -> dict[tuple[str, int], tuple[str, str]]:
    """Return name and output of every job by its uuid, without what the clock and the order of jobs decide."""
    clock = {"provenance", "wall_time_s", "training_time_s", "compute_time_s", "html", "headline"}
    order = {"n_reused", "n_computed"}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in clock | order}
        return [plain(item) for item in value] if isinstance(value, list) else value

    found: dict[tuple[str, int], tuple[str, str]] = {}
    for document in project.job_store().query():
        key = document["uuid"], document["index"]
        assert key not in found
        found[key] = document["name"], json.dumps(plain(document["output"]), sort_keys=True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kills", [30])
def test_kills_change_nothing(undisturbed: RunResult, nursery: Nursery, tmp_path: Path, kills: int) -> None:
    rng = random.Random(2026)
    expected, labels = contents(undisturbed.project), label_keys(undisturbed.project)
    left, number = kills, 0
    while left:
        project = Project.open_or_create(tmp_path / str(number))
        number += 1
        again = True
        while again:
            workers = 2 if rng.random() < 0.2 else 0
            moment = rng.uniform(0.2, 6.0) + 8.0 * (workers > 0)  # workers import everything first
            again = nursery.run(project.path, workers=workers, kill_after=moment if left else None)
            left -= again
        assert contents(project) == expected
        assert label_keys(project) == labels


def label_keys(project: Project) -> Counter[tuple[str, str]]:
    return Counter((r.document.frame_id, r.document.level_id) for r in open_results(project).labels())


def test_own_structures_get_settings_that_serve_them(tmp_path: Path) -> None:
    from ase.build import bulk, molecule

    files = tmp_path / "aluminium.cif", tmp_path / "water.xyz"
    bulk("Al").write(files[0])
    molecule("H2O").write(files[1])
    preset = load_preset("quickstart")
    assert isinstance(preset, FoundationFlowMaker)
    maker = preset.with_structures(files)
    assert maker.task is None
    assert [atoms.get_chemical_formula() for atoms in maker.crystals.structures()] == ["Al"]
    assert maker.molecules is not None
    assert [atoms.get_chemical_formula() for atoms in maker.molecules.structures()] == ["H2O"]
    settings = maker.crystal_labels.engine_settings
    get_engine("espresso", **settings).check_elements(["Al", "H", "O"])
    assert settings["kpoint_spacing"] <= 0.4
    assert not settings["kpoint_shift"]
    assert preset.crystal_labels.engine_settings["kpoint_shift"]
    assert settings["scf_tolerance"] == preset.crystal_labels.engine_settings["scf_tolerance"]


def test_settings_of_the_users_own_flow_file_stay(tmp_path: Path) -> None:
    from ase.build import bulk

    from atomfoundry.cli.run import flow_maker

    crystal, flow = tmp_path / "aluminium.cif", tmp_path / "flow.yaml"
    bulk("Al").write(crystal)
    flow.write_text(
        "workflow: FoundationFlowMaker\npreset: quickstart\n"
        "arguments: {crystal_labels: {engine_settings: {kpoint_spacing: 0.9}}}\n"
    )
    maker = flow_maker(str(flow), structures=[str(crystal)], engine=None, seed=None)
    assert isinstance(maker, FoundationFlowMaker)
    settings = maker.crystal_labels.engine_settings
    assert settings["kpoint_spacing"] == 0.9
    assert not settings["kpoint_shift"]  # the preset's, not the user's


def test_who_needs_more_than_a_core() -> None:
    from atomfoundry.running.identity import prepare

    profiles = {entry.name: entry.profile for entry in prepare(load_preset("quickstart").make()).entries}
    assert {name for name, profile in profiles.items() if profile == "gpu"} == {
        "base model",
        "fine-tune, naive",
        "fine-tune, replay",
        "final model",
    }
    assert {name for name, profile in profiles.items() if profile == "md"} == {
        "uncertainty",
        "explore",
        "equation of state",
        "elastic constants",
        "NVE drift",
        "H2 curve",
        "parity",
    }
    assert set(profiles.values()) == {"light", "gpu", "md"}  # labels come later, with their engine's
