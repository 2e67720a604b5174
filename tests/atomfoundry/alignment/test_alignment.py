from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.morse import MorsePotential

from atomfoundry.alignment import Alignment, AlignmentSettings, fit_alignment, molecule_key
from atomfoundry.datasets import attach_labels, frame_id, labels_of
from atomfoundry.documents import Artifact, LevelOfTheory
from atomfoundry.errors import AlignmentError

SOURCE = LevelOfTheory(code="pyscf", method="wB97M-D3(BJ)", basis="def2-SVP")
BRIDGE = LevelOfTheory(code="pyscf", method="PBE", basis="def2-SVP")
TARGET = LevelOfTheory(code="espresso", method="PBE", cutoff=544.0)

ELEMENTS = ("C", "H", "O", "Si")
# All-electron totals against pseudopotential ones: the case that makes naive fits ill-conditioned.
E0_SOURCE = {"C": -1029.8, "H": -13.6, "O": -2041.3, "Si": -7868.9}
E0_BRIDGE = {"C": -1028.1, "H": -13.5, "O": -2039.9, "Si": -7864.4}
E0_TARGET = {"C": -146.2, "H": -13.7, "O": -432.1, "Si": -105.6}
SCALE = 1.037


def offset(atoms: Atoms, table: dict[str, float]) -> float:
    return sum(table[symbol] for symbol in atoms.symbols)


def molecules(n: int, seed: int = 0, elements: tuple[str, ...] = ELEMENTS) -> list[Atoms]:
    """Random compositions; the geometry only makes the ids differ."""
    rng = np.random.default_rng(seed)
    structures = []
    while len(structures) < n:
        symbols = [str(symbol) for symbol in rng.choice(elements, size=rng.integers(2, 12))]
        structures.append(Atoms(symbols, positions=rng.normal(size=(len(symbols), 3))))
    return structures


def levels(
    n: int = 80,
    *,
    scale: float = SCALE,
    noise: float = 0.0,
    seed: int = 0,
    elements: tuple[str, ...] = ELEMENTS,
) -> tuple[list[Atoms], list[Atoms], list[Atoms]]:
    """Frames at source, bridge and target, exact by (1.4) but for noise (eV/atom) on bridge and target."""
    rng = np.random.default_rng(seed + 1000)
    frames: tuple[list[Atoms], ...] = ([], [], [])
    for atoms in molecules(n, seed, elements):
        atomization = -len(atoms) * rng.uniform(1, 6)
        other = scale * atomization + len(atoms) * noise * rng.normal()
        for level, energy in zip(
            frames,
            (
                offset(atoms, E0_SOURCE) + atomization,
                offset(atoms, E0_BRIDGE) + other,
                offset(atoms, E0_TARGET) + other,
            ),
            strict=True,
        ):
            level.append(attach_labels(atoms, energy, rng.normal(size=(len(atoms), 3))))
    return frames  # type: ignore[return-value]


def fit(source: list[Atoms], **options: Any) -> Alignment:
    defaults: dict[str, Any] = {
        "source_level": SOURCE,
        "target_level": TARGET,
        "source_isolated_energies": E0_SOURCE,
    }
    return fit_alignment(source, **{**defaults, **options})


# -- exact recovery ------------------------------------------------------------------------------


def test_atoms_mode_recovers_the_scale() -> None:
    source, _, target = levels()
    alignment = fit(source, target=target, target_isolated_energies=E0_TARGET)
    assert abs(alignment.scale - SCALE) < 1e-10
    assert alignment.target_isolated_energies == E0_TARGET
    for element, shift in alignment.shifts.items():
        assert shift == E0_TARGET[element] - E0_SOURCE[element]
    assert alignment.report.metrics["aec"].rmse < 1e-9
    assert alignment.report.metrics["aec"].r2 > 1 - 1e-12


def test_overlap_mode_recovers_scale_and_atoms() -> None:
    source, _, target = levels()
    alignment = fit(source, target=target, mode="overlap")
    assert abs(alignment.scale - SCALE) < 1e-10
    for element, energy in E0_TARGET.items():
        assert abs(alignment.target_isolated_energies[element] - energy) < 1e-9
    assert alignment.report.condition_number is not None
    assert alignment.report.condition_number < 1e3


