"""Showing how a run goes: live on a terminal, a log line a stage elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from atomfoundry.running.queue import Queue
from atomfoundry.running.status import RunningJob, StageStatus, running_jobs, stages

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

logger = logging.getLogger("atomfoundry.running")

MAX_SHOWN_JOBS = 8
SHARE = 0.02
"""At most this share of the time goes into showing."""


class Display(Protocol):
    """Something that shows a run."""

    interval_s: float

    def show(self, stages: list[StageStatus], running: list[RunningJob]) -> None:
        """Show the present state.

        Parameters
        ----------
        stages
            Counts by stage.
        running
            Jobs that run now.
        """


class Silent:
    """Shows nothing."""

    interval_s = 3600.0

    def show(self, stages: list[StageStatus], running: list[RunningJob]) -> None:
        """Do nothing.

        Parameters
        ----------
        stages, running
            Unused.
        """


class LogLines:
    """One log line when a stage starts and one when it finishes."""

    interval_s = 0.5

    def __init__(self) -> None:
        self._started: set[str] = set()
        self._finished: dict[str, int] = {}

    def show(self, stages: list[StageStatus], running: list[RunningJob]) -> None:
        """Log what is new.

        Parameters
        ----------
        stages
            Counts by stage.
        running
            Unused.
        """
        for stage in stages:
            begun = stage.total > stage.open or stage.running > 0
            if begun and stage.name not in self._started:
                self._started.add(stage.name)
                logger.info("%s: started", stage.name)
            if stage.open == 0 and begun and stage.name not in self._finished:
                self._finished[stage.name] = stage.total
                failed = f", {stage.failed} failed" if stage.failed else ""
                logger.info("%s: %d of %d done%s", stage.name, stage.completed, stage.total, failed)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def render(
    title: str, stages: list[StageStatus], running: list[RunningJob], *, elapsed: float, now: float
) -> RenderableType:
    """Draw the state of a run.

    Parameters
    ----------
    title
        Name of the run.
    stages, running
        The state.
    elapsed
        s since the run began.
    now
        s since 1970.
    """
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total, done = sum(stage.total for stage in stages), sum(stage.completed for stage in stages)
    head = Text.assemble((title, "bold"), f"   {done} of {total} jobs   {_clock(elapsed)}")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, max_width=40)
    table.add_column(width=24)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for stage in stages:
        if stage.open == 0:
            style = "red" if stage.failed or stage.blocked else "green"
        else:
            style = "bold" if stage.running else "dim"
        end = stage.finished if stage.open == 0 else now
        spent = _clock(end - stage.started) if stage.started and end else ""
        lost = [f"{n} {word}" for n, word in ((stage.failed, "failed"), (stage.blocked, "blocked")) if n]
        table.add_row(
            Text(stage.name, style=style),
            # Plain colours: rich's own look alike on terminals with only 16.
            ProgressBar(
                total=max(stage.total, 1),
                completed=stage.completed,
                width=24,
                style="bright_black",
                complete_style="cyan",
                finished_style="green",
            ),
            f"{stage.completed}/{stage.total}",
            spent,
            Text(", ".join(lost), style="red"),
        )
    lines: list[RenderableType] = [head, table]
    for job in running[:MAX_SHOWN_JOBS]:
        share = f" {100 * job.fraction:.0f} %" if job.fraction is not None else ""
        text = f"  {job.name} {_clock(max(now - job.started, 0.0))}{share}  {job.message}"
        lines.append(Text(text, style="cyan", no_wrap=True, overflow="ellipsis"))
    if len(running) > MAX_SHOWN_JOBS:
        lines.append(Text(f"  and {len(running) - MAX_SHOWN_JOBS} more", style="cyan"))
    return Group(*lines)


class Live:
    """A live picture on a terminal.

    Parameters
    ----------
    title
        Name of the run.
    console
        Where to draw.
    """

    interval_s = 0.25

    def __init__(self, title: str, console: Console) -> None:
        from rich.live import Live as RichLive

        self.title = title
        self._start = time.monotonic()
        self.live = RichLive(console=console, auto_refresh=False)

    def show(self, stages: list[StageStatus], running: list[RunningJob]) -> None:
        """Draw the present state.

        Parameters
        ----------
        stages
            Counts by stage.
        running
            Jobs that run now.
        """
        elapsed = time.monotonic() - self._start
        picture = render(self.title, stages, running, elapsed=elapsed, now=time.time())
        self.live.update(picture, refresh=True)


class Watcher:
    """Reads the queue now and then and hands it to a display.

    Parameters
    ----------
    display
        Where it is shown.
    queue
        The queue.
    run_id
        The run.
    """

    def __init__(self, display: Display, queue: Queue, run_id: str) -> None:
        self.display = display
        self.queue = queue
        self.run_id = run_id
        self._next = -1e9

    def tick(self, *, final: bool = False) -> None:
        """Show the state if it is time to.

        Parameters
        ----------
        final
            Show it in any case.
        """
        if isinstance(self.display, Silent):
            return
        now = time.monotonic()
        if final or now >= self._next:
            self.display.show(stages(self.queue, self.run_id), running_jobs(self.queue, self.run_id))
            # A run of very many jobs takes long to count: seldom enough to cost little.
            spent = time.monotonic() - now
            self._next = now + max(self.display.interval_s, spent / SHARE)


@contextmanager
def watching(queue: Queue, run_id: str, title: str, *, progress: bool) -> Iterator[Watcher]:
    """Choose the display, and close it in the end.

    Parameters
    ----------
    queue
        The queue.
    run_id
        The run.
    title
        Its name.
    progress
        Show anything at all.

    Yields
    ------
    Watcher
        To be ticked.
    """
    if not progress:
        yield Watcher(Silent(), queue, run_id)
        return
    if not sys.stdout.isatty():
        watcher = Watcher(LogLines(), queue, run_id)
        yield watcher
        watcher.tick(final=True)
        return
    from rich.console import Console

    display = Live(title, Console(file=sys.stdout))
    watcher = Watcher(display, queue, run_id)
    with display.live:
        try:
            yield watcher
        finally:
            watcher.tick(final=True)
