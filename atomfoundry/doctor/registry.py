"""The checks by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from atomfoundry.doctor.findings import Finding
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

Function = Callable[["World"], Iterable[Finding]]

TIME_LIMIT_S = 10.0
"""A check is given up after this time, unless it has a limit of its own."""

AREAS = ("machine", "codes", "disk", "project", "cluster", "database")

_MODULES = (
    "python_packages",
    "configuration",
    "resources",
    "gpus",
    "quickstart",
    "codes",
    "compiler",
    "disks",
    "project_folder",
    "project_database",
    "cluster_files",
    "credentials",
    "fireworks_settings",
    "scheduler",
    "worker_environment",
    "mongodb",
    "mongodb_content",
    "launchpad_jobs",
    "launchpad_leftovers",
    "worker_hosts",
)


@dataclass(frozen=True)
class Check:
    """One question to the world.

    Attributes
    ----------
    name
        What ``--only`` takes.
    area
        Which part of the world it is about, one of ``AREAS``.
    function
        Answers with findings.
    limit
        Seconds after which it is given up.
    """

    name: str
    area: str
    function: Function
    limit: float = TIME_LIMIT_S

    @property
    def title(self) -> str:
        """What it does, from the function's docstring."""
        return (self.function.__doc__ or self.name).strip().splitlines()[0]

    def __call__(self, world: World) -> list[Finding]:
        """Ask.

        Parameters
        ----------
        world
            What to look at.
        """
        return [replace(finding, check=self.name) for finding in self.function(world)]


_CHECKS: dict[str, Check] = {}


def check(name: str, area: str, *, limit: float = TIME_LIMIT_S) -> Callable[[Function], Function]:
    """Register a function as a check.

    Parameters
    ----------
    name, area, limit
        See ``Check``.
    """

    def register(function: Function) -> Function:
        _CHECKS[name] = Check(name, area, function, limit)
        return function

    return register


def all_checks() -> list[Check]:
    """Return all checks, in the order of the report."""
    for module in _MODULES:
        import_module(f"atomfoundry.doctor.{module}")
    return sorted(_CHECKS.values(), key=_place)


def _place(each: Check) -> tuple[int, int]:
    """Order by area, then by module, whichever was imported first."""
    module = each.function.__module__.rpartition(".")[2]
    return AREAS.index(each.area), _MODULES.index(module) if module in _MODULES else len(_MODULES)


def choose(only: Sequence[str] | None) -> list[Check]:
    """Return the checks of these names or areas, all by default.

    Parameters
    ----------
    only
        Names of checks or areas.

    Raises
    ------
    InputError
        If there is none of a name.
    """
    checks = all_checks()
    if not only:
        return checks
    for name in only:
        if name not in AREAS and name not in _CHECKS:
            near = difflib.get_close_matches(name, [*AREAS, *_CHECKS], n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise InputError(
                f"There is no check '{name}'.",
                remedy=f"{hint}Areas: {', '.join(AREAS)}; checks: {', '.join(_CHECKS)}.",
            )
    return [each for each in checks if each.name in only or each.area in only]