def test_overlap_mode_keeps_the_atoms_that_are_known() -> None:
    source, _, target = levels()
    known = {"Si": E0_TARGET["Si"], "H": E0_TARGET["H"]}
    alignment = fit(source, target=target, mode="overlap", target_isolated_energies=known)
    assert alignment.target_isolated_energies["Si"] == known["Si"]
    assert abs(alignment.target_isolated_energies["C"] - E0_TARGET["C"]) < 1e-9


def test_bridge_mode_with_known_atoms_needs_no_target_molecule() -> None:
    source, bridge, _ = levels()
    alignment = fit(
        source,
        mode="bridge",
        bridge=bridge,
        bridge_level=BRIDGE,
        bridge_isolated_energies=E0_BRIDGE,
        target_isolated_energies=E0_TARGET,
    )
    assert abs(alignment.scale - SCALE) < 1e-10
    assert alignment.bridge_level == BRIDGE
    for element, shift in alignment.shifts.items():
        assert shift == E0_TARGET[element] - E0_BRIDGE[element]
    report = alignment.report
    assert "bridge" in report.reference
    # Raw: all-electron against pseudopotential. Core shift alone: the functionals still differ.
    assert report.metrics["raw"].mae > 100
    assert 0.5 < report.metrics["icea"].mae < 10
    assert report.metrics["aec"].mae < 1e-9


def test_bridge_mode_fits_core_shifts_of_unknown_atoms() -> None:
    source, bridge, target = levels()
    alignment = fit(
        source,
        mode="bridge",
        bridge=bridge,
        target=target[:50],
        bridge_level=BRIDGE,
        bridge_isolated_energies=E0_BRIDGE,
        target_isolated_energies={"Si": E0_TARGET["Si"]},
    )
    assert abs(alignment.scale - SCALE) < 1e-10
    assert alignment.target_isolated_energies == pytest.approx(E0_TARGET, abs=1e-8)
    assert alignment.report.metrics["aec"].n == 50
    assert "target level" in alignment.report.reference
    assert len(alignment.report.points) == 50


def test_model_mode_asks_the_predictor() -> None:
    source, _, target = levels()
    energies = {frame_id(atoms): labels_of(atoms)[0] for atoms in target}
    alignment = fit(source, mode="model", predictor=lambda atoms: energies[frame_id(atoms)])
    assert abs(alignment.scale - SCALE) < 1e-10
    assert alignment.mode == "model"


def test_unknown_source_atoms_are_estimated_and_flagged() -> None:
    source, _, target = levels()
    partial = {key: value for key, value in E0_SOURCE.items() if key != "O"}
    alignment = fit(source, target=target, mode="overlap", source_isolated_energies=partial)
    assert alignment.report.estimated == ["O"]
    for before, after in zip(source, target, strict=True):
        assert labels_of(alignment.apply(before))[0] == pytest.approx(labels_of(after)[0], abs=1e-7)


# -- noise ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_spread_of_the_scale_is_that_of_least_squares() -> None:
    sigma, scales, expected = 0.05, [], 0.0
    for draw in range(200):
        source, _, target = levels(20, noise=sigma, seed=draw)
        alignment = fit(
            source,
            target=target,
            target_isolated_energies=E0_TARGET,
            settings=AlignmentSettings(huber_factor=0),
        )
        scales.append(alignment.scale)
        atomization = [(labels_of(f)[0] or 0) / len(f) - offset(f, E0_SOURCE) / len(f) for f in source]
        expected += sigma / np.linalg.norm(atomization) / 200
    assert abs(np.std(scales, ddof=1) / expected - 1) < 0.1
    assert abs(np.mean(scales) - SCALE) < 3 * expected / np.sqrt(200)
    assert alignment.report.scale_error == pytest.approx(expected, rel=0.5)


def test_outliers_hardly_move_the_robust_scale() -> None:
    source, _, target = levels(60, noise=0.01)
    for index in (3, 17, 40):
        energy, forces, _ = labels_of(target[index])
        target[index] = attach_labels(target[index], (energy or 0) + 40.0, forces)
    robust = fit(source, target=target, target_isolated_energies=E0_TARGET, force=True)
    plain = fit(
        source,
        target=target,
        target_isolated_energies=E0_TARGET,
        force=True,
        settings=AlignmentSettings(huber_factor=0),
    )
    assert abs(robust.scale - SCALE) < 0.005
    assert abs(plain.scale - SCALE) > 4 * abs(robust.scale - SCALE)
    assert robust.report.n_outliers >= 3


# -- the transform -------------------------------------------------------------------------------


