"""Makers of benchmarks: the model's value next to the label engine's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jobflow import Maker

from atomfoundry.documents import (
    AlignmentDoc,
    BenchmarkDoc,
    DatasetDoc,
    LabelSetDoc,
    StructureSetDoc,
)
from atomfoundry.errors import ConfigurationError
from atomfoundry.makers.checkpoints import job_checkpoints
from atomfoundry.makers.frames import open_dataset, structure_set
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.modelling import frames_of
from atomfoundry.makers.seats import ModelLike, take_seat
from atomfoundry.results import current_artifacts, report_progress

if TYPE_CHECKING:
    from typing import Self

    from ase import Atoms

    from atomfoundry.benchmarks import Benchmark, GridBenchmark

STRUCTURE_FREE = ("diatomic", "parity")
"""Benchmarks that need no crystal."""


@dataclass
class BenchmarkMaker(Maker):
    """One property of a model.

    Parameters
    ----------
    name
        Name of the job and of the document.
    benchmark
        Name of the property, see :data:`atomfoundry.benchmarks.BENCHMARKS`.
    settings
        Settings of the benchmark.
    head
        Readout head of a model of ours.
    reference
        Which label engine computes the same structures: that of the crystals, that of the molecules (aligned to
        the crystals' level), or none.
    structure
        Index of the crystal in the structure set.
    splits
        Splits of the dataset that parity looks at.
    """

    name: str = "benchmark"
    benchmark: str = "equation_of_state"
    settings: dict[str, Any] = field(default_factory=dict)
    head: str = "pt"
    reference: Literal["crystals", "molecules"] | None = None
    structure: int = 0
    splits: list[str] = field(default_factory=lambda: ["test"])

    def build(self) -> Benchmark:
        """Return the benchmark.

        Raises
        ------
        ConfigurationError
            For an unknown benchmark or setting.
        """
        from atomfoundry.benchmarks import get_benchmark

        return get_benchmark(self.benchmark, **self.settings)

    def system(self, structures: StructureSetDoc) -> Atoms | None:
        """Return the crystal that the benchmark is of, or None where it needs none."""
        if self.benchmark in STRUCTURE_FREE:
            return None
        return next(iter(open_dataset(structures.structures).frames([self.structure])))

    @foundry_job(output_schema=BenchmarkDoc, profile="md")
    def make(
        self,
        model: ModelLike,
        structures: StructureSetDoc,
        dataset: DatasetDoc,
        reference: LabelSetDoc | None = None,
        alignment: AlignmentDoc | None = None,
    ) -> BenchmarkDoc:
        """Run the benchmark.

        Parameters
        ----------
        model
            The model to judge, or the description of any calculator
            (:class:`~atomfoundry.documents.CalculatorSpec`, also as a dictionary).
        structures
            Crystals.
        dataset
            Labelled frames, for parity.
        reference
            Labels of the benchmark's own structures.
        alignment
            Applied to the reference labels, where they are of another level than the model.

        Raises
        ------
        NoTimeLeftError
            If the process must end: the job goes on from its checkpoint.
        """
        from atomfoundry.benchmarks import GridBenchmark, Parity

        benchmark = self.build()
        seat = take_seat(model, head=self.head)
        report_progress(self.name)
        document = None
        if isinstance(benchmark, Parity):
            benchmark.isolated_energies = dict(dataset.isolated_energies)
            atoms: Any = frames_of(dataset, *self.splits)
        else:
            atoms = self.system(structures)
            if reference is not None and isinstance(benchmark, GridBenchmark):
                document = self._reference(benchmark, atoms, reference, alignment)
        with job_checkpoints() as checkpoints:
            result = benchmark.run(
                seat.calculator,
                atoms,
                reference=document,
                name=self.name,
                calculator_name=seat.label,
                checkpoints=checkpoints,
            )
        return result.model_copy(update={"calculator_description": seat.description})

    def _reference(
        self,
        benchmark: GridBenchmark,
        atoms: Atoms | None,
        reference: LabelSetDoc,
        alignment: AlignmentDoc | None,
    ) -> BenchmarkDoc:
        frames = list(open_dataset(reference.frames).frames())
        name = reference.level.label
        if alignment is not None and alignment.source_level.id == reference.level_id:
            from atomfoundry.alignment import Alignment

            transform = Alignment.load(current_artifacts().fetch(alignment.alignment))
            frames = [transform.apply(frame) for frame in frames]
            name += ", aligned"
        return benchmark.evaluate(frames, atoms, failures=reference.failures, name=self.name, calculator_name=name)


@dataclass
class BenchmarkStructuresMaker(Maker):
    """The structures of a benchmark, for a label engine to compute.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    benchmark
        The benchmark.
    """

    name: str = "benchmark structures"
    benchmark: BenchmarkMaker = field(default_factory=BenchmarkMaker)

    @classmethod
    def of(cls, benchmark: BenchmarkMaker) -> Self:
        """Return the Maker of a benchmark's structures."""
        return cls(name=f"{benchmark.name} structures", benchmark=benchmark)

    @foundry_job(output_schema=StructureSetDoc)
    def make(self, structures: StructureSetDoc) -> StructureSetDoc:
        """Make the structures.

        Parameters
        ----------
        structures
            Crystals.
        """
        from atomfoundry.benchmarks import GridBenchmark

        benchmark = self.benchmark.build()
        if not isinstance(benchmark, GridBenchmark):
            raise ConfigurationError(
                f"The structures of '{self.benchmark.benchmark}' are not known beforehand.",
                remedy="Leave out its reference.",
            )
        frames = benchmark.structures(self.benchmark.system(structures))
        return structure_set(frames, name=self.name)
