"""Job functions for the runner's tests; in a module of their own so that workers can import them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from jobflow import CURRENT_JOB, Flow, JobConfig, Maker, OnMissing, Response, job

from atomfoundry.deadline import NoTimeLeftError
from atomfoundry.documents import BenchmarkDoc, StructureSetDoc
from atomfoundry.makers.job import foundry_job
from atomfoundry.results import checkpoint_directory, current_artifacts, current_labels, report_progress

NONE = JobConfig(on_missing_references=OnMissing.NONE)


def log(text: str) -> None:
    """Note an execution outside the project, so that tests see what ran how often."""
    path = os.environ.get("FLOW_JOBS_LOG")
    if path:
        with Path(path).open("a") as file:
            file.write(text + "\n")


@job
def add(a, b=0, pause=0.0):
    log(f"add {CURRENT_JOB.job.uuid} {CURRENT_JOB.job.index}")
    time.sleep(pause)
    return a + b


@job
def total(values):
    log("total")
    return sum(values)


@job(config=NONE)
def gather(values):
    log("gather")
    return list(values)


@job
def fail(a=None, message="on purpose"):
    log("fail")
    sys.stdout.write("last words\n")
    raise ValueError(message)


@job
def fail_unless(path):
    if not Path(path).exists():
        raise ValueError(f"{path} is missing")
    return 1


@job
def replace_by_job(a):
    return Response(replace=add(a, 10))


@job
def replace_by_flow(n, pause=0.0, fan=True):
    jobs = [add(i, 1, pause) for i in range(n)]
    last = total([j.output for j in jobs])
    return Response(replace=Flow([*jobs, last], output=last.output))


@job
def replace_by_flow_without_output(a):
    return Response(output=a, replace=Flow([add(a, 1), add(a, 2)]))


@job
def nested(depth, n):
    if depth == 0:
        return n
    child = nested(depth - 1, n + 1)
    return Response(replace=Flow([child, last := add(child.output, 100)], output=last.output))


@job
def replace_with_failure(config_none=True):
    good, bad = add(1, 1), fail()
    last = (gather if config_none else total)([good.output, bad.output])
    return Response(replace=Flow([good, bad, last], output=last.output))


@job
def detour(path):
    return Response(output=1, detour=write_file(path))


@job
def write_file(path, pause=0.1):
    time.sleep(pause)
    Path(path).write_text("written")
    return 1


@job
def file_exists(path, after=None):
    return Path(path).exists()


@job
def add_more(n):
    extra = add(n, 1)
    return Response(output={"value": n, "points_to": extra.output}, addition=extra)


@job
def stop(kind):
    return Response(output=1, stop_children=kind == "children", stop_jobflow=kind == "flow")


@job
def keep_data():
    return Response(output=1, stored_data={"a": [1, 2]})


@job
def reads_unknown(a):
    return Response(replace=Flow([add(a, 1)]))


@job
def kill_own_worker(path, times):
    count = int(Path(path).read_text()) if Path(path).exists() else 0
    if count < times:
        Path(path).write_text(str(count + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return count


@job
def start_program_and_wait(pid_file):
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(pid_file).write_text(f"{os.getpid()} {program.pid}")
    program.wait()
    return 1


@job
def meet(folder, me, other):
    """Return once the other one has started too: only possible in parallel."""
    Path(folder, me).write_text("here")
    end = time.monotonic() + 20
    while not Path(folder, other).exists():
        if time.monotonic() > end:
            raise TimeoutError("the other one never came")
        time.sleep(0.005)
    return me


@job
def talk(pause):
    report_progress("half way", 0.5)
    time.sleep(pause)
    return 1


@job
def folder_content(label):
    found = sorted(str(path) for path in Path().iterdir())
    kept = checkpoint_directory() / "state"
    state = kept.read_text() if kept.exists() else "fresh"
    Path("result.txt").write_text("x")
    kept.write_text("resumed")
    if state == "fresh":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"found": found, "state": state, "cwd": Path.cwd().name}


@job
def global_random():
    import random

    import numpy as np

    return [random.random(), float(np.random.random())]  # noqa: NPY002


@job
def wait_for(path, sign):
    Path(sign).touch()
    end = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.01)
    return 1


@job
def big_output(number, size):
    return {"number": number, "text": "x" * size}


@job
def big_file(number, size):
    Path("scratch").write_bytes(b"x" * size)
    Path("scratch").unlink()
    return number


@job
def always_full(number):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch")


@foundry_job
def make_artifact(text):
    path = Path("note.txt")
    path.write_text(text)
    return StructureSetDoc(name="note", n_structures=0, structures=current_artifacts().put(path))


@foundry_job
def read_artifact(document):
    return current_artifacts().fetch(document.structures).read_text()


@job
def needs_time(path):
    if not Path(path).exists():
        raise NoTimeLeftError("Not now.")
    return 1


@job
def exits():
    sys.exit(3)


@job
def returns_junk():
    return object()


@job
def uses_labels():
    return current_labels().count()


@foundry_job(profile="md")
def dynamics(n):
    return n + 1


@foundry_job
def collect(n):
    return n + 10


def _made(how, n):
    child, other = dynamics(n), collect(n)
    if how == "job":
        return Response(replace=child)
    if how == "plain job":
        return child
    if how == "light job":
        return Response(replace=other)
    if how == "flow":
        return Response(replace=Flow([child, other], output=[child.output, other.output]))
    if how == "detour":
        return Response(output=n, detour=child)
    return Response(output=n, addition=Flow([child, other]))


@foundry_job(profile="gpu")
def heavy_makes(how, n=1):
    return _made(how, n)


@foundry_job
def light_makes(how, n=1):
    return _made(how, n)


@dataclass
class ScoreMaker(Maker):
    """Makes a document from others."""

    name: str = "score"
    seed: int = 4
    pause: float = 0.01

    @foundry_job(output_schema=BenchmarkDoc)
    def make(self, parts, n=0):
        log(f"score {CURRENT_JOB.job.uuid} {CURRENT_JOB.job.index}")
        time.sleep(self.pause)
        numbers = [part.n_items for part in parts]
        return BenchmarkDoc(benchmark="score", calculator="none", n_items=sum(numbers) + n)


@dataclass
class FanMaker(Maker):
    """Replaces itself by a fan of scores and their sum."""

    name: str = "fan"
    width: int = 4
    score: ScoreMaker = field(default_factory=ScoreMaker)

    @foundry_job(output_schema=BenchmarkDoc)
    def make(self, part, depth=1):
        if depth:
            inner = FanMaker(width=self.width, score=self.score).make(part, depth=depth - 1)
            outer = self.score.make([inner.output], n=1)
            return Response(replace=Flow([inner, outer], output=outer.output))
        jobs = [self.score.make([part], n=i) for i in range(self.width)]
        last = self.score.make([j.output for j in jobs], n=1000)
        extra = self.score.make([part], n=7)
        return Response(replace=Flow([*jobs, last], output=last.output), addition=extra)


def dynamic_flow(width=4, pause=0.01) -> Flow:
    """A flow with fans inside fans."""
    score = ScoreMaker(pause=pause)
    first = score.make([], n=1)
    fans = [FanMaker(width=width, score=score).make(first.output, depth=depth) for depth in range(3)]
    last = score.make([fan.output for fan in fans], n=5)
    return Flow([first, *fans, last], output=last.output, name="dynamic")


@job
def steps(path, n, pause=0.0, stop_after=0):
    """Count to n with a checkpoint at each step; may be asked to stop after some steps of an attempt."""
    state = checkpoint_directory() / "step"
    done = int(state.read_text()) if state.exists() else 0
    begun = done
    while done < n:
        if stop_after and done - begun >= stop_after:
            raise NoTimeLeftError("The time is over.")
        time.sleep(pause)
        done += 1
        with Path(path).open("a") as file:
            file.write(f"{done}\n")
        state.with_name("new").write_text(str(done))
        state.with_name("new").replace(state)
    return done


@job
def kill_once(path):
    """Kill the own process the first time."""
    if not Path(path).exists():
        Path(path).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


@job
def never_ends(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


@job
def tell_settings_and_fail():
    """Do what careless code does with settings."""
    from atomfoundry.settings import settings

    assert settings().materials_project_key is not None
    sys.stdout.write(f"{settings()} {settings().model_dump_json()}\n")
    raise ValueError(f"not with {settings()!r}")
