"""Checkpoints of long computations: files, timing, the state of molecular dynamics."""

from atomfoundry.checkpoint.files import Saved, read_saved, write_atomically, write_saved
from atomfoundry.checkpoint.keeper import Checkpoint, Checkpoints, fingerprint, opened

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Saved",
    "fingerprint",
    "opened",
    "read_saved",
    "write_atomically",
    "write_saved",
]
