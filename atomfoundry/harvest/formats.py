"""Which files are outputs, of which code, and which of them belong to one run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from atomfoundry.harvest.run import Parser, read_head

_PARSERS = {
    "vasprun": "vasp:parse_vasprun",
    "outcar": "outcar:parse_outcar",
    "espresso": "espresso:parse_espresso",
    "espresso_xml": "espresso:parse_espresso_xml",
    "cp2k": "cp2k:parse_cp2k",
    "fhi-aims": "codes:parse_aims",
    "castep": "codes:parse_castep",
    "abinit": "abinit:parse_abinit",
    "orca": "codes:parse_orca",
    "gpaw": "codes:parse_gpaw",
    "gpaw_text": "codes:parse_gpaw_text",
    "frames": "frames:parse_frames",
    "npz": "frames:parse_npz",
    "taskdoc": "frames:parse_taskdocs",
}
_BEST_FIRST = ["vasprun", "outcar", "espresso", "espresso_xml"]
"""Files of one run: which one is read first."""

_SIGNS: list[tuple[bytes, str]] = [
    (b"Program PWSCF", "espresso"),
    (b"PROGRAM STARTED AT", "cp2k"),
    (b"CP2K|", "cp2k"),
    (b"Invoking FHI-aims", "fhi-aims"),
    (b"FHI-aims", "fhi-aims"),
    (b"CASTEP", "castep"),
    (b"ABINIT", "abinit"),
    (b"* O   R   C   A *", "orca"),
    (b"___ ___ ___ _ _ _", "gpaw_text"),
    (b"Error in routine", "espresso"),
    (b"SCF WAVEFUNCTION OPTIMIZATION", "cp2k"),
    (b"Step     Update method      Time", "cp2k"),
]


@dataclass(frozen=True)
class RunFiles:
    """The outputs of one run, the best first: only one of them gives frames.

    Attributes
    ----------
    key
        What the run is called: the folder, and the part of the names that the files share.
    files
        (path, name for people, kind) of each.
    size
        Bytes of all.
    """

    key: str
    files: tuple[tuple[str, str, str], ...]
    size: int


def parser_of(kind: str) -> Parser:
    """Return the parser of a kind of file."""
    module, name = _PARSERS[kind].split(":")
    return getattr(import_module(f"atomfoundry.harvest.{module}"), name)


def kind_of(path: Path) -> str | None:
    """Return a file's kind by its name and, where that does not tell, its first bytes; None if it is no output."""
    name = path.name.lower().removesuffix(".gz")
    if "vasprun" in name:
        return "vasprun"
    if "outcar" in name:
        return "outcar"
    if name.endswith((".extxyz", ".xyz", ".traj")):
        return "frames"
    if name.endswith(".npz"):
        return "npz"
    if name.endswith((".gpw", ".gpw2")):
        return "gpaw"
    if name.endswith(".xml"):
        return "espresso_xml" if b"qes:espresso" in read_head(path) else None
    if name.endswith(".castep"):
        return "castep"
    if name.endswith(".json") and b'"calcs_reversed"' in read_head(path, 1 << 20):
        return "taskdoc"
    if ".out" in name or name.endswith((".log", ".pwo", ".abo", ".txt")) or name == "aims":
        head = read_head(path, 1 << 15)
        return next((kind for sign, kind in _SIGNS if sign in head), None)
    return None


def _run_key(name: str, kind: str) -> str:
    """Return what the files of one run have in common."""
    folder, stem = str(Path(name).parent), Path(name).name.lower()
    if kind in ("espresso", "espresso_xml"):
        # One pw.x run a folder has the XML's fixed name; several outputs beside it are several runs.
        return f"{folder}/pw" if kind == "espresso_xml" else f"{folder}/pw:{stem}"
    if kind not in ("vasprun", "outcar"):
        return name
    for part in (".gz", ".xml", "vasprun", "outcar"):
        stem = stem.replace(part, "")
    return f"{folder}/{stem.strip('._')}".removeprefix("./").strip("/")


def _walk(base: Path) -> Iterator[Path]:
    """Yield the files below a folder in a fixed order, without listing the whole tree first."""
    folders, files = [], []
    with os.scandir(base) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.is_file():
                files.append(entry.path)
    yield from map(Path, sorted(files))
    for folder in sorted(folders):
        yield from _walk(Path(folder))


def find_runs(base: Path) -> Iterator[RunFiles | Path]:
    """Yield the runs below a folder (or the one file), and every file that is no output.

    Parameters
    ----------
    base
        A file or a folder. Folders are read one at a time, so a tree may have any number of files.
    """
    if base.is_file():
        kind = kind_of(base)
        if kind is None:
            yield base
        else:
            yield RunFiles(_run_key(base.name, kind), ((str(base), base.name, kind),), base.stat().st_size)
        return
    folder: Path | None = None
    pending: dict[str, list[tuple[str, str, str]]] = {}
    for path in _walk(base):
        if path.parent != folder:
            yield from _grouped(pending)
            pending, folder = {}, path.parent
        kind = kind_of(path)
        if kind is None:
            yield path
            continue
        name = str(path.relative_to(base))
        pending.setdefault(_run_key(name, kind), []).append((str(path), name, kind))
    yield from _grouped(pending)


def _grouped(pending: dict[str, list[tuple[str, str, str]]]) -> Iterator[RunFiles]:
    outputs = [key for key in pending if re.search(r"/pw:", key)]
    for key in [key for key in pending if key.endswith("/pw")]:
        if len(outputs) == 1:
            pending[outputs[0]].extend(pending.pop(key))
    for key, files in pending.items():
        rank = {kind: number for number, kind in enumerate(_BEST_FIRST)}
        files.sort(key=lambda item: (rank.get(item[2], 0), item[1]))
        yield RunFiles(key, tuple(files), sum(Path(path).stat().st_size for path, _, _ in files))
