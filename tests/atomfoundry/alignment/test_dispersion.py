"""D3 corrections: against programs' own figures, their derivatives, and what they change in an alignment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from atomfoundry.alignment import (
    Alignment,
    DispersionTerm,
    LevelData,
    align_dataset,
    compose_alignments,
    fit_alignment,
    fit_datasets,
    fit_graph,
    invert_alignment,
)
from atomfoundry.alignment.dispersion import dispersion_of, dispersion_terms
from atomfoundry.cli.main import main
from atomfoundry.datasets import Dataset, attach_labels, labels_of, with_metadata
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import AlignmentError, EngineUnavailableError
from atomfoundry.units import HARTREE

WITH = LevelOfTheory(code="psi4", method="wB97M-D3(BJ)", basis="def2-TZVPPD")
WITHOUT = LevelOfTheory(code="vasp", method="PBE")
PBE_D3 = LevelOfTheory(code="vasp", method="PBE", dispersion="D3(BJ)")
TERM = DispersionTerm(functional="wB97M", variant="D3(BJ)", coefficient=1.0)
PBE_TERM = DispersionTerm(functional="PBE", variant="D3(BJ)", coefficient=1.0)
E0 = {WITH.id: {"H": -13.5, "C": -1030.0, "O": -2043.0}, WITHOUT.id: {"H": -12.5, "C": -150.0, "O": -430.0}}
NAMES = ("H2O", "CH4", "CH3OH", "H2CO", "CO2", "C2H6", "C2H4", "HCOOH", "CH3CHO", "CH3CH2OH")
SCALE = 0.97


@pytest.mark.parametrize(
    ("half", "expected"),
    [(1.805, -0.58552), (1.12186821, -2.48959), (1.77364658, -0.61839), (1.7477871, -0.64729), (1.42721636, -1.20261)],
)
def test_copper_as_in_vasp(half: float, expected: float) -> None:
    """PBE-D3(BJ) of an electronic relaxation of fcc Cu, "Edisp" of an OUTCAR of VASP 5.4 with IVDW = 12."""
    cell = np.where(np.eye(3, dtype=bool), 0.0, half)
    assert PBE_TERM.energy(Atoms("Cu", cell=cell, pbc=True)) == pytest.approx(expected, rel=3e-5)


@pytest.mark.parametrize(("z", "expected"), [(0.368583, -0.000125780949), (0.373722, -0.000126431)])
def test_hydrogen_as_in_orca(z: float, expected: float) -> None:
    """wB97X-D3(BJ) of an H2 molecule, ORCA 5.0.4."""
    term = DispersionTerm(functional="wB97X", variant="D3(BJ)", coefficient=1.0)
    assert term.energy(Atoms("H2", positions=[[0, 0, z], [0, 0, -z]])) / HARTREE == pytest.approx(expected, rel=5e-6)


@pytest.mark.parametrize("variant", ["D3(BJ)", "D3(BJ)-ATM", "D3(0)", "D3M(BJ)"])
def test_molecule_as_the_library_has_it(variant: str) -> None:
    from pyscf import gto
    from pyscf.dispersion.dftd3 import DFTD3Dispersion

    atoms = molecule("CH3CH2OH")
    other = gto.M(atom=list(zip(atoms.symbols, atoms.positions, strict=True)), verbose=0)
    version = {"D3(BJ)": "d3bj", "D3(BJ)-ATM": "d3bj", "D3(0)": "d3zero", "D3M(BJ)": "d3bjm"}[variant]
    expected = DFTD3Dispersion(other, "pbe", version=version, atm=variant.endswith("ATM")).get_dispersion()["energy"]
    term = DispersionTerm(functional="PBE", variant=variant, coefficient=-0.5)
    assert term.energy(atoms) == pytest.approx(-0.5 * float(expected) * HARTREE, rel=1e-8)


def slab(vacuum: float | None) -> Atoms:
    atoms = fcc111("Cu", (1, 1, 3), a=3.6)
    atoms.rattle(0.05, seed=1)
    if vacuum:
        atoms.center(vacuum=vacuum, axis=2)
        atoms.pbc = True
    return atoms


@pytest.mark.parametrize("atoms", [molecule("CH3OH"), slab(None), bulk("NaCl", "rocksalt", a=5.5)])
def test_forces_and_stress_are_the_derivatives(atoms: Atoms) -> None:
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=3)
    _, forces, stress = TERM.evaluate(atoms)
    step = 1e-4

    def slope(changed: list[Atoms]) -> float:
        return (TERM.energy(changed[0]) - TERM.energy(changed[1])) / (2 * step)

    for i, axis in ((0, 0), (len(atoms) - 1, 2)):
        pair = []
        for sign in (1, -1):
            pair.append(atoms.copy())
            pair[-1].positions[i, axis] += sign * step
        assert -slope(pair) == pytest.approx(forces[i, axis], abs=1e-8)
    assert np.abs(forces).max() > 1e-4
    if not atoms.pbc.all():
        assert np.isnan(stress).all()
        return
    for k, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        pair = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            pair.append(atoms.copy())
            pair[-1].set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        # The sum over pairs ends at 95 bohr: a pair that crosses it makes a step of the energy.
        assert slope(pair) / atoms.get_volume() == pytest.approx(stress[k], abs=1e-5)
    assert stress[:3].min() > 1e-3


def test_slab_is_one_in_endless_vacuum() -> None:
    thin = slab(None)
    assert TERM.energy(thin) == pytest.approx(TERM.energy(slab(60.0)), rel=1e-9)
    turned = thin.copy()
    turned.set_cell(thin.cell.array[[2, 0, 1]])
    turned.pbc = (False, True, True)
    assert TERM.energy(turned) == pytest.approx(TERM.energy(thin), rel=1e-12)
    # A third vector that is there but not periodic does not count.
    turned.set_cell(np.vstack([[1.0, 2.0, 5.0], thin.cell.array[:2]]))
    assert TERM.energy(turned) == pytest.approx(TERM.energy(thin), rel=1e-12)


def test_lone_atoms_have_none() -> None:
    assert TERM.energy(Atoms("O")) == 0
    assert TERM.energy(Atoms("OH", positions=[[0, 0, 0], [0, 0, 60.0]])) == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"method": "PBE"}, ("PBE", "")),
        ({"method": "PBE", "dispersion": "D3(BJ)"}, ("PBE", "D3(BJ)")),
        ({"method": "PBE", "dispersion": "D3BJ"}, ("PBE", "D3(BJ)")),
        ({"method": "wB97M-D3(BJ)"}, ("wB97M", "D3(BJ)")),
        ({"method": "wB97M-D3(BJ)", "dispersion": "D3(BJ)"}, ("wB97M", "D3(BJ)")),
        ({"method": "b3lyp-d3bj"}, ("b3lyp", "D3(BJ)")),
        ({"method": "PBE0-D3(0)"}, ("PBE0", "D3(0)")),
        ({"method": "PBE-D3(BJ)-ATM"}, ("PBE", "D3(BJ)-ATM")),
        ({"method": "PBE", "dispersion": "D3"}, ("PBE", "D3")),
        ({"method": "wB97M-V", "dispersion": "VV10"}, ("wB97M-V", "VV10")),
    ],
)
def test_level_says_which_correction_it_has(fields: dict[str, str], expected: tuple[str, str]) -> None:
    assert dispersion_of(LevelOfTheory(code="test", **fields)) == expected


def level(method: str, dispersion: str | None = None) -> LevelOfTheory:
    return LevelOfTheory(code="test", method=method, dispersion=dispersion)


@pytest.mark.parametrize(
    ("source", "target", "how", "message"),
    [
        (WITHOUT, WITHOUT, "subtract_source", "no dispersion correction to be subtracted"),
        (WITH, PBE_D3, "subtract_source", "no longer be as the target"),
        (WITH, PBE_D3, "add_source", "dispersion twice"),
        (WITHOUT, level("SCAN"), "add_source", "no longer be as the target"),
        (level("PBE", "D3"), WITHOUT, "subtract_source", "'D3' cannot be computed"),
        (level("wB97M-V", "VV10"), WITHOUT, "subtract_source", "'VV10' cannot be computed"),
        (level("LDA"), PBE_D3, "add_source", "of LDA cannot be computed"),
        (WITH, WITHOUT, "remove", "no way 'remove'"),
    ],
)
def test_what_cannot_be_done_is_refused(source: LevelOfTheory, target: LevelOfTheory, how: str, message: str) -> None:
    with pytest.raises(AlignmentError, match=message):
        dispersion_terms(source, target, how)  # type: ignore[arg-type]


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyscf.dispersion.dftd3", None)
    with pytest.raises(EngineUnavailableError, match="pip install pyscf-dispersion"):
        dispersion_terms(WITH, WITHOUT, "subtract_source")


def test_bridge_has_to_be_as_the_target() -> None:
    bridge = LevelOfTheory(code="psi4", method="PBE", basis="def2-TZVPPD")
    assert dispersion_terms(WITH, WITHOUT, "subtract_source", bridge=bridge)[0].coefficient == -1
    with pytest.raises(AlignmentError, match="only one has a dispersion"):
        dispersion_terms(WITH, WITHOUT, "subtract_source", bridge=bridge.model_copy(update={"method": "PBE-D3(BJ)"}))


def levels() -> tuple[list[Atoms], list[Atoms]]:
    """Source and target: A^s = A^t / a + D3(wB97M), forces and stress alike; molecules, two of them packed."""
    rng = np.random.default_rng(0)
    packed = [molecule(name, cell=[4.5, 4.4, 5.0], pbc=True) for name in ("CO2", "H2CO")]
    source, target = [], []
    for shape in [molecule(name) for name in NAMES * 2] + packed:
        moved = shape.positions + rng.normal(scale=0.05, size=(len(shape), 3))
        atoms = with_metadata(Atoms(shape.numbers, positions=moved, cell=shape.cell, pbc=shape.pbc))
        atomization = -3.5 * len(atoms) + rng.normal()
        forces = rng.normal(size=(len(atoms), 3))
        stress = rng.normal(size=6) * 0.01 if atoms.pbc.all() else None
        energy, more_forces, more_stress = TERM.evaluate(atoms)
        low, high = (sum(E0[key][s] for s in atoms.symbols) for key in (WITH.id, WITHOUT.id))
        target.append(attach_labels(atoms, high + atomization, forces, stress))
        source.append(
            attach_labels(
                atoms,
                low + atomization / SCALE + energy,
                forces / SCALE + more_forces,
                None if stress is None else stress / SCALE + more_stress,
            )
        )
    return source, target


def fit(source: list[Atoms], target: list[Atoms], **options: object) -> Alignment:
    return fit_alignment(
        source,
        target=target,
        source_level=WITH,
        target_level=WITHOUT,
        source_isolated_energies=E0[WITH.id],
        target_isolated_energies=E0[WITHOUT.id],
        **options,  # type: ignore[arg-type]
    )


def test_levels_that_differ_by_dispersion_are_aligned_exactly_only_without_it() -> None:
    source, target = levels()
    kept = fit(source, target)
    assert kept.dispersion == "keep"
    assert kept.report.metrics["aec"].rmse > 1e-3
    alignment = fit(source, target, dispersion="subtract_source")
    assert alignment.scale == pytest.approx(SCALE, abs=1e-9)
    assert alignment.dispersion == "subtract_source"
    assert alignment.dispersion_terms == [TERM.scaled(-alignment.scale)]
    assert alignment.report.metrics["aec"].rmse < 1e-8
    # What is compared with stays what was computed.
    for name in ("raw", "least_squares", "least_squares_cross_validated"):
        assert alignment.report.metrics[name] == kept.report.metrics[name]
    for before, after in zip(source, target, strict=True):
        aligned = alignment.apply(before)
        energy, forces, stress = labels_of(aligned)
        assert energy == pytest.approx(labels_of(after)[0], abs=1e-7)
        assert np.allclose(forces, labels_of(after)[1], atol=1e-9)
        assert aligned.info["level"] == WITHOUT.id
        restored = labels_of(alignment.invert(aligned))
        assert restored[0] == pytest.approx(labels_of(before)[0], abs=1e-9)
        assert np.allclose(restored[1], labels_of(before)[1], rtol=0, atol=1e-13)
        assert (stress is None) == (not before.pbc.all())
        if stress is not None:
            assert np.allclose(stress, labels_of(after)[2], atol=1e-11)
            assert np.allclose(restored[2], labels_of(before)[2], rtol=0, atol=1e-15)
    with pytest.raises(AlignmentError, match="dispersion terms"):
        alignment.energy(-1.0, {"H": 2})
    with pytest.raises(AlignmentError, match="dispersion terms"):
        alignment.inverse_energy(-1.0, {"H": 2})


def test_bridge_and_estimated_atoms_see_the_labels_without_dispersion() -> None:
    source, target = levels()
    overlap = fit_alignment(
        source,
        target=target,
        source_level=WITH,
        target_level=WITHOUT,
        source_isolated_energies=E0[WITH.id],
        mode="overlap",
        dispersion="subtract_source",
    )
    assert overlap.target_isolated_energies == pytest.approx(E0[WITHOUT.id], abs=1e-6)
    bridge = LevelOfTheory(code="psi4", method="PBE", basis="def2-TZVPPD")
    bridged = fit_alignment(
        source,
        bridge=target,
        source_level=WITH,
        target_level=WITHOUT,
        bridge_level=bridge,
        source_isolated_energies=E0[WITH.id],
        target_isolated_energies={"H": -1.0, "C": -2.0, "O": -3.0},
        bridge_isolated_energies=E0[WITHOUT.id],
        mode="bridge",
        dispersion="subtract_source",
    )
    assert bridged.scale == pytest.approx(SCALE, abs=1e-9)
    assert bridged.report.metrics["aec"].rmse < 1e-8


def test_kept_alignment_says_that_the_levels_differ(tmp_path: Path) -> None:
    source, target = levels()
    kept = fit(source, target)
    document = kept.document(_artifact(kept, tmp_path))
    assert document.dispersion == "keep"
    assert document.dispersion_note.startswith("kept as it is: wB97M-D3(BJ)/def2-TZVPPD (psi4) has D3(BJ)")
    changed = fit(source, target, dispersion="subtract_source")
    document = changed.document(_artifact(changed, tmp_path))
    assert (document.dispersion, document.dispersion_note) == (
        "subtract_source",
        "0.97 times D3(BJ) of wB97M subtracted",
    )
    assert Alignment.load(tmp_path / "alignment.json") == changed


def _artifact(alignment: Alignment, folder: Path):  # type: ignore[no-untyped-def]
    from atomfoundry.documents import Artifact

    path = alignment.save(folder / "alignment.json")
    return Artifact(uri=path.as_uri(), sha256="0" * 64, size=path.stat().st_size, media_type="application/json")


def test_adding_what_was_subtracted_is_the_identity() -> None:
    """PBE-D3(BJ) to PBE and back: the energies differ by the correction and nothing else."""
    rng = np.random.default_rng(1)
    plain, corrected = [], []
    atoms_energies = {"H": -1.1, "C": -1.3, "O": -1.9}
    for name in NAMES:
        atoms = molecule(name)
        own = sum(atoms_energies[s] for s in atoms.symbols) - 3.0 * len(atoms) + rng.normal()
        forces = rng.normal(size=(len(atoms), 3))
        energy, more, _ = PBE_TERM.evaluate(atoms)
        plain.append(attach_labels(atoms, own, forces))
        corrected.append(attach_labels(atoms, own + energy, forces + more))
    options = {"source_isolated_energies": atoms_energies, "target_isolated_energies": atoms_energies}
    down = fit_alignment(
        corrected, target=plain, source_level=PBE_D3, target_level=WITHOUT, dispersion="subtract_source", **options
    )
    up = fit_alignment(
        plain, target=corrected, source_level=WITHOUT, target_level=PBE_D3, dispersion="add_source", **options
    )
    assert (down.scale, up.scale) == (1.0, 1.0)
    assert up.dispersion_terms == [PBE_TERM]
    assert compose_alignments(down, up).dispersion_terms == []
    assert invert_alignment(down).dispersion == "add_source"
    for bare, whole in zip(plain, corrected, strict=True):
        for start, there, back in ((bare, up, down), (whole, down, up)):
            frame = there.apply(start)
            end = whole if start is bare else bare
            assert labels_of(frame)[0] == pytest.approx(labels_of(end)[0], rel=1e-15)
            assert np.allclose(labels_of(frame)[1], labels_of(end)[1], rtol=0, atol=1e-15)
            twice = back.apply(frame)
            assert labels_of(twice)[0] == pytest.approx(labels_of(start)[0], rel=1e-15)
            assert np.allclose(labels_of(twice)[1], labels_of(start)[1], rtol=0, atol=1e-15)


MIDDLE = LevelOfTheory(code="psi4", method="PBE", basis="def2-TZVPPD")


@pytest.mark.parametrize(("how", "back"), [("subtract_source", "add_source"), ("add_source", "subtract_source")])
def test_many_levels(how: str, back: str) -> None:
    """Over a level between; only one direction is fitted where one level has a correction and the other none."""
    source, target = levels()
    middle = [attach_labels(a, labels_of(a)[0] + 1.0 * len(a)) for a in target]
    data = [
        LevelData(WITH, source[:12], E0[WITH.id]),
        LevelData(MIDDLE, middle, {s: e + 1.0 for s, e in E0[WITHOUT.id].items()}),
        LevelData(WITHOUT, target[10:], E0[WITHOUT.id]),
    ]
    if how == "add_source":
        # The other way round: the correction is added before the scale, and scaled with the rest.
        data[0].frames = [
            attach_labels(a, labels_of(b)[0] - TERM.energy(a) + PBE_TERM.energy(a) / SCALE)
            for a, b in zip(source[:12], source[:12], strict=True)
        ]
    graph = fit_graph(data, dispersion=how)  # type: ignore[arg-type]
    start, end = (WITH, WITHOUT) if how == "subtract_source" else (WITHOUT, WITH)
    frames = source[:12] if how == "subtract_source" else target[10:12]
    path = graph.best(start.id, end.id)
    assert path.path[0].target == MIDDLE.label
    assert path.dispersion == how
    assert graph.best(end.id, start.id).dispersion == back
    functional = "wB97M" if how == "subtract_source" else "PBE"
    assert [term.functional for term in path.dispersion_terms] == [functional]
    truth = target[:12] if how == "subtract_source" else data[0].frames[10:12]  # type: ignore[index]
    for frame, other in zip(frames, truth, strict=True):
        assert labels_of(path.apply(frame))[0] == pytest.approx(labels_of(other)[0], abs=1e-6)


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Dataset]:
    source, target = levels()
    return {
        "with": Dataset.create(tmp_path / "with", source, level=WITH, isolated_energies=E0[WITH.id]),
        "without": Dataset.create(tmp_path / "without", target, level=WITHOUT, isolated_energies=E0[WITHOUT.id]),
    }


def test_datasets_are_written_at_a_level_that_fits(sets: dict[str, Dataset], tmp_path: Path) -> None:
    (alignment,) = fit_datasets([sets["with"]], sets["without"], dispersion="subtract_source").values()
    aligned, _ = align_dataset(sets["with"], alignment, tmp_path / "aligned")
    assert aligned.level == WITHOUT
    assert aligned.level.dispersion is None
    (term,) = aligned.metadata.lineage["dispersion"]
    assert (term["functional"], term["variant"]) == ("wB97M", "D3(BJ)")
    with pytest.raises(AlignmentError, match="dispersion twice"):
        fit_datasets([sets["with"]], sets["without"], dispersion="add_source")
    with pytest.raises(AlignmentError, match="no dispersion correction to be subtracted"):
        fit_datasets([sets["without"]], sets["with"], dispersion="subtract_source")


def test_command(
    sets: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["atomfoundry", "dataset", "align", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    words = [str(sets["with"].path), "--to", str(sets["without"].path)]
    code, out, err = run(*words, "-o", str(tmp_path / "out"), "--dispersion", "subtract_source", "--json")
    assert code == 0, err
    (document,) = json.loads(out)
    assert document["dispersion"] == "subtract_source"
    assert document["expected_error"] < 1e-8
    assert "times D3(BJ) of wB97M subtracted" in (tmp_path / "out" / "report.html").read_text()
    for one, other in zip(Dataset.open(tmp_path / "out" / "with"), sets["without"], strict=True):
        assert labels_of(one)[0] == pytest.approx(labels_of(other)[0], abs=1e-7)
    code, out, _ = run(*words, "-o", str(tmp_path / "kept"))
    assert code == 0
    assert "Dispersion: kept as it is" in " ".join(out.split())
    code, _, err = run(*words, "-o", str(tmp_path / "not"), "--dispersion", "add_source")
    assert code == 1
    assert "dispersion twice" in " ".join(err.split())
    assert not (tmp_path / "not").exists()
    assert run(*words, "-o", str(tmp_path / "not"), "--dispersion", "gone")[0] == 2
