"""Custodian over one VASP run: which handlers, and how long.

Three of atomate2's default handlers exist to change the smearing or the k-points of a run to what suits this one
structure. A label changed so lies on another surface than its neighbours, so they are off by default, and a label for
which any handler changed what the level of theory says is refused as ``"level_changed"``. A fourth takes a positive
energy for an error, which in a compressed dimer it is not.
"""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import atomate2
from atomate2.vasp import run as atomate2_run
from atomate2.vasp.jobs import base as atomate2_jobs
from custodian.custodian import ErrorHandler
from custodian.utils import tracked_lru_cache
from custodian.vasp import handlers as custodian_handlers
from custodian.vasp.handlers import WalltimeHandler

from atomfoundry.engines.vasp.inputs import WORKING_FOLDER
from atomfoundry.engines.vasp.program import attached
from atomfoundry.errors import ConfigurationError

NOT_FOR_LABELS = (
    "IncorrectSmearingHandler",
    "KspacingMetalHandler",
    "LargeSigmaHandler",
    "PositiveEnergyErrorHandler",
)
"""Handlers of atomate2's default that are off unless asked for."""

_START_VARIABLE = "CUSTODIAN_WALLTIME_START"
_CHECK_EVERY = 60.0
_STOP_SHARE, _STOP_AT_MOST = 0.1, 300.0
_RUN_KEYS = ("vasp_cmd", "vasp_gamma_cmd", "max_errors", "scratch_dir", "vasp_job_kwargs", "custodian_kwargs")


class TimeLimitHandler(ErrorHandler):
    """Ends a run that is over its time, also one that hangs and reads no STOPCAR.

    Parameters
    ----------
    seconds
        From now.
    """

    is_monitor = True

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self, directory: str = "./") -> bool:
        """Tell whether the time is over."""
        return time.monotonic() > self._end

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Correct nothing: the run is over."""
        return {"errors": ["Time limit"], "actions": None}


def make_handlers(names: Sequence[str] | None) -> list[ErrorHandler]:
    """Return new handlers.

    atomate2's own are single objects that count their corrections over all runs of a process: the second label of a
    batch would start half-way up the ladder of repairs.

    Parameters
    ----------
    names
        Classes of ``custodian.vasp.handlers``; None: atomate2's default without ``NOT_FOR_LABELS``.

    Returns
    -------
    list of ErrorHandler
        One of each.

    Raises
    ------
    ConfigurationError
        If there is no handler of a name.
    """
    if names is None:
        default = [type(handler).__name__ for handler in atomate2_run.DEFAULT_HANDLERS]
        names = [name for name in default if name not in NOT_FOR_LABELS]
    made = []
    for name in names:
        kind = getattr(custodian_handlers, name, None)
        if not (isinstance(kind, type) and issubclass(kind, ErrorHandler)):
            known = [key for key, value in vars(custodian_handlers).items() if key.endswith("Handler")]
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigurationError(
                f"vasp: custodian has no handler '{name}'.",
                remedy=f"Did you mean '{near[0]}'?" if near else "See custodian.vasp.handlers.",
            )
        made.append(kind())
    return made


def check_run_settings(settings: Mapping[str, Any]) -> None:
    """Check the keys of ``run_vasp_kwargs``.

    Raises
    ------
    ConfigurationError
        Naming the key that ``run_vasp`` does not have, or that has a setting of its own.
    """
    for key in settings:
        if key not in _RUN_KEYS:
            raise ConfigurationError(
                f"vasp: run_vasp_kwargs has '{key}'.",
                remedy=f"It may have: {', '.join(_RUN_KEYS)}; handlers and the time limit are settings of the engine.",
            )


def run_custodian(
    directory: Path, *, handlers: Sequence[str] | None, seconds: float, polling: float, settings: Mapping[str, Any]
) -> None:
    """Run VASP by atomate2's ``run_vasp``.

    Parameters
    ----------
    directory
        Folder with the inputs; the process stands in it meanwhile.
    handlers
        See ``make_handlers``.
    seconds
        How long VASP may take with all repairs. Shortly before, custodian's ``WalltimeHandler`` asks VASP to stop by
        a STOPCAR; at the end it is killed.
    polling
        Seconds between two looks at whether VASP has ended.
    settings
        Further arguments of ``run_vasp``.

    Raises
    ------
    CustodianError
        If custodian gave up.
    """
    # What a former run of this folder looked like is cached by path.
    tracked_lru_cache.tracked_cache_clear()
    settings = dict(settings)
    commands = {"vasp_cmd": atomate2.SETTINGS.VASP_CMD, "vasp_gamma_cmd": atomate2.SETTINGS.VASP_GAMMA_CMD}
    settings |= {key: attached(str(settings.get(key) or default)) for key, default in commands.items()}
    often = max(1, round(min(_CHECK_EVERY, seconds / 30) / polling))
    custodian = {"polling_time_step": polling, "monitor_freq": often, **settings.pop("custodian_kwargs", {})}
    with WORKING_FOLDER, chdir(directory), _clock(seconds) as clock:
        # By attribute of atomate2's module, where its own test tools replace it.
        atomate2_jobs.run_vasp(handlers=[*make_handlers(handlers), *clock], custodian_kwargs=custodian, **settings)


@contextmanager
def _clock(seconds: float) -> Iterator[list[ErrorHandler]]:
    """Yield the handlers that watch the time.

    ``WalltimeHandler`` notes its start in the environment and begins there the next time it is made in this process:
    right for the jobs of a batch script, wrong for the labels of a batch.
    """
    before = os.environ.pop(_START_VARIABLE, None)
    try:
        early = min(_STOP_AT_MOST, _STOP_SHARE * seconds)
        stop = WalltimeHandler(wall_time=seconds, buffer_time=early, electronic_step_stop=True)
        yield [stop, TimeLimitHandler(seconds)]
    finally:
        os.environ.pop(_START_VARIABLE, None)
        if before is not None:
            os.environ[_START_VARIABLE] = before
