"""Start pw.x so that it dies with its parent. Run as a script, in an interpreter of its own.

    python -I launcher.py --parent PID --library LIBQEPY_PW -in INPUT
    python -I launcher.py --parent PID --command PW_X [ARGUMENT...] -in INPUT

With ``--library`` this process becomes pw.x: the input is opened as standard input and the library's main
routine is called; the qepy package itself is never imported. Only the standard library is used, nothing of
Atomfoundry.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends (Linux; elsewhere only the timeout protects).

    Parameters
    ----------
    parent
        Process id of the parent: had it died before the kernel was asked, this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


def main(arguments: list[str]) -> None:
    """Become pw.x.

    Parameters
    ----------
    arguments
        As in the module's description.
    """
    die_with(int(arguments[1]))
    kind, target, rest = arguments[2], arguments[3], arguments[4:]
    if kind == "--command":
        os.execvp(target, [target, *rest])
    descriptor = os.open(rest[rest.index("-in") + 1], os.O_RDONLY)
    os.dup2(descriptor, 0)
    ctypes.CDLL(target, ctypes.RTLD_GLOBAL).pwscf_()
    # Fortran and C buffers are flushed by their own exit handlers.
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
