"""A calculator that ends its own process once, for tests of what a killed worker leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ase.calculators.emt import EMT

FLAG_VARIABLE = "BREAKING_EMT_FLAG"
"""Names a file; not an argument of the calculator, whose content would be part of the level of theory."""


class BreakingEMT(EMT):
    """EMT that kills its process at its fourth calculation, if there is a flag to be removed."""

    n_calculated = 0

    def calculate(self, *args, **kwargs) -> None:
        type(self).n_calculated += 1
        flag = Path(os.environ[FLAG_VARIABLE])
        if self.n_calculated == 4 and flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(*args, **kwargs)
