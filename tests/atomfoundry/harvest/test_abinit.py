"""ABINIT: moving atoms step by step; the cell is that of the run, not of its input."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from atomfoundry.datasets import CurationSettings, labels_of
from atomfoundry.harvest import harvest
from atomfoundry.harvest.abinit import parse_abinit
from atomfoundry.units import BOHR, HARTREE, HARTREE_PER_BOHR

OPEN = CurationSettings(max_force=1e9, max_net_force_periodic=1e9, min_distance_factor=0, max_stress=1e9)
STRESS = np.array([1, 2, 3, 0.4, 0.5, 0.6]) * 1e-4


def row(values: list[float]) -> str:
    return "".join(f" {value: .14E}" for value in values) + "\n"


def iteration(number: int, *, energy: float, cell: bool = False, cycles: str = "", last: float | None = None) -> str:
    """Return one iteration as ABINIT 8 and 9 print it: atom 2 moves by 0.01 bohr a step."""
    places = [[0.0, 0.0, 0.0], [2.5 + 0.01 * number, 2.5, 2.5]]
    forces = [[0.001 * number, 0.0, 0.0], [-0.001 * number, 0.0, 0.0]]
    text = f"--- Iteration: ({number}/9) Internal Cycle: (1/1)\n---SELF-CONSISTENT-FIELD CONVERGENCE{'-' * 40}\n\n"
    text += "     iter   Etot(hartree)      deltaE(h)  residm     vres2\n"
    text += f" ETOT  1  {energy + 0.1:.10f}    -2.0E+00 1.0E-03 5.5E+00\n"
    text += f" ETOT  2  {energy if last is None else last:.10f}    -4.6E-05 1.0E-03 5.5E-09\n\n{cycles}\n"
    text += " Cartesian components of stress tensor (hartree/bohr^3)\n"
    scaled = STRESS * number
    for (one, value), (two, other) in zip(
        (("1 1", scaled[0]), ("2 2", scaled[1]), ("3 3", scaled[2])),
        (("3 2", scaled[3]), ("3 1", scaled[4]), ("2 1", scaled[5])),
        strict=True,
    ):
        text += f"  sigma({one})= {value: .8E}  sigma({two})= {other: .8E}\n"
    text += f"\n---OUTPUT{'-' * 71}\n\n Cartesian coordinates (xcart) [bohr]\n{''.join(map(row, places))}"
    text += f" Reduced coordinates (xred)\n{''.join(row([0.1, 0.2, 0.3]) for _ in range(2))}"
    text += f" Cartesian forces (fcart) [Ha/bohr]; max,rms= 1.0E-03 1.0E-03 (free atoms)\n{''.join(map(row, forces))}"
    text += f" Reduced forces (fred)\n{''.join(row([0.1, 0.2, 0.3]) for _ in range(2))}"
    if cell:
        side = 10.0 + 0.1 * number
        text += " Real space primitive translations (rprimd) [bohr]\n"
        text += row([0, side / 2, side / 2]) + row([side / 2, 0, side / 2]) + row([side / 2, side / 2, 0])
    return text + f" Total energy (etotal) [Ha]={energy: .14E}\n\n"


def output(*iterations: str, ionmov: int = 2, end: str = " gradients are converged :\n") -> str:
    return (
        ".Version 9.10.4 of ABINIT \n"
        f"     intxc =       0    ionmov =       {ionmov}      iscf =       7    lmnmax =       2\n"
        "    nsppol =       1\n"
        "            ecut      2.00000000E+01 Hartree\n"
        "             ixc          11\n"
        "P          natom           2\n"
        "           typat      1  2\n"
        "           znucl       12.00000    8.00000\n"
        "================\n"
        "== DATASET  1 ==================\n"
        " Real(R)+Recip(G) space primitive vectors, cartesian coordinates (Bohr,Bohr^-1):\n"
        " R(1)=  0.0000000  5.0000000  5.0000000  G(1)= -0.1000000  0.1000000  0.1000000\n"
        " R(2)=  5.0000000  0.0000000  5.0000000  G(2)=  0.1000000 -0.1000000  0.1000000\n"
        " R(3)=  5.0000000  5.0000000  0.0000000  G(3)=  0.1000000  0.1000000 -0.1000000\n"
        f"{''.join(iterations)}{end} Calculation completed.\n"
    )


@pytest.mark.parametrize("cell", [False, True])
def test_each_step_has_its_own_labels(tmp_path: Path, cell: bool) -> None:
    text = output(*(iteration(number, energy=-16.0 - 0.1 * number, cell=cell) for number in (1, 2, 3)))
    (tmp_path / "run.abo").write_text(text)
    report = harvest(tmp_path, steps="all", settings=OPEN)
    assert report.reasons == {}
    assert len(report.frames) == 3
    for number, atoms in enumerate(report.frames, start=1):
        energy, forces, stress = labels_of(atoms)
        assert list(atoms.symbols) == ["Mg", "O"]
        assert energy == pytest.approx((-16.0 - 0.1 * number) * HARTREE, abs=1e-9)
        assert atoms.positions[1, 0] == pytest.approx((2.5 + 0.01 * number) * BOHR, abs=1e-9)
        assert forces is not None
        assert forces[0, 0] == pytest.approx(0.001 * number * HARTREE_PER_BOHR, abs=1e-9)
        assert np.allclose(stress, STRESS * number * HARTREE / BOHR**3, atol=1e-9)
        side = 10.0 + 0.1 * number if cell else 10.0
        assert atoms.cell.array[0, 1] == pytest.approx(side / 2 * BOHR, abs=1e-6)
    (level,) = report.levels.values()
    assert level.method == "PBE"
    (last,) = harvest(tmp_path, settings=OPEN).frames
    assert last.info["frame_id"] == report.frames[-1].info["frame_id"]


def test_steps_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    unconverged = " nstep=   30 was not enough SCF cycles to converge;\n"
    text = output(
        iteration(1, energy=-16.0),
        iteration(2, energy=-16.1, cycles=unconverged),
        iteration(3, energy=-16.2, last=-16.3),
        iteration(4, energy=-16.4),
        end=" not enough Broyd/MD steps to converge gradients\n",
    )
    (tmp_path / "run.abo").write_text(text)
    report = harvest(tmp_path, steps="all", settings=OPEN)
    assert {item.source: item.reason for item in report.rejections} == {
        "run.abo#1": "unconverged_electronic",
        "run.abo#2": "unreadable",
    }
    assert [atoms.info["source"] for atoms in report.frames] == ["run.abo#0", "run.abo#3"]
    assert report.frames[0].info["flags"] == ["unconverged_ionic"]
    assert harvest(tmp_path, settings=OPEN).reasons == {"unconverged_ionic": 1}
    (tmp_path / "run.abo").write_text(text.replace("ionmov =       2", "ionmov =      12"))
    assert parse_abinit(tmp_path / "run.abo").relaxed is None


def test_a_cut_output_keeps_its_whole_steps(tmp_path: Path) -> None:
    text = output(iteration(1, energy=-16.0), iteration(2, energy=-16.1))
    (tmp_path / "run.abo").write_text(text[: text.rindex(" Cartesian forces")])
    report = harvest(tmp_path, steps="all", settings=OPEN)
    assert report.reasons == {"no_energy": 1}
    (atoms,) = report.frames
    assert atoms.info["flags"] == ["interrupted"]
    assert harvest(tmp_path, settings=OPEN).reasons == {"truncated": 1}


def test_the_cell_of_a_real_output() -> None:
    """ASE takes the primitive vectors in bohr for vectors in A."""
    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    (step,) = parse_abinit(folder / "dft_outputs/abinit/supercell-001.out").steps
    assert step.atoms is not None
    assert np.allclose(step.atoms.cell.lengths(), 21.506222854 * BOHR, atol=1e-6)
    assert step.atoms.get_scaled_positions(wrap=False).max() == pytest.approx(0.75, abs=0.01)
