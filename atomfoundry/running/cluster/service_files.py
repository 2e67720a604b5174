"""Scripts, timers, database server and images, filled in from templates."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.running.cluster.answers import ClusterAnswers
from atomfoundry.running.cluster.fireworks_files import worker_command
from atomfoundry.running.cluster.layout import PRIVATE, PUBLIC, SCRIPT, ClusterFile, ClusterLayout
from atomfoundry.running.cluster.profiles import Profile
from atomfoundry.running.cluster.queue_script import PBS_TEMPLATE, job_name, prologue

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
SWEEP_MINUTES = 10
LAUNCH_MINUTES = 5


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # shells, systemd, compose and YAML use braces and per cent themselves
    made = Environment(  # nosec B701 # no HTML
        loader=FileSystemLoader(TEMPLATES),
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,
    )
    made.filters.update(sh=lambda value: shlex.quote(str(value)), unit=_unit_word, cron=_cron_word)
    return made


def _unit_word(value: Any) -> str:
    """Quote a word of a systemd unit's command."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"'


def _cron_word(value: Any) -> str:
    """Quote a shell word of a crontab, where a per cent sign ends the line."""
    return shlex.quote(str(value)).replace("%", "\\%")


def _filled(name: str, values: Mapping[str, Any], mode: int = PUBLIC) -> ClusterFile:
    return ClusterFile(_templates().get_template(name).render(values), mode)


def service_files(
    layout: ClusterLayout,
    answers: ClusterAnswers,
    profiles: list[Profile],
    environment: Mapping[str, str],
) -> dict[Path, ClusterFile]:
    """Return scripts, crontab and units, the database server's files and the images' recipes.

    Parameters
    ----------
    layout
        Where.
    answers
        The cluster.
    profiles
        All profiles.
    environment
        Variables of every worker.
    """
    workers: list[dict[str, Any]] = [
        {
            "profile": profile,
            "job_name": job_name(profile.name, answers.scheduler),
            "prologue": prologue(profile, "none", environment),
            "command": worker_command(layout, answers, profile),
        }
        for profile in profiles
    ]
    values = {
        "layout": layout,
        "answers": answers,
        "workers": workers,
        "profile_names": "|".join(profile.name for profile in profiles),
        "queue": answers.scheduler != "none",
        "sweep_minutes": SWEEP_MINUTES,
        "launch_minutes": LAUNCH_MINUTES,
    }
    files = {
        layout.folder / ".gitignore": _filled("gitignore", values),
        layout.folder / "README.md": _filled("README.md", values),
        layout.work_script: _filled("work.sh", values, SCRIPT),
        layout.sweep_script: _filled("sweep.sh", values, SCRIPT),
        layout.crontab: _filled("crontab", values),
        layout.systemd / f"atomfoundry-{layout.slug}-sweep.service": _filled("sweep.service", values),
        layout.systemd / f"atomfoundry-{layout.slug}-sweep.timer": _filled("sweep.timer", values),
        layout.mongodb / "compose.yaml": _filled("mongodb_compose.yaml", values),
        layout.mongodb / "create_user.js": _filled("mongodb_create_user.js", values),
        layout.mongodb / "create_users.py": _filled("mongodb_create_users.py.txt", values),
        layout.mongodb / "backup.sh": _filled("mongodb_backup.sh", values, SCRIPT),
        layout.mongodb / "restore.sh": _filled("mongodb_restore.sh", values, SCRIPT),
        layout.mongodb / "README.md": _filled("mongodb_README.md", values),
        layout.containers / "Containerfile": _filled("Containerfile", values),
        layout.containers / "Containerfile.cuda": _filled("Containerfile.cuda", values),
        layout.containers / "Containerfile.mace": _filled("Containerfile.mace", values),
        layout.containers / "README.md": _filled("containers_README.md", values),
        layout.kubernetes / "worker.yaml": _filled("kubernetes_worker.yaml", values),
    }
    if answers.scheduler == "pbs":
        files[layout.pbs_template] = ClusterFile(PBS_TEMPLATE.read_text())
    if answers.scheduler != "none":
        files[layout.launch_script] = _filled("launch.sh", values, SCRIPT)
    role = "launch" if answers.scheduler != "none" else "work"
    for worker in workers:
        unit = layout.systemd / f"atomfoundry-{layout.slug}-{role}-{worker['profile'].name}.service"
        files[unit] = _filled(f"{role}.service", {**values, **worker})
    return files


def passwords_file(answers: ClusterAnswers, *, password: str, admin_password: str) -> ClusterFile:
    """Return ``mongodb/passwords.env``, with which a new server makes its users."""
    lines = [
        "# The users of a new MongoDB server. Copy this folder to the server's machine; then delete this file here.",
        "MONGO_INITDB_ROOT_USERNAME=admin",
        f"MONGO_INITDB_ROOT_PASSWORD={admin_password}",
        f"ATOMFOUNDRY_DATABASE={answers.database_name}",
        f"ATOMFOUNDRY_USER={answers.user}",
        f"ATOMFOUNDRY_PASSWORD={password}",
    ]
    return ClusterFile("\n".join(lines) + "\n", PRIVATE)
