"""Which fields of outputs and labels are looked up fast; the same in SQLite and in MongoDB."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Indexes:
    """The indexes of one collection.

    A combined index serves questions for its first fields, and sorts by the next.
    """

    unique: tuple[str, ...]
    """Together they name one document."""
    combined: tuple[tuple[str, ...], ...]
    """Fields with one value each."""
    members: tuple[str, ...] = ()
    """Fields inside lists, such as ``inputs.uuid``, and rare ones; asked for by equality."""

    counted: tuple[str, ...] = ()
    """Fields with few different values, whose combinations SQLite counts as they are written."""

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields with one value, the unique ones first."""
        return tuple(dict.fromkeys([*self.unique, *(field for index in self.combined for field in index)]))


OUTPUTS = Indexes(
    unique=("uuid", "index"),
    combined=(
        ("name", "completed_at"),
        ("output.@class", "completed_at"),
        ("metadata.stage", "completed_at"),
        ("completed_at",),
    ),
    members=("inputs.uuid", "output.provenance.inputs.uuid", "metadata.spawned_by.uuid", "stale.frame_id"),
)
"""Of job outputs."""

LABELS = Indexes(
    unique=("frame_id", "level_id"),
    combined=(
        ("level_id", "status"),
        ("engine", "status"),
        ("status", "reason"),
        ("job_uuid",),
        ("computed_at",),
    ),
    counted=("status", "reason", "engine", "level_id"),
)
"""Of labels."""
