"""An ASE calculator that breaks in every way a code can; in a module of its own so that a child can import it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Breaking(Calculator):
    """What happens depends on the first atom's element; the energy is the number of atoms, the stress counts up."""

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self, log: str = "", pause: float = 0.0) -> None:
        super().__init__()
        self.log = log
        self.pause = pause

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{self.atoms.get_chemical_formula()} {os.getpid()}\n")
        BREAKS.get(self.atoms.get_chemical_symbols()[0], nothing)()
        time.sleep(self.pause)
        self.results = {"energy": float(len(self.atoms)), "forces": -self.atoms.positions}


def nothing() -> None:
    return


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> None:
    sys.stderr.write("a last word\n")
    os._exit(7)


def sleep() -> None:
    time.sleep(600)


def sleep_deeply() -> None:
    """Hang in C without ever giving the interpreter back."""
    ctypes.PyDLL(None).sleep(600)


def fill_memory() -> None:
    blocks = [np.ones(10_000_000) for _ in range(100)]
    assert blocks


def fail() -> None:
    raise RuntimeError("boom")


def talk() -> None:
    sys.stdout.write("python talks\n")
    ctypes.CDLL(None).puts(b"C talks")
    os.write(1, b"the system talks\n")


def give_up() -> None:
    sys.exit("no such basis")


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def start_program_and_sleep() -> None:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(os.environ["PROGRAM_PID_FILE"]).write_text(f"{os.getpid()} {program.pid}")
    time.sleep(600)


def start_program_and_crash() -> None:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(os.environ["PROGRAM_PID_FILE"]).write_text(f"{os.getpid()} {program.pid}")
    os.abort()


BREAKS = {
    "He": segfault,
    "Li": os.abort,
    "Be": leave,
    "B": sleep,
    "C": fill_memory,
    "N": fail,
    "O": talk,
    "F": be_killed,
    "Ne": give_up,
    "Na": start_program_and_sleep,
    "Mg": start_program_and_crash,
    "Al": sleep_deeply,
}