def test_aligned_forces_are_the_gradient_of_the_aligned_energy() -> None:
    alignment = _alignment(scale=1.037)
    calculator = MorsePotential(epsilon=2.0, r0=1.5, rho0=3.0, rcut1=9.0, rcut2=10.0)

    def label(distance: float) -> Atoms:
        atoms = Atoms("SiH", positions=[[0, 0, 0], [distance, 0, 0]])
        atoms.calc = calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        return alignment.apply(attach_labels(atoms, energy, forces))

    step = 1e-4
    for distance in (1.2, 1.5, 2.5):
        upper, lower = (labels_of(label(distance + sign * step))[0] or 0 for sign in (1, -1))
        forces = labels_of(label(distance))[1]
        assert forces is not None
        assert abs(-(upper - lower) / (2 * step) - forces[1, 0]) < 1e-6


def _alignment(scale: float = SCALE, **options: Any) -> Alignment:
    source, _, target = levels(scale=scale)
    return fit(source, target=target, target_isolated_energies=E0_TARGET, **options)


def test_apply_scales_all_labels_and_marks_the_frame() -> None:
    alignment = _alignment()
    rng = np.random.default_rng(0)
    forces, stress = rng.normal(size=(2, 3)), rng.normal(size=6)
    frame = attach_labels(Atoms("SiH", positions=[[0, 0, 0], [1.5, 0, 0]]), -7890.0, forces, stress)
    frame.info.update(level=SOURCE.id, flags=["checked"])
    aligned = alignment.apply(frame)
    energy, new_forces, new_stress = labels_of(aligned)
    assert energy == pytest.approx(-105.6 - 13.7 + alignment.scale * (-7890 + 7868.9 + 13.6), abs=1e-9)
    assert np.array_equal(new_forces, alignment.scale * forces)
    assert np.array_equal(new_stress, alignment.scale * stress)
    assert aligned.info["level"] == TARGET.id
    assert aligned.info["energy_raw"] == -7890.0
    assert aligned.info["aligned_from"] == SOURCE.id
    assert aligned.info["flags"] == ["checked", "aligned"]
    assert frame.info["flags"] == ["checked"]
    restored = alignment.invert(aligned)
    for old, new in zip(labels_of(frame), labels_of(restored), strict=True):
        assert np.allclose(old, new, atol=1e-9, rtol=0)
    assert restored.info["level"] == SOURCE.id
    assert restored.info["flags"] == ["checked"]
    assert "energy_raw" not in restored.info


def test_isolated_atoms_land_exactly_on_the_target() -> None:
    alignment = _alignment()
    for element, energy in E0_SOURCE.items():
        aligned = alignment.apply(attach_labels(Atoms(element), energy))
        assert labels_of(aligned)[0] == pytest.approx(E0_TARGET[element], abs=1e-9)


def test_missing_labels_stay_missing() -> None:
    aligned = _alignment().apply(attach_labels(Atoms("SiH", positions=[[0, 0, 0], [1.5, 0, 0]]), -7890.0))
    assert labels_of(aligned)[1:] == (None, None)


def test_forces_may_be_left_alone() -> None:
    alignment = _alignment(scale_forces=False)
    frame = attach_labels(Atoms("SiH", positions=[[0, 0, 0], [1.5, 0, 0]]), -7890.0, np.ones((2, 3)))
    assert (labels_of(alignment.apply(frame))[1] == 1).all()


@pytest.mark.parametrize("mode", ["atoms", "overlap"])
def test_identity_leaves_every_bit(mode: Any) -> None:
    source, _, _ = levels()
    known = E0_SOURCE if mode == "atoms" else None
    alignment = fit(source, target=source, target_level=SOURCE, mode=mode, target_isolated_energies=known)
    assert alignment.scale == 1.0
    assert set(alignment.shifts.values()) == {0.0}
    for frame in source:
        for old, new in zip(labels_of(frame), labels_of(alignment.apply(frame)), strict=True):
            assert np.array_equal(old, new) if old is not None else new is None  # type: ignore[arg-type]


def test_frames_of_other_levels_and_elements_are_refused() -> None:
    alignment = _alignment()
    frame = attach_labels(Atoms("SiH", positions=[[0, 0, 0], [1.5, 0, 0]]), -7890.0)
    with pytest.raises(AlignmentError, match=TARGET.id):
        alignment.apply(alignment.apply(frame))
    frame.info["level"] = SOURCE.id
    with pytest.raises(AlignmentError, match=SOURCE.id):
        alignment.invert(frame)
    with pytest.raises(AlignmentError, match="Ge"):
        alignment.apply(attach_labels(Atoms("GeH", positions=[[0, 0, 0], [1.5, 0, 0]]), -1.0))
    with pytest.raises(AlignmentError, match="no energy"):
        alignment.apply(Atoms("H2", positions=[[0, 0, 0], [0.7, 0, 0]]))


