"""The doctor: whether this machine, a project and its cluster are well, and the cure of what is not."""

from __future__ import annotations

from atomfoundry.doctor.examination import run_checks
from atomfoundry.doctor.findings import DoctorReport, Finding
from atomfoundry.doctor.registry import Check, all_checks
from atomfoundry.doctor.world import World

__all__ = ["Check", "DoctorReport", "Finding", "World", "all_checks", "run_checks"]
