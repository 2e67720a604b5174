"""Batches whose code crashes, hangs, or loses its process or its worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from ase import Atoms
from jobflow import Flow, run_locally

from atomfoundry.datasets import Dataset, with_metadata
from atomfoundry.documents import LabelSetDoc, StructureSetDoc
from atomfoundry.engines.isolation import stop_process
from atomfoundry.engines.isolation.process import CHILD_VARIABLE
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers import LabelMaker
from atomfoundry.results import Project, use_project
from atomfoundry.running import run

CALCULATORS = Path(__file__).parents[1] / "atomfoundry" / "engines"
BREAKING = "breaking_calculator.Breaking"


@pytest.fixture(autouse=True)
def _path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(CALCULATORS))
    monkeypatch.delenv("ATOMFOUNDRY_PROJECT", raising=False)


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays():
    yield
    stop_process()


@pytest.fixture
def project(tmp_path):
    return Project.open_or_create(tmp_path / "project")


def chain(symbol: str, length: int) -> Atoms:
    return with_metadata(Atoms([symbol] + ["H"] * length, [[0, 0, i] for i in range(length + 1)]), source=symbol)


def structure_set(project: Project, structures: list[Atoms], tmp_path: Path) -> StructureSetDoc:
    dataset = Dataset.create(tmp_path / "set", structures)
    return StructureSetDoc(
        name="set",
        n_structures=len(structures),
        elements=sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}),
        structures=project.artifacts.put(dataset.path),
    )


def maker(**fields) -> LabelMaker:
    kwargs = {key: fields.pop(key) for key in ("log", "pause") if key in fields}
    return LabelMaker(
        engine="ase", engine_settings={"calculator_class": BREAKING, "calculator_kwargs": kwargs}, **fields
    )


@pytest.mark.slow
def test_each_break_costs_one_label(project, tmp_path):
    symbols = ["H", "He", "Ag", "Li", "Be", "Au", "B", "C", "N", "F", "Pt", "O"]
    log = tmp_path / "log"
    structures = structure_set(project, [chain(symbol, 1 + i) for i, symbol in enumerate(symbols)], tmp_path)
    job = maker(log=str(log), timeout=4.0, memory_limit=300, batch_size=12).make(structures)
    with use_project(project):
        run_locally(Flow([job]), store=project.job_store(), ensure_success=True, log=False, raise_immediately=True)
    document = LabelSetDoc.model_validate(project.job_store().get_output(job.uuid, load=True))
    assert (document.n_requested, document.n_labelled, document.n_failed) == (12, 5, 7)
    assert {failure.source: failure.reason for failure in document.failures} == {
        "He": "crashed",
        "Li": "crashed",
        "Be": "crashed",
        "B": "timeout",
        "C": "out_of_memory",
        "N": "crashed",
        "F": "out_of_memory",
    }
    assert document.reasons == {"crashed": 4, "out_of_memory": 2, "timeout": 1}
    assert "H2He: the process that computed it was killed by SIGSEGV" in document.failures[0].message
    frames = list(Dataset.open(project.artifacts.fetch(document.frames)).frames())
    assert [atoms.info["source"] for atoms in frames] == ["H", "Ag", "Au", "Pt", "O"]
    assert [atoms.get_potential_energy() for atoms in frames] == [len(atoms) for atoms in frames]
    calls = [line.split()[0] for line in log.read_text().splitlines()]
    assert max(Counter(calls).values()) == 1
    # From the largest down, a new process only after a death, none after an exception.
    processes = list(dict.fromkeys(line.split()[1] for line in log.read_text().splitlines()))
    assert len(processes) == 6


def test_limits_that_cannot_be_kept_are_refused():
    with pytest.raises(ConfigurationError, match="isolate: true"):
        maker(isolate=False, timeout=5.0)._batch_maker().build_engine()
    with pytest.raises(ConfigurationError, match="'espresso' has none"):
        LabelMaker(engine="espresso", memory_limit=500)._batch_maker().build_engine()
    engine = LabelMaker(engine="espresso", timeout=5.0)._batch_maker().build_engine()
    assert engine.settings()["timeout"] == 5.0


def marked_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if CHILD_VARIABLE in process.environ() and process.environ().get("LABEL_TEST") == "1":
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.slow
def test_a_killed_worker_is_no_failure_and_takes_the_child_along(project, tmp_path, monkeypatch, gone):
    monkeypatch.setenv("LABEL_TEST", "1")
    log = tmp_path / "log"
    structures = structure_set(project, [chain("H", length) for length in range(1, 7)], tmp_path)
    flow = Flow([maker(log=str(log), pause=0.4, batch_size=6).make(structures)])
    killed: list[int] = []

    def kill_the_worker(line_count: int) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if log.exists() and len(log.read_text().splitlines()) >= line_count:
                (child,) = marked_processes()
                killed.append(child.pid)
                os.kill(child.ppid(), signal.SIGKILL)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_the_worker, args=(3,))
    killer.start()
    result = run(flow, project=project, workers=1, progress=False)
    killer.join()
    assert result.ok
    assert len(killed) == 1
    assert gone(killed[0])
    assert not marked_processes()
    document = LabelSetDoc.model_validate(result.output(flow.jobs[0]))
    assert (document.n_labelled, document.n_failed) == (6, 0)
    labels = list(project.labels().query())
    assert len(labels) == 6
    assert all(label.status == "ok" and label.attempts == 1 for label in labels)
    # The one that was under way was begun twice, the others once.
    assert sum(Counter(line.split()[0] for line in log.read_text().splitlines()).values()) == 7
