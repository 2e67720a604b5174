"""``dataset.json``: what a dataset folder says about itself."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

SCHEMA_VERSION = 2
"""Version of the folder's layout; older ones are read, a newer one is refused. 1: compressed shards without index."""

METADATA_FILE = "dataset.json"

UNITS = {
    "length": "angstrom",
    "energy": "eV",
    "forces": "eV/angstrom",
    "stress": "eV/angstrom^3, tension positive, Voigt xx yy zz yz xz xy",
}


class StoredFile(BaseModel):
    """A file of the folder, known by its content."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(description="Name in the folder")
    sha256: str
    size: int = Field(description="Bytes")

    @field_validator("file")
    @classmethod
    def _in_the_folder(cls, name: str) -> str:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} is no name of a file in the folder")
        return name


class Shard(StoredFile):
    """One Parquet file of a dataset, and what goes with it."""

    n_frames: int = Field(description="Frames of the dataset, without hidden ones")
    index: StoredFile | None = Field(default=None, description="Where everything lies; absent in schema 1")
    rows: StoredFile | None = Field(
        default=None, description="Rows that belong to the dataset, an int64 .npy; all of them by default"
    )


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
    """Count rows as they pass."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()
        self._atoms = np.zeros(256, dtype=np.int64)
        self._kinds: dict[str, Counter[str]] = {kind: Counter() for kind in ("sources", "samplings", "levels", "flags")}

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count rows made by ``row_of``."""
        if not rows:
            return
        has = {
            name: np.array([row[label] is not None for row in rows])
            for name, label in (("energies", "energy"), ("forces", "forces"), ("stresses", "stress"))
        }
        labels: dict[str, tuple[NDArray[np.int32], list[str]]] = {}
        for kind, name in (("sources", "source"), ("samplings", "sampling"), ("levels", "level")):
            texts: dict[str, int] = {}
            codes = [texts.setdefault(row[name], len(texts)) for row in rows]
            labels[kind] = np.array(codes, np.int32), list(texts)
        self.add_columns(
            numbers=np.concatenate([row["numbers"] for row in rows]),
            has=has,
            labels=labels,
            flags=[row["flags"] for row in rows],
        )

    def add_columns(
        self,
        *,
        numbers: NDArray[np.uint8],
        has: Mapping[str, NDArray[np.bool_]],
        labels: Mapping[str, tuple[NDArray[np.int32], list[str]]],
        flags: Iterable[Sequence[str]],
    ) -> None:
        """Count frames given by columns: joined atomic numbers, which labels there are, texts as codes, flags."""
        labelled = np.any(list(has.values()), axis=0)
        self._atoms += np.bincount(numbers, minlength=256)
        self._totals.update(frames=len(labelled), atoms=len(numbers))
        self._totals.update({name: int(mask.sum()) for name, mask in has.items()})
        for kind, (codes, texts) in labels.items():
            counted = codes[labelled] if kind == "levels" else codes
            for text, number in zip(texts, np.bincount(counted, minlength=len(texts)).tolist(), strict=True):
                self._kinds[kind][text] += number
        self._kinds["flags"].update(flag for some in flags for flag in some)

    def add_counts(self, counts: Counts) -> None:
        """Count what was counted elsewhere."""
        from ase.data import atomic_numbers

        for name in ("frames", "atoms", "energies", "forces", "stresses"):
            self._totals[name] += getattr(counts, name)
        for symbol, number in counts.elements.items():
            self._atoms[atomic_numbers[symbol]] += number
        for kind, kept in self._kinds.items():
            kept.update(getattr(counts, kind))

    def counts(self) -> Counts:
        """Return the counts so far."""
        from ase.data import chemical_symbols

        elements = {chemical_symbols[z]: int(self._atoms[z]) for z in np.flatnonzero(self._atoms)}
        kinds = {kind: {k: v for k, v in sorted(count.items()) if v} for kind, count in self._kinds.items()}
        return Counts.model_validate({**self._totals, **kinds, "elements": dict(sorted(elements.items()))})


_LONG_SPLITS = 10_000
"""More indices than this are written packed: base64 of zlib of their differences, little-endian int64."""


def _indices(rows: Sequence[int]) -> NDArray[np.int64]:
    return np.asarray(rows, dtype="<i8")


def _pack(rows: Sequence[int]) -> str:
    return base64.b64encode(zlib.compress(np.diff(_indices(rows), prepend=0).tobytes(), 6)).decode()


def _unpack(text: str) -> list[int]:
    try:
        return np.cumsum(np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), "<i8")).tolist()
    except (ValueError, zlib.error) as error:
        raise ValueError(f"a packed split is damaged ({error})") from error


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
    version: int = Field(default=1, ge=1, description="Counts up when frames or splits are added")
    parent: str = Field(default="", description="content_hash of the version before, empty for the first")

    @property
    def content_hash(self) -> str:
        """Return a sha256 of what the dataset holds, whatever its name, its lineage and its history.

        Equal frames in equal shards, with equal levels, isolated-atom energies and splits, have equal hashes.
        """
        content = {
            "shards": [[shard.sha256, shard.rows.sha256 if shard.rows else ""] for shard in self.shards],
            "levels": [record.id for record in self.levels],
            "level": self.level.id if self.level else "",
            "isolated_energies": self.isolated_energies,
            "splits": {
                name: hashlib.sha256(_indices(rows).tobytes()).hexdigest() for name, rows in self.splits.items()
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def text(self) -> str:
        """Return the file's content; equal metadata give equal bytes."""
        content = self.model_dump(mode="json")
        if sum(map(len, self.splits.values())) > _LONG_SPLITS:
            content["splits"] = {name: _pack(rows) for name, rows in self.splits.items()}
        return json.dumps(content, indent=1) + "\n"

    @field_validator("splits", mode="before")
    @classmethod
    def _unpacked(cls, splits: Any) -> Any:
        if not isinstance(splits, dict):
            return splits
        return {name: _unpack(rows) if isinstance(rows, str) else rows for name, rows in splits.items()}


def version_file(version: int) -> str:
    """Return the name of the file that keeps an older version of ``dataset.json``."""
    return f"dataset.v{version}.json"


def read_metadata(folder: Path, file: str = METADATA_FILE) -> DatasetMetadata:
    """Read and check ``dataset.json`` of a folder.

    Raises
    ------
    DatasetError
        If there is none, it is broken, or it is of a newer schema.
    """
    path = folder / file
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(
            f"There is no dataset at '{folder}': {file} is missing.", remedy="Check the path."
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
