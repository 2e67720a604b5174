"""What alignment is for: labels computed here, and a model trained on two levels at once (perf/alignment.py, short)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from ase import Atoms

from atomfoundry.datasets import Dataset, with_metadata
from atomfoundry.engines import get_engine


@pytest.fixture(scope="module")
def measurement() -> ModuleType:
    path = Path(__file__).parents[2] / "perf" / "alignment.py"
    spec = importlib.util.spec_from_file_location("perf_alignment", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["perf_alignment"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_model_of_the_aligned_union_is_better_at_both_levels(measurement: ModuleType) -> None:
    found = measurement.train_union(epochs=20, each=8)
    for test in ("source", "target"):
        assert found[f"{test}_energy_gain"] > 3
        assert found[f"{test}_forces_gain"] > 0.95


@pytest.mark.slow
def test_alignment_of_molecules_computed_here(measurement: ModuleType, tmp_path: Path) -> None:
    """Hybrid to PBE on six molecules, at rest and rattled; other conformers of a molecule may be in the fit."""
    small = ["H2O", "NH3", "CH4", "HCN", "H2CO", "C2H2"]
    frames = [atoms for atoms in measurement.molecules() if atoms.info["group_id"] in small]
    atoms = [with_metadata(Atoms(symbol), sampling="isolated_atom") for symbol in "HCNO"]
    sets = []
    for level in ("wB97M-D3(BJ)", "PBE"):
        engine = get_engine(**measurement.ENGINES[level])
        done = [with_metadata(engine.compute(bare), group_id=bare.info["group_id"]) for bare in [*atoms, *frames]]
        isolated = {frame.symbols[0]: frame.get_potential_energy() for frame in done[:4]}
        sets.append(Dataset.create(tmp_path / level, done[4:], level=engine.level, isolated_energies=isolated))
    found = measurement.residuals(*sets, only_organic=True, by="structure")
    assert found["overlap"]["raw_over_this"] > 10
    assert found["overlap"]["fitted"] < found["atoms"]["fitted"]
    # Bond terms can say what shifts cannot; whether twelve structures determine them is another matter.
    assert found["pairs"]["fitted"] < found["least_squares"] / 1.5
    assert found["atoms"]["refused_because"] == []
