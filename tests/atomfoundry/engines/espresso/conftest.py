"""Fixtures: settings a test may change, made-up pseudopotentials, and a stand-in for pw.x that fails as told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from atomfoundry.settings import settings

GOOD = """
     Program PWSCF v.7.2 starts on  1Jan2026 at  0: 0: 0
     Max angular momentum in pseudopotentials (lmaxx) =  4
     bravais-lattice index     =            0
     number of atoms/cell      =            2
     number of atomic types    =            1
     celldm(1)=   7.255773  celldm(2)=   0.000000  celldm(3)=   0.000000
     crystal axes: (cart. coord. in units of alat)
               a(1) = (   0.000000   0.707107   0.707107 )
               a(2) = (   0.707107   0.000000   0.707107 )
               a(3) = (   0.707107   0.707107   0.000000 )
     site n.     atom                  positions (alat units)
         1           Si  tau(   1) = (   0.0000000   0.0000000   0.0000000  )
         2           Si  tau(   2) = (   0.3535534   0.3535534   0.3535534  )

     iteration #  1     ecut=    30.00 Ry     beta= 0.70
     estimated scf accuracy    <       0.05000000 Ry
     iteration #  2     ecut=    30.00 Ry     beta= 0.70
     estimated scf accuracy    <       0.00000001 Ry
!    total energy              =     -16.85588033 Ry
     convergence has been achieved in   2 iterations

     Forces acting on atoms (cartesian axes, Ry/au):

     atom    1 type  1   force =    -0.01000000    0.02000000    0.00000000
     atom    2 type  1   force =     0.01000000   -0.02000000    0.00000000

          total   stress  (Ry/bohr**3)                   (kbar)     P=       25.24
   0.00010000   0.00002000   0.00000000           14.71        2.94        0.00
   0.00002000   0.00010000   0.00000000            2.94       14.71        0.00
   0.00000000   0.00000000   0.00010000            0.00        0.00       14.71

   JOB DONE.
"""
STEPS = "".join(f"     estimated scf accuracy    <       {value:.8f} Ry\n" for value in (0.05, 0.02, 0.01))
UNCONVERGED = f"{STEPS}     convergence NOT achieved after   3 iterations: stopping\n   JOB DONE.\n"


def error(routine: str, text: str) -> str:
    """Return how pw.x complains."""
    bar = " " + "%" * 78
    return f"{bar}\n     Error in routine {routine} (1):\n     {text}\n{bar}\n\n     stopping ...\n"


_PROGRAM = """
import json, os, shutil, signal, sys, time
from pathlib import Path
here = Path({here!r})
plan = json.loads((here / "plan.json").read_text())
count = len(list(here.glob("input-*")))
shutil.copy(sys.argv[sys.argv.index("-in") + 1], here / f"input-{{count}}")
step = plan[min(count, len(plan) - 1)]
if step.get("density"):
    Path("scratch/pwscf.save").mkdir(parents=True, exist_ok=True)
    Path("scratch/pwscf.save/charge-density.dat").write_text(step["density"])
sys.stdout.write(step.get("out", ""))
sys.stdout.flush()
sys.stderr.write(step.get("err", ""))
sys.stderr.flush()
time.sleep(step.get("sleep", 0))
if step.get("signal"):
    os.kill(os.getpid(), step["signal"])
sys.exit(step.get("code", 0))
"""


class StandIn:
    """A pw.x that writes what a test has planned, one step a call; the last one for all further calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pw.py").write_text(_PROGRAM.format(here=str(folder)))

    @property
    def command(self) -> str:
        return f"{sys.executable} {self.folder / 'pw.py'}"

    def plan(self, *steps: dict[str, object]) -> None:
        for old in self.folder.glob("input-*"):
            old.unlink()
        (self.folder / "plan.json").write_text(json.dumps(steps))

    def inputs(self) -> list[str]:
        """Return the inputs it was given."""
        return [path.read_text() for path in sorted(self.folder.glob("input-*"))]


@pytest.fixture
def fresh_settings(monkeypatch):
    """Settings that a test may change through the environment."""
    settings.cache_clear()
    yield monkeypatch
    settings.cache_clear()


@pytest.fixture
def own_upf(fresh_settings, tmp_path) -> Callable[..., Path]:
    """Write made-up UPF files and make them the pseudopotentials."""
    folder = tmp_path / "upf"
    folder.mkdir()
    fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR", str(folder))

    def write(element: str, *, orbitals: tuple[str, ...] = (), **header: object) -> Path:
        values = {"z_valence": 4.0, "element": element} | header
        text = " ".join(f'{key}="{value}"' for key, value in values.items())
        chis = "".join(f'<PP_CHI.{i} label="{name}" l="0">1</PP_CHI.{i}>' for i, name in enumerate(orbitals, 1))
        path = folder / f"{element}.upf"
        path.write_text(f'<UPF version="2.0.1">\n<PP_HEADER {text}/>\n<PP_PSWFC>{chis}</PP_PSWFC>\n</UPF>')
        return path

    return write


@pytest.fixture
def stand_in(own_upf, fresh_settings, tmp_path) -> StandIn:
    """Make a stand-in the pw.x of the settings."""
    own_upf("Si")
    folder = tmp_path / "program"
    folder.mkdir()
    program = StandIn(folder)
    fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_COMMAND", program.command)
    return program


@pytest.fixture
def texts() -> dict[str, str]:
    """Outputs of pw.x."""
    return {"good": GOOD, "unconverged": UNCONVERGED}


@pytest.fixture
def complaint() -> Callable[[str, str], str]:
    """Make an error message of pw.x."""
    return error
