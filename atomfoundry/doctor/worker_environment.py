"""The Python that batch jobs start: there, with the same Atomfoundry as here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry import __version__
from atomfoundry.doctor.cluster_files import launch_words, queue_adapters
from atomfoundry.doctor.commands import ask
from atomfoundry.doctor.findings import Finding, ok, problem, skipped
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

PROGRAM = re.compile(r"(?:python[\d.]*|rlaunch|atomfoundry)$")
CONTAINERS = {"apptainer", "singularity", "podman", "docker", "shifter", "podman-hpc"}
ACTIVATE = re.compile(r"(?:source|\.)\s+[\"']?(?P<folder>[^\s\"';&]+)/bin/activate")
PATH_SET = re.compile(r"PATH=[\"']?(?P<folder>/[^:\s\"']+):")
PYTHON = "import atomfoundry; print(atomfoundry.__version__)"


@dataclass(frozen=True)
class Start:
    """How a queue adapter starts its worker.

    Attributes
    ----------
    program
        The worker's program, as written or found; None if there is none.
    container
        The container runtime it runs under, if any.
    hidden
        Whether modules or conda decide which program is meant.
    """

    program: str | None
    container: str | None = None
    hidden: bool = False


def start_of(content: dict[str, Any]) -> Start:
    """Find which program a queue adapter starts.

    Parameters
    ----------
    content
        Of a ``my_qadapter.yaml``.
    """
    words = launch_words(content)
    container = next((Path(word).name for word in words if Path(word).name in CONTAINERS), None)
    program = next((word for word in words if PROGRAM.match(Path(word).name)), None)
    if program is None or container or "/" in program:
        return Start(program, container)
    before = str(content.get("pre_rocket") or "")
    for pattern, inside in ((ACTIVATE, "bin"), (PATH_SET, "")):
        found = pattern.search(before)
        if found:
            return Start(str(Path(found.group("folder")).expanduser() / inside / program))
    hidden = bool(re.search(r"\b(?:module\s+load|ml\s|conda\s+activate|mamba\s+activate)\b", before))
    return Start(None if hidden else shutil.which(program) or program, hidden=hidden)


def interpreter_of(program: Path) -> Path | None:
    """Return the Python that runs a program: itself, or the one its first lines name.

    Parameters
    ----------
    program
        A file.
    """
    if program.name.startswith("python"):
        return program
    with program.open("rb") as stream:
        lines = stream.read(1024).decode(errors="replace").splitlines()
    if not lines or not lines[0].startswith("#!"):
        return None
    named = re.search(r"(/\S*python[\d.]*)", lines[0])
    if named is None and len(lines) > 1:  # for long paths pip writes: '''exec' "/path/python" "$0" "$@"
        named = re.search(r"'''exec'\s+\"?(/[^\"]*?python[\d.]*)\"?", lines[1])
    return Path(named.group(1)) if named else None


@check("worker-environment", "cluster", limit=40.0)
def worker_environment(world: World) -> Iterator[Finding]:
    """Check that the Python of each queue adapter exists, and has the same Atomfoundry as here."""
    adapters = queue_adapters(world)
    if not adapters:
        yield skipped(f"No queue adapters in {world.cluster}")
        return
    tried: dict[str, Finding | None] = {}
    bad = []
    for path, content in adapters:
        start = start_of(content)
        if start.container:
            yield skipped(
                f"{path.name} starts its worker in a container ({start.container}), which is not looked into",
                f"{start.container} exec IMAGE python -c '{PYTHON}'",
            )
        elif start.hidden:
            yield skipped(f"{path.name}: modules or conda decide which Python its worker has")
        elif start.program is None:
            bad.append(
                problem(
                    f"{path}: rocket_launch starts neither atomfoundry nor rlaunch nor Python.",
                    f"Write 'rocket_launch: atomfoundry worker --project {world.folder}' in {path}.",
                )
            )
        else:
            if start.program not in tried:
                tried[start.program] = _try(start.program, path)
            found = tried[start.program]
            bad += [found] if found else []
    yield from bad
    good = [program for program, found in tried.items() if found is None]
    if good and not bad:
        yield ok(f"Atomfoundry {__version__} in {', '.join(good)}", programs=good)


def _try(name: str, path: Path) -> Finding | None:
    """Start a program's Python; None if all is well."""
    program = Path(name)
    if not program.is_file():
        return problem(
            f"{path}: its worker's program {program} does not exist on this machine.",
            f"Correct rocket_launch or pre_rocket in {path}; ls {program.parent}",
            program=name,
        )
    python = interpreter_of(program)
    if python is None:
        return None  # some other kind of program
    if not python.is_file():
        return problem(
            f"{path}: {program} is for the Python {python}, which does not exist.",
            f"Make the environment anew: python3 -m venv {python.parent.parent}",
            interpreter=str(python),
        )
    answer = ask([str(python), "-c", PYTHON], timeout=15.0, cwd="/")
    if not answer.ok:
        return problem(
            f"{path}: {python} cannot import atomfoundry: {answer.last_line}.",
            f"{python} -m pip install atomfoundry=={__version__}",
            interpreter=str(python),
        )
    version = answer.output.strip().splitlines()[-1]
    if version != __version__:
        return problem(
            f"{path}: {python} has Atomfoundry {version}, here it is {__version__}: jobs made here may not run there.",
            f"{python} -m pip install atomfoundry=={__version__}",
            interpreter=str(python),
            version=version,
        )
    return None
