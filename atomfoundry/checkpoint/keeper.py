"""When a long computation saves itself, when it stops, and what it says meanwhile."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.checkpoint.files import Saved, read_saved, remove_unfinished, write_saved
from atomfoundry.deadline import NoTimeLeftError, ended_by_stop, must_stop, reason_to_stop
from atomfoundry.errors import CheckpointError, ConfigurationError
from atomfoundry.settings import settings

if TYPE_CHECKING:
    from typing import Self

Report = Callable[[str, float | None], None]

SHARE = 0.01
"""Largest part of the time that writing checkpoints may take."""

SHARE_IN_MEMORY = 0.001
"""The state after every step is kept in memory where that takes no larger part of the time: such steps are long."""

TELL_INTERVAL_S = 0.5
REMEDY = "Run it again: it goes on from its checkpoint."


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

    As a context manager it writes what is finished but not yet written where the block ends with an error.

    Parameters
    ----------
    folder
        Where to; made when needed.
    interval
        Seconds of wall time between two checkpoints; default: setting ``checkpoint_interval``.
    report
        Takes a message and the part that is done, such as :func:`~atomfoundry.results.report_progress`.
    scope
        Whose computations these are, such as a job's uuid: those of another one never go on from these files.

    Raises
    ------
    ConfigurationError
        If the interval is negative.
    """

    def __init__(
        self, folder: str | Path, *, interval: float | None = None, report: Report | None = None, scope: str = ""
    ) -> None:
        self.folder = Path(folder).absolute()
        self.interval = settings().checkpoint_interval if interval is None else float(interval)
        self.report = report
        self.scope = scope
        self._pending: dict[Path, Saved] = {}
        self._written = time.perf_counter()
        self._cost = 0.0
        if not self.interval >= 0:
            raise ConfigurationError(f"Checkpoints every {interval} s are not possible.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None or self.due:
            self.flush()

    def open(self, name: str, identity: Mapping[str, Any]) -> Checkpoint:
        """Return the checkpoint of one computation, whether there is a file or not.

        Parameters
        ----------
        name
            Kind of computation; part of the file's name.
        identity
            All that its outcome depends on: another one never goes on from this one's file.
        """
        return Checkpoint(name, fingerprint({**identity, "scope": self.scope}), self)

    @property
    def due(self) -> bool:
        """Whether it is time to write: after the interval, or later where writing would cost too much time."""
        return time.perf_counter() - self._written >= max(self.interval, self._cost / SHARE)

    def put(self, path: Path, saved: Saved) -> None:
        """Take a file's content, to be written when it is time.

        Parameters
        ----------
        path
            The file.
        saved
            Its content.
        """
        self._pending[path] = saved

    def flush(self) -> None:
        """Write all that is waiting."""
        start = time.perf_counter()
        while self._pending:
            path = next(iter(self._pending))
            write_saved(path, self._pending[path])
            del self._pending[path]
        self._written = time.perf_counter()
        self._cost = self._written - start

    def waiting(self, path: Path) -> Saved | None:
        """Return what waits to be written to a file, or None."""
        return self._pending.get(path)


class Checkpoint:
    """The checkpoint of one computation; made by `Checkpoints.open`, or by `opened` where there may be none.

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
        self.checkpoints = checkpoints
        self.earlier_s = 0.0
        self._began = self._kept = time.perf_counter()
        self._collecting_s = 0.0
        self._latest: Saved | None = None
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
        saved = self.checkpoints.waiting(self.path) or read_saved(self.path)
        if saved is None:
            return None
        if saved.state.get("identity") != self.identity:
            raise CheckpointError(
                f"Checkpoint {self.path} belongs to another computation.", remedy="Remove it to begin from the start."
            )
        self.earlier_s = float(saved.state["elapsed_s"])
        self._began = self._kept = time.perf_counter()
        return Saved(saved.arrays, {k: v for k, v in saved.state.items() if k not in ("identity", "elapsed_s")})

    def save(self, saved: Saved) -> None:
        """Write now.

        Parameters
        ----------
        saved
            What `load` shall return.
        """
        self._put(saved)
        self.checkpoints.flush()

    def finish(self, saved: Saved) -> None:
        """Keep the outcome, so that the computation is not done again while the job goes on with others.

        It is written with the next checkpoint, of whichever computation.

        Parameters
        ----------
        saved
            What `load` shall return.
        """
        self._put(saved)
        if self.checkpoints.due:
            self.checkpoints.flush()

    def keep(self, collect: Callable[[], Saved], *, what: str) -> None:
        """Save where it is time to, and end the computation where its process must end; to be called between steps.

        Parameters
        ----------
        collect
            Called where something is kept: all that is needed to go on from here.
        what
            The computation and how far it is, for the message.

        Raises
        ------
        NoTimeLeftError
            If the process must end; what there is has been written.
        """
        stop = must_stop()
        start = time.perf_counter()
        if stop or self.checkpoints.due:
            self.save(collect())
            self._latest = None
        elif (start - self._kept) * SHARE_IN_MEMORY >= self._collecting_s:
            self._latest = collect()
            self._collecting_s = time.perf_counter() - start
        else:
            self._latest = None
        self._kept = time.perf_counter()
        if stop:
            raise NoTimeLeftError(f"{what}: interrupted, because {reason_to_stop()}.", remedy=REMEDY)

    @contextmanager
    def guard(self, what: str, collect: Callable[[], Saved] | None = None) -> Iterator[None]:
        """Tell a calculation that this process's end has ended from one that failed, and save what there is.

        Parameters
        ----------
        what
            What is being computed, for the message.
        collect
            All that is needed to go on without that calculation; None: what `keep` has seen after the last step,
            if that was a long one.

        Raises
        ------
        NoTimeLeftError
            If the calculation failed because this process has to end.
        """
        try:
            yield
        except Exception as error:  # a calculator is foreign code and may raise anything
            own = isinstance(error, NoTimeLeftError)
            if not own and not ended_by_stop(error):
                raise
            saved = self._latest if collect is None else collect()
            if saved is not None:
                self._put(saved)
            self.checkpoints.flush()
            if own:
                raise
            raise NoTimeLeftError(f"{what}: interrupted, because {reason_to_stop()}.", remedy=REMEDY) from error

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
        report = self.checkpoints.report
        if report is None or now - self._told < TELL_INTERVAL_S:
            return
        self._told = now
        report(message(), fraction)

    def _put(self, saved: Saved) -> None:
        own = {"identity": self.identity, "elapsed_s": self.elapsed_s}
        self.checkpoints.put(self.path, Saved(saved.arrays, {**saved.state, **own}))


class _NoCheckpoint(Checkpoint):
    """Keeps nothing and never stops."""

    def __init__(self) -> None:
        self.earlier_s = 0.0

    def load(self) -> Saved | None:
        return None

    def save(self, saved: Saved) -> None:
        pass

    finish = save

    def keep(self, collect: Callable[[], Saved], *, what: str) -> None:
        pass

    @contextmanager
    def guard(self, what: str, collect: Callable[[], Saved] | None = None) -> Iterator[None]:
        yield

    def tell(self, message: Callable[[], str], fraction: float | None = None) -> None:
        pass


def opened(checkpoints: Checkpoints | None, name: str, identity: Callable[[], Mapping[str, Any]]) -> Checkpoint:
    """Return the checkpoint of one computation; without a folder one that keeps nothing and never stops.

    Parameters
    ----------
    checkpoints
        The folder, or None.
    name
        Kind of computation.
    identity
        Returns all that its outcome depends on.
    """
    return _NoCheckpoint() if checkpoints is None else checkpoints.open(name, identity())
