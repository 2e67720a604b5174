"""The program of the process in which an engine computes; started by ``process``, not by hand."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.engines.base import build_engine
from atomfoundry.engines.children.messages import atoms_from_message, pack, unpack
from atomfoundry.engines.launcher import die_with
from atomfoundry.errors import AtomfoundryError, InputError, LabelError

if TYPE_CHECKING:
    from atomfoundry.engines.base import Engine

IDLE_S = 120.0
"""Nothing to do for so long: the memory is given back."""

LATER_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Queues and terminals send these to all processes of a job; what follows from them is the parent's to say."""


def serve(link: Connection) -> None:
    """Answer requests until the parent closes the link, or for too long has none.

    Parameters
    ----------
    link
        The parent.
    """
    engine: Engine | None = None
    while link.poll(IDLE_S):
        try:
            header, arrays = unpack(link.recv_bytes())
        except EOFError:
            return
        if header["kind"] == "engine":
            engine, reply = _prepared(header)
            link.send_bytes(reply)
            continue
        assert engine is not None
        link.send_bytes(pack({"kind": "begun"}))
        link.send_bytes(_label(engine, header, arrays))


def _prepared(header: dict[str, Any]) -> tuple[Engine | None, bytes]:
    """Make the world look as in the parent, build the engine and load its code."""
    sys.path[:] = header["path"]
    importlib.invalidate_caches()
    os.environ.clear()
    os.environ.update(header["environment"])
    try:
        kind = getattr(importlib.import_module(header["module"]), header["class"])
        engine = build_engine(kind, header["settings"])
        engine.check_available()
    except AtomfoundryError as error:
        return None, _error(error)
    finally:
        _flush()
    return engine, pack({"kind": "ready"})


def _label(engine: Engine, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    _limit_memory(header["memory_limit"])
    try:
        os.chdir(header["cwd"])
        result = engine.evaluate(atoms_from_message(header, arrays), Path(header["directory"]))
        values = {"forces": np.asarray(result.forces, dtype=float)}
        if result.stress is not None:
            values["stress"] = np.asarray(result.stress, dtype=float)
        return pack({"kind": "result", "energy": float(result.energy)}, values)
    except (LabelError, InputError) as error:
        return _error(error)
    except MemoryError as error:
        return pack({"kind": "out_of_memory", "message": str(error)})
    except (Exception, SystemExit) as error:
        # A code's failure has as many exception types as there are codes.
        return pack({"kind": "crashed", "message": f"{type(error).__name__}: {error}"})
    finally:
        _limit_memory(None)
        _flush()


def _error(error: AtomfoundryError) -> bytes:
    return pack(
        {
            "kind": "error",
            "class": type(error).__name__,
            "message": error.message,
            "remedy": error.remedy,
            "reason": getattr(error, "reason", None),
        }
    )


def _limit_memory(megabytes: float | None) -> None:
    # Data, not address space: libraries reserve far more addresses than they ever use. And on top of what loading
    # has taken, which grows with the number of cores.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = resource.RLIM_INFINITY if megabytes is None else _data_in_use() + int(megabytes * 1e6)
    if hard != resource.RLIM_INFINITY:
        soft = hard if soft == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_in_use() -> int:
    """Return what the kernel holds against the limit already, bytes; 0 where it does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:")), 0)


def _flush() -> None:
    """Write out what Python and C have buffered, so that it belongs to this label."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _prepare_process(parent: int) -> None:
    die_with(parent)
    faulthandler.enable()
    for number in LATER_SIGNALS:
        # A handler, not SIG_IGN: programs that the code starts would inherit that and could not be ended.
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    try:
        # Where the machine's memory runs out, this process shall go and not the one that keeps the labels.
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        return


def main(arguments: list[str]) -> None:
    """Run the program.

    Parameters
    ----------
    arguments
        File descriptor of the link, process id of the parent.
    """
    descriptor, parent = (int(argument) for argument in arguments)
    _prepare_process(parent)
    serve(Connection(descriptor))
    _flush()
    os._exit(0)  # nothing of value is left, and libraries' own endings may hang


BOOT = f"import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from {__name__} import main; main(sys.argv[1:])"
"""What the interpreter is told to run: with the parent's search path from the first import on."""


def command(descriptor: int | str) -> list[str]:
    """Return the command line of a child of this process.

    Parameters
    ----------
    descriptor
        Its end of the link.
    """
    return [sys.executable, "-u", "-c", BOOT, json.dumps(sys.path), str(descriptor), str(os.getpid())]
