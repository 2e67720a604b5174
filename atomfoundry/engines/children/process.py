"""A child process that answers requests over a link, seen from its parent."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from atomfoundry.engines.children.messages import unpack
from atomfoundry.engines.children.output import Output

if TYPE_CHECKING:
    import numpy as np

LARGEST_MESSAGE = 1 << 30

_NO_MEMORY = re.compile(r"bad_alloc|MemoryError|[Oo]ut of memory|[Cc]annot allocate memory|insufficient memory")


def is_out_of_memory(text: str) -> bool:
    """Tell whether what a code said means that its memory ran out.

    Parameters
    ----------
    text
        What it said.
    """
    return _NO_MEMORY.search(text) is not None


class ChildDiedError(Exception):
    """A child has ended; for the engines' packages only, whose callers see a ``LabelError``.

    Parameters
    ----------
    status
        As ``Popen.returncode``: negative for a signal.
    tail
        The last it wrote.
    begun
        Whether it had begun what it was asked.
    """

    def __init__(self, status: int, tail: str, *, begun: bool) -> None:
        super().__init__(status, tail)
        self.status = status
        self.tail = tail
        self.begun = begun

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.status >= 0:
            return f"ended with exit code {self.status}"
        try:
            return f"was killed by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was killed by signal {-self.status}"

    @property
    def reason(self) -> str:
        """Reason code of the label that it was at."""
        # Linux ends a process by SIGKILL when memory is out; nobody else has reason to.
        no_memory = self.status == -signal.SIGKILL or is_out_of_memory(self.tail)
        return "out_of_memory" if no_memory else "crashed"


class AnswerTimeoutError(Exception):
    """The child did not answer in time; it has been ended."""


class ChildProcess:
    """A child that waits for requests; what it prints goes to a file of ours.

    Parameters
    ----------
    command
        How it is started; the number of its end of the link is put in place of the word ``"{link}"``.
    environment
        All of its variables.
    own_session
        Give it a session of its own: what it has started is then ended with it, and Ctrl-C does not reach it.

    Raises
    ------
    OSError
        If it cannot be started.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], own_session: bool = False) -> None:
        self.owner = os.getpid()
        self._stopped = False
        self._own_session = own_session
        self._output = Output()
        self._link, theirs = Pipe()
        try:
            self._process = subprocess.Popen(
                [str(theirs.fileno()) if word == "{link}" else word for word in command],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output.descriptor,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=own_session,
            )
        except OSError:
            self._link.close()
            raise
        finally:
            theirs.close()
        # The link alone would not tell of a death while something that the child has started holds the other end.
        self._alive = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Tell whether the child runs and is this process's own."""
        return self.owner == os.getpid() and not self._stopped and self._process.poll() is None

    def _ask(
        self, message: bytes, *, startup: float | None, timeout: float | None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send a request and wait for its answer; a child that does not answer properly is gone afterwards.

        Parameters
        ----------
        message
            The request.
        startup
            Seconds until it must have begun; None: no limit.
        timeout
            Seconds from then on; None: no limit.

        Returns
        -------
        tuple
            Header and arrays of the answer.

        Raises
        ------
        ChildDiedError
            If the child ended.
        AnswerTimeoutError
            If it took too long.
        """
        deadline = None if startup is None else time.monotonic() + startup
        begun = False
        try:
            self._link.send_bytes(message)
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                watched: list[Connection | int] = [self._link] if self._alive is None else [self._link, self._alive]
                ready = wait(watched, left)
                if self._link in ready:
                    header, arrays = unpack(self._link.recv_bytes(LARGEST_MESSAGE))
                    if header["kind"] != "begun":
                        return header, arrays
                    begun = True
                    deadline = None if timeout is None else time.monotonic() + timeout
                elif not ready:
                    raise AnswerTimeoutError
                elif not self._link.poll():
                    raise EOFError
        except (EOFError, OSError, ValueError, KeyError) as error:
            status = self._end()
            tail = self._output.tail()
            self._has_died(status)
            self.stop()
            raise ChildDiedError(status, tail, begun=begun) from error
        except BaseException:
            # Whatever this was (the time limit, Ctrl-C): its late answer must not be taken for the next one's.
            self.stop()
            raise

    def _end(self) -> int:
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _has_died(self, status: int) -> None:
        """Do what a kind of child needs when it has died by itself."""

    def last_words(self) -> str:
        """Return the end of what the child has written, as the end of a sentence; the next request's begins anew."""
        tail = self._output.tail()
        return f"; it last wrote:\n{tail}" if tail else "."

    def stop(self) -> None:
        """End the child and what it has started; a child of the process that forked us is left alone."""
        if self._stopped:
            return
        self._stopped = True
        if os.getpid() == self.owner:
            self._kill()
        self._link.close()
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None
        self._output.close()

    def _kill(self) -> None:
        if self._own_session:
            # The group outlives its leader where something that it has started does.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        elif self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def __del__(self) -> None:
        # Of a thread that has ended, too.
        if hasattr(self, "_alive"):
            self.stop()
