"""Worker processes of one run: started as they are needed, replaced when they die, told when to stop."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import uuid
from pathlib import Path

from atomfoundry.deadline import NO_TIME_STATUS, must_stop, seconds_left, stop_requested
from atomfoundry.errors import RunError, StorageError
from atomfoundry.results.project import Project
from atomfoundry.running.processes import WorkerProcess
from atomfoundry.running.progress import Watcher
from atomfoundry.running.queue import READY, RUNNING, Queue
from atomfoundry.running.worker import STORAGE_STATUS

POLL_S = 0.02
LOOK_S = 1.0
"""The queue is looked at so often even if nobody seems to have written."""
MAX_FAILED_STARTS = 3
TERM_GRACE_S = 20.0
"""After SIGTERM jobs have so long to end; queues kill half a minute after it."""
LAST_S = 5.0
"""So long before the end of the batch job what still runs is ended."""


def _space_left(path: Path) -> str:
    free = shutil.disk_usage(path).free / 1e6
    return f"A worker could not write, {free:.1f} MB of the disk are free. Make space, then run again: nothing is lost."


class Supervisor:
    """Starts workers as they are needed and takes back the jobs of those that die.

    Parameters
    ----------
    project, queue, run_id
        What is run.
    workers
        At most so many at once.
    threads
        Threads of numerical libraries in each.
    watcher
        Ticked now and then.
    """

    def __init__(
        self, project: Project, queue: Queue, run_id: str, workers: int, threads: int, watcher: Watcher
    ) -> None:
        self.project = project
        self.queue = queue
        self.run_id = run_id
        self.limit = workers
        self.threads = threads
        self.watcher = watcher
        self.live: list[WorkerProcess] = []
        self.failed_starts = 0
        self.no_time = False
        self.trouble = ""
        self.told = False
        self.kill_at = float("inf")
        self.counted = -LOOK_S

    def supervise(self) -> None:
        """Work until no job is open, or until nothing new may be begun and what runs has ended.

        Raises
        ------
        RunError
            If workers cannot be started.
        StorageError
            If a worker could not go on for want of disk or database.
        """
        read_end, write_end = os.pipe()
        seen, looked = -1, 0.0
        try:
            while True:
                buried = self._bury()
                if must_stop() or self.no_time or self.trouble:
                    self._tell_to_stop()
                    if not self.live or self._must_end():
                        break
                version = self.queue.data_version()
                # Other processes' writes change the version, our own do not.
                if buried or version != seen or time.monotonic() - looked > LOOK_S:
                    seen, looked = version, time.monotonic()
                    if self.queue.is_finished(self.run_id):
                        break
                    if not self.told:
                        self._hire(read_end)
                self.watcher.tick()
                time.sleep(POLL_S)
            if not self.told:
                self._dismiss()
        finally:
            os.close(write_end)  # the workers see this and end
            os.close(read_end)
            for process in self.live:
                process.kill()
                process.process.wait()
            with contextlib.suppress(StorageError):  # the next run takes the rest back
                for process in self.live:
                    self.queue.give_back(process.worker)
        if self.trouble:
            raise StorageError(f"The run in {self.project.path} stops: {self.trouble}")

    def _tell_to_stop(self) -> None:
        """Pass the request on to the workers; each ends after its job."""
        if stop_requested() == "SIGTERM":
            self.kill_at = min(self.kill_at, time.monotonic() + TERM_GRACE_S)
        if self.told:
            return
        self.told = True
        for process in self.live:
            process.tell(signal.SIGUSR1)

    def _must_end(self) -> bool:
        """Tell whether jobs that still run can be waited for no longer."""
        left = seconds_left()
        return time.monotonic() > self.kill_at or (left is not None and left < LAST_S)

    def _hire(self, pipe: int) -> None:
        # Counting takes as long as there are jobs, and with all hands at work it only finds deadlocks.
        if len(self.live) >= self.limit and time.monotonic() - self.counted < LOOK_S:
            return
        self.counted = time.monotonic()
        counts = self.queue.counts(self.run_id)
        ready, running = counts.get(READY, 0), counts.get(RUNNING, 0)
        if ready == 0 and running == 0:
            self.queue.block_deadlocked(self.run_id)  # seen at the next look
            return
        while len(self.live) < self.limit and len(self.live) - running < ready:
            process = WorkerProcess(uuid.uuid4().hex, self.project, self.run_id, pipe=pipe, threads=self.threads)
            self.live.append(process)

    def _bury(self) -> bool:
        """Take back the jobs of workers that have died; return whether there were any."""
        buried = False
        for process in list(self.live):
            status = process.ended()
            if status is None:
                continue
            self.live.remove(process)
            buried = True
            how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            words = process.last_words()
            if status == STORAGE_STATUS:
                # it has given back what it held, if it could
                self.trouble = words.splitlines()[-1] if words else _space_left(self.project.path)
                process.log.unlink(missing_ok=True)
                with contextlib.suppress(StorageError):
                    self.queue.give_back(process.worker)
                continue
            held = self.queue.give_back(process.worker, crash=how)
            process.log.unlink(missing_ok=True)
            if status == NO_TIME_STATUS:
                self.no_time = True
            if status in (0, NO_TIME_STATUS) or held or self.told:
                self.failed_starts = 0
                continue
            self.failed_starts += 1
            if self.failed_starts >= MAX_FAILED_STARTS:
                raise RunError(
                    f"Worker processes end at once ({how}): {words or 'they say nothing'}.",
                    remedy="Check that the modules of the flow can be imported.",
                )
        return buried

    def _dismiss(self) -> None:
        """Let the workers notice that nothing is left."""
        deadline = time.monotonic() + 5.0
        while self.live and time.monotonic() < deadline:
            for process in list(self.live):
                if process.ended() is not None:
                    self.live.remove(process)
                    self.queue.give_back(process.worker)
                    process.log.unlink(missing_ok=True)
            time.sleep(0.005)
