"""TaskDocs that jobflow and atomate2 left in a store (MongoDB, or any maggma store)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ase import Atoms

from atomfoundry.harvest.collect import Collector, HarvestReport, write_harvest
from atomfoundry.harvest.frames import taskdoc_run
from atomfoundry.harvest.judge import FileOutcome, HarvestOptions, judge_run, rejection
from atomfoundry.harvest.run import ParseFailure

_NEEDED = ("uuid", "task_id", "calcs_reversed", "output.calcs_reversed")


def iterate_store(
    store: Any, report: HarvestReport, *, query: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[Atoms]:
    """Yield the frames of a store's TaskDocs one document at a time and fill the report on the way.

    The server is asked only for what frames need, and sends it in batches of at most 16 MB; duplicates are known by
    hashes. So memory does not grow with the number of documents.

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
    collector = Collector(report, drop_duplicates=True if chosen.settings is None else chosen.settings.drop_duplicates)
    which = query or {"$or": [{"calcs_reversed": {"$exists": True}}, {"output.calcs_reversed": {"$exists": True}}]}
    for found in store.query(dict(which), properties=list(_NEEDED)):
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


def harvest_store_dataset(
    store: Any, output: str | Path, *, name: str = "", query: Mapping[str, Any] | None = None, **options: Any
) -> HarvestReport:
    """Read TaskDocs from a store straight into a dataset; memory does not grow with their number.

    Parameters
    ----------
    store, query, **options
        As for ``harvest_store``.
    output
        The dataset folder to write; must not exist. Nothing is written if no frame is good.
    name
        Name of the dataset; the folder's by default.

    Returns
    -------
    HarvestReport
        Without the frames.
    """
    report = HarvestReport()
    write_harvest(iterate_store(store, report, query=query, **options), report, Path(output), name=name)
    return report
