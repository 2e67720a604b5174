"""Start a code so that it dies with its parent. Run as a script, in an interpreter of its own.

    python -I -S launcher.py --parent PID --library LIBQEPY_PW -in INPUT
    python -I -S launcher.py --parent PID --command PW_X [ARGUMENT...] -in INPUT

With ``--library`` this process becomes pw.x: the input is opened as standard input and the library's main
routine is called; the qepy package itself is never imported. With ``--command`` it stays beside the command, for
example ``mpirun -np 4 pw.x``: when the parent ends or asks it to stop, it ends the command and whatever that has
started. Only the standard library is used, nothing of Atomfoundry.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE = 1.0
"""Seconds between asking processes to end and killing them."""


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel for a signal when the parent ends (Linux; elsewhere only the time limit protects).

    Parameters
    ----------
    parent
        Process id of the parent: had it died before the kernel was asked, this process ends at once.
    number
        The signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)


def companions() -> list[int]:
    """Return the other processes of this session (Linux; elsewhere none are known)."""
    own, session, found = os.getpid(), os.getsid(0), []
    for name in os.listdir("/proc") if sys.platform == "linux" else ():  # noqa: PTH208 - no more imports here
        if not name.isdigit() or int(name) == own:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:  # noqa: PTH123
                # The command's name, in brackets, may hold anything.
                fields = stream.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != b"Z":
            found.append(int(name))
    return found


def end_session() -> None:
    """End all other processes of this session: ask them, wait a moment, kill them (Linux; elsewhere only ask)."""
    if sys.platform != "linux":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(os.getpgrp(), signal.SIGTERM)
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + GRACE
        while (living := companions()) and time.monotonic() < until:
            for process in living:
                try:
                    os.kill(process, number)
                except OSError:
                    continue
            time.sleep(0.02)
            reap()


def reap() -> None:
    """Take the exit codes of children that have ended, adopted ones among them, so that none stays as a zombie."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def stay_beside(command: list[str], parent: int) -> int:
    """Run a command; end everything it started when it ends, when the parent ends, or when asked to.

    Parameters
    ----------
    command
        Its words.
    parent
        Process id of the parent.

    Returns
    -------
    int
        Exit code of the command; 128 and the signal if a signal ended it.
    """

    def leave(number: int, frame: object) -> None:
        end_session()
        reap()
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    if sys.platform == "linux":
        # What mpirun leaves behind becomes this process's child.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    die_with(parent, signal.SIGTERM)
    own = os.getpid()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with(own)
        try:
            os.execvp(command[0], command)  # nosec B606 # no shell is wanted; the command is the user's own setting
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
            os._exit(127)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end_session()
    return code if code >= 0 else 128 - code


def main(arguments: list[str]) -> None:
    """Run pw.x.

    Parameters
    ----------
    arguments
        As in the module's description.
    """
    parent, kind, target, rest = int(arguments[1]), arguments[2], arguments[3], arguments[4:]
    if kind == "--command":
        sys.exit(stay_beside([target, *rest], parent))
    die_with(parent)
    descriptor = os.open(rest[rest.index("-in") + 1], os.O_RDONLY)
    os.dup2(descriptor, 0)
    ctypes.CDLL(target, ctypes.RTLD_GLOBAL).pwscf_()
    # Fortran and C buffers are flushed by their own exit handlers.
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
