from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.stress import voigt_6_to_full_3x3_stress

from atomfoundry.engines import get_engine, install_espresso, pip_folder
from atomfoundry.engines.espresso import install as installing
from atomfoundry.engines.espresso.cell import boxed, kpoint_grid
from atomfoundry.engines.espresso.engine import EspressoEngine
from atomfoundry.engines.espresso.install import find_pw, psp8_folder
from atomfoundry.engines.espresso.occupations import atom_bands, electron_settings, group, valence_charge
from atomfoundry.engines.espresso.pseudopotentials import SPMS_ELEMENTS, upf_files
from atomfoundry.engines.espresso.upf import cached_upf, read_psp8
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, InputError, LabelError
from atomfoundry.settings import settings
from atomfoundry.units import RYDBERG


def missing() -> str:
    try:
        get_engine("espresso").check_available()
    except EngineUnavailableError as error:
        return str(error)
    return ""


needs_espresso = [pytest.mark.espresso, pytest.mark.skipif(bool(missing()), reason=missing())]
needs_psp8 = pytest.mark.skipif(psp8_folder() is None, reason="the SPMS pseudopotentials are not installed")

QUICK = {"ecutwfc": 20 * RYDBERG, "kpoint_spacing": 0.76, "kpoint_shift": True}


def strained_silicon() -> Atoms:
    atoms = bulk("Si", a=5.43)
    strain = np.array([[0.02, 0.03, 0], [0.03, -0.01, 0.01], [0, 0.01, 0.03]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def fresh_settings(monkeypatch):
    """Settings that a test may change through the environment."""
    settings.cache_clear()
    yield monkeypatch
    settings.cache_clear()


def psp8_text(n: int = 400, *, lloc: int = 4) -> str:
    """Return a made-up pseudopotential of hydrogen with two s projectors and a model core."""
    r = 0.01 * np.arange(n)

    def block(*columns: np.ndarray) -> str:
        rows = zip(range(1, n + 1), r, *columns, strict=True)
        return "".join(" ".join([str(row[0]), *(f"{x:.13E}" for x in row[1:])]) + "\n" for row in rows)

    beta = r * np.exp(-(r**2))
    core = 4 * np.pi * np.exp(-(r**2))
    return (
        "H made up for a test\n 1.0 1.0 240101 zatom,zion,pspd\n"
        f" 8 11 0 {lloc} {n} 0 pspcod,pspxc,lmax,lloc,mmax,r2well\n 3.99 1.0 0.0 rchrg fchrg qchrg\n"
        " 2 0 0 0 0 nproj\n 1 1 extension_switch\n"
        f" 0 2.5E+00 -0.5E+00\n{block(beta, 2 * beta)} {lloc}\n{block(-1 / np.maximum(r, 0.5))}"
        f"{block(core, core, core, core, core)}{block(np.exp(-2 * r), core, core)}"
        "<INPUT>\n#   l,   rc,      ep,       ncon, nbas, qcut\n 0 1.0 0.0 4 8 7.5\n#\n</INPUT>\n"
    )


def upf_array(text: str, tag: str) -> np.ndarray:
    found = re.search(rf"<{tag}[ >].*?>?\n(.*?)</{tag}>", text, re.DOTALL)
    return np.array(found[1].split(), dtype=float)


def test_psp8_becomes_upf_in_rydberg(tmp_path):
    source = tmp_path / "01_H_1_made_up.psp8"
    source.write_text(psp8_text())
    target = cached_upf(source, tmp_path / "cache")
    text = target.read_text()
    r = upf_array(text, "PP_R")
    assert len(r) % 2 == 1 and r[-1] == pytest.approx(10.0)
    assert upf_array(text, "PP_DIJ") == pytest.approx([5.0, 0.0, 0.0, -1.0])
    local = upf_array(text, "PP_LOCAL")
    inside = r < 3.985
    assert local[inside] == pytest.approx(-2 / np.maximum(r[inside], 0.5))
    assert local[~inside] == pytest.approx(-2 / r[~inside])
    assert upf_array(text, "PP_BETA.1")[:400] == pytest.approx(0.01 * np.arange(400) * np.exp(-(r[:400] ** 2)))
    assert upf_array(text, "PP_NLCC")[0] == pytest.approx(1.0)
    assert upf_array(text, "PP_RHOATOM")[inside] == pytest.approx(r[inside] ** 2 * np.exp(-2 * r[inside]))
    assert valence_charge(target) == 1
    assert 'core_correction="T"' in text and 'number_of_proj="2"' in text
    assert read_psp8(source).qcut == 7.5
    before = target.stat().st_mtime_ns
    assert cached_upf(source, tmp_path / "cache") == target and target.stat().st_mtime_ns == before
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_bad_psp8_is_named(tmp_path):
    cut = tmp_path / "01_H_cut.psp8"
    cut.write_text(psp8_text()[:5000])
    with pytest.raises(InputError, match=r"01_H_cut\.psp8"):
        cached_upf(cut, tmp_path / "cache")
    other = tmp_path / "01_H_other.psp8"
    other.write_text(psp8_text(lloc=0))
    with pytest.raises(InputError, match="lloc 0"):
        cached_upf(other, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@needs_psp8
def test_installed_family_is_the_one_we_list():
    assert {path.name.split("_")[1] for path in psp8_folder().glob("*.psp8")} == SPMS_ELEMENTS


@needs_psp8
def test_silicon_upf():
    upf = upf_files(["Si"])["Si"]
    text = upf.read_text()
    assert valence_charge(upf) == 4
    r, density = upf_array(text, "PP_R"), upf_array(text, "PP_RHOATOM")
    assert np.trapezoid(density, r) == pytest.approx(4.0, abs=0.01)
    assert r[-1] * upf_array(text, "PP_LOCAL")[-1] == pytest.approx(-8.0)


def test_boxes():
    box = boxed(molecule("H2O"), vacuum=5.0)
    assert box.pbc.all()
    extent = np.ptp(molecule("H2O").positions, axis=0)
    assert box.cell.lengths() == pytest.approx(extent + 10.0)
    assert boxed(Atoms("Si"), vacuum=5.0).cell.lengths() == pytest.approx([10.0] * 3)
    crystal = strained_silicon()
    assert boxed(crystal, vacuum=5.0) == crystal
    slab = bulk("Si", cubic=True)
    slab.pbc = (True, True, False)
    height = np.ptp(slab.positions[:, 2])
    assert boxed(slab, vacuum=4.0).cell.lengths() == pytest.approx([5.43, 5.43, height + 8.0])


def test_kpoint_grids():
    silicon = bulk("Si", a=5.43)
    length = 2 * np.pi * np.sqrt(3) / 5.43
    assert kpoint_grid(silicon, spacing=length / 4) == (4, 4, 4)
    assert kpoint_grid(silicon, spacing=length / 4 * 0.99) == (5, 5, 5)
    assert kpoint_grid(molecule("H2O"), spacing=0.1) == (1, 1, 1)
    slab = bulk("Si", cubic=True)
    slab.pbc = (True, True, False)
    assert kpoint_grid(slab, spacing=0.6) == (2, 2, 1)


def test_ground_states_of_atoms():
    assert [group(s) for s in ("H", "He", "Li", "Si", "Fe", "Cu", "Ga", "La", "Hf", "Bi")] == [
        *(1, 18, 1, 14, 8, 11, 13, 3, 4, 15)
    ]
    assert atom_bands("H", 1) == (1, False)
    assert atom_bands("Si", 4) == (4, True)
    assert atom_bands("N", 5) == (4, False)
    assert atom_bands("O", 6) == (4, True)
    assert atom_bands("Na", 9) == (5, False)
    assert atom_bands("Fe", 16) == (10, True)
    assert atom_bands("Cu", 19) == (10, False)
    assert atom_bands("Ga", 13) == (9, True)


def test_electron_settings(tmp_path):
    files = {}
    for symbol, charge in (("Si", 4), ("H", 1)):
        files[symbol] = tmp_path / f"{symbol}.upf"
        files[symbol].write_text(f'<UPF>\n<PP_HEADER z_valence="  {charge}.000E+00"/>')
    crystal = electron_settings(bulk("Si"), files, smearing_ry=0.01)
    assert crystal == {"occupations": "smearing", "smearing": "gaussian", "degauss": 0.01}
    silicon = electron_settings(Atoms("Si"), files, smearing_ry=0.01)
    assert (silicon["nspin"], silicon["tot_magnetization"], silicon["nbnd"]) == (2, 2, 4)
    hydrogen = electron_settings(Atoms("H"), files, smearing_ry=0.01)
    assert hydrogen == {
        "occupations": "fixed",
        "nspin": 2,
        "tot_magnetization": 1,
        "nbnd": 1,
        "nosym": True,
        "noinv": True,
    }
    assert "nspin" not in electron_settings(molecule("SiH4"), files, smearing_ry=0.01)
    assert electron_settings(molecule("SiH3"), files, smearing_ry=0.01)["tot_magnetization"] == 1
    (tmp_path / "H.upf").write_text("nothing")
    with pytest.raises(InputError, match="z_valence"):
        electron_settings(Atoms("H"), files, smearing_ry=0.01)


def test_missing_program_says_what_to_do(fresh_settings, tmp_path):
    fresh_settings.setenv("ATOMFOUNDRY_HOME", str(tmp_path))
    fresh_settings.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnavailableError, match=r"engine install espresso.*--engine xtb"):
        get_engine("espresso").check_available()
    fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_COMMAND", "mpirun-nowhere -np 2 pw.x")
    settings.cache_clear()
    with pytest.raises(EngineUnavailableError, match="mpirun-nowhere"):
        find_pw()


def test_missing_pseudopotentials(fresh_settings, tmp_path):
    fresh_settings.setenv("ATOMFOUNDRY_HOME", str(tmp_path))
    with pytest.raises(EngineUnavailableError, match="SPMS"):
        upf_files(["Si"])
    own = tmp_path / "own"
    fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR", str(own))
    settings.cache_clear()
    with pytest.raises(EngineUnavailableError, match="does not exist"):
        upf_files(["Si"])
    own.mkdir()
    (own / "Si.pbe.UPF").write_text("1")
    assert get_engine("espresso").supported_elements() == {"Si"}
    first = get_engine("espresso").level
    with pytest.raises(EngineUnavailableError, match="for H"):
        upf_files(["Si", "H"])
    (own / "Si.pbe.UPF").write_text("22")
    assert get_engine("espresso").level.id != first.id


def test_failed_installation_leaves_nothing(fresh_settings, tmp_path):
    fresh_settings.setenv("ATOMFOUNDRY_HOME", str(tmp_path))
    with pytest.raises(EngineUnavailableError, match=r"Python 3\.\d+.*--engine xtb"):
        install_espresso(requirements=["--no-index", "qepy==7.2.0"])
    assert list(tmp_path.iterdir()) == []


def test_installation_is_moved_into_place_whole(fresh_settings, tmp_path):
    fresh_settings.setenv("ATOMFOUNDRY_HOME", str(tmp_path))

    def pretend(target: Path, requirements, **words) -> None:
        for part in (installing._LIBRARY, installing._PSP8 / "14_Si.psp8"):
            (target / part).parent.mkdir(parents=True)
            (target / part).touch()

    fresh_settings.setattr(pip_folder, "_pip", pretend)
    home = install_espresso()
    assert installing.pip_library().is_file() and psp8_folder().is_dir()
    assert install_espresso() == home
    assert install_espresso(force=True) == home
    assert [path.name for path in tmp_path.iterdir()] == [home.name]


def fake_pw(tmp_path: Path, body: str) -> str:
    script = tmp_path / "fake_pw.py"
    script.write_text(body)
    return f"{sys.executable} {script}"


@pytest.fixture
def fake_program(fresh_settings, tmp_path):
    """Run a Python script as pw.x, with a made-up pseudopotential."""
    own = tmp_path / "upf"
    own.mkdir()
    (own / "Si.upf").write_text('<UPF>\n<PP_HEADER z_valence="4.0"/>')
    fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR", str(own))

    def use(body: str) -> None:
        fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_COMMAND", fake_pw(tmp_path, body))
        settings.cache_clear()

    return use


def test_unconverged_is_tried_once_more_with_gentle_mixing(fake_program, tmp_path):
    log = tmp_path / "log"
    fake_program(
        "import sys, re\n"
        "text = open(sys.argv[sys.argv.index('-in') + 1]).read()\n"
        f"open({str(log)!r}, 'a').write(re.search(r'mixing_beta *= *(\\S+)', text)[1] + '\\n')\n"
        "print('     convergence NOT achieved after 100 iterations: stopping')\n"
    )
    with pytest.raises(LabelError, match="did not converge") as caught:
        get_engine("espresso").compute(bulk("Si"))
    assert caught.value.reason == "unconverged"
    assert [float(x) for x in log.read_text().split()] == [0.7, 0.175]


def test_a_crash_tells_what_pw_wrote(fake_program):
    fake_program("print(' %%%%\\n     Error in routine setup (1):\\n     too few bands\\n %%%%')\n")
    with pytest.raises(LabelError, match=r"setup \(1\): too few bands") as caught:
        get_engine("espresso").compute(bulk("Si"))
    assert caught.value.reason == "crashed"
    fake_program("import sys; sys.exit('library not found')\n")
    with pytest.raises(LabelError, match="library not found"):
        get_engine("espresso").compute(bulk("Si"))


def test_time_limit_kills_the_child(fake_program, tmp_path, gone):
    pid = tmp_path / "pid"
    fake_program(f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n")
    for timeout in (1.0, 5.0, 20.0, 60.0):  # a busy machine needs a while to start the program
        with pytest.raises(LabelError) as caught:
            get_engine("espresso", timeout=timeout).compute(bulk("Si"))
        assert caught.value.reason == "timeout"
        if pid.exists() and pid.read_text():
            break
    assert gone(int(pid.read_text()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux kills children with their parent")
def test_child_dies_with_its_parent(fake_program, tmp_path, gone):
    pid = tmp_path / "pid"
    fake_program(f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n")
    code = (
        "from ase.build import bulk; from atomfoundry.engines import get_engine;"
        "get_engine('espresso').compute(bulk('Si'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    for _ in range(300):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(int(pid.read_text()))


def test_a_cutoff_that_is_too_low_is_refused():
    with pytest.raises(ConfigurationError, match="Set ecutwfc to 817 eV"):
        get_engine("espresso").compute(molecule("H2O"))
    get_engine("espresso", ecutwfc=60 * RYDBERG).check_elements(["Mg", "O"])
    get_engine("espresso", **QUICK).check_elements(["Si", "H"])


def test_charged_structures_are_refused():
    atoms = bulk("Si")
    atoms.info["charge"] = 1
    with pytest.raises(LabelError) as caught:
        get_engine("espresso").compute(atoms)
    assert caught.value.reason == "unsupported"


class TestReal:
    """What pw.x itself computes."""

    pytestmark = needs_espresso

    @pytest.mark.slow
    def test_unconverged(self):
        with pytest.raises(LabelError) as caught:
            get_engine("espresso", **QUICK, max_steps=1).compute(strained_silicon())
        assert caught.value.reason == "unconverged"

    def test_leaves_no_wave_functions(self, tmp_path):
        labelled = get_engine("espresso", **QUICK | {"kpoint_spacing": 2.1}).compute(bulk("Si"), tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [*("espresso.err", "espresso.pwi", "espresso.pwo")]
        assert labelled.calc.results["stress"].shape == (6,)

    @pytest.mark.parametrize("program", [pytest.param("pip", marks=pytest.mark.slow), "PATH"])
    def test_hydrogen_atom(self, program):
        engine = get_engine("espresso", **QUICK, program=program)
        try:
            engine.check_available()
        except EngineUnavailableError as error:
            pytest.skip(str(error))
        assert engine.single_point(Atoms("H")).energy == pytest.approx(-13.3743, abs=1e-3)

    @pytest.mark.slow
    def test_forces_and_stress_are_derivatives(self):
        # Many plane waves, because stress is the derivative at a fixed number of them.
        engine = EspressoEngine(ecutwfc=40 * RYDBERG, kpoint_spacing=1.1, kpoint_shift=True)
        atoms, step = strained_silicon(), 5e-3
        result = engine.single_point(atoms)
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[0, 1] += sign * step
            energies.append(engine.single_point(moved).energy)
        assert result.forces[0, 1] == pytest.approx(-(energies[0] - energies[1]) / 2 / step, abs=2e-3)
        stress = voigt_6_to_full_3x3_stress(result.stress)
        for i, j in ((0, 0), (0, 1)):
            energies = []
            for sign in (1, -1):
                strain = np.zeros((3, 3))
                strain[i, j] += sign * step / 2
                strain[j, i] += sign * step / 2
                strained = atoms.copy()
                strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
                energies.append(engine.single_point(strained).energy)
            slope = (energies[0] - energies[1]) / 2 / step / atoms.get_volume()
            assert stress[i, j] == pytest.approx(slope, abs=5e-4)

    @pytest.mark.slow
    def test_silicon_and_silane_atomization(self):
        engine = get_engine("espresso", **QUICK)
        atom = {symbol: engine.single_point(Atoms(symbol)).energy for symbol in ("Si", "H")}
        assert atom["Si"] == pytest.approx(-110.187, abs=0.01)
        crystal = engine.single_point(bulk("Si", a=5.43)).energy / 2
        assert atom["Si"] - crystal == pytest.approx(4.57, abs=0.05)
        silane = engine.single_point(molecule("SiH4"))
        assert silane.stress is None
        # PBE with a large Gaussian basis: 13.6 eV.
        assert atom["Si"] + 4 * atom["H"] - silane.energy == pytest.approx(13.6, abs=0.3)
