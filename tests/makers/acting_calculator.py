"""EMT that asks its process to stop, or kills it, at some calculations of a whole job."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

from atomfoundry.deadline import _Request


class Acting(EMT):
    """Counts in a file, so that the numbers go on over processes."""

    def __init__(self, log: str, stop_at: list[int] = (), kill_at: list[int] = ()) -> None:
        super().__init__()
        self.log, self.stop_at, self.kill_at = Path(log), stop_at, kill_at

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Act, then compute."""
        with self.log.open("a+") as file:
            file.write("x\n")
            file.flush()
            number = len(self.log.read_text().splitlines())
        if number in self.stop_at:
            _Request.signal = "SIGTERM"
        if number in self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(atoms, properties, system_changes)
