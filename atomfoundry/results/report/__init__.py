"""The report: one self-contained HTML file about one run of the pipeline.

Public names: :func:`render_report`, its inputs :class:`ReportInputs`, :class:`JobRow`, :class:`TargetRow`,
:class:`ArtifactRow`, :class:`Predictions`, :class:`DatasetArrays`, and the functions :func:`headline` and
:func:`jobs_from_documents`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.results.report.arrays import DatasetArrays, Predictions
    from atomfoundry.results.report.data import ArtifactRow, JobRow, ReportInputs, TargetRow
    from atomfoundry.results.report.jobs import jobs_from_documents
    from atomfoundry.results.report.overview import headline
    from atomfoundry.results.report.page import render_report

_HOMES = {
    "ArtifactRow": "data",
    "DatasetArrays": "arrays",
    "JobRow": "data",
    "Predictions": "arrays",
    "ReportInputs": "data",
    "TargetRow": "data",
    "headline": "overview",
    "jobs_from_documents": "jobs",
    "render_report": "page",
}

__all__ = [
    "ArtifactRow",
    "DatasetArrays",
    "JobRow",
    "Predictions",
    "ReportInputs",
    "TargetRow",
    "headline",
    "jobs_from_documents",
    "render_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
