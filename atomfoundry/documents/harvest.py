"""The document of a harvest."""

from __future__ import annotations

from pydantic import Field

from atomfoundry.documents.base import Artifact, FoundryDocument
from atomfoundry.documents.data import LabelFailure
from atomfoundry.documents.level import LevelOfTheory


class HarvestDoc(FoundryDocument):
    """What finished calculations gave: a dataset, and how many files and frames were refused and why."""

    name: str
    dataset: Artifact
    n_files: int = Field(description="Outputs that were recognised")
    n_files_with_frames: int = 0
    n_skipped: int = Field(default=0, description="Files that are no known output")
    n_frames: int
    n_atoms: int = 0
    elements: dict[str, int] = Field(default_factory=dict, description="Element -> number of atoms")
    levels: list[LevelOfTheory] = Field(default_factory=list, description="Levels of theory of the frames")
    n_without_level: int = Field(default=0, description="Frames of files that state no level of theory")
    rejections: dict[str, int] = Field(default_factory=dict, description="Reason -> files and frames refused")
    rejected: list[LabelFailure] = Field(default_factory=list, description="The first thousand of them")
