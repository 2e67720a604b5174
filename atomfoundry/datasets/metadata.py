"""``dataset.json``: what a dataset folder says about itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

SCHEMA_VERSION = 1
"""Version of the folder's layout; a newer one is refused."""

METADATA_FILE = "dataset.json"

UNITS = {
    "length": "angstrom",
    "energy": "eV",
    "forces": "eV/angstrom",
    "stress": "eV/angstrom^3, tension positive, Voigt xx yy zz yz xz xy",
}


class Shard(BaseModel):
    """One Parquet file of a dataset."""

    model_config = ConfigDict(extra="forbid")

    file: str
    sha256: str
    size: int = Field(description="Bytes")
    n_frames: int


class Counts(BaseModel):
    """What a dataset holds, counted while it is written."""

    model_config = ConfigDict(extra="forbid")

    frames: int = 0
    atoms: int = 0
    energies: int = 0
    forces: int = 0
    stresses: int = 0
    elements: dict[str, int] = Field(default_factory=dict, description="Element -> atoms")
    sources: dict[str, int] = Field(default_factory=dict, description="Source -> frames")
    samplings: dict[str, int] = Field(default_factory=dict, description="Sampling -> frames")
    levels: dict[str, int] = Field(default_factory=dict, description="Level id of labelled frames -> frames")
    flags: dict[str, int] = Field(default_factory=dict, description="Flag -> frames")


class CountKeeper:
    """Count frames as they pass."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()
        self._kinds: dict[str, Counter[str]] = {
            kind: Counter() for kind in ("elements", "sources", "samplings", "levels", "flags")
        }

    def add(self, atoms: Atoms, row: Mapping[str, Any]) -> None:
        """Count one frame and its row."""
        labels = {"energies": row["energy"], "forces": row["forces"], "stresses": row["stress"]}
        self._totals.update(frames=1, atoms=len(atoms))
        self._totals.update(name for name, label in labels.items() if label is not None)
        self._kinds["elements"].update(atoms.get_chemical_symbols())
        self._kinds["sources"].update([row["source"]])
        self._kinds["samplings"].update([row["sampling"]])
        self._kinds["flags"].update(row["flags"])
        if any(label is not None for label in labels.values()):
            self._kinds["levels"].update([row["level"]])

    def counts(self) -> Counts:
        """Return the counts so far."""
        kinds = {kind: dict(sorted(count.items())) for kind, count in self._kinds.items()}
        return Counts.model_validate({**self._totals, **kinds})


class DatasetMetadata(BaseModel):
    """Content of ``dataset.json``."""

    model_config = ConfigDict(extra="forbid")

    format: str = "atomfoundry-dataset"
    schema_version: int = SCHEMA_VERSION
    name: str = ""
    units: dict[str, str] = Field(default_factory=lambda: dict(UNITS))
    level: LevelOfTheory | None = Field(default=None, description="The one level of all labels, if there is one")
    levels: list[LevelOfTheory] = Field(default_factory=list, description="Records of all levels that occur")
    isolated_energies: dict[str, float] = Field(default_factory=dict, description="Element -> eV")
    splits: dict[str, list[int]] = Field(default_factory=dict, description="Split -> frame indices")
    counts: Counts = Field(default_factory=Counts)
    shards: list[Shard] = Field(default_factory=list)
    lineage: dict[str, Any] = Field(default_factory=dict, description="What the dataset was made from")

    def text(self) -> str:
        """Return the file's content; equal metadata give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


def read_metadata(folder: Path) -> DatasetMetadata:
    """Read and check ``dataset.json`` of a folder.

    Raises
    ------
    DatasetError
        If there is none, it is broken, or it is of a newer schema.
    """
    path = folder / METADATA_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(
            f"There is no dataset at '{folder}': {METADATA_FILE} is missing.", remedy="Check the path."
        ) from error
    except (ValueError, OSError) as error:
        raise DatasetError(f"'{path}' cannot be read: {error}.", remedy="Write the dataset again.") from error
    if not isinstance(content, dict) or content.get("format") != "atomfoundry-dataset":
        raise DatasetError(f"'{path}' does not describe an Atomfoundry dataset.", remedy="Check the path.")
    version = content.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise DatasetError(
            f"'{folder}' has dataset schema {version}; this version reads up to {SCHEMA_VERSION}.",
            remedy="Update Atomfoundry.",
        )
    try:
        return DatasetMetadata.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DatasetError(f"'{path}', key '{key}': {first['msg']}.", remedy="Write the dataset again.") from error
