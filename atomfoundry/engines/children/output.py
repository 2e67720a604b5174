"""What a child prints: a file without a name that both processes hold."""

from __future__ import annotations

import fcntl
import os
import re
import sys
import tempfile
from typing import TextIO

TAIL_CHARACTERS = 2000
_PIECE = 1 << 20
_MODULES = re.compile(r"^Extension modules:.*", re.MULTILINE)
"""Python's last words of a crash: a list longer than the trace that it follows."""


class Output:
    """Standard output and standard error of a child, emptied from one label to the next."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="atomfoundry-")  # noqa: SIM115 (it lives as long as the child)
        self._last = ""
        # Appending, so that emptying the file moves the child's place in it.
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags | os.O_APPEND)

    @property
    def descriptor(self) -> int:
        """File descriptor for the child to write to."""
        return self._file.fileno()

    def tail(self) -> str:
        """Return the end of what the child has written since the last ``forward``; works after ``close`` too."""
        if self._file.closed:
            return self._last
        size = os.fstat(self.descriptor).st_size
        start = max(0, size - 10 * TAIL_CHARACTERS)
        text = os.pread(self.descriptor, size - start, start).decode(errors="replace")
        return _MODULES.sub("", text).strip()[-TAIL_CHARACTERS:]

    def forward(self, stream: TextIO | None = None) -> None:
        """Pass on what the child has written.

        Parameters
        ----------
        stream
            None: our own standard output, where it went without a child.
        """
        stream = stream or sys.stdout
        size = os.fstat(self.descriptor).st_size
        if size == 0:
            return
        for start in range(0, size, _PIECE):
            piece = os.pread(self.descriptor, min(_PIECE, size - start), start)
            stream.write(piece.decode(errors="replace"))
        stream.flush()
        os.ftruncate(self.descriptor, 0)

    def close(self) -> None:
        """Close the file; its end stays known."""
        self._last = self.tail()
        self._file.close()
