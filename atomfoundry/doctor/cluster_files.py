"""The files of the cluster folder: there, readable, with keys that FireWorks knows, naming files that exist."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from atomfoundry.doctor.database_access import KEYS
from atomfoundry.doctor.findings import Finding, ok, problem, warning
from atomfoundry.doctor.registry import check
from atomfoundry.errors import ConfigurationError
from atomfoundry.results.mongodb import LAUNCHPAD_FILE

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

QUEUE_TYPES = ("PBS", "SGE", "Cobalt", "SLURM", "LoadLeveler", "LoadSharingFacility", "MOAB")
FWORKER_KEYS = {"name", "category", "query", "env", "_fw_name"}
FILE_OPTIONS = {"-w", "--fworker_file", "-l", "--launchpad_file", "-c", "--config_dir", "--project", "-q"}
OFFLINE = re.compile(r"(?:^|\s)(?:-o|--offline)(?=\s|$)")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word most like this one, or an empty text.

    Parameters
    ----------
    word, known
        The word and the known ones.
    """
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return found[0] if found else ""


def fworkers(world: World) -> list[tuple[Path, dict[str, Any]]]:
    """Return the FWorker files and their content.

    Parameters
    ----------
    world
        What to look at.
    """
    return world.documents("my_fworker*.yaml")


def queue_adapters(world: World) -> list[tuple[Path, dict[str, Any]]]:
    """Return the queue adapter files and their content.

    Parameters
    ----------
    world
        What to look at.
    """
    return world.documents("my_qadapter*.yaml")


def launch_words(content: dict[str, Any]) -> list[str]:
    """Return the words of a queue adapter's ``rocket_launch``.

    Parameters
    ----------
    content
        Of a ``my_qadapter.yaml``.
    """
    try:
        return shlex.split(str(content.get("rocket_launch") or ""))
    except ValueError:
        return str(content.get("rocket_launch")).split()


@check("cluster-files", "cluster")
def cluster_files(world: World) -> Iterator[Finding]:
    """Check that the files of the cluster folder are there, readable, and name what exists."""
    bad = list(_unreadable(world))
    bad += _launchpad(world)
    workers, adapters = fworkers(world), queue_adapters(world)
    if not workers:
        bad.append(
            warning(
                f"There is no FWorker file in {world.cluster}: no category of jobs has a worker.",
                f"atomfoundry init cluster {world.folder}, or by hand: atomfoundry worker --category light",
            )
        )
    bad += _profiles(world)
    for path, content in workers:
        bad += _unknown_keys(path, content, FWORKER_KEYS)
        if not content.get("name"):
            bad.append(
                problem(f"{path} has no name.", f"Write 'name: {path.stem.removeprefix('my_fworker_')}' in {path}.")
            )
    for path, content in adapters:
        bad += _adapter(world, path, content)
    yield from bad
    if not bad:
        yield ok(f"{world.cluster}: {len(workers)} FWorkers, {len(adapters)} queue adapters")


def _unreadable(world: World) -> Iterator[Finding]:
    for path in sorted(world.cluster.glob("*.yaml")):
        try:
            content = yaml.safe_load(path.read_text())
        except OSError as error:
            yield problem(f"{path} cannot be read: {error.strerror}.", f"ls -l {path}; chmod u+r {path}")
        except (ValueError, yaml.YAMLError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark is not None else ""
            # the error's own text quotes the line, which may hold a password
            yield problem(f"{path} is not YAML{line}.", f"Correct {path}{line}.")
        else:
            if not isinstance(content, dict) and path.name != "FW_config.yaml":
                yield problem(f"{path} holds no settings.", f"Write {path} again, or remove it.")


def _launchpad(world: World) -> Iterator[Finding]:
    path = world.cluster / LAUNCHPAD_FILE
    if not path.is_file():
        yield problem(
            f"{path} is missing: nobody knows where the database is.",
            f"atomfoundry init cluster {world.folder}, or write it in FireWorks' format (host, port, name, username, "
            f"password); chmod 600 {path}",
        )
        return
    content = world.document(LAUNCHPAD_FILE)
    yield from _unknown_keys(path, content, KEYS)
    if "://" in str(content.get("host") or "") and not content.get("uri_mode"):
        yield warning(
            f"{path} has a URI as its host, but uri_mode is not on: lpad may go elsewhere.",
            f"Write 'uri_mode: true' in {path}.",
        )


def _profiles(world: World) -> Iterator[Finding]:
    from atomfoundry.running.cluster.profiles import Profiles

    path = world.cluster / "profiles.yaml"
    try:
        Profiles.load(path)
    except ConfigurationError as error:
        yield problem(error.message, error.remedy or f"Correct {path}.")


def _unknown_keys(path: Path, content: dict[str, Any], known: set[str]) -> Iterator[Finding]:
    for key in content:
        if key not in known:
            near = nearest(str(key), known)
            cure = f"Write '{near}' instead of '{key}' in {path}." if near else f"Remove '{key}' from {path}."
            yield problem(f"{path} has an unknown key '{key}'.", cure, key=str(key))


def _adapter(world: World, path: Path, content: dict[str, Any]) -> Iterator[Finding]:
    kind = content.get("_fw_q_type")
    if content.get("_fw_name") == "CommonAdapter" and kind not in QUEUE_TYPES:
        near = nearest(str(kind), QUEUE_TYPES) or "SLURM"
        yield problem(f"{path} has _fw_q_type '{kind}'.", f"Write '_fw_q_type: {near}' in {path}.")
    words = launch_words(content)
    if not words:
        yield problem(
            f"{path} has no rocket_launch: its batch jobs would do nothing.",
            f"Write 'rocket_launch: atomfoundry worker --project {world.folder}' in {path}.",
        )
    for option, value in pairwise(words):
        if option in FILE_OPTIONS and value.startswith("/") and not Path(value).exists():
            yield problem(
                f"{path}: rocket_launch names {value}, which does not exist.",
                f"Correct '{option} {value}' in {path}.",
                path=value,
            )


@check("offline", "cluster")
def offline(world: World) -> Iterator[Finding]:
    """Check that no worker runs in FireWorks' offline mode."""
    bad = [
        problem(
            f"{path} starts workers in FireWorks' offline mode ({found.group().strip()}): with monty 2026.2.18 and "
            "newer it loses every result.",
            f"Remove '{found.group().strip()}' from rocket_launch in {path}; workers need a way to the database.",
            path=str(path),
        )
        for path, content in queue_adapters(world)
        if (found := OFFLINE.search(str(content.get("rocket_launch") or "")))
    ]
    crontab = world.cluster / "crontab"
    lines = crontab.read_text(errors="replace").splitlines() if crontab.is_file() else []
    for number, line in enumerate(lines, start=1):
        launches = re.search(r"\b(?:qlaunch|rlaunch|recover_offline)\b", line)
        if launches and not line.lstrip().startswith("#") and (OFFLINE.search(line) or "recover_offline" in line):
            bad.append(
                problem(
                    f"{crontab}, line {number}, uses FireWorks' offline mode, which monty 2026.2.18 and newer break.",
                    f"sed -i '{number}d' {crontab}, and write the line without the offline mode.",
                    line=number,
                )
            )
    yield from bad
    if not bad:
        yield ok("No worker runs in FireWorks' offline mode")
