"""The quickstart on real quantum-mechanical labels, with few structures and short trainings."""

from __future__ import annotations

from pathlib import Path

import pytest

from atomfoundry.engines import get_engine
from atomfoundry.errors import EngineUnavailableError
from atomfoundry.results import open_results
from atomfoundry.running import run
from atomfoundry.workflows import FoundationFlowMaker, load_preset

FEW = {
    "crystals": {"cell": "primitive"},
    "task": None,  # compressed diamond
    "crystal_sampling": {"hydrostatic": [-0.06, 0.06, 7], "shear": None, "n_rattle": 0, "keep_input": True},
    "molecule_sampling": {"n_rattle": 1},
    "task_sampling": {"hydrostatic": [-0.13, -0.08, 6]},
    "crystal_labels": {"engine_settings": {"kpoint_spacing": 0.8}},
    "molecule_labels": {"engine_settings": {"grid_level": 1}},
    "bridge_labels": {"engine_settings": {"grid_level": 1}},
    "dataset": {"fractions": [0.4, 0.3, 0.3]},
    "task_dataset": {"fractions": [0.4, 0.3, 0.3]},
    "train": {"training": {"max_epochs": 5}},
    "finetune": {"training": {"max_epochs": 2}},
    "explore": {"temperatures": [600.0], "n_steps": 20, "n_select": 1},
    "retrain": {"training": {"max_epochs": 2}},
}


@pytest.mark.slow
@pytest.mark.espresso
def test_the_main_job_on_real_labels(tmp_path: Path) -> None:
    maker = load_preset("quickstart", FEW)
    assert isinstance(maker, FoundationFlowMaker)
    maker.benchmarks = [b for b in maker.benchmarks if b.benchmark in ("equation_of_state", "diatomic", "parity")]
    try:
        get_engine("espresso").check_available()
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    maker.check()
    result = run(maker.make(), project=tmp_path / "project", workers=2, progress=False)
    assert result.ok, result.failures
    database = open_results(result.project)

    labels = [entry.document for entry in database.labels()]
    assert {label.engine for label in labels} == {"espresso", "pyscf"}
    assert {label.status for label in labels} == {"ok"}
    assert len({label.level_id for label in labels}) == 3
    # silicon with plane-wave PBE: a 5.47 A, B0 88.6 GPa
    (curve,) = [entry.document for entry in database.benchmarks() if entry.document.benchmark == "equation_of_state"]
    assert curve.reference_summary["a"] == pytest.approx(5.47, abs=0.04)
    assert curve.reference_summary["B0"] == pytest.approx(88.6, rel=0.1)
    (alignment,) = database.alignments()
    assert alignment.document.scale == pytest.approx(0.96, abs=0.06)
    assert alignment.document.metrics["aec"].rmse < 0.2
    (report,) = database.reports()
    assert result.project.artifacts.fetch(report.document.html).stat().st_size > 10_000
    assert run(maker.make(), project=tmp_path / "project", workers=2, progress=False).nothing_to_do
