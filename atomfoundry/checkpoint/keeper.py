"""When a long computation saves itself, when it stops, and what it says meanwhile."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atomfoundry.checkpoint.files import Saved, read_saved, remove_unfinished, write_saved
from atomfoundry.deadline import NoTimeLeftError, must_stop, reason_to_stop
from atomfoundry.errors import CheckpointError, ConfigurationError
from atomfoundry.settings import settings

Report = Callable[[str, float | None], None]

SHARE = 0.01
"""Largest part of the time that writing checkpoints may take."""

TELL_INTERVAL_S = 0.5


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return the sha256 of what makes a computation the one it is.

    Parameters
    ----------
    values
        Anything that fits JSON, and arrays.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            content = np.ascontiguousarray(value)
            return [content.dtype.str, list(content.shape), hashlib.sha256(content.tobytes()).hexdigest()]
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"{type(value).__name__} has no fingerprint")

    return hashlib.sha256(json.dumps(dict(values), sort_keys=True, default=plain).encode()).hexdigest()


class Checkpoints:
    """The checkpoint folder of a job; every long computation in it has a file of its own.

    Parameters
    ----------
    folder
        Where to; made when needed.
    interval
        Seconds of wall time between two checkpoints; default: setting ``checkpoint_interval``.
    report
        Takes a message and the part that is done, such as :func:`~atomfoundry.results.report_progress`.

    Raises
    ------
    ConfigurationError
        If the interval is negative.
    """

    def __init__(self, folder: str | Path, *, interval: float | None = None, report: Report | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.interval = settings().checkpoint_interval if interval is None else float(interval)
        self.report = report
        if not self.interval >= 0:
            raise ConfigurationError(f"Checkpoints every {interval} s are not possible.")

    def open(self, name: str, identity: Mapping[str, Any]) -> Checkpoint:
        """Return the checkpoint of one computation, whether there is a file or not.

        Parameters
        ----------
        name
            Kind of computation; part of the file's name.
        identity
            All that its outcome depends on: another one never goes on from this one's file.
        """
        return Checkpoint(name, fingerprint(identity), self)


class Checkpoint:
    """The checkpoint of one computation; made by `Checkpoints.open`.

    Parameters
    ----------
    name
        Kind of computation.
    identity
        Fingerprint of what its outcome depends on.
    checkpoints
        The folder.

    Attributes
    ----------
    earlier_s
        Seconds that the computation has taken in earlier processes, as far as they were saved.
    """

    def __init__(self, name: str, identity: str, checkpoints: Checkpoints) -> None:
        self.path = checkpoints.folder / f"{name}-{identity[:16]}.npz"
        self.identity = identity
        self.interval = checkpoints.interval
        self.report = checkpoints.report
        self.earlier_s = 0.0
        self._began = self._saved = time.perf_counter()
        self._cost = 0.0
        self._told = -TELL_INTERVAL_S

    @property
    def elapsed_s(self) -> float:
        """Seconds that the computation has taken so far, in earlier processes too."""
        return self.earlier_s + time.perf_counter() - self._began

    def load(self) -> Saved | None:
        """Return what was saved last, or None at the beginning.

        Raises
        ------
        CheckpointError
            If the file is corrupt, of another version or of another computation.
        """
        remove_unfinished(self.path)
        saved = read_saved(self.path)
        if saved is None:
            return None
        if saved.state.pop("identity", None) != self.identity:
            raise CheckpointError(
                f"Checkpoint {self.path} belongs to another computation.", remedy="Remove it to begin from the start."
            )
        self.earlier_s = float(saved.state.pop("elapsed_s"))
        self._began = self._saved = time.perf_counter()
        return saved

    def save(self, saved: Saved) -> None:
        """Write now.

        Parameters
        ----------
        saved
            What `load` shall return.
        """
        start = time.perf_counter()
        own = {"identity": self.identity, "elapsed_s": self.elapsed_s}
        write_saved(self.path, Saved(saved.arrays, {**saved.state, **own}))
        self._saved = time.perf_counter()
        self._cost = self._saved - start

    @property
    def due(self) -> bool:
        """Whether it is time to write: after the interval, or later where writing would cost too much time."""
        return time.perf_counter() - self._saved >= max(self.interval, self._cost / SHARE)

    def keep(self, collect: Callable[[], Saved], *, what: str) -> None:
        """Save where it is time to, and end the computation where its process must end; to be called between steps.

        Parameters
        ----------
        collect
            Called where something is written: all that is needed to go on from here.
        what
            The computation and how far it is, for the message.

        Raises
        ------
        NoTimeLeftError
            If the process must end; what there is has been written.
        """
        stop = must_stop()
        if not (stop or self.due):
            return
        start = time.perf_counter()
        self.save(collect())
        self._cost = time.perf_counter() - start
        if stop:
            raise NoTimeLeftError(
                f"{what}: interrupted, because {reason_to_stop()}.",
                remedy="Run it again: it goes on from its checkpoint.",
            )

    def tell(self, message: Callable[[], str], fraction: float | None = None) -> None:
        """Report how far the computation is, at most twice a second.

        Parameters
        ----------
        message
            Called only where somebody listens and it is time.
        fraction
            How much is done, 0 to 1.
        """
        now = time.perf_counter()
        if self.report is None or now - self._told < TELL_INTERVAL_S:
            return
        self._told = now
        self.report(message(), fraction)
