"""Benchmarks on a fixed list of structures, which a calculator here or a label engine elsewhere computes."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from atomfoundry.benchmarks.base import Benchmark, calculator_label, system_label
from atomfoundry.benchmarks.kept import KeptItems
from atomfoundry.benchmarks.labelling import energy_of, single_point
from atomfoundry.benchmarks.records import Failure
from atomfoundry.benchmarks.structures import find_frame
from atomfoundry.errors import LabelError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.checkpoint import Checkpoints
    from atomfoundry.documents import BenchmarkDoc, LabelFailure


@dataclass(kw_only=True)
class Item:
    """One structure of a grid with its label, or the reason why it has none.

    Parameters
    ----------
    label
        Name of the item within the benchmark.
    structure
        The structure asked for.
    frame
        The labelled structure.
    failure
        Why there is no label.
    details
        Further values for the item's record.
    """

    label: str
    structure: Atoms
    frame: Atoms | None = None
    failure: Failure | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def record(self, **values: Any) -> dict[str, Any]:
        """Return the item's record: its status, its details and the given values."""
        status = "ok" if self.failure is None else "failed"
        reason = None if self.failure is None else self.failure.reason
        return {
            "kind": "point",
            "item": self.label,
            "status": status,
            "reason": reason,
            **self.details,
            **values,
        }


