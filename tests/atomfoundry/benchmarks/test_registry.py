from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from monty.json import MontyDecoder, MontyEncoder

from atomfoundry import benchmarks
from atomfoundry.benchmarks import BENCHMARKS, Diatomic, Elasticity, EquationOfState, get_benchmark
from atomfoundry.benchmarks.comparison import COMPARED
from atomfoundry.benchmarks.labelling import single_point
from atomfoundry.benchmarks.records import json_safe
from atomfoundry.errors import ConfigurationError, UnsupportedElementError


def test_names():
    assert set(BENCHMARKS) == {"equation_of_state", "elasticity", "nve_drift", "diatomic", "parity"}
    assert set(COMPARED) == set(BENCHMARKS)
    assert isinstance(get_benchmark("diatomic", pair=("H", "H")), Diatomic)
    assert set(benchmarks.__all__) <= {name for name in benchmarks.__all__ if hasattr(benchmarks, name)}
    with pytest.raises(AttributeError):
        benchmarks.Bandgap  # noqa: B018


def test_typos_name_the_nearest():
    with pytest.raises(ConfigurationError, match="Did you mean 'elasticity'"):
        get_benchmark("elastcity")
    with pytest.raises(ConfigurationError, match="Did you mean 'n_points'"):
        get_benchmark("equation_of_state", npoints=3)


def test_settings_hash():
    first, second = EquationOfState(), EquationOfState(n_points=11)
    assert first.settings_hash == second.settings_hash
    assert len(first.settings_hash) == 64
    assert EquationOfState(n_points=13).settings_hash != first.settings_hash
    assert EquationOfState(strains=[0.1, 0, -0.1, 0.2]) == EquationOfState(strains=(-0.1, 0.0, 0.1, 0.2))


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_settings_survive_a_job_store(name):
    settings = {"pair": ("Si", "H")} if name == "diatomic" else {}
    original = get_benchmark(name, **settings)
    copy = json.loads(json.dumps(original, cls=MontyEncoder), cls=MontyDecoder)
    assert copy == original
    assert copy.settings_hash == original.settings_hash
    assert Elasticity(**Elasticity().settings()) == Elasticity()


def test_json_safe():
    value = json_safe(
        {
            "a": np.float32(0.5),
            "b": np.array([1.0, np.nan]),
            3: (np.int64(2), np.bool_(True)),
            "c": float("inf"),
        }
    )
    assert value == {"a": 0.5, "b": [1.0, None], "3": [2, True], "c": None}
    assert type(value["3"][0]) is int and type(value["3"][1]) is bool
    with pytest.raises(TypeError):
        json_safe(object())


def test_what_the_user_got_wrong_is_not_one_items_failure(calculators, silicon):
    class Picky(calculators.harmonic_crystal):
        def calculate(self, *args, **kwargs):
            raise UnsupportedElementError("No silicon.", remedy="Use another model.")

    with pytest.raises(UnsupportedElementError):
        single_point(silicon, Picky(silicon, cutoff=2.5, spring=1.0))


def test_import_is_light():
    code = (
        "import sys, atomfoundry.benchmarks;"
        "print([m for m in ('ase', 'scipy', 'spglib', 'numpy', 'pydantic') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
