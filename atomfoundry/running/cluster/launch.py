"""Sends workers of a profile to the batch queue while jobs wait: what ``launch.sh``, cron and systemd run."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from pymongo.errors import PyMongoError

from atomfoundry.errors import AtomfoundryError, ConfigurationError, ProjectError
from atomfoundry.results.mongodb import database_trouble
from atomfoundry.results.project import Project
from atomfoundry.running.cluster.launcher import Launcher
from atomfoundry.running.cluster.launchpad import open_launchpad
from atomfoundry.running.cluster.layout import ClusterLayout
from atomfoundry.running.cluster.profiles import Profile, Profiles

logger = logging.getLogger(__name__)

SLEEP_S = 30.0
PAUSE_S = 2.0
"""Between two submissions, so that a launcher is no burden to the queue."""


def _launcher(project: Project, profile: Profile, *, reserve: bool, max_queued: int | None) -> Launcher:
    from fireworks.core.fworker import FWorker
    from fireworks.utilities.fw_serializers import load_object_from_file

    layout = ClusterLayout(project.path)
    launchpad = open_launchpad(project)
    for path in (layout.qadapter(profile.name), layout.fworker(profile.name)):
        if not path.is_file():
            raise ProjectError(f"{path} is missing.", remedy="Make it with 'atomfoundry init cluster'.")
    return Launcher(
        launchpad,
        project.project_id,
        profile,
        FWorker.from_file(str(layout.fworker(profile.name))),
        load_object_from_file(str(layout.qadapter(profile.name))),
        layout.launches(profile.name),
        reserve,
        max_queued or profile.max_queued,
    )


def launch(
    project: Project,
    profile: Profile,
    *,
    reserve: bool = False,
    n_launches: int | None = None,
    stay: bool = False,
    sleep_s: float = SLEEP_S,
    pause_s: float = PAUSE_S,
    timeout_s: float | None = None,
    max_queued: int | None = None,
) -> list[str]:
    """Send workers to the queue while jobs of a profile wait.

    Parameters
    ----------
    project
        A project with the files of ``init cluster``.
    profile
        Whose jobs.
    reserve
        Make each allocation for one job, with the resources that its name is given.
    n_launches
        End after so many.
    stay
        Go on when no job waits any more, nor will when those of now are done, and when the queue refuses a worker or
        the database is away.
    sleep_s
        Between two looks at the database.
    pause_s
        Between two submissions.
    timeout_s
        End after so long.
    max_queued
        Allocations in the queue at the same time; default the profile's.

    Returns
    -------
    list[str]
        Ids in the queue of what was sent.

    Raises
    ------
    ProjectError
        If the project has no files of a cluster, or the queue refuses a worker.
    """
    launcher = _launcher(project, profile, reserve=reserve, max_queued=max_queued)
    sent: list[str] = []
    end = float("inf") if timeout_s is None else time.monotonic() + timeout_s

    def ended() -> bool:
        return len(sent) == n_launches or time.monotonic() >= end

    def send_all() -> bool:
        """Send what is wanted; return whether there is more to wait for."""
        while not ended() and launcher.wanted() and (job := launcher.send()):
            sent.append(job)
            logger.info("Worker %s of profile '%s' is in the queue", job, launcher.profile.name)
            if not ended():
                time.sleep(pause_s)
        return not ended() and (stay or launcher.future())

    while not ended():
        try:
            if not send_all():
                break
        except (ProjectError, PyMongoError) as error:
            if not stay:
                raise
            logger.warning("%s It is tried again in %g s.", database_trouble(error) or error, sleep_s)
        time.sleep(max(0.0, min(sleep_s, end - time.monotonic())))
    return sent


def main(arguments: list[str] | None = None) -> None:
    """Run as ``python -m atomfoundry.running.cluster.launch``, by ``launch.sh``.

    Parameters
    ----------
    arguments
        Command line; default that of the process.
    """
    parser = argparse.ArgumentParser(prog="launch.sh", description="Sends workers of one profile to the queue.")
    parser.add_argument("--project", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("profile")
    parser.add_argument("--reserve", "-r", action="store_true", help="an allocation for each job, of its own size")
    parser.add_argument("--nlaunches", default="0", help="number of workers, or 'infinite'; default: while jobs wait")
    parser.add_argument("--sleep", type=float, default=SLEEP_S, help="seconds between two looks at the database")
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="seconds between two submissions")
    parser.add_argument("--timeout", type=float, help="seconds after which it ends")
    parser.add_argument("--maxjobs_queue", type=int, help="allocations in the queue; default: the profile's max_queued")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger(__package__).setLevel(logging.INFO)
    try:
        project = Project.open(options.project)
        profile = Profiles.load(ClusterLayout(project.path).profiles)[options.profile]
        if options.nlaunches != "infinite" and not options.nlaunches.isdigit():
            raise ConfigurationError(
                f"--nlaunches {options.nlaunches} is no number.", remedy="Give a number, or 'infinite'."
            )
        launch(
            project,
            profile,
            reserve=options.reserve,
            n_launches=None if options.nlaunches == "infinite" else int(options.nlaunches) or None,
            stay=options.nlaunches == "infinite",
            sleep_s=options.sleep,
            pause_s=options.pause,
            timeout_s=options.timeout,
            max_queued=options.maxjobs_queue,
        )
    except AtomfoundryError as error:
        parser.exit(2, f"{error}\n")
    except PyMongoError as error:
        parser.exit(1, f"{database_trouble(error)}\n")


if __name__ == "__main__":
    main()
