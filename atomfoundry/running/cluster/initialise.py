"""``init cluster``: make a project and write everything that a cluster needs into it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from atomfoundry.errors import ConfigurationError, InputError
from atomfoundry.results.mongodb import MongoConnection
from atomfoundry.results.ownership import refuse_other_owner
from atomfoundry.results.project import PROJECT_FILE, Project
from atomfoundry.running.cluster.answers import ClusterAnswers
from atomfoundry.running.cluster.fireworks_files import (
    fireworks_file,
    fworker_file,
    jobflow_file,
    launchpad_file,
    profiles_fields,
    profiles_file,
    project_environment,
    qadapter_file,
)
from atomfoundry.running.cluster.layout import ClusterFile, ClusterLayout, WrittenFile, write_files
from atomfoundry.running.cluster.passwords import Password, find_password
from atomfoundry.running.cluster.profiles import Profiles
from atomfoundry.running.cluster.service_files import passwords_file, service_files
from atomfoundry.running.cluster.yaml_text import yaml_text

MOCK_VARIABLE = "MONGOMOCK_SERVERSTORE_FILE"


@dataclass(frozen=True)
class ClusterSetup:
    """What ``init cluster`` did."""

    project: Path
    folder: Path
    answers: ClusterAnswers
    files: list[WrittenFile]
    notes: list[str] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values; no password among them."""
        return {
            "project": str(self.project),
            "folder": str(self.folder),
            "answers": self.answers.model_dump(mode="json"),
            "files": [{"path": str(file.path), "action": file.action} for file in self.files],
            "notes": self.notes,
            "next_commands": self.next_commands,
        }