@dataclass(kw_only=True)
class GridBenchmark(Benchmark):
    """A benchmark whose structures are known beforehand.

    `run` labels them with a calculator. Where labels are expensive, `structures` hands them out, a label
    engine computes them in parallel, and `evaluate` analyses the labelled frames with the same code.
    """

    @abstractmethod
    def structures(self, atoms: Atoms | None = None) -> list[Atoms]:
        """Return the structures to label, each with ``source``, ``sampling`` and ``group_id`` in ``info``."""

    @abstractmethod
    def _records(self, items: list[Item], atoms: Atoms | None) -> list[dict[str, Any]]:
        """Return one record per item, in the items' order."""

    @abstractmethod
    def _summarise(
        self, items: list[Item], records: list[dict[str, Any]], atoms: Atoms | None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the summary and records that belong to no single item.

        A `LabelError` means that what is left of the items allows no analysis.
        """

    def _prepare(self, calculator: BaseCalculator, atoms: Atoms | None) -> Atoms | None:
        """Return the structure that the grid is built on; relaxations go here."""
        return atoms

    def _label(self, item: Item, calculator: BaseCalculator) -> None:
        """Put a labelled frame into the item."""
        item.frame = single_point(item.structure, calculator, what=item.label)

    def _check_relaxed(self, relaxed: bool) -> None:
        """Refuse frames whose ions were treated otherwise than the settings say."""

    def run(
        self,
        calculator: BaseCalculator,
        atoms: Atoms | None = None,
        *,
        reference: BenchmarkDoc | None = None,
        name: str = "",
        calculator_name: str = "",
        checkpoints: Checkpoints | None = None,
    ) -> BenchmarkDoc:
        """Label the structures with a calculator and analyse them.

        Parameters
        ----------
        calculator
            Any ASE calculator.
        atoms
            The undeformed structure.
        reference
            Document of the same benchmark to compare with.
        name
            Name of the document.
        calculator_name
            How the document names the calculator; default: its own name.
        checkpoints
            Where finished items are kept, so that an interrupted run goes on with the others; None: nowhere.

        Returns
        -------
        BenchmarkDoc
            Records, summary, failures with their reasons.

        Raises
        ------
        NoTimeLeftError
            If the process must end; the same call goes on from the checkpoint.
        """
        started = time.perf_counter()
        label = calculator_label(calculator, calculator_name)
        items = self._items(atoms)
        identity = {"settings": self.settings(), "calculator": label}
        kept = KeptItems(checkpoints, self.benchmark, identity, [item.structure for item in items])
        try:
            prepared = self._prepared(calculator, atoms, kept, len(items))
        except LabelError as error:
            prepared = atoms
            for item in items:
                item.failure = Failure(item=item.label, reason=error.reason, message=str(error))
        else:
            items = self._items(prepared)
            for index, item in enumerate(items):
                if not _recall(item, kept.get(str(index), item.structure)):
                    with kept.saving():
                        self._try(item, calculator)
                    result = item.frame if item.frame is not None else item.failure
                    assert result is not None
                    kept.put(str(index), result, item.details)
                    kept.pause(index + 1, len(items))
        return self._assess(
            items,
            prepared,
            started=started,
            calculator=label,
            name=name,
            reference=reference,
            earlier_s=kept.earlier_s,
        )

    def _prepared(self, calculator: BaseCalculator, atoms: Atoms | None, kept: KeptItems, n: int) -> Atoms | None:
        known = None if atoms is None else kept.get("prepared", atoms)
        if known is not None and not isinstance(known[0], Failure):
            return known[0]
        prepared = self._prepare(calculator, atoms)
        if prepared is not None and prepared is not atoms and prepared.calc is not None:
            kept.put("prepared", prepared)
            kept.pause(0, n)
        return prepared

    def _try(self, item: Item, calculator: BaseCalculator) -> None:
        """Label an item, or take down why that failed."""
        try:
            self._label(item, calculator)
        except LabelError as error:
            item.frame = None
            item.failure = Failure(item=item.label, reason=error.reason, message=str(error))

    def evaluate(
        self,
        frames: Sequence[Atoms],
        atoms: Atoms | None = None,
        *,
        failures: Sequence[LabelFailure | Mapping[str, Any]] = (),
        relaxed: bool = False,
        reference: BenchmarkDoc | None = None,
        name: str = "",
        calculator_name: str = "labels",
    ) -> BenchmarkDoc:
        """Analyse structures that were labelled elsewhere.

        Frames are recognised by their geometry, so they may come in any order, from a dataset, and among
        others.

        Parameters
        ----------
        frames
            Labelled frames; those that are not structures of this benchmark are ignored.
        atoms
            The undeformed structure that `structures` was called with.
        failures
            Labels that failed; they tell the reason why a structure is missing (by ``source`` or
            ``frame_id``).
        relaxed
            The ions were relaxed, so that only the cells are as in `structures`.
        reference
            Document of the same benchmark to compare with.
        name
            Name of the document.
        calculator_name
            What computed the labels.

        Returns
        -------
        BenchmarkDoc
            Structures without a label count as failed.
        """
        started = time.perf_counter()
        self._check_relaxed(relaxed)
        items = self._items(atoms)
        remaining = [frame for frame in frames if energy_of(frame) is not None]
        for item in items:
            item.frame = find_frame(item.structure, remaining, relaxed=relaxed)
            if item.frame is None:
                item.failure = _reason(item, failures)
        return self._assess(items, atoms, started=started, calculator=calculator_name, name=name, reference=reference)

    def _items(self, atoms: Atoms | None) -> list[Item]:
        return [
            Item(label=structure.info["source"].rsplit(":", 1)[1], structure=structure)
            for structure in self.structures(atoms)
        ]

    def _system(self, atoms: Atoms | None) -> str:
        return "" if atoms is None else system_label(atoms)

    def _assess(
        self,
        items: list[Item],
        atoms: Atoms | None,
        *,
        started: float,
        calculator: str,
        name: str,
        reference: BenchmarkDoc | None,
        earlier_s: float = 0.0,
    ) -> BenchmarkDoc:
        records = self._records(items, atoms)
        failures = [item.failure for item in items if item.failure is not None]
        n_failed = len(failures)
        summary: dict[str, Any] = {}
        try:
            summary, further = self._summarise(items, records, atoms)
            records = [*records, *further]
        except LabelError as error:
            failures.append(Failure(item="analysis", reason=error.reason, message=str(error)))
        return self._document(
            started=started,
            calculator=calculator,
            system=self._system(atoms),
            name=name,
            records=records,
            summary=summary,
            n_items=len(items),
            n_failed=n_failed,
            failures=failures,
            reference=reference,
            earlier_s=earlier_s,
        )


def _recall(item: Item, known: tuple[Atoms | Failure, dict[str, Any]] | None) -> bool:
    """Put what is known into an item; False if nothing is."""
    if known is None:
        return False
    result, details = known
    item.details.update(details)
    if isinstance(result, Failure):
        item.failure = result
    else:
        item.frame = result
    return True


def _reason(item: Item, failures: Sequence[LabelFailure | Mapping[str, Any]]) -> Failure:
    for failure in failures:
        values = failure if isinstance(failure, Mapping) else failure.model_dump()
        known = {values.get("source"), values.get("frame_id")} - {None, ""}
        if known & {item.structure.info["source"], item.structure.info.get("frame_id")}:
            return Failure(
                item=item.label,
                reason=str(values.get("reason", "failed")),
                message=str(values.get("message", "")),
            )
    return Failure(item=item.label, reason="missing", message="No labelled frame has this geometry.")
