"""Python, the packages Atomfoundry asks for, and combinations known not to work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from atomfoundry.doctor.findings import Finding, ok, problem, warning
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

PACKAGE = "atomfoundry"


@dataclass(frozen=True)
class Trap:
    """Two packages that cannot live together.

    Attributes
    ----------
    package, versions
        Where this one is installed in one of these versions ...
    other, needs
        ... that one must be in one of those.
    reason, cure
        For people.
    """

    package: str
    versions: str
    other: str
    needs: str
    reason: str
    cure: str


TRAPS = (
    Trap(
        "mace-torch",
        "",
        "e3nn",
        "<0.6",
        "MACE needs e3nn 0.4, our models e3nn 0.6: they cannot share an environment",
        "pip uninstall mace-torch, and install it into an environment of its own (engine 'interpreter')",
    ),
    Trap(
        "atomate2",
        "",
        "pymongo",
        "<=4.16.0",
        "atomate2 needs pymongo <= 4.16.0; jobflow alone pulls a newer one",
        'pip install "pymongo<=4.16.0"',
    ),
    Trap(
        "jobflow-remote",
        "",
        "pymongo",
        "<4.11",
        "jobflow-remote needs pymongo < 4.11",
        "pip uninstall jobflow-remote, and install it into an environment of its own",
    ),
    Trap(
        "fireworks",
        "<2.1",
        "numpy",
        "<2",
        "FireWorks before 2.1 does not know NumPy 2",
        'pip install "fireworks>=2.1.4"',
    ),
)


def installed(name: str) -> str | None:
    """Return the version of an installed package, None if it is not there.

    Parameters
    ----------
    name
        Its name on the index.
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@check("python", "machine")
def python(world: World) -> Iterator[Finding]:
    """Check that Atomfoundry runs on this Python, and that it is in an environment of its own."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    needed = metadata.metadata(PACKAGE)["Requires-Python"] or ">=3.11"
    details = {"version": found, "executable": sys.executable, "needed": needed}
    if not SpecifierSet(needed).contains(found, prereleases=True):
        yield problem(
            f"Python {found} ({sys.executable}); Atomfoundry needs {needed}.",
            "python3.12 -m venv .venv && .venv/bin/pip install -e .",
            **details,
        )
    elif sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ:
        yield warning(
            f"Python {found} ({sys.executable}) is not in a virtual environment: other software's packages can break "
            "this one's.",
            "python3 -m venv .venv && .venv/bin/pip install -e .",
            **details,
        )
    else:
        yield ok(f"Python {found} ({sys.executable})", **details)


@check("packages", "machine")
def packages(world: World) -> Iterator[Finding]:
    """Check that the packages are there, in versions that Atomfoundry works with."""
    wanted = [Requirement(text) for text in metadata.requires(PACKAGE) or []]
    needed = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    found: dict[str, str] = {}
    bad = []
    for requirement in needed:
        version = installed(requirement.name)
        if version is None:
            bad.append(problem(f"{requirement.name} is not installed.", f'pip install "{_words(requirement)}"'))
        elif not requirement.specifier.contains(version, prereleases=True):
            bad.append(
                problem(
                    f"{requirement.name} {version} is installed; Atomfoundry needs {requirement.specifier}.",
                    f'pip install "{_words(requirement)}"',
                    package=requirement.name,
                    version=version,
                    needed=str(requirement.specifier),
                )
            )
        else:
            found[requirement.name] = version
    yield from bad
    if not bad:
        yield ok(f"{len(found)} packages in their ranges", **found)


@check("package-traps", "machine")
def package_traps(world: World) -> Iterator[Finding]:
    """Look for packages installed together that cannot be."""
    bad = []
    for trap in TRAPS:
        version, other = installed(trap.package), installed(trap.other)
        if version is None or other is None or not SpecifierSet(trap.versions).contains(version, prereleases=True):
            continue
        if not SpecifierSet(trap.needs).contains(Version(other), prereleases=True):
            bad.append(
                problem(
                    f"{trap.package} {version} beside {trap.other} {other}: {trap.reason}.",
                    trap.cure,
                    packages={trap.package: version, trap.other: other},
                )
            )
    yield from bad
    if not bad:
        yield ok(f"None of {len(TRAPS)} combinations known not to work")


def _words(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
