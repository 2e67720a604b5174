"""CP2K: labels against finite differences, its input, and how it fails."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from atomfoundry.engines import get_engine
from atomfoundry.engines.cp2k.input_file import format_input, kpoint_list, merged
from atomfoundry.engines.cp2k.output import abort_reason, parse_results
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError, UnsupportedElementError
from atomfoundry.units import EV_PER_A3_IN_GPA, HARTREE, HARTREE_PER_BOHR, RYDBERG


def missing() -> str:
    try:
        get_engine("cp2k").check_available()
    except EngineUnavailableError as error:
        return str(error)
    return ""


# One k-point, a minimal basis and coarse grids: labels of no use, but fast.
CHEAP = {
    "basis": "SZV-MOLOPT-SR-GTH",
    "cutoff": 150 * RYDBERG,
    "relative_cutoff": 30 * RYDBERG,
    "kpoint_spacing": 2.5,
}


class TestSettings:
    def test_level_tells_what_decides_the_energy_surface(self):
        level = get_engine("cp2k").level
        assert (level.code, level.basis, level.pseudopotentials) == ("cp2k", "DZVP-MOLOPT-SR-GTH", "GTH-PBE")
        assert level.density_cutoff == pytest.approx(400 * RYDBERG)
        changes = (
            {},
            {"basis": "DZVP-MOLOPT-GTH"},
            {"cutoff": 5000.0},
            {"relative_cutoff": 700.0},
            {"kpoint_spacing": 0.3},
            {"smearing_width": 0.1},
            {"vacuum": 6.0},
            {"sections": {"GLOBAL": {"SEED": 1}}},
        )
        assert len({get_engine("cp2k", **change).level.id for change in changes}) == len(changes)
        assert get_engine("cp2k", timeout=1.0, empty_bands=3).level.id == level.id

    def test_wrong_settings_are_refused(self):
        with pytest.raises(ConfigurationError, match="cutoff"):
            get_engine("cp2k", cutoff=0.0)

    def test_elements_depend_on_the_basis(self):
        get_engine("cp2k").check_elements(["Fe", "O"])
        with pytest.raises(UnsupportedElementError, match="Fe"):
            get_engine("cp2k", basis="DZVP-MOLOPT-GTH").check_elements(["Fe", "O"])


class TestInput:
    def test_kpoints_are_the_gamma_centred_grid(self):
        points = np.array(kpoint_list((3, 2, 4)))
        full = {tuple(np.round(sign * point[:3] % 1 % 1, 9)) for point in points for sign in (1, -1)}
        assert full == {(round(i / 3, 9), j / 2, k / 4) for i in range(3) for j in range(2) for k in range(4)}
        assert points[:, 3].sum() == pytest.approx(1)
        assert kpoint_list((1, 1, 1)) == [(0, 0, 0, 1)]

    def test_sections(self):
        text = format_input({"A b": {"FLAG": True, "LINES": {"": ["x", "y"]}, "K": [1, 2]}})
        assert text == "&A b\n  FLAG T\n  &LINES\n    x\n    y\n  &END LINES\n  K 1\n  K 2\n&END A\n"
        assert merged({"A": {"B": 1, "C": 2}}, {"A": {"C": 3}}) == {"A": {"B": 1, "C": 3}}

    def test_spins(self):
        atom = get_engine("cp2k").input_sections(Atoms("N"))["FORCE_EVAL"]
        assert atom["DFT"]["MULTIPLICITY"] == 4
        assert atom["DFT"]["SCF"]["SMEAR ON"]["FIXED_MAGNETIC_MOMENT"] == 3
        assert "STRESS_TENSOR" not in atom
        assert "UKS" not in get_engine("cp2k").input_sections(molecule("H2O"))["FORCE_EVAL"]["DFT"]

    def test_own_sections_win(self, strained_silicon, tmp_path):
        engine = get_engine("cp2k", sections={"FORCE_EVAL": {"DFT": {"SCF": {"MAX_SCF": 7}}}})
        (path,) = engine.write_inputs(strained_silicon, tmp_path)
        text = path.read_text()
        assert "MAX_SCF 7\n" in text
        assert "EPS_SCF" in text
        assert text.count("\n    &KIND ") == 1


class TestOutput:
    FORCES = """
 ATOMIC FORCES in [a.u.]
 # Atom   Kind   Element          X              Y              Z
      1      1      Si         0.100000000000     0.000000000000    -0.200000000000
 SUM OF ATOMIC FORCES           0.1
 ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:               -2.000000000000000
"""

    def test_units_and_signs(self):
        stress = """
 STRESS| Analytical stress tensor [GPa]
 STRESS|                        x                   y                   z
 STRESS|      x      1.0   6.0   5.0
 STRESS|      y      6.0   2.0   4.0
 STRESS|      z      5.0   4.0   3.0
