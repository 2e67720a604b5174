"""Error classes: every one says what was wrong, where, and what to do."""

from __future__ import annotations


class AtomfoundryError(Exception):
    """Base of all our errors.

    Parameters
    ----------
    message
        What was wrong and where: names the file and the value.
    remedy
        What the reader can do about it.
    """

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class InputError(AtomfoundryError):
    """Something the user gave is wrong; the command line exits with 2."""


class ConfigurationError(InputError):
    """A setting or flow file is wrong."""


class StructureError(InputError):
    """A structure is missing, unreadable or impossible."""


class UnknownEngineError(InputError):
    """No engine of that name."""


class EngineUnavailableError(InputError):
    """The engine's code, library or pseudopotential is not installed."""


class UnsupportedElementError(InputError):
    """The engine cannot compute one of the elements asked for."""


class LabelError(AtomfoundryError):
    """One label failed; the campaign goes on.

    Parameters
    ----------
    reason
        Reason code, e.g. ``"unconverged"``, ``"crashed"``, ``"no_forces"``, ``"nan"``.
    """

    def __init__(self, message: str, *, reason: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class DatasetError(InputError):
    """A dataset is missing, corrupt or of the wrong kind."""


class AlignmentError(AtomfoundryError):
    """Total Energy Alignment was refused."""


class ModelError(AtomfoundryError):
    """A model folder is missing, corrupt or does not fit the data."""


class TrainingError(AtomfoundryError):
    """Training cannot go on."""


class CheckpointError(AtomfoundryError):
    """The checkpoint of a long computation is corrupt or belongs to another one."""


class ArtifactError(AtomfoundryError):
    """An artifact is missing or its content does not match its hash."""


class UntrustedDocumentError(AtomfoundryError):
    """A stored document names code that reading it would have to import."""


class ProjectError(InputError):
    """A project folder is missing, foreign or of a newer schema."""


class StorageError(AtomfoundryError):
    """The disk is full or a database cannot be used: no job is to blame, nothing is lost, a later run goes on."""


class RunError(AtomfoundryError):
    """One or more jobs of a run failed."""