def test_file_and_document(tmp_path: Path) -> None:
    alignment = _alignment()
    path = alignment.save(tmp_path / "alignment.json")
    assert Alignment.load(path) == alignment
    assert [item.name for item in tmp_path.iterdir()] == ["alignment.json"]
    document = alignment.document(Artifact(uri="x", sha256="y", size=1), n_aligned=7)
    assert document.n_aligned == 7
    steps = {"raw", "icea", "aec", "cross_validated", "least_squares", "least_squares_cross_validated"}
    assert set(document.metrics) == steps
    assert set(document.points[0]) == {"formula", "n_atoms", "target", *steps}
    with pytest.raises(AlignmentError, match="nothing"):
        Alignment.load(tmp_path / "nothing.json")
    path.write_text("{}")
    with pytest.raises(AlignmentError, match=r"alignment\.json"):
        Alignment.load(path)


# -- the report ----------------------------------------------------------------------------------


def test_report_numbers() -> None:
    source, _, target = levels(60, noise=0.02)
    report = fit(source, target=target, target_isolated_energies=E0_TARGET).report
    metrics = report.metrics
    assert metrics["raw"].rmse > metrics["icea"].rmse > metrics["aec"].rmse
    # The scale's effect, 3.7 % of 1 to 6 eV/atom, is above the noise; shifts per element cannot mimic it.
    assert metrics["least_squares"].rmse > 1.5 * metrics["aec"].rmse
    assert metrics["aec"].rmse == pytest.approx(0.02, rel=0.3)
    assert metrics["aec"].rmse <= metrics["cross_validated"].rmse < 1.1 * metrics["aec"].rmse
    assert report.n_overlap == 60
    assert "by formula" in report.cross_validation
    assert report.overlap_per_element == {
        element: sum(element in atoms.symbols for atoms in source) for element in ELEMENTS
    }
    errors = [point["aec"] - point["target"] for point in report.points]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(metrics["aec"].rmse)


def test_cross_validation_says_when_formulas_are_few() -> None:
    base = [Atoms("SiH4", positions=np.random.default_rng(i).normal(size=(5, 3))) for i in range(8)]
    base += [Atoms("H2", positions=np.random.default_rng(i).normal(size=(2, 3))) for i in range(8)]
    rng = np.random.default_rng(0)
    source, bridge = [], []
    for atoms in base:
        atomization = -2.6 * len(atoms) + 0.1 * rng.normal()
        source.append(attach_labels(atoms, offset(atoms, E0_SOURCE) + atomization))
        bridge.append(attach_labels(atoms, offset(atoms, E0_BRIDGE) + 0.98 * atomization + 0.01 * rng.normal()))
    alignment = fit(
        source,
        mode="bridge",
        bridge=bridge,
        bridge_level=BRIDGE,
        bridge_isolated_energies=E0_BRIDGE,
        target_isolated_energies=E0_TARGET,
    )
    assert alignment.scale == pytest.approx(0.98, abs=0.005)
    assert "only 2 formulas" in alignment.report.cross_validation
    assert "by group" in alignment.report.cross_validation


# -- refusals ------------------------------------------------------------------------------------


def test_element_without_target_atom_is_an_error() -> None:
    source, _, target = levels()
    known = {key: value for key, value in E0_TARGET.items() if key != "O"}
    with pytest.raises(AlignmentError, match="of O at the target level"):
        fit(source, target=target, target_isolated_energies=known, force=True)


def test_element_only_in_the_target_does_not_matter() -> None:
    source, _, target = levels(elements=("C", "H"))
    _, _, more = levels(20, seed=5)
    alignment = fit(source, target=[*target, *more], target_isolated_energies=E0_TARGET)
    assert abs(alignment.scale - SCALE) < 1e-10
    assert set(alignment.shifts) == {"C", "H"}
    assert alignment.target_isolated_energies["Si"] == E0_TARGET["Si"]


