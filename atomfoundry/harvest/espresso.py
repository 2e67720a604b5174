"""Quantum ESPRESSO: the text output by ASE, ``data-file-schema.xml`` by the standard library's XML reader."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree  # nosec B405 # see where it parses

import numpy as np
from ase import Atoms

from atomfoundry.documents import LevelOfTheory
from atomfoundry.harvest.levels import espresso_level
from atomfoundry.harvest.run import ParseFailure, Run, Step, describe, labelled_step, open_binary, open_text
from atomfoundry.units import BOHR, HARTREE, HARTREE_PER_BOHR, RYDBERG

_NOT_CONVERGED = "convergence NOT achieved"
_DISPERSION = (
    ("DFT-D3 Dispersion", "D3"),
    ("Grimme-D3", "D3"),
    ("DFT-D Dispersion", "D2"),
    ("Exchange-hole Dipole", "XDM"),
)
_SAME = 1e-6
"""Positions (A) and energies (eV) of one and the same step differ by less."""


def _slurp(path: Path) -> tuple[str, bool]:
    """Return the text of a file and whether all of it could be uncompressed."""
    lines: list[str] = []
    try:
        with open_text(path) as stream:
            lines.extend(stream)
    except EOFError:
        return "".join(lines), False
    return "".join(lines), True


def parse_espresso(path: Path) -> Run:
    """Read the text output of ``pw.x``."""
    from ase.io.espresso import read_espresso_out
    from ase.io.espresso import units as old_units

    # ASE converts with the constants of 2006; everything else here uses those of 2014.
    per_energy = RYDBERG / old_units["Ry"]
    per_force = per_energy * old_units["Bohr"] / BOHR
    per_stress = per_energy * (old_units["Bohr"] / BOHR) ** 3
    text, whole = _slurp(path)
    complete = whole and "JOB DONE" in text
    images: list[Atoms] = []
    failure: Exception | None = None
    try:
        images.extend(read_espresso_out(io.StringIO(text), slice(None)))
    # ASE raises whatever it stumbles over in a broken file, an assertion among them.
    except Exception as error:
        failure = error
    if not images:
        raise _nothing(text, complete, failure)
    steps = []
    for atoms in images:
        results = atoms.calc.results if atoms.calc is not None else {}
        energy = results.get("free_energy", results.get("energy"))
        forces, stress = results.get("forces"), results.get("stress")
        steps.append(
            labelled_step(
                atoms,
                None if energy is None else energy * per_energy,
                None if forces is None else forces * per_force,
                None if stress is None else stress * per_stress,
            )
        )
    if text.count("\n!") != len(images) and not failure:
        # A step that lost its energy would shift those of all others.
        for step in steps:
            step.refuse("unreadable", f"{text.count(chr(10) + '!')} energies for {len(images)} structures")
    _mark_unconverged(text, steps)
    if failure is not None:
        steps.append(Step(None, "unreadable" if complete else "truncated", describe(failure)))
    relaxing = "Geometry Optimization" in text
    level = _text_level(text)
    return Run(
        steps,
        complete=complete,
        relaxed="bfgs converged in" in text.lower() if relaxing else None,
        level=None if isinstance(level, str) else level,
        level_problem=level if isinstance(level, str) else "",
        potentials=_potentials(text),
    )


def _nothing(text: str, complete: bool, failure: Exception | None) -> ParseFailure:
    """Return why a file gave no step."""
    error = re.search(r"Error in routine.*", text)
    if error and "End of self-consistent" not in text:
        following = text[error.end() :].strip().splitlines()
        return ParseFailure("crashed", f"{error[0].strip()} {following[0].strip() if following else ''}")
    if _NOT_CONVERGED in text:
        return ParseFailure("unconverged_electronic", _NOT_CONVERGED)
    if not complete:
        return ParseFailure("truncated", "the run ended before its first ionic step did")
    return ParseFailure("unreadable", describe(failure) if failure else "no finished ionic step")


def _mark_unconverged(text: str, steps: list[Step]) -> None:
    energies = [match.start() for match in re.finditer(r"(?m)^!", text)]
    for match in re.finditer(_NOT_CONVERGED, text):
        following = next((number for number, place in enumerate(energies) if place > match.start()), None)
        restart = text.find("Self-consistent Calculation", match.end())
        if following is not None and following < len(steps) and (restart < 0 or energies[following] < restart):
            steps[following].refuse("unconverged_electronic", _NOT_CONVERGED)
        elif following is None:
            steps.append(Step(None, "unconverged_electronic", _NOT_CONVERGED))


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1].strip() if match else None


def _real(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _potentials(text: str) -> dict[str, str]:
    found = re.findall(r"PseudoPot\. #\s*\d+ for\s+(\w+)\s+read from file:\s*\n?\s*(\S+)", text)
    return {re.sub(r"[^A-Za-z].*", "", element): Path(file).name for element, file in found}


def _text_level(text: str) -> LevelOfTheory | str:
    smearing = re.search(r"number of k points=\s*\d+\s+(.*?)(?:\s+smearing)?,\s*width \(Ry\)=\s*([\d.]+)", text)
    hubbard = {element: float(value) for element, value in re.findall(r"\bU\((\w+)-\w+\)\s*=\s*([\d.]+)", text)}
    dispersion = None
    for sign, name in (
        ("DFT-D3 Dispersion", "D3"),
        ("Grimme-D3", "D3"),
        ("DFT-D Dispersion", "D2"),
        ("Exchange-hole Dipole", "XDM"),
    ):
        if sign in text:
            dispersion = name
            break
    spin = "polarised" if "total magnetization" in text else "none"
    if "Noncollinear" in text or "Non magnetic calculation with spin-orbit" in text:
        spin = "noncollinear"
    return espresso_level(
        _first(r"Exchange-correlation\s*=\s*([^\n]+)", text) or "",
        _real(_first(r"kinetic-energy cutoff\s*=\s*([\d.]+)", text)),
        _real(_first(r"charge density cutoff\s*=\s*([\d.]+)", text)),
        smearing=_smearing(smearing[1], float(smearing[2]) * RYDBERG) if smearing else None,
        dispersion=dispersion,
        hubbard_u=hubbard,
        spin=spin,
    )


def _smearing(kind: str, width: float) -> str:
    names = {"gaussian": "gaussian", "gauss": "gaussian", "mv": "cold", "marzari-vanderbilt": "cold"}
    names |= {"mp": "methfessel-paxton", "methfessel-paxton": "methfessel-paxton"}
    names |= {"fd": "fermi-dirac", "fermi-dirac": "fermi-dirac"}
    word = kind.lower().split()[0] if kind.split() else "unnamed"
    return f"{names.get(word, word)} {width:.4g}"


# -- XML ------------------------------------------------------------------------------------------


def _array(element: ElementTree.Element | None, shape: tuple[int, int]) -> np.ndarray | None:
    if element is None or not (element.text or "").strip():
        return None
    return np.array((element.text or "").split(), dtype=float).reshape(shape)


def _structure(block: ElementTree.Element) -> Atoms | None:
    element = block.find("atomic_structure")
    if element is None:
        return None
    atoms = element.findall("atomic_positions/atom")
    symbols = [re.sub(r"[^A-Za-z].*", "", atom.get("name", "")) for atom in atoms]
    rows = [np.array((atom.text or "").split(), dtype=float) for atom in atoms]
    cell = [np.array((element.findtext(f"cell/a{n}") or "").split(), dtype=float) for n in (1, 2, 3)]
    if len(atoms) != int(element.get("nat", "-1")):
        raise ValueError(f"{len(atoms)} atoms, but nat = {element.get('nat')}")
    return Atoms(symbols, np.array(rows) * BOHR, cell=np.array(cell) * BOHR, pbc=True)


def _xml_step(block: ElementTree.Element) -> Step | None:
    atoms = _structure(block)
    energy = _real(block.findtext("total_energy/etot"))
    if atoms is None or energy is None:
        return None
    forces = _array(block.find("forces"), (len(atoms), 3))
    stress = _array(block.find("stress"), (3, 3))
    step = labelled_step(
        atoms,
        energy * HARTREE,
        None if forces is None else forces * HARTREE_PER_BOHR,
        # pw.x stores the tensor with the sign of a pressure.
        None if stress is None else -stress * HARTREE / BOHR**3,
    )
    converged = block.findtext("scf_conv/convergence_achieved") or block.findtext(
        "convergence_info/scf_conv/convergence_achieved"
    )
    if (converged or "").strip() == "false":
        step.refuse("unconverged_electronic", _NOT_CONVERGED)
    return step


def parse_espresso_xml(path: Path) -> Run:
    """Read ``data-file-schema.xml``; its numbers are in Hartree atomic units."""
    try:
        with open_binary(path) as stream:
            # expat opens no external entity and bounds what entities grow to
            root = ElementTree.parse(stream).getroot()  # nosec B314 # tested with both
    except (ElementTree.ParseError, EOFError) as error:
        raise ParseFailure("truncated", describe(error)) from error
    except (ValueError, LookupError) as error:
        raise ParseFailure("unreadable", describe(error)) from error
    closed = root.find("closed") is not None
    output = root.find("output")
    kind = (root.findtext("input/control_variables/calculation") or "").strip()
    steps: list[Step] = []
    try:
        for block in root.findall("step"):
            steps.append(_xml_step(block) or Step(None, "unreadable", "an ionic step without structure or energy"))
        if output is not None:
            _add_output(steps, _xml_step(output))
        level = _xml_level(root)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ParseFailure("unreadable", describe(error)) from error
    if not steps:
        raise ParseFailure("truncated" if output is None else "unreadable", "no ionic step is finished")
    relaxed = None
    if "relax" in kind:
        text = root.findtext("output/convergence_info/opt_conv/convergence_achieved") or "false"
        relaxed = text.strip() == "true"
    species = root.findall("input/atomic_species/species")
    return Run(
        steps,
        complete=closed and output is not None,
        relaxed=relaxed,
        level=None if isinstance(level, str) else level,
        level_problem=level if isinstance(level, str) else "",
        potentials={
            re.sub(r"[^A-Za-z].*", "", item.get("name", "")): (item.findtext("pseudo_file") or "").strip()
            for item in species
        },
    )


def _add_output(steps: list[Step], final: Step | None) -> None:
    """Join the ``output`` block: it repeats the last step, or is a step more, or has moved atoms."""
    if final is None or final.atoms is None:
        return
    last = steps[-1].atoms if steps else None
    if last is None or len(last) != len(final.atoms):
        steps.append(final)
        return
    moved = not (
        np.allclose(last.positions, final.atoms.positions, atol=_SAME)
        and np.allclose(last.cell.array, final.atoms.cell.array, atol=_SAME)
    )
    before, after = (atoms.calc.results.get("energy") for atoms in (last, final.atoms))
    repeated = before is not None and after is not None and abs(before - after) < _SAME
    if moved and repeated:
        # The atoms were moved after the last calculation: energy and forces are those of the step before.
        return
    if not moved and repeated:
        final.reason, final.message = steps[-1].reason or final.reason, steps[-1].message or final.message
        steps[-1] = final
        return
    steps.append(final)


def _xml_level(root: ElementTree.Element) -> LevelOfTheory | str:
    def find(name: str) -> str | None:
        return root.findtext(f"output/{name}") or root.findtext(f"input/{name}")

    cutoffs = [
        _real(find(f"basis_set/{name}") or root.findtext(f"input/basis/{name}")) for name in ("ecutwfc", "ecutrho")
    ]
    element = root.find("input/bands/smearing")
    smearing = None
    occupations = (root.findtext("input/bands/occupations") or "").strip()
    if element is not None and occupations == "smearing":
        smearing = _smearing((element.text or "").strip(), float(element.get("degauss", "0")) * HARTREE)
    hubbard = {
        item.get("specie", ""): round(float(item.text or 0) * HARTREE, 4)
        for item in root.findall("input/dft/dftU/Hubbard_U")
        if float(item.text or 0)
    }
    magnetic = (find("magnetization/lsda") or root.findtext("input/spin/lsda") or "").strip() == "true"
    noncollinear = (find("magnetization/noncolin") or "").strip() == "true"
    dispersion = (root.findtext("input/dft/vdW/vdw_corr") or "").strip().strip("'") or None
    if dispersion is not None:
        dispersion = {"grimme-d3": "D3", "grimme-d2": "D2", "none": None}.get(dispersion.lower(), dispersion)
    return espresso_level(
        (find("dft/functional") or "").strip(),
        2 * cutoffs[0] if cutoffs[0] else None,
        2 * cutoffs[1] if cutoffs[1] else None,
        smearing=smearing,
        dispersion=dispersion,
        hubbard_u=hubbard,
        spin="noncollinear" if noncollinear else "polarised" if magnetic else "none",
    )
