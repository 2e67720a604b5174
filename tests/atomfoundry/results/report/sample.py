"""Documents as a finished quickstart would leave them, made from seeded random numbers."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np

from atomfoundry.documents import (
    AlignmentDoc,
    Artifact,
    BenchmarkDoc,
    DatasetDoc,
    ElementMetrics,
    EnergyMetrics,
    EpochRecord,
    ErrorMetrics,
    ForgettingDoc,
    ForgettingRecord,
    HeadDoc,
    JobReference,
    LabelFailure,
    LabelSetDoc,
    LevelOfTheory,
    ModelDoc,
    Provenance,
    SelectionDoc,
    StructureSetDoc,
    TrajectoryRecord,
    UncertaintyDoc,
)
from atomfoundry.results.report import DatasetArrays, Predictions, ReportInputs

BEGIN = datetime(2025, 3, 14, 9, 12, 5, tzinfo=UTC)

PW = LevelOfTheory(code="espresso", method="PBE", cutoff=408.0, pseudopotentials="SPMS-PBE-v1.0", spin="auto")
HYBRID = LevelOfTheory(code="pyscf", method="wB97M-D3(BJ)", basis="def2-SVP", dispersion="D3(BJ)")
BRIDGE = LevelOfTheory(code="pyscf", method="PBE", basis="def2-SVP")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def uuid(text: str) -> str:
    h = digest(text)
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:32]}"


def artifact(name: str, size: int, media: str = "application/vnd.atomfoundry.dataset") -> Artifact:
    sha = digest(name)
    return Artifact(uri=f"{sha[:2]}/{sha}", sha256=sha, size=size, media_type=media)


def provenance(job: str, *, wall: float = 1.0, start: float = 0.0, memory: float = 240.0) -> Provenance:
    return Provenance(
        job_uuid=uuid(job),
        job_name=job,
        inputs=[JobReference(uuid=uuid("structures"))],
        code_version="0.1.0",
        git_commit="83ea426c0ffee",
        packages={"torch": "2.13.0", "e3nn": "0.6.0", "ase": "3.29.0", "jobflow": "0.4.0", "numpy": "2.3.1"},
        host="laptop",
        device="cpu",
        seed=7,
        settings_hash=digest("settings")[:16],
        started_at=(BEGIN + timedelta(seconds=start)).isoformat(),
        wall_time_s=wall,
        peak_memory_mb=memory,
    )


# name, stage, start, wall, parents, counts, extra
JOBS = [
    ("build structures", "structures", 0, 1.4, [], "4 structures: Si, SiH4, Si2H6, Si3H8", {}),
    ("strain crystals", "sampling", 1.5, 0.8, ["build structures"], "42 structures", {}),
    ("rattle crystals", "sampling", 1.5, 0.7, ["build structures"], "60 structures", {}),
    ("rattle molecules", "sampling", 1.6, 0.6, ["build structures"], "48 structures", {}),
    ("isolated atoms", "sampling", 1.6, 0.2, ["build structures"], "2 atoms", {}),
    *(
        (
            f"label crystals PBE {i}",
            "labels",
            3 + 11 * ((i - 1) // 2),
            10.5 + i % 3,
            ["strain crystals", "rattle crystals", "isolated atoms"],
            "",
            {"n_labels": 17, "n_reused": 2 if i == 1 else 0, "n_failed": 1 if i in (3, 5) else 0},
        )
        for i in range(1, 7)
    ),
    *(
        (
            f"label molecules hybrid {i}",
            "labels",
            37 + 9 * ((i - 1) // 2),
            8.2 + i % 2,
            ["rattle molecules", "isolated atoms"],
            "",
            {"n_labels": 12, "n_reused": 0, "n_failed": 0},
        )
        for i in range(1, 5)
    ),
    *(
        (
            f"label bridge PBE {i}",
            "labels",
            56 + 5 * (i - 1),
            5.1,
            ["rattle molecules", "isolated atoms"],
            "",
            {"n_labels": 12, "n_reused": 0, "n_failed": 0},
        )
        for i in range(1, 3)
    ),
    (
        "harvest crystals",
        "dataset",
        38,
        1.1,
        [f"label crystals PBE {i}" for i in range(1, 7)],
        "100 frames, 2 refused",
        {},
    ),
    (
        "harvest molecules",
        "dataset",
        67,
        1.0,
        [f"label molecules hybrid {i}" for i in range(1, 5)] + [f"label bridge PBE {i}" for i in (1, 2)],
        "72 frames",
        {},
    ),
    ("align energies", "alignment", 68.5, 0.9, ["harvest molecules", "harvest crystals"], "scale 0.9871", {}),
    ("merge datasets", "dataset", 69.6, 0.8, ["align energies", "harvest crystals"], "148 frames", {}),
    ("train base model", "training", 70.6, 96.0, ["merge datasets"], "44,390 parameters, 120 epochs", {}),
    ("label fine-tuning set", "labels", 70.6, 22.0, ["build structures"], "", {"n_labels": 24}),
    (
        "fine-tune naive",
        "fine-tuning",
        167,
        18.0,
        ["train base model", "label fine-tuning set"],
        "40 epochs",
        {},
    ),
    (
        "fine-tune replay",
        "fine-tuning",
        167,
        27.5,
        ["train base model", "label fine-tuning set", "merge datasets"],
        "40 epochs, 60 replayed",
        {},
    ),
    (
        "measure forgetting",
        "fine-tuning",
        195,
        2.2,
        ["fine-tune naive", "fine-tune replay", "train base model"],
        "12 ratios",
        {},
    ),
    ("fit uncertainty", "active learning", 185.5, 4.6, ["train base model", "merge datasets"], "1 head", {}),
    (
        "explore with MD",
        "active learning",
        196,
        21.0,
        ["fit uncertainty", "train base model"],
        "4 runs, 61 flagged",
        {},
    ),
    ("select frames", "active learning", 217.5, 0.9, ["explore with MD", "merge datasets"], "12 of 61", {}),
    ("label selected", "active learning", 1100, 16.5, ["select frames"], "", {"n_labels": 12, "n_failed": 1}),
    ("train again", "active learning", 1117, 44.0, ["label selected", "train base model"], "55 epochs", {}),
    ("equation of state", "benchmarks", 1161.5, 2.4, ["train again"], "11 volumes", {}),
    ("elastic constants", "benchmarks", 1161.5, 3.0, ["train again"], "24 strains", {}),
    ("NVE drift", "benchmarks", 1164.5, 14.0, ["train again"], "5 ps", {}),
    ("diatomic curve", "benchmarks", 1164.6, 1.0, ["train again"], "120 distances", {}),
    ("label EOS", "labels", 93.0, 13.0, ["build structures"], "", {"n_labels": 35, "n_reused": 9}),
    (
        "write report",
        "report",
        1179,
        0.8,
        [
            "equation of state",
            "elastic constants",
            "NVE drift",
            "diatomic curve",
            "label EOS",
            "measure forgetting",
            "align energies",
            "select frames",
        ],
        "one HTML file",
        {},
    ),
]


def jobs() -> list[dict]:
    return [
        {
            "uuid": uuid(name),
            "name": name,
            "stage": stage,
            "state": "completed",
            "start": (BEGIN + timedelta(seconds=start)).isoformat(),
            "wall_time_s": wall,
            "parents": [uuid(p) for p in parents],
            "counts": counts,
            "peak_memory_mb": 180.0 + 20 * len(name),
            **extra,
        }
        for name, stage, start, wall, parents, counts, extra in JOBS
    ]


def structure_sets() -> list[StructureSetDoc]:
    return [
        StructureSetDoc(
            name="crystals",
            n_structures=102,
            formulas={"Si": 102},
            samplings={"strain": 42, "rattle": 60},
            elements=["Si"],
            structures=artifact("structures crystals", 81_230),
            provenance=provenance("rattle crystals"),
        ),
        StructureSetDoc(
            name="molecules",
            n_structures=48,
            formulas={"SiH4": 16, "SiH3": 16, "Si3H8": 16},
            samplings={"rattle": 48},
            elements=["H", "Si"],
            structures=artifact("structures molecules", 44_100),
            provenance=provenance("rattle molecules"),
        ),
    ]


def label_sets() -> list[LabelSetDoc]:
    failures = [
        LabelFailure(
            frame_id=digest("bad 1")[:32],
            reason="unconverged",
            message="The self-consistent field did not converge in 100 steps.",
            formula="Si8",
            source="rattle 0.30 A, 41",
        ),
        LabelFailure(
            frame_id=digest("bad 2")[:32],
            reason="crashed",
            message="pw.x ended with code 1: error in routine cdiaghg (2): S matrix not positive definite",
            formula="Si2",
            source="strain -0.10",
        ),
    ]
    return [
        LabelSetDoc(
            name="crystals",
            engine="espresso",
            level=PW,
            level_id=PW.id,
            n_requested=104,
            n_labelled=102,
            n_reused=2,
            n_failed=2,
            failures=failures,
            compute_time_s=68.4,
            frames=artifact("labels crystals", 190_400),
            provenance=provenance("harvest crystals"),
        ),
        LabelSetDoc(
            name="molecules",
            engine="pyscf",
            level=HYBRID,
            level_id=HYBRID.id,
            n_requested=48,
            n_labelled=48,
            compute_time_s=35.1,
            frames=artifact("labels molecules", 88_000),
            provenance=provenance("harvest molecules"),
        ),
        LabelSetDoc(
            name="bridge",
            engine="pyscf",
            level=BRIDGE,
            level_id=BRIDGE.id,
            n_requested=24,
            n_labelled=24,
            compute_time_s=10.2,
            frames=artifact("labels bridge", 41_000),
            provenance=provenance("harvest molecules"),
        ),
    ]


def datasets() -> list[DatasetDoc]:
    return [
        DatasetDoc(
            name="crystals",
            dataset=artifact("dataset crystals", 181_000),
            n_frames=100,
            n_atoms=560,
            elements={"Si": 560},
            level=PW,
            level_ids=[PW.id],
            isolated_energies={"Si": -101.2234},
            splits={"train": 80, "valid": 10, "test": 10},
            samplings={"strain": 42, "rattle": 58},
            rejections={"forces_too_large": 2},
            energy_range=(-5.41, -4.02),
            max_force=6.31,
            provenance=provenance("harvest crystals"),
        ),
        DatasetDoc(
            name="merged",
            dataset=artifact("dataset merged", 262_000),
            n_frames=148,
            n_atoms=844,
            elements={"Si": 644, "H": 200},
            level=None,
            level_ids=[PW.id, HYBRID.id],
            isolated_energies={"Si": -101.2234, "H": -13.5512},
            splits={"train": 118, "valid": 15, "test": 15},
            energy_range=(-5.41, -2.73),
            max_force=7.88,
            provenance=provenance("merge datasets"),
        ),
    ]


def dataset_arrays() -> list[DatasetArrays]:
    rng = np.random.default_rng(1)
    energies = np.concatenate([-5.42 + rng.gamma(1.3, 0.22, 100), -3.2 + rng.normal(0, 0.15, 48)])
    return [DatasetArrays(name="merged", energies=energies, forces=rng.gamma(1.4, 0.9, 844))]


def alignments() -> list[AlignmentDoc]:
    rng = np.random.default_rng(2)
    points = []
    for i in range(24):
        formula = ["SiH4", "Si2H6", "Si3H8"][i % 3]
        target = -[2.72, 2.91, 2.98][i % 3] + rng.normal(0, 0.06)
        points.append(
            {
                "formula": formula,
                "n_atoms": [5, 8, 11][i % 3],
                "target": target,
                "raw": target - 1500 + 310 * (i % 3) + rng.normal(0, 0.02),
                "icea": target * 1.013 + rng.normal(0, 0.006),
                "aec": target + rng.normal(0, 0.006),
            }
        )
    return [
        AlignmentDoc(
            mode="bridge",
            source_level=HYBRID,
            target_level=PW,
            bridge_level=BRIDGE,
            scale=0.98713,
            source_isolated_energies={"H": -13.4, "Si": -7876.31},
            target_isolated_energies={"H": -13.5512, "Si": -101.2234},
            shifts={"H": -0.1512, "Si": 7775.0866},
            n_overlap=24,
            overlap_per_element={"H": 24, "Si": 24},
            metrics={
                "raw": EnergyMetrics(rmse=1298.7, mae=1277.1, r2=-1.2e8, n=24),
                "icea": EnergyMetrics(rmse=0.0386, mae=0.0374, r2=0.8861, n=24),
                "aec": EnergyMetrics(rmse=0.00613, mae=0.00489, r2=0.9971, n=24),
                "cross_validated": EnergyMetrics(rmse=0.00702, mae=0.00551, r2=0.9962, n=24),
            },
            residuals_per_element={"H": 0.0011, "Si": -0.0018},
            points=points,
            alignment=artifact("alignment", 2_410, "application/json"),
            dataset=artifact("dataset aligned", 90_000),
            n_aligned=48,
            provenance=provenance("align energies"),
        )
    ]


def history(n: int, start: float, end: float, seed: int) -> list[EpochRecord]:
    rng = np.random.default_rng(seed)
    decay = end + (start - end) * np.exp(-np.arange(n) / (n / 5))
    noise = np.exp(rng.normal(0, 0.06, (n, 4)))
    return [
        EpochRecord(
            epoch=i + 1,
            train_loss=float(decay[i] ** 1.5 * 0.8 * noise[i, 0]),
            valid_loss=float(decay[i] ** 1.5 * noise[i, 1]),
            learning_rate=5e-3 * 0.98**i,
            energy_mae=float(0.1 * decay[i] * noise[i, 2]),
            forces_mae=float(decay[i] * noise[i, 3]),
            stress_mae=float(0.004 * decay[i]),
            wall_time_s=0.8 * i,
        )
        for i in range(n)
    ]


def metrics(head: str, scale: float) -> list[ErrorMetrics]:
    found = []
    for split, n, factor in (("train", 118, 0.8), ("valid", 15, 1.0), ("test", 15, 1.05)):
        f = scale * factor
        found.append(
            ErrorMetrics(
                split=split,
                head=head,
                n_frames=n,
                energy_mae=0.00412 * f,
                energy_rmse=0.00574 * f,
                energy_r2=1 - 0.0008 * f,
                forces_mae=0.0473 * f,
                forces_rmse=0.0698 * f,
                forces_r2=1 - 0.004 * f,
                stress_mae=0.00072 * f,
                stress_rmse=0.00104 * f,
                stress_r2=1 - 0.006 * f,
            )
        )
    return found


def element_metrics(head: str, scale: float) -> list[ElementMetrics]:
    return [
        ElementMetrics(
            split=split,
            head=head,
            element=element,
            n_atoms=n,
            forces_mae=0.0473 * scale * share,
            forces_rmse=0.0698 * scale * share,
            energy_mae=0.00412 * scale,
            alerts=["few_atoms"] if n < 100 else [],
        )
        for split, n_silicon in (("train", 820), ("valid", 106), ("test", 104))
        for element, n, share in (("Si", n_silicon, 1.02), ("H", n_silicon // 8, 0.71))
    ]


def predictions(heads: list[str], scale: float, seed: int, n_test: int = 15) -> Predictions:
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {
        name: []
        for name in (
            "split", "head", "energy_ref", "energy_pred", "forces_ref", "forces_pred",
            "stress_ref", "stress_pred",
        )
    }  # fmt: skip
    for head in heads:
        for split, n in (("train", 118), ("valid", 15), ("test", n_test)):
            for i in range(n):
                crystal = i % 3 != 0
                ref = (-5.42 + rng.gamma(1.3, 0.22)) if crystal else -3.2 + rng.normal(0, 0.15)
                forces = rng.normal(0, 1.1, 24 if crystal else 15)
                stress = rng.normal(0, 0.03, 6)
                columns["split"].append(split)
                columns["head"].append(head)
                columns["energy_ref"].append(ref)
                columns["energy_pred"].append(ref + rng.normal(0, 0.0055 * scale))
                columns["forces_ref"].append(forces)
                columns["forces_pred"].append(forces + rng.laplace(0, 0.05 * scale, forces.size))
                columns["stress_ref"].append(stress if crystal else None)
                columns["stress_pred"].append(stress + rng.normal(0, 0.001 * scale, 6) if crystal else None)
    return Predictions.from_arrays(columns)


def models() -> list[ModelDoc]:
    found = []
    for kind, job, heads, n, scale in (
        ("base", "train base model", ["default"], 120, 1.2),
        ("naive", "fine-tune naive", ["default"], 40, 3.0),
        ("replay", "fine-tune replay", ["pt", "ft"], 40, 1.3),
        ("active_learning", "train again", ["default"], 55, 1.0),
    ):
        found.append(
            ModelDoc(
                name=f"silicon {kind.replace('_', ' ')}",
                kind=kind,
                architecture="Allegro FM64",
                n_parameters=44_390 + 64 * (len(heads) - 1),
                elements=["H", "Si"],
                heads=[HeadDoc(name=head, level_id=PW.id) for head in heads],
                model=artifact(f"model {kind}", 231_000, "application/vnd.atomfoundry.model"),
                predictions=artifact(f"predictions {kind}", 61_000, "application/vnd.apache.parquet"),
                metrics=[m for head in heads for m in metrics(head, scale)],
                element_metrics=[m for head in heads for m in element_metrics(head, scale)],
                history=history(n, 1.4 if kind == "base" else 0.3, 0.05 * scale, seed=len(found)),
                stop_reason="early_stop" if kind == "base" else "max_epochs",
                n_epochs=n,
                training_time_s=0.8 * n,
                provenance=provenance(job, wall=0.8 * n, memory=910.0),
            )
        )
    return found


def forgetting() -> ForgettingDoc:
    records = []
    for method, head, ratios in (
        ("naive", "default", (11.8, 4.02, 6.3)),
        ("replay", "pt", (1.07, 1.12, 0.98)),
        ("replay", "ft", (2.4, 1.9, 1.6)),
    ):
        for quantity, before, ratio in zip(
            ("energy", "forces", "stress"), (0.00602, 0.0733, 0.00109), ratios, strict=True
        ):
            records.append(
                ForgettingRecord(
                    method=method,
                    head=head,
                    task="crystals and molecules",
                    quantity=quantity,
                    before=before,
                    after=before * ratio,
                    ratio=ratio,
                )
            )
    base = metrics("default", 9.0)[2]
    return ForgettingDoc(
        task="silicon vacancies",
        records=records,
        task_metrics={
            "pretrained": base,
            "naive": metrics("default", 1.6)[2],
            "replay": metrics("ft", 1.5)[2],
        },
        n_replay=60,
        provenance=provenance("measure forgetting"),
    )


def uncertainty() -> UncertaintyDoc:
    rng = np.random.default_rng(4)
    sigma = np.exp(rng.normal(np.log(0.005), 0.7, 90))
    points = [
        {"head": "default", "sigma": float(s), "error": float(e)}
        for s, e in zip(sigma, rng.normal(0, sigma), strict=True)
    ]
    return UncertaintyDoc(
        model_sha256=digest("model base"),
        heads=["default"],
        alpha={"default": 0.0317},
        ridge={"default": 1e-8},
        quantiles={"default/energy": 1.71, "default/forces": 2.05},
        thresholds={"low": 0.32, "high": 1.6},
        n_training=118,
        n_calibration=90,
        points=points,
        llpr=artifact("llpr", 41_200),
        provenance=provenance("fit uncertainty"),
    )


def selection() -> SelectionDoc:
    rng = np.random.default_rng(5)
    runs = []
    for structure, temperature, n in (
        ("Si8", 600, 200),
        ("Si8", 1500, 200),
        ("SiH4", 600, 200),
        ("Si2H6", 1500, 74),
    ):
        trend = np.linspace(np.log(0.12), np.log(0.16 + temperature / 2500), n)
        sigma = np.exp(trend + rng.normal(0, 0.16, n))
        if n < 200:
            sigma[-3:] = [1.7, 1.9, 2.4]
        runs.append(
            TrajectoryRecord(
                structure=structure,
                temperature=temperature,
                n_steps=10 * n,
                timestep=0.5,
                stop_reason="finished" if n == 200 else "too_uncertain",
                times=[5.0 * i for i in range(n)],
                temperatures=[float(t) for t in rng.normal(temperature, 60, n)],
                sigma_max=[float(s) for s in sigma],
                n_flagged=int((sigma > 0.32).sum()),
            )
        )
    return SelectionDoc(
        round=1,
        thresholds={"low": 0.32, "high": 1.6},
        trajectories=runs,
        n_candidates=61,
        n_rejected={"too_similar": 43, "too_uncertain": 4, "atoms_too_close": 2},
        n_selected=12,
        selected=artifact("selected", 15_300),
        provenance=provenance("select frames"),
    )


def eos_records(v0: float, b0: float, e0: float, noise: float, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    records = []
    for strain in np.linspace(-0.05, 0.05, 11):
        volume = 20.4 * (1 + strain) ** 3
        eta = (v0 / volume) ** (2 / 3)
        b = b0 / 160.21766208
        energy = e0 + 9 * v0 * b / 16 * ((eta - 1) ** 3 * 4.2 + (eta - 1) ** 2 * (6 - 4 * eta))
        pressure = 1.5 * b0 * (eta**3.5 - eta**2.5) * (1 + 0.75 * 0.2 * (eta - 1))
        records.append(
            {
                "kind": "point",
                "item": f"strain {strain:+.5f}",
                "status": "ok",
                "reason": None,
                "strain": float(strain),
                "volume": float(volume),
                "energy": float(energy + rng.normal(0, noise)),
                "pressure": float(pressure),
            }
        )
    records[0] |= {"status": "failed", "reason": "unconverged", "energy": None, "pressure": None}
    return records


def benchmarks() -> list[BenchmarkDoc]:
    model, engine = "silicon active learning", "PBE/408 eV (espresso)"
    rng = np.random.default_rng(6)
    eos = BenchmarkDoc(
        benchmark="equation_of_state",
        name="equation_of_state Si",
        calculator=model,
        system="Si",
        records=eos_records(20.47, 87.4, -106.51, 2e-5, 1),
        summary={
            "V0": 20.47, "a": 5.471, "E0": -106.51, "B0": 87.4, "B0_prime": 4.2, "rmse": 2e-5, "r2": 0.99998,
            "delta": 0.81, "B0_error": -1.3, "B0_relative_error": -0.01466,
        },
        reference=engine,
        reference_summary={"V0": 20.43, "a": 5.4671, "E0": -106.52, "B0": 88.7, "B0_prime": 4.21},
        reference_records=eos_records(20.43, 88.7, -106.52, 1e-6, 2),
        n_items=11,
        n_failed=1,
        failures=[{"item": "strain -0.05000", "reason": "unconverged", "message": "no convergence"}],
        provenance=provenance("equation of state", wall=2.4),
    )  # fmt: skip
    constants = {
        "C11": 152.3,
        "C12": 58.1,
        "C44": 74.8,
        "K_VRH": 89.5,
        "G_VRH": 62.9,
        "E": 152.9,
        "nu": 0.2153,
    }
    elasticity = BenchmarkDoc(
        benchmark="elasticity",
        name="elasticity Si",
        calculator=model,
        system="Si",
        summary={**constants, "stable": True, "zener_anisotropy": 1.588},
        reference=engine,
        reference_summary={
            "C11": 153.6, "C12": 57.0, "C44": 75.6, "K_VRH": 89.2, "G_VRH": 64.1, "E": 155.2, "nu": 0.2098,
            "zener_anisotropy": 1.565,
        },
        n_items=24,
        provenance=provenance("elastic constants", wall=3.0),
    )  # fmt: skip
    times = np.linspace(0, 5, 251)
    nve = BenchmarkDoc(
        benchmark="nve_drift",
        name="nve_drift Si",
        calculator=model,
        system="Si",
        records=[
            {
                "kind": "point",
                "time": float(t),
                "energy": float(-106.4 + 8e-9 * t + rng.normal(0, 3e-5)),
                "temperature": float(300 + 18 * np.sin(9 * t) + rng.normal(0, 9)),
            }
            for t in times
        ],
        summary={
            "drift": 0.0083, "signed_drift": 0.0083, "fluctuation": 0.031, "mean_temperature": 300.6,
            "simulated_time": 5.0, "n_atoms": 64,
        },
        n_items=1,
        provenance=provenance("NVE drift", wall=14.0),
    )  # fmt: skip
    r = np.linspace(0.9, 6.0, 103)

    def morse(depth: float, r0: float) -> list[dict]:
        x = np.exp(-1.6 * (r - r0))
        energy = depth * (x**2 - 2 * x)
        force = 2 * 1.6 * depth * (x**2 - x)
        return [
            {"kind": "point", "status": "ok", "distance": float(a), "energy": float(b), "force": float(c)}
            for a, b, c in zip(r, energy, force, strict=True)
        ]

    diatomic = BenchmarkDoc(
        benchmark="diatomic",
        name="diatomic SiSi",
        calculator=model,
        system="SiSi",
        records=morse(3.1, 2.27),
        summary={
            "r_min": 2.27, "well_depth": 3.1, "energy_mae": 0.083, "force_mae": 0.31, "tortuosity": 1.0,
            "energy_flips": 1, "repulsion_pass": True,
        },
        reference=engine,
        reference_summary={"r_min": 2.254, "well_depth": 3.28, "tortuosity": 1.0, "energy_flips": 1},
        reference_records=morse(3.28, 2.254)[::6],
        n_items=103,
        provenance=provenance("diatomic curve"),
    )  # fmt: skip
    parity = BenchmarkDoc(
        benchmark="parity",
        name="parity test",
        calculator=model,
        summary={
            "energy_mae": 0.00433, "energy_rmse": 0.00603, "energy_r2": 0.9992,
            "forces_mae": 0.0497, "forces_rmse": 0.0733, "forces_r2": 0.9958,
        },
        reference="labels",
        n_items=15,
    )  # fmt: skip
    return [elasticity, eos, nve, diatomic, parity]


def targets() -> list[dict]:
    rows = [
        ("Energy MAE, held-out frames", 4.33, 10, "meV/atom", True),
        ("Force MAE, held-out frames", 49.7, 100, "meV/Å", True),
        ("Bulk modulus against the engine", 1.47, 10, "%", True),
        ("NVE drift at 300 K", 0.0083, 0.1, "meV/atom/ps", True),
        ("Forgetting of forces, replay below naive", 1.12, 4.02, "×", True),
        ("Time of the pipeline", 7.2, 6, "min", False),
        ("Coverage of the uncertainty", None, 85, "%", None),
    ]
    found = [dict(zip(("name", "value", "target", "unit", "passed"), row, strict=True)) for row in rows]
    found[-1]["direction"] = "above"
    return found


def full_inputs() -> ReportInputs:
    listed = models()
    return ReportInputs(
        title="Silicon and silanes: quickstart",
        subtitle="From plane-wave and hybrid DFT to a tested Allegro potential",
        created_at=(BEGIN + timedelta(seconds=1181)).isoformat(),
        jobs=jobs(),
        structure_sets=structure_sets(),
        label_sets=label_sets(),
        datasets=datasets(),
        dataset_arrays=dataset_arrays(),
        alignments=alignments(),
        models=listed,
        predictions={
            model.model.sha256: predictions([h.name for h in model.heads], 1.0 + i, i) for i, model in enumerate(listed)
        },
        forgetting=[forgetting()],
        uncertainties=[uncertainty()],
        selections=[selection()],
        benchmarks=benchmarks(),
        targets=targets(),
        artifacts=[
            {
                "name": "Flow as YAML",
                "kind": "flow",
                "size": 1800,
                "sha256": digest("flow"),
                "uri": "flow.yaml",
                "job_uuid": "",
            }
        ],
        environment={
            "Python": "3.12.3",
            "Operating system": "Linux 6.8",
            "Processor": "2 cores",
            "Quantum ESPRESSO": "7.4",
        },
    )