def cluster_files(
    layout: ClusterLayout,
    answers: ClusterAnswers,
    *,
    password: str | None,
    project_id: str | None,
    profiles: Profiles | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[Path, ClusterFile]:
    """Return every file of ``PROJECT/cluster/``, filled in; nothing is written.

    Parameters
    ----------
    layout
        Where.
    answers
        The cluster.
    password
        The database's; goes into the two private files.
    project_id
        Whose jobs the workers take.
    profiles
        Resource profiles; default as the answers shape them.
    environment
        Further variables of every worker.

    Raises
    ------
    ConfigurationError
        If a profile asks for something that the scheduler does not know.
    """
    known = list(profiles or Profiles(profiles_fields(answers)))
    variables = project_environment(layout, answers.results, environment or {})
    files = {
        layout.answers: ClusterFile(yaml_text(answers.stored(), "What 'atomfoundry init cluster' was answered.")),
        layout.profiles: profiles_file(answers),
        layout.launchpad: launchpad_file(answers, password),
        layout.fireworks: fireworks_file(layout),
        layout.any_fworker: fworker_file(layout, None, project_id),
    }
    if answers.results == "mongodb":
        files[layout.jobflow] = jobflow_file(answers, password)
    for profile in known:
        files[layout.fworker(profile.name)] = fworker_file(layout, profile, project_id)
        if answers.scheduler != "none":
            files[layout.qadapter(profile.name)] = qadapter_file(layout, answers, profile, variables)
    return files | service_files(layout, answers, known, variables)


def write_cluster(
    project_path: str | Path,
    answers: ClusterAnswers,
    *,
    password: str | None = None,
    admin_password: str | None = None,
    environment: Mapping[str, str] | None = None,
    force: bool = False,
) -> list[WrittenFile]:
    """Write ``PROJECT/cluster/``: atomically, credentials with mode 0600.

    A file that is there and differs is kept unless ``force``; ``profiles.yaml`` is kept in any case, and what depends
    on the profiles follows it.

    Parameters
    ----------
    project_path
        The folder of a project.
    answers
        The cluster.
    password
        The database's.
    admin_password
        Of a new server's administrator: then ``mongodb/passwords.env`` is written too.
    environment
        Further variables of every worker.
    force
        Replace what differs.

    Raises
    ------
    ConfigurationError
        If ``profiles.yaml`` is wrong or names another scheduler.
    ProjectError
        If the folder is no project, or a file cannot be written.
    """
    layout = ClusterLayout(Path(project_path))
    profiles = Profiles.load(layout.profiles) if layout.profiles.exists() else None
    scheduler = None if answers.scheduler == "none" else answers.scheduler
    if profiles is not None and profiles.scheduler != scheduler:
        raise ConfigurationError(
            f"{layout.profiles} says scheduler '{profiles.scheduler or 'null'}', the answer was '{answers.scheduler}'.",
            remedy=f"Write 'scheduler: {scheduler or 'null'}' there, or remove the file for the defaults.",
        )
    files = cluster_files(
        layout,
        answers,
        password=password,
        project_id=Project.open(layout.project_path).project_id,
        profiles=profiles,
        environment=environment,
    )
    if password is not None and admin_password is not None:
        server = passwords_file(answers, password=password, admin_password=admin_password)
        files = {layout.mongodb_passwords: server, **files}
    done = write_files(files, force=force)
    for profile in profiles or Profiles(profiles_fields(answers)):
        if scheduler is not None:
            layout.launches(profile.name).mkdir(parents=True, exist_ok=True)
    layout.logs.mkdir(parents=True, exist_ok=True)
    return done


def init_cluster(
    path: str | Path,
    *,
    password: str | None = None,
    generate_password: bool = False,
    ask_password: Callable[[], str] | None = None,
    force: bool = False,
    **answers: Any,
) -> ClusterSetup:
    """Make a folder a project of a cluster; the Python twin of ``atomfoundry init cluster``.

    Answers of an earlier time count where none is given. The same call again changes nothing; another answer is an
    error without ``force``.

    Parameters
    ----------
    path
        The project's folder: new, empty or a project. It lies where all nodes see it.
    password
        Of the database; default: the variable ``ATOMFOUNDRY_MONGODB_PASSWORD``, that of an earlier time, a generated
        one, or the one asked for.
    generate_password
        For a new database server: make passwords, see ``cluster/mongodb/``.
    ask_password
        Asks a person where there is no other source.
    force
        Replace files that differ, all but ``profiles.yaml``.
    **answers
        Fields of :class:`~atomfoundry.running.cluster.answers.ClusterAnswers`; None counts as not given.

    Raises
    ------
    ConfigurationError
        If an answer is wrong or differs from the earlier one; the message names the nearest valid value.
    InputError
        If there is no password.
    ProjectError
        If the folder cannot become such a project, or the database is up and holds another project's results.
    """
    layout = ClusterLayout(_folder(path))
    earlier = ClusterAnswers.read(layout.answers)
    given = {key: value for key, value in answers.items() if value is not None}
    if earlier:
        before = ClusterAnswers.check(earlier, where=str(layout.answers))
    else:
        kind = _kind(layout.project_path)
        earlier = {"results": kind} if kind else {}
        before = None
    chosen = ClusterAnswers.check({"database_name": layout.database_name, **earlier, **given})
    if before is not None and not force:
        _refuse_changes(layout, before, chosen)
    if before is not None and layout.profiles.exists():
        _refuse_lost(layout, before, chosen)
    _check_python(chosen.python)
    secret = find_password(layout, chosen, given=password, generate=generate_password, ask=ask_password, force=force)
    project = Project.open_or_create(layout.project_path, chosen.results)
    if chosen.results == "mongodb" and not secret.generated:
        described = yaml.safe_load(launchpad_file(chosen, secret.value).text)
        refuse_other_owner(MongoConnection(**described), project.project_id)
    mock = os.environ.get(MOCK_VARIABLE)
    files = write_cluster(
        project.path,
        chosen,
        password=secret.value,
        admin_password=secrets.token_urlsafe(32) if secret.generated else None,
        environment={MOCK_VARIABLE: mock} if mock else None,
        force=force,
    )
    return ClusterSetup(
        project=project.path,
        folder=layout.folder,
        answers=chosen,
        files=files,
        notes=_notes(layout, chosen, files, secret),
        next_commands=next_commands(layout, chosen, new_server=secret.generated),
    )


def next_commands(layout: ClusterLayout, answers: ClusterAnswers, *, new_server: bool = False) -> list[str]:
    """Return the three commands to type next; jobs of every profile need somebody who runs them."""
    folder = layout.project_path
    server = [f"# copy {layout.mongodb} to {answers.host}, there: docker compose up -d"] if new_server else []
    if answers.scheduler == "none":
        one = f"{layout.work_script} $profile --stay"
    else:
        one = f"{layout.launch_script} $profile --nlaunches infinite"
    names = " ".join(profile.name for profile in Profiles.load(layout.profiles))
    start = f"for profile in {names}; do {one} & done; wait"
    return [
        *server,
        f"atomfoundry submit my_flow.yaml --project {folder}",
        start,
        *([] if new_server else [f"atomfoundry status --project {folder}"]),
    ]


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser().resolve()
    if re.search(r"[\x00-\x1f]|\$\$", str(folder)):
        raise InputError(f"{folder!s} holds a control character or '$$'.", remedy="Choose another folder.")
    return folder


def _kind(folder: Path) -> str | None:
    if not (folder / PROJECT_FILE).is_file():
        return None
    return str(Project.open(folder).metadata.get("database", "sqlite"))


def _refuse_changes(layout: ClusterLayout, before: ClusterAnswers, now: ClusterAnswers) -> None:
    for name in ClusterAnswers.model_fields:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            raise ConfigurationError(
                f"{layout.answers} says {name} '{old}', the answer now is '{new}'.",
                remedy="Give --force to replace the files.",
            )


def _refuse_lost(layout: ClusterLayout, before: ClusterAnswers, now: ClusterAnswers) -> None:
    """Refuse an answer that would change nothing: it shapes the first profiles only."""
    for name in ("cpu_partition", "gpu_partition", "account", "modules"):
        if getattr(before, name) != getattr(now, name):
            raise ConfigurationError(
                f"{layout.profiles} is yours and stays, so that another {name} would change nothing.",
                remedy="Write it there, then 'init cluster --force'; or remove the file for the defaults.",
            )


def _check_python(python: Path) -> None:
    if not os.access(python, os.X_OK) or python.is_dir():
        raise InputError(
            f"{python} is no Python interpreter.", remedy="Give that of the environment with Atomfoundry (--python)."
        )


def _notes(layout: ClusterLayout, answers: ClusterAnswers, files: list[WrittenFile], secret: Password) -> list[str]:
    notes = []
    kept = [file.path.name for file in files if file.action == "kept" and file.path != layout.profiles]
    if kept:
        notes.append(f"Kept, though they differ: {', '.join(kept)}. --force replaces them.")
    if secret.generated:
        notes.append(f"Passwords were generated: {layout.mongodb_passwords}, for the new server.")
    if answers.user is None:
        notes.append("The database asks nobody who he is: whoever reaches it can run code as you. For tests alone.")
    if answers.results == "sqlite":
        notes.append("Results lie in SQLite: all workers must run on one host, on a local disk.")
    if answers.scheduler != "none" and answers.gpu_partition is None:
        notes.append("No GPU partition: profile 'gpu' (training) runs on CPUs.")
    if layout.folder.stat().st_mode & 0o022:
        notes.append(f"Others may write to {layout.folder}: they could run code as you (chmod go-w).")
    home = Path("~/.fireworks/FW_config.yaml").expanduser()
    if home.is_file():
        notes.append(
            f"{home} wins over {layout.fireworks.name} for FireWorks' own commands outside of {layout.folder}."
        )
    return notes
