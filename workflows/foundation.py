"""The main job: from structures to a tested model, through every stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jobflow import Flow, Maker

from atomfoundry.makers.active_learning import ExploreMaker, SelectedStructuresMaker
from atomfoundry.makers.align import AlignMaker
from atomfoundry.makers.benchmark import BenchmarkMaker, BenchmarkStructuresMaker
from atomfoundry.makers.dataset import DatasetMaker
from atomfoundry.makers.finetune import FineTuneMaker, ForgettingMaker
from atomfoundry.makers.label import LabelMaker
from atomfoundry.makers.report import ReportMaker
from atomfoundry.makers.sampling import IsolatedAtomsMaker, SampleMaker
from atomfoundry.makers.sources import StructuresMaker
from atomfoundry.makers.train import TrainMaker
from atomfoundry.makers.uncertainty import UncertaintyMaker

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import Self

    from jobflow import Job


@dataclass
class FoundationFlowMaker(Maker):
    """Structures -> labels at two levels -> alignment -> model -> fine-tuning -> active learning -> benchmarks.

    Parameters
    ----------
    name
        Name of the flow.
    seed
        Added to the seed of every random step.
    crystals, molecules
        Where the structures come from. Without molecules there is nothing to align.
    task
        Structures of the fine-tuning task; ``None``: strongly compressed cells of the crystals.
    crystal_sampling, molecule_sampling, task_sampling
        How they are strained and rattled.
    crystal_labels, molecule_labels, bridge_labels
        Engines of the target level, of the source level, and of the bridge level (target functional, source basis);
        without a bridge the molecules are computed at the target level for the overlap.
    dataset, task_dataset, align, train, finetune, uncertainty, explore, retrain
        The stages.
    benchmarks
        Properties of the final model, each next to the label engine's own value where that can be computed.
    report
        The report.
    """

    name: str = "foundation"
    seed: int = 0
    crystals: StructuresMaker = field(
        default_factory=lambda: StructuresMaker(name="crystals", presets=["silicon"], cell="primitive")
    )
    molecules: StructuresMaker | None = field(
        default_factory=lambda: StructuresMaker(name="molecules", presets=["silanes"])
    )
    task: StructuresMaker | None = field(
        default_factory=lambda: StructuresMaker(name="task structures", presets=["silicon_beta_tin"], cell="primitive")
    )
    crystal_sampling: SampleMaker = field(default_factory=lambda: SampleMaker(name="sample crystals"))
    molecule_sampling: SampleMaker = field(default_factory=lambda: SampleMaker(name="sample molecules"))
    task_sampling: SampleMaker = field(default_factory=lambda: SampleMaker(name="sample task"))
    crystal_labels: LabelMaker = field(default_factory=lambda: LabelMaker(engine="espresso"))
    molecule_labels: LabelMaker = field(default_factory=lambda: LabelMaker(engine="pyscf"))
    bridge_labels: LabelMaker | None = field(
        default_factory=lambda: LabelMaker(engine="pyscf", engine_settings={"functional": "PBE", "basis": "def2-SVP"})
    )
    dataset: DatasetMaker = field(default_factory=lambda: DatasetMaker(name="dataset"))
    task_dataset: DatasetMaker = field(default_factory=lambda: DatasetMaker(name="task dataset"))
    align: AlignMaker = field(default_factory=AlignMaker)
    train: TrainMaker = field(default_factory=lambda: TrainMaker(name="train"))
    finetune: FineTuneMaker = field(default_factory=FineTuneMaker)
    uncertainty: UncertaintyMaker = field(default_factory=UncertaintyMaker)
    explore: ExploreMaker = field(default_factory=ExploreMaker)
    retrain: TrainMaker = field(default_factory=lambda: TrainMaker(name="retrain"))
    benchmarks: list[BenchmarkMaker] = field(default_factory=list)
    report: ReportMaker = field(default_factory=ReportMaker)

    def with_engine(self, engine: str) -> Self:
        """Return a copy whose crystals are labelled by another engine (and molecules, too, if it is ``xtb``)."""
        from atomfoundry.engines import get_engine

        get_engine(engine)
        if engine == self.crystal_labels.engine:
            return self
        maker = replace(self, crystal_labels=replace(self.crystal_labels, engine=engine, engine_settings={}))
        if engine == "xtb":
            maker = replace(
                maker,
                molecule_labels=replace(self.molecule_labels, engine="xtb", engine_settings={"method": "GFN2-xTB"}),
                bridge_labels=None,
                # two tight-binding methods differ far more in their free atoms than two functionals do
                align=replace(self.align, mode="atoms", force=True),
            )
        return maker

    def with_structures(self, files: Iterable[str | Path], *, keep: Iterable[str] = ()) -> Self:
        """Return a copy that starts from the user's files: 3-D periodic ones are crystals, the others molecules.

        The crystal engine's settings are made to serve any crystal of their elements.

        Parameters
        ----------
        files
            Structure files.
        keep
            Settings of the crystal engine that stay as they are: those that the user chose.

        Raises
        ------
        StructureError
            If a file mixes crystals and molecules, or there is no crystal.
        """
        from atomfoundry.engines import get_engine
        from atomfoundry.errors import StructureError
        from atomfoundry.sources import fetch_structures

        crystals: list[str | Path] = []
        molecules: list[str | Path] = []
        elements: set[str] = set()
        for path in files:
            structures = fetch_structures([path])
            elements |= {symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}
            kinds = {bool(atoms.pbc.all()) for atoms in structures}
            if len(kinds) > 1:
                raise StructureError(
                    f"{path} mixes periodic and non-periodic structures.", remedy="Split it into two files."
                )
            (crystals if kinds.pop() else molecules).append(path)
        if not crystals:
            raise StructureError(
                "None of the given structures is periodic in three dimensions.",
                remedy="Give at least one crystal: the model's base level and the benchmarks need it.",
            )
        labels = self.crystal_labels
        settings = get_engine(labels.engine, **labels.engine_settings).settings_for(elements)
        settings |= {key: labels.engine_settings[key] for key in keep if key in labels.engine_settings}
        return replace(
            self,
            crystal_labels=replace(labels, engine_settings=settings),
            crystals=StructuresMaker.from_files(crystals, name="crystals"),
            molecules=StructuresMaker.from_files(molecules, name="molecules") if molecules else None,
            task=None,
            task_sampling=replace(self.task_sampling, hydrostatic=(-0.16, -0.12, 3)),
        )

    def check(self) -> None:
        """Check everything that can be checked before anything runs.

        Raises
        ------
        InputError
            A bad structure file, an engine that is not there, an element that an engine does not support.
        """
        from atomfoundry.engines import get_engine

        plan: list[tuple[LabelMaker, StructuresMaker]] = [(self.crystal_labels, self.crystals)]
        if self.task is not None:
            plan.append((self.crystal_labels, self.task))
        if self.molecules is not None:
            plan.append((self.molecule_labels, self.molecules))
            plan.append((self.bridge_labels or self.crystal_labels, self.molecules))
            # free atoms of the molecules' elements are computed at the crystals' level too
            plan.append((self.crystal_labels, self.molecules))
        for labels, source in plan:
            engine = get_engine(labels.engine, **labels.engine_settings)
            engine.check_available()
            for atoms in source.structures():
                engine.check_elements(atoms.get_chemical_symbols())

    def make(self) -> Flow:
        """Make the flow; its output is the report."""
        jobs: list[Job | Flow] = []

        def add(job: Job | Flow, stage: str, priority: int = 0) -> Job | Flow:
            job.update_metadata({"stage": stage, "priority": priority}, dynamic=True)
            jobs.append(job)
            return job

        def label(
            maker: LabelMaker, name: str, structures: Job | Flow, *, stage: str = "labels", priority: int = 0
        ) -> Job | Flow:
            return add(replace(maker, name=f"label {name}").make(structures.output), stage, priority)

        seeded = self._seeded()
        # structures and sampling
        crystals = add(seeded.crystals.make(), "structures")
        molecules = add(seeded.molecules.make(), "structures") if seeded.molecules else None
        task = add(seeded.task.make(), "structures") if seeded.task else crystals
        sampled = add(seeded.crystal_sampling.make(crystals.output), "sampling")
        sources = [crystals.output] + ([molecules.output] if molecules else [])
        atoms = add(IsolatedAtomsMaker(name="isolated atoms").make(sources), "sampling")
        sampled_molecules = add(seeded.molecule_sampling.make(molecules.output), "sampling") if molecules else None
        sampled_task = add(seeded.task_sampling.make(task.output), "sampling")
        to_label = {
            maker.name: add(BenchmarkStructuresMaker.of(maker).make(crystals.output), "sampling")
            for maker in seeded.benchmarks
            if maker.reference == "crystals" or (maker.reference and molecules)
        }

        # labels at every level
        crystal_labels = label(seeded.crystal_labels, "crystals", sampled, priority=3)
        crystal_atoms = label(seeded.crystal_labels, "atoms (crystal level)", atoms, priority=4)
        alignment: Job | Flow | None = None
        molecule_labels = None
        if molecules is not None:
            bridge = seeded.bridge_labels or seeded.crystal_labels
            molecule_atoms = add(IsolatedAtomsMaker(name="molecules' atoms").make([molecules.output]), "sampling")
            molecule_labels = label(seeded.molecule_labels, "molecules", sampled_molecules, priority=2)
            source_atoms = label(seeded.molecule_labels, "atoms (molecule level)", molecule_atoms, priority=2)
            overlap = label(bridge, "molecules (bridge)", sampled_molecules, priority=2)
            overlap_atoms = label(bridge, "atoms (bridge)", molecule_atoms, priority=2)
            alignment = add(
                seeded.align.make(
                    source=molecule_labels.output,
                    source_isolated=source_atoms.output,
                    target_isolated=crystal_atoms.output,
                    overlap=overlap.output,
                    overlap_isolated=overlap_atoms.output,
                ),
                "alignment",
            )
        task_labels = label(seeded.crystal_labels, "task", sampled_task)
        engines = {"crystals": seeded.crystal_labels, "molecules": seeded.molecule_labels}
        references = {
            maker.name: label(engines[maker.reference], f"{maker.name} reference", to_label[maker.name])
            for maker in seeded.benchmarks
            if maker.name in to_label and maker.reference is not None
        }

        # datasets, base model, fine-tuning
        dataset = add(
            seeded.dataset.make(
                labels=[crystal_labels.output],
                isolated=crystal_atoms.output,
                alignments=[alignment.output] if alignment else None,
            ),
            "dataset",
        )
        base = add(seeded.train.make({"pt": dataset.output}), "training", priority=5)
        task_dataset = add(
            seeded.task_dataset.make(labels=[task_labels.output], isolated=crystal_atoms.output), "dataset"
        )
        naive = add(
            replace(seeded.finetune, name="fine-tune, naive", method="naive").make(
                base.output, task_dataset.output, dataset.output
            ),
            "fine-tuning",
        )
        replay = add(
            replace(seeded.finetune, name="fine-tune, replay", method="replay").make(
                base.output, task_dataset.output, dataset.output
            ),
            "fine-tuning",
        )
        forgetting = add(
            ForgettingMaker().make(base.output, naive.output, replay.output, dataset.output, task_dataset.output),
            "fine-tuning",
        )

        # one round of active learning
        uncertainty = add(
            seeded.uncertainty.make(replay.output, {"pt": dataset.output, "ft": task_dataset.output}),
            "active learning",
        )
        selection = add(
            seeded.explore.make(replay.output, uncertainty.output, crystals.output, dataset.output),
            "active learning",
        )
        selected = add(SelectedStructuresMaker().make(selection.output), "active learning")
        new_labels = label(seeded.crystal_labels, "selected frames", selected, stage="active learning", priority=1)
        extended = add(
            replace(seeded.dataset, name="extended dataset").make(
                labels=[new_labels.output], isolated=crystal_atoms.output, previous=dataset.output
            ),
            "active learning",
        )
        final = add(
            seeded.retrain.make({"pt": extended.output, "ft": task_dataset.output}, start=replay.output),
            "active learning",
        )

        # proof
        benchmarks = [
            add(
                maker.make(
                    final.output,
                    structures=crystals.output,
                    dataset=extended.output,
                    reference=references[maker.name].output if maker.name in references else None,
                    alignment=alignment.output if alignment and maker.reference == "molecules" else None,
                ),
                "benchmarks",
            )
            for maker in seeded.benchmarks
        ]
        structure_sets = [crystals.output, sampled.output, atoms.output, sampled_task.output]
        label_sets = [crystal_labels, crystal_atoms, task_labels, new_labels, *references.values()]
        if molecules is not None and sampled_molecules is not None:
            structure_sets += [molecules.output, sampled_molecules.output]
            label_sets += [molecule_labels, source_atoms, overlap, overlap_atoms]
        report = add(
            seeded.report.make(
                structures=structure_sets,
                labels=[job.output for job in label_sets],
                datasets=[dataset.output, task_dataset.output, extended.output],
                alignments=[alignment.output] if alignment else [],
                models=[base.output, naive.output, replay.output, final.output],
                forgetting=forgetting.output,
                uncertainty=uncertainty.output,
                selection=selection.output,
                benchmarks=[job.output for job in benchmarks],
            ),
            "report",
        )
        return Flow(jobs, output=report.output, name=self.name)

    def _seeded(self) -> Self:
        """Return a copy whose stages carry this flow's seed on top of their own."""
        if not self.seed:
            return self
        changes = {}
        for name in self.__dataclass_fields__:
            stage = getattr(self, name)
            if isinstance(stage, Maker) and hasattr(stage, "seed"):
                changes[name] = replace(stage, seed=stage.seed + self.seed)
        changes["benchmarks"] = [
            replace(maker, settings={**maker.settings, "seed": maker.settings["seed"] + self.seed})
            if "seed" in maker.settings
            else maker
            for maker in self.benchmarks
        ]
        return replace(self, **changes)
