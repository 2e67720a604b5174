"""TaskDocs that jobflow and atomate2 left in a store (MongoDB, or any maggma store)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ase import Atoms

from atomfoundry.harvest.collect import HarvestReport, _Collector
from atomfoundry.harvest.frames import taskdoc_run
from atomfoundry.harvest.judge import FileOutcome, HarvestOptions, judge_run, rejection
from atomfoundry.harvest.run import ParseFailure


def iterate_store(
    store: Any, report: HarvestReport, *, query: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[Atoms]:
    """Yield the frames of a store's TaskDocs one document at a time and fill the report on the way.

    Parameters
    ----------
    store
        A connected maggma store or jobflow ``JobStore``; nothing is written to it.
    report
        Filled with counts and rejections; a document is called by its uuid or task id.
    query
        Which documents; by default all with ``calcs_reversed`` (bare, or below jobflow's ``output``).
    **options
        As for ``harvest_dataset``.
    """
    chosen = HarvestOptions(**options)
    collector = _Collector(report, drop_duplicates=True if chosen.settings is None else chosen.settings.drop_duplicates)
    which = query or {"$or": [{"calcs_reversed": {"$exists": True}}, {"output.calcs_reversed": {"$exists": True}}]}
    for found in store.query(dict(which)):
        output = found.get("output")
        document = output if isinstance(output, dict) and "calcs_reversed" in output else found
        name = str(found.get("uuid") or found.get("task_id") or found.get("_id"))
        try:
            run = taskdoc_run(document)
        except ParseFailure as failure:
            outcome = FileOutcome(name, rejections=[rejection(name, failure.reason, str(failure))])
        else:
            outcome = judge_run(run, name, name, chosen)
        yield from collector.add(outcome)


def harvest_store(store: Any, *, query: Mapping[str, Any] | None = None, **options: Any) -> HarvestReport:
    """Read TaskDocs from a store into memory.

    Parameters
    ----------
    store, query
        As for ``iterate_store``.
    **options
        ``steps``, ``level``, ``settings``, ``energy``, ``require_level``, ``max_energy_rise`` of ``harvest``.
    """
    report = HarvestReport()
    report.frames.extend(iterate_store(store, report, query=query, **options))
    return report
