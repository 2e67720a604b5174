"""A program that stands in for VASP: reads its inputs, computes with Lennard-Jones, writes its outputs, fails on order.

Run as a program (standard library alone, so that it starts fast) it is ``vasp_std``. ``plan.json`` beside it says what
goes wrong, for which number of atoms: each fault lasts until the INCAR has been repaired the way custodian does.
``calls.jsonl`` beside it records every start. ``install`` is for the tests: it writes the program, POTCARs of no
physical content, and points atomate2 and pymatgen at them.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

SIGMA, EPSILON, CUTOFF = 2.3, 0.4, 6.0
ENTROPY = 0.03
DISPERSION = -0.5
_COMPARED = {}


def read_incar(path):
    tags = {}
    for line in path.read_text().splitlines():
        if "=" in line:
            key, value = line.split("=", 1)
            tags[key.strip().upper()] = value.strip()
    return tags


def read_poscar(path):
    lines = path.read_text().splitlines()
    scale = float(lines[1])
    cell = [[scale * float(x) for x in line.split()] for line in lines[2:5]]
    symbols = [s for s, n in zip(lines[5].split(), lines[6].split(), strict=True) for _ in range(int(n))]
    assert lines[7].strip().lower().startswith("d")
    return cell, symbols, [[float(x) for x in line.split()[:3]] for line in lines[8 : 8 + len(symbols)]]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cross(a, b):
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def cartesian(cell, fractional):
    return [sum(fractional[k] * cell[k][i] for k in range(3)) for i in range(3)]


def lennard_jones(cell, fractional):
    """Energy, forces, stress (eV/A^3, tension positive)."""
    volume = dot(cell[0], cross(cell[1], cell[2]))
    places = [cartesian(cell, f) for f in fractional]
    # As many images as the cutoff and the extent of the atoms reach.
    reach = []
    for k in range(3):
        normal = cross(cell[(k + 1) % 3], cell[(k + 2) % 3])
        height = abs(volume) / math.sqrt(dot(normal, normal))
        extent = max(f[k] for f in fractional) - min(f[k] for f in fractional)
        reach.append(math.ceil(CUTOFF / height + extent))
    shift = 4 * EPSILON * ((SIGMA / CUTOFF) ** 12 - (SIGMA / CUTOFF) ** 6)
    energy, forces, virial = 0.0, [[0.0] * 3 for _ in places], [[0.0] * 3 for _ in range(3)]
    images = [
        cartesian(cell, (a, b, c))
        for a in range(-reach[0], reach[0] + 1)
        for b in range(-reach[1], reach[1] + 1)
        for c in range(-reach[2], reach[2] + 1)
    ]
    for i, p in enumerate(places):
        for q in places:
            for image in images:
                d = [q[k] + image[k] - p[k] for k in range(3)]
                square = dot(d, d)
                if not 1e-8 < square < CUTOFF * CUTOFF:
                    continue
                six = (SIGMA * SIGMA / square) ** 3
                energy += 0.5 * (4 * EPSILON * (six * six - six) - shift)
                pull = -24 * EPSILON * (2 * six * six - six) / square
                for a in range(3):
                    forces[i][a] += pull * d[a]
                    for b in range(3):
                        virial[a][b] += 0.5 * pull * d[a] * d[b]
    return energy, forces, [[value / volume for value in row] for row in virial]


def varray(name, rows):
    body = "".join(f"<v>{' '.join(f'{x:16.8f}' for x in row)}</v>\n" for row in rows)
    return f'<varray name="{name}">\n{body}</varray>\n'


def tag(key, value):
    words = value.split()
    if value.strip(".").upper()[:1] in ("T", "F") and value.strip(".").lower() in ("t", "f", "true", "false"):
        return f'<i type="logical" name="{key}">{value.strip(".").upper()[0]}</i>\n'
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return f'<i type="string" name="{key}">{value}</i>\n'
    if len(numbers) > 1:
        return f'<v name="{key}">{" ".join(f"{x:.8f}" for x in numbers)}</v>\n'
    if words[0].lstrip("-").isdigit():
        return f'<i type="int" name="{key}">{words[0]}</i>\n'
    return f'<i name="{key}">{numbers[0]:.8f}</i>\n'


def write_outputs(here, tags, cell, symbols, fractional, steps, *, complete=True, converged=True):
    energy, forces, stress = lennard_jones(cell, fractional)
    volume = dot(cell[0], cross(cell[1], cell[2]))
    free = energy
    final = free + (DISPERSION if int(tags.get("IVDW", "0")) else 0.0)
    reciprocal = [[x / volume for x in cross(cell[(k + 1) % 3], cell[(k + 2) % 3])] for k in range(3)]
    crystal = varray("basis", cell) + f'<i name="volume">{volume:.8f}</i>\n' + varray("rec_basis", reciprocal)
    structure = f"<structure>\n<crystal>\n{crystal}</crystal>\n{varray('positions', fractional)}</structure>\n"
    kinds = list(dict.fromkeys(symbols))
    rows = "".join(f"<rc><c>{s}</c><c>{kinds.index(s) + 1}</c></rc>\n" for s in symbols)
    types = "".join(
        f"<rc><c>{symbols.count(s)}</c><c>{s}</c><c>1.0</c><c>4.0</c><c>PAW_PBE {s} 01Jan2000</c></rc>\n" for s in kinds
    )
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<generator>\n'
    text += '<i name="program" type="string">vasp</i>\n<i name="version" type="string">6.4.3</i>\n</generator>\n'
    text += "<incar>\n" + "".join(tag(key, value) for key, value in tags.items()) + "</incar>\n"
    text += '<kpoints>\n<generation param="Gamma">\n<v type="int" name="divisions">1 1 1</v>\n'
    text += '<v name="usershift">0 0 0</v>\n<v name="shift">0 0 0</v>\n</generation>\n'
    text += varray("kpointlist", [[0, 0, 0]]) + varray("weights", [[1]]) + "</kpoints>\n<parameters>\n"
    given = {"NELM": "60", "NSW": "0", "IBRION": "-1", "ISMEAR": "1", "SIGMA": "0.2", "ISPIN": "1", **tags}
    given |= {"ENMAX": tags.get("ENCUT", "400.0"), "NELECT": f"{4.0 * len(symbols)}"}
    given.setdefault("GGA", "PE")
    given.setdefault("METAGGA", "--")
    text += "".join(tag(key, value) for key, value in given.items() if key != "ENCUT") + "</parameters>\n<atominfo>\n"
    text += f"<atoms>{len(symbols)}</atoms>\n<types>{len(kinds)}</types>\n"
    text += '<array name="atoms">\n<dimension dim="1">ion</dimension>\n<field type="string">element</field>\n'
    text += f'<field type="int">atomtype</field>\n<set>\n{rows}</set>\n</array>\n<array name="atomtypes">\n'
    text += '<dimension dim="1">type</dimension>\n<field type="int">atomspertype</field>\n<field type="string">element'
    text += (
        '</field>\n<field>mass</field>\n<field>valence</field>\n<field type="string">pseudopotential</field>\n<set>\n'
    )
    text += f"{types}</set>\n</array>\n</atominfo>\n"
    text += structure.replace("<structure>", '<structure name="initialpos" >') + "<calculation>\n"

    def block(fr, wo, e0):
        names = (("e_fr_energy", fr), ("e_wo_entrp", wo), ("e_0_energy", e0))
        return "<energy>\n" + "".join(f'<i name="{name}">{value:16.8f}</i>\n' for name, value in names) + "</energy>\n"

    for step in range(steps):
        away = 0.5 ** (step + 1) if step < steps - 1 else 0.0
        text += f"<scstep>\n{block(free + away, free + away + ENTROPY, free + away + ENTROPY / 2)}</scstep>\n"
    # The last block as VASP 5 writes it: only the free energy is right.
    text += (
        structure + varray("forces", forces) + varray("stress", [[-1602.1766208 * x for x in row] for row in stress])
    )
    text += block(final, ENTROPY, 0.0) + "</calculation>\n"
    text += structure.replace("<structure>", '<structure name="finalpos" >') + "</modeling>\n"
    (here / "vasprun.xml").write_text(text if complete else text[: int(0.8 * len(text))])
    oszicar = "       N       E                     dE             d eps       ncg     rms          rms(c)\n"
    for step in range(steps):
        oszicar += f"DAV: {step + 1:3d}    {free:.12E}    0.1E-05   -0.1E-05   100   0.1E-02    0.1E-02\n"
    (here / "OSZICAR").write_text(oszicar + f"   1 F= {final:.8E} E0= {final + ENTROPY / 2:.8E}  d E ={0:.6E}\n")
    (here / "CONTCAR").write_text((here / "POSCAR").read_text())
    (here / "OUTCAR").write_text(
        " vasp.6.4.3\n running on    1 total cores\n   NELECT =       8.0000    total number of electrons\n"
        "   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=     12\n"
        "   total plane-waves  NPLWV =  27000\n   IBRION =     -1    ionic relax\n"
        + "--------- aborting loop because EDIFF is reached ---------\n" * converged
        + "General timing and accounting informations for this job:\n   User time (sec):     1.0\n" * complete
    )
    for bulky in ("CHGCAR", "PROCAR"):
        (here / bulky).write_text("large")
    if tags.get("LWAVE", "True").strip(".").lower().startswith("t"):
        (here / "WAVECAR").write_text("waves of " + tags.get("METAGGA", tags.get("GGA", "none")))


def say(text):
    sys.stdout.write(text + "\n")


def main():
    home, here = Path(sys.argv[0]).parent, Path.cwd()
    tags = read_incar(here / "INCAR")
    cell, symbols, fractional = read_poscar(here / "POSCAR")
    waves = here / "WAVECAR"
    record = {"incar": tags, "symbols": symbols, "waves": waves.read_text() if waves.is_file() else None}
    record["kpoints"] = (here / "KPOINTS").read_text() if (here / "KPOINTS").is_file() else None
    record["potcar"] = [line.split("=")[1].split()[1] for line in (here / "POTCAR").open() if "TITEL" in line]
    if sys.platform == "linux":
        told = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(told))  # PR_GET_PDEATHSIG
        record["killed_with_parent_by"] = told.value
    with (home / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(record) + "\n")
    faults = json.loads((home / "plan.json").read_text()) if (home / "plan.json").is_file() else {}
    fault = faults.get(str(len(symbols)), faults.get("any", ""))
    algo, limit = tags.get("ALGO", "Normal").lower(), int(tags.get("NELM", "60"))
    if fault == "broken" or (fault == "edddav" and algo != "all"):
        say("Error EDDDAV: Call to ZHEGV failed. Returncode = 7 1 8")
        sys.exit(1)
    if fault == "brmix" and tags.get("IMIX") != "1":
        say("BRMIX: very serious problems\n the old and the new charge density differ")
        sys.exit(1)
    if fault == "zbrent" and float(tags.get("EDIFF", "1e-4")) > 1e-6:
        say("ZBRENT: fatal error in bracketing\n please rerun with smaller EDIFF")
        sys.exit(1)
    if fault == "tet" and tags.get("ISMEAR") != "0":
        say("Tetrahedron method fails (number of k-points < 4)")
        sys.exit(1)
    if fault == "mesh" and "Gamma" in (record["kpoints"] or ""):
        say("BRMIX: very serious problems\n the old and the new charge density differ")
        sys.exit(1)
    if fault == "silent":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        time.sleep(600)
    if fault in ("patient", "lucky"):
        write_outputs(here, tags, cell, symbols, fractional, 3, complete=False, converged=False)
        for _ in range(600):
            time.sleep(0.1)
            if (here / "STOPCAR").is_file():
                break
    say(" running on the tests")
    unconverged = (fault == "slow" and algo != "all") or fault == "hopeless"
    if fault == "moved":
        fractional = [[x + 0.01 * i for x in place] for i, place in enumerate(fractional)]
    steps = limit if unconverged else 5
    # Stopped by STOPCAR, vasprun.xml has fewer steps than NELM, as if they had converged.
    converged = not (unconverged or fault == "patient")
    write_outputs(here, tags, cell, symbols, fractional, steps, complete=fault != "cut", converged=converged)
    if fault == "returncode":
        sys.exit(3)


def potcar(symbol):
    """A POTCAR without physics: the header that pymatgen and custodian read."""
    element = symbol.split("_")[0]
    return (
        f"  PAW_PBE {symbol} 01Jan2000\n   4.00000000000000\n parameters from PSCTR are:\n"
        f"   VRHFIN ={element}: test\n   LEXCH  = PE\n   EATOM  =   100.0000 eV,    7.0000 Ry\n\n"
        f"   TITEL  = PAW_PBE {symbol} 01Jan2000\n   LULTRA =        F    use ultrasoft PP ?\n"
        "   IUNSCR =        1    unscreen: 0-lin 1-nonlin 2-no\n   RPACOR =    1.500    partial core radius\n"
        "   POMASS =   28.085; ZVAL   =    4.000    mass and valenz\n"
        "   RCORE  =    1.900    outmost cutoff radius\n   ENMAX  =  245.345; ENMIN  =  184.009 eV\n"
        "   LPAW   =        T    paw PP\n"
        "END of PSCTR-controll parameters\n local part\n  0.0\n End of Dataset\n"
    )


class StandIn:
    """What the tests hold: where the program is, what it was asked, what shall fail."""

    def __init__(self, home):
        self.home = home

    def plan(self, **faults):
        """``any="edddav"`` or, by number of atoms, ``n3="silent"``."""
        (self.home / "plan.json").write_text(
            json.dumps({key.removeprefix("n"): value for key, value in faults.items()})
        )

    @property
    def calls(self):
        path = self.home / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def install(home, monkeypatch):
    """Write the program and POTCARs under ``home``; point atomate2 and pymatgen at them."""
    import atomate2
    from pymatgen.core import SETTINGS
    from pymatgen.io.vasp import PotcarSingle

    home.mkdir(parents=True, exist_ok=True)
    (home / "standin.py").write_text(Path(__file__).read_text())
    program = home / "vasp_std"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{home}/standin.py" "$@"\n')
    program.chmod(0o755)
    symbols = (
        "Cu",
        "Cu_pv",
        "Cu_sv",
        "Al",
        "O",
        "O_h",
        "Si",
        "Fe",
        "Fe_pv",
        "Fe_sv",
        "Ni",
        "Ni_pv",
        "Mg",
        "Mg_pv",
        "W_sv",
    )
    for folder in ("POT_GGA_PAW_PBE", "POT_GGA_PAW_PBE_54", "POT_PAW_PBE_64", "POT_GGA_PAW_PBE_64"):
        for symbol in symbols:
            path = home / "potcars" / folder / symbol / "POTCAR"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(potcar(symbol))
    # A comparison with all POTCARs of VASP, of which ours is none, is most of a run's time: once is enough.
    compared = PotcarSingle.is_valid.fget

    def is_valid(self):
        if self.data not in _COMPARED:
            compared(self)
            _COMPARED[self.data] = self._summary_stats
        self._summary_stats = _COMPARED[self.data]
        return True

    monkeypatch.setattr(PotcarSingle, "is_valid", property(is_valid))
    monkeypatch.setattr(atomate2.SETTINGS, "VASP_CMD", str(program))
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(home / "potcars"))
    return StandIn(home)


if __name__ == "__main__":
    main()