"""
        results = parse_results(self.FORCES + stress, 1)
        assert results.energy == pytest.approx(-2 * HARTREE)
        assert results.forces[0] == pytest.approx(np.array([0.1, 0, -0.2]) * HARTREE_PER_BOHR)
        assert results.stress == pytest.approx(-np.arange(1.0, 7.0) / EV_PER_A3_IN_GPA)

    def test_missing_is_not_zero(self):
        assert parse_results(self.FORCES, 1).stress is None
        with pytest.raises(ValueError, match="1 forces of 2 atoms"):
            parse_results(self.FORCES, 2)

    def test_abort(self):
        box = (
            " *  /   \\                                          *\n"
            " * [ABORT]                                          *\n"
            " *  \\___/   Maximum number of things reached        *\n"
            " *    |                                             *\n"
            " *  O/|                                             *\n"
            " * /| |                                             *\n"
            " * / \\                        qs/things.F:246       *\n"
            " ****************************************************\n"
        )
        assert "Maximum number of things reached" in (abort_reason(box) or "")
        assert abort_reason("nothing") is None


class TestFailures:
    """With a stand-in for CP2K: one crash costs one label."""

    def compute(self, atoms: Atoms, folder: Path, **changes: object) -> LabelError:
        with pytest.raises(LabelError) as caught:
            get_engine("cp2k", **CHEAP | changes).single_point(atoms, folder)
        return caught.value

    def test_no_output_at_all(self, stand_in, strained_silicon, tmp_path):
        stand_in("cp2k.psmp", script="echo 'Segmentation fault' >&2; exit 139")
        error = self.compute(strained_silicon, tmp_path)
        assert (error.reason, "Segmentation fault" in str(error)) == ("crashed", True)

    def test_success_without_result_is_a_crash(self, stand_in, strained_silicon, tmp_path):
        stand_in("cp2k.psmp", script="exit 0")
        assert self.compute(strained_silicon, tmp_path).reason == "crashed"

    def test_end_without_numbers_is_a_crash(self, stand_in, strained_silicon, tmp_path):
        stand_in("cp2k.psmp", script="echo '*** SCF run converged in 3 steps ***'; echo 'PROGRAM ENDED AT'")
        error = self.compute(strained_silicon, tmp_path)
        assert (error.reason, "0 forces of 2 atoms" in str(error)) == ("crashed", True)

    def test_unconverged_is_tried_twice(self, stand_in, strained_silicon, tmp_path):
        stand_in("cp2k.psmp", script="echo x >> runs; echo '*** SCF run NOT converged ***'")
        assert self.compute(strained_silicon, tmp_path).reason == "unconverged"
        assert (tmp_path / "runs").read_text() == "x\nx\n"
        assert "MAX_SCF 160" in (tmp_path / "cp2k.inp").read_text()

    def test_killed_by_the_system(self, stand_in, strained_silicon, tmp_path):
        stand_in("cp2k.psmp", script="kill -9 $$")
        assert self.compute(strained_silicon, tmp_path).reason == "out_of_memory"

    def test_end_of_the_batch_job(self, stand_in, strained_silicon, tmp_path, monkeypatch):
        stand_in("cp2k.psmp", script="sleep 100")
        monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 0.5))
        assert self.compute(strained_silicon, tmp_path).reason == "timeout"


@pytest.mark.cp2k
@pytest.mark.skipif(bool(missing()), reason=missing())
class TestBinary:
    def test_silicon(self, strained_silicon, tmp_path):
        result = get_engine("cp2k", **CHEAP).single_point(strained_silicon, tmp_path)
        assert np.allclose(result.forces.sum(axis=0), 0, atol=0.05)
        assert result.stress is not None
        assert not list(tmp_path.glob("*RESTART*"))

    def test_its_own_error_message(self, strained_silicon):
        wrong = {"FORCE_EVAL": {"DFT": {"NONSENSE": 1}}}
        with pytest.raises(LabelError, match="unknown keyword NONSENSE") as caught:
            get_engine("cp2k", **CHEAP, sections=wrong).single_point(strained_silicon)
        assert caught.value.reason == "crashed"

    @pytest.mark.slow
    def test_unconverged(self, strained_silicon):
        with pytest.raises(LabelError) as caught:
            get_engine("cp2k", **CHEAP, max_steps=1).single_point(strained_silicon)
        assert caught.value.reason == "unconverged"

    @pytest.mark.slow
    @pytest.mark.parametrize("kpoint_spacing", [2.5, 1.1])
    def test_forces_and_stress_are_derivatives_of_the_energy(
        self, kpoint_spacing, strained_silicon, finite_differences
    ):
        changes = {"cutoff": 250 * RYDBERG, "relative_cutoff": 40 * RYDBERG, "kpoint_spacing": kpoint_spacing}
        engine = get_engine("cp2k", **CHEAP | changes, smearing_width=0.2)
        result, force, xx, yz = finite_differences(engine, strained_silicon)
        # What the grid leaves; the force itself is 2.8 eV/A.
        assert result.forces[0, 0] == pytest.approx(force, abs=6e-3)
        assert result.stress[0] == pytest.approx(xx, abs=0.1 / EV_PER_A3_IN_GPA)
        assert result.stress[3] == pytest.approx(yz, abs=0.1 / EV_PER_A3_IN_GPA)

    @pytest.mark.slow
    def test_molecule_and_atom(self):
        settings = {"basis": "DZVP-MOLOPT-GTH", "vacuum": 3.0, "cutoff": 250 * RYDBERG, "relative_cutoff": 40 * RYDBERG}
        engine = get_engine("cp2k", **settings)
        bound, free = engine.single_point(molecule("H2")), engine.single_point(Atoms("H"))
        # PBE: 4.54 eV.
        assert 2 * free.energy - bound.energy == pytest.approx(4.54, abs=0.1)
        assert bound.stress is None