def test_dependent_compositions_are_refused() -> None:
    rng = np.random.default_rng(0)
    base = [
        Atoms(["C", "O"] * int(n) + ["H"] * int(m), positions=rng.normal(size=(2 * n + m, 3)))
        for n, m in rng.integers(1, 6, size=(40, 2))
    ]
    source = [attach_labels(a, offset(a, E0_SOURCE) - len(a) * rng.uniform(1, 6)) for a in base]
    target = [
        attach_labels(a, offset(a, E0_TARGET) + SCALE * ((labels_of(s)[0] or 0) - offset(s, E0_SOURCE)))
        for a, s in zip(base, source, strict=True)
    ]
    with pytest.raises(AlignmentError, match="determine 3 of 4 parameters"):
        fit(source, target=target, mode="overlap")
    # Forced, the alignment holds for compositions like those it has seen.
    alignment = fit(source, target=target, mode="overlap", force=True)
    assert alignment.report.overridden
    assert alignment.report.metrics["aec"].rmse < 1e-6


def test_rare_elements_are_refused_only_where_the_atom_is_unknown() -> None:
    source, _, target = levels(40, elements=("C", "H"))
    rare_source, _, rare_target = levels(9, seed=9, elements=("C", "Si"))
    with pytest.raises(AlignmentError, match=r"Si has no isolated-atom energy.* fewer than 10"):
        fit([*source, *rare_source], target=[*target, *rare_target], mode="overlap")
    fit([*source, *rare_source], target=[*target, *rare_target], target_isolated_energies=E0_TARGET)


@pytest.mark.parametrize("scale", [0.75, 1.25])
def test_extreme_scales_are_refused(scale: float) -> None:
    with pytest.raises(AlignmentError, match="further from 1"):
        _alignment(scale)
    assert _alignment(scale, force=True).scale == pytest.approx(scale)


def test_bad_cross_validation_is_refused() -> None:
    # Every formula has its own offset: a fit with as many shifts as formulas explains all and predicts
    # nothing.
    rng = np.random.default_rng(3)
    elements = ("B", "C", "F", "H", "N", "O", "S", "Si")
    source, target = [], []
    zero = dict.fromkeys(elements, 0.0)
    for number in range(12):
        symbols = [*elements, *[str(s) for s in rng.choice(elements, size=number % 5 + 1)]]
        atoms = Atoms(symbols, positions=rng.normal(size=(len(symbols), 3)))
        energy = -4.0 * len(atoms) + rng.normal()
        source.append(attach_labels(atoms, energy))
        target.append(attach_labels(atoms, energy + 3 * rng.normal() * len(atoms)))
    with pytest.raises(AlignmentError, match="cross-validated RMSE"):
        fit(
            source,
            target=target,
            mode="overlap",
            source_isolated_energies=zero,
            settings=AlignmentSettings(huber_factor=0),
        )


def test_too_little_overlap() -> None:
    source, _, target = levels()
    with pytest.raises(AlignmentError, match="Only 2 structures"):
        fit(source, target=target[:2], target_isolated_energies=E0_TARGET, force=True)


def test_what_a_mode_needs() -> None:
    source, bridge, _ = levels()
    with pytest.raises(AlignmentError, match="predictor"):
        fit(source, mode="model")
    with pytest.raises(AlignmentError, match="bridge level"):
        fit(source, mode="bridge", bridge=bridge)
    with pytest.raises(AlignmentError, match="at the bridge level"):
        fit(source, mode="bridge", bridge=bridge, bridge_level=BRIDGE, target_isolated_energies=E0_TARGET)
    with pytest.raises(AlignmentError, match="Modes: atoms"):
        fit(source, mode="magic")


def test_contradicting_energies_are_refused() -> None:
    source, _, target = levels()
    energy = labels_of(target[0])[0] or 0
    again = attach_labels(target[0], energy + 1)
    with pytest.raises(AlignmentError, match="two energies"):
        fit(source, target=[*target, again], target_isolated_energies=E0_TARGET)


def test_molecules_in_boxes_match() -> None:
    source, _, target = levels()
    boxed = []
    for atoms in target:
        energy, forces, _ = labels_of(atoms)
        moved = atoms.copy()
        moved.cell = [20.0, 20.0, 20.0]
        moved.pbc = True
        moved.positions += 10.0
        boxed.append(attach_labels(moved, energy, forces))
    with pytest.raises(AlignmentError, match="molecule_key"):
        fit(source, target=boxed, target_isolated_energies=E0_TARGET)
    alignment = fit(source, target=boxed, target_isolated_energies=E0_TARGET, key=molecule_key)
    assert abs(alignment.scale - SCALE) < 1e-10
