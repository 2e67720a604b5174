"""Makers that fetch structures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jobflow import Maker

from atomfoundry.documents import StructureSetDoc
from atomfoundry.errors import StructureError
from atomfoundry.makers.frames import structure_set
from atomfoundry.makers.job import foundry_job
from atomfoundry.results.artifacts import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from ase import Atoms


def _rename_groups(frames: list[Atoms], stem: str, name: str) -> None:
    """Give the frames of one of several files called POSCAR, say, a group that names its folder too."""
    for atoms in frames:
        group = atoms.info["group_id"]
        if name != stem and (group == stem or group.startswith(f"{stem}:")):
            atoms.info["group_id"] = name + group[len(stem) :]


@dataclass
class StructuresMaker(Maker):
    """Fetch structures from shipped presets and from files.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    presets
        Names of shipped structures, see :func:`atomfoundry.sources.preset_names`.
    files
        Absolute path of each file with the sha256 it had when the flow was made: a file that changes before the job
        runs is an error, and another content makes another flow. Filled by :meth:`from_files`.
    cell
        Turn crystals into their primitive or conventional cell.
    """

    name: str = "fetch structures"
    presets: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    cell: Literal["as_given", "primitive", "conventional"] = "as_given"

    @classmethod
    def from_files(cls, paths: Iterable[str | Path], *, name: str = "fetch structures") -> Self:
        """Make a Maker of files; each is read once here, so that a bad one is refused before anything runs.

        Parameters
        ----------
        paths
            Files, patterns or folders; the Maker names every single file.
        name
            Name of the job and of the structure set.

        Raises
        ------
        StructureError
            If a file is missing, unreadable or holds an impossible structure.
        """
        from atomfoundry.sources import expand_paths, fetch_structures

        files: dict[str, str] = {}
        for path in expand_paths(paths):
            resolved = path.resolve()
            fetch_structures([resolved])
            files[str(resolved)] = hash_file(resolved)
        return cls(name=name, files=files)

    def structures(self) -> list[Atoms]:
        """Read all structures.

        Raises
        ------
        StructureError
            If a file is missing, changed since the flow was made, or unreadable.
        """
        from atomfoundry.sources import fetch_structures, load_preset
        from atomfoundry.sources.files import short_names

        frames: list[Atoms] = []
        for preset in self.presets:
            frames.extend(load_preset(preset, cell=self.cell))
        names = short_names([Path(path) for path in self.files])
        for (path, sha256), name in zip(self.files.items(), names, strict=True):
            if not Path(path).is_file():
                raise StructureError(f"Structure file {path} is missing.", remedy="Put it back, then retry.")
            if hash_file(path) != sha256:
                raise StructureError(
                    f"Structure file {path} changed since the flow was made.",
                    remedy="Start the flow again: its new content makes a new flow.",
                )
            found = fetch_structures([path], cell=self.cell)
            _rename_groups(found, short_names([Path(path)])[0], name)
            frames.extend(found)
        if not frames:
            raise StructureError(f"'{self.name}' names no structures.", remedy="Give presets or files.")
        return frames

    @foundry_job(output_schema=StructureSetDoc)
    def make(self) -> StructureSetDoc:
        """Fetch the structures."""
        return structure_set(self.structures(), name=self.name, lineage={"presets": self.presets, "files": self.files})
