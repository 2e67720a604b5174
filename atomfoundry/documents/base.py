"""What every stored document has: a schema version, provenance, artifacts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
"""Version of all documents; a project folder of a newer one is refused."""


class Artifact(BaseModel):
    """A file or folder too big for a document, addressed by its content."""

    model_config = ConfigDict(extra="forbid")

    uri: str = Field(description="Address relative to the artifact store's root")
    sha256: str = Field(description="Hash of the file, or of the sorted (path, hash) list of a folder")
    size: int = Field(description="Bytes, a folder's files summed")
    media_type: str = Field(default="application/octet-stream", description="IANA media type")


class JobReference(BaseModel):
    """One output of one job."""

    model_config = ConfigDict(extra="forbid")

    uuid: str
    index: int = 1


class Provenance(BaseModel):
    """Where a document came from. Filled by ``@foundry_job``, never by hand."""

    model_config = ConfigDict(extra="forbid")

    job_uuid: str
    job_index: int = 1
    job_name: str = ""
    inputs: list[JobReference] = Field(default_factory=list, description="Job outputs that were read")
    code_version: str = ""
    git_commit: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    host: str = ""
    device: str = "cpu"
    seed: int | None = None
    settings_hash: str = ""
    started_at: str = Field(default="", description="UTC, ISO 8601")
    wall_time_s: float = 0.0
    peak_memory_mb: float = 0.0


class FoundryDocument(BaseModel):
    """Base of all documents in the results database."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    provenance: Provenance | None = None
