"""Names of the files of one calculation."""

from __future__ import annotations

INPUT = "espresso.pwi"
OUTPUT = "espresso.pwo"
ERROR = "espresso.err"
EXIT = "espresso.exit"
"""How the program ended, JSON; while the calculation runs and after it failed."""

SCRATCH = "scratch"
"""pw.x's ``outdir``."""

SAVE = "pwscf.save"
"""What pw.x keeps there, the charge density among it."""

HANDMADE_INPUT = "pw.in"
HANDMADE_PSEUDOPOTENTIALS = "pseudo"
