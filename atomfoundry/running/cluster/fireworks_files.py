"""The files that FireWorks and jobflow read, filled in."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

from atomfoundry.running.cluster.answers import ClusterAnswers
from atomfoundry.running.cluster.layout import PRIVATE, ClusterFile, ClusterLayout, jobs_of_project
from atomfoundry.running.cluster.profiles import DEFAULTS, Profile
from atomfoundry.running.cluster.queue_script import job_name
from atomfoundry.running.cluster.wall_time import format_wall_time
from atomfoundry.running.cluster.yaml_text import yaml_text

WAIT_MS = 300_000
"""How long an operation waits for a database that is away (ms)."""

_QUEUE_TYPES = {"slurm": "SLURM", "pbs": "PBS"}
_SHOWN = ("queue", "nodes", "cores", "cores_per_job", "threads", "gpus", "memory_mb", "max_queued", "account")


def client_options(answers: ClusterAnswers) -> dict[str, Any]:
    """Return the arguments of ``MongoClient`` besides address and user."""
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": WAIT_MS,
        "connectTimeoutMS": 20_000,
        "socketTimeoutMS": WAIT_MS,
        "retryWrites": True,
        "retryReads": True,
        "appname": "atomfoundry",
    }
    if answers.replica_set:
        options["replicaSet"] = answers.replica_set
    if answers.tls:
        options["tls"] = True
    if answers.tls_ca_file:
        options["tlsCAFile"] = str(answers.tls_ca_file)
    return options


def _address(answers: ClusterAnswers, password: str | None) -> dict[str, Any]:
    """Return host, port and user as FireWorks and maggma both take them; in a connection string if it is one."""
    if not answers.is_uri:
        return {"host": answers.host, "port": answers.port, "username": answers.user, "password": password}
    scheme, _, rest = answers.host.partition("://")
    who = quote_plus(answers.user) + (f":{quote_plus(password)}" if password else "") + "@" if answers.user else ""
    if answers.user:
        # MongoDB's own choice would be 'admin'
        path, _, given = rest.partition("?")
        path = path if "/" in path else f"{path}/"
        rest = f"{path}?{f'{given}&' if given else ''}authSource={_auth_source(answers)}"
    return {"host": f"{scheme}://{who}{rest}"}


def _auth_source(answers: ClusterAnswers) -> str | None:
    return (answers.auth_source or answers.database_name) if answers.user else None


def launchpad_file(answers: ClusterAnswers, password: str | None) -> ClusterFile:
    """Return ``my_launchpad.yaml``."""
    content = {
        **_address(answers, password),
        "name": answers.database_name,
        "authsource": _auth_source(answers),
        "uri_mode": answers.is_uri,
        "mongoclient_kwargs": client_options(answers),
        "user_indices": ["spec.foundry.uuid", "spec.foundry.run_id", "spec._category"],
        "wf_user_indices": ["metadata.foundry.run_id"],
    }
    comment = "FireWorks' database. Whoever can write to it can run code as you: keep this file yours alone."
    return ClusterFile(yaml_text({k: v for k, v in content.items() if v is not None}, comment), PRIVATE)


def jobflow_file(answers: ClusterAnswers, password: str | None) -> ClusterFile:
    """Return ``jobflow.yaml``: outputs lie in the same database."""
    store: dict[str, Any] = {"type": "MongoStore", "database": answers.database_name, "collection_name": "outputs"}
    if answers.is_uri:
        store["uri"] = _address(answers, password)["host"]
    else:
        store |= {"host": answers.host, "port": answers.port}
        if answers.user:
            store |= {"username": answers.user, "password": password or ""}
            store["auth_source"] = _auth_source(answers)
    store["mongoclient_kwargs"] = client_options(answers)
    return ClusterFile(yaml_text({"JOB_STORE": {"docs_store": store}}, "Jobflow's store: the outputs."), PRIVATE)


def fireworks_file(layout: ClusterLayout) -> ClusterFile:
    """Return ``FW_config.yaml``; every key is one that FireWorks knows, as it refuses others."""
    content = {
        "CONFIG_FILE_DIR": str(layout.folder),
        "LAUNCHPAD_LOC": str(layout.launchpad),
        "FWORKER_LOC": str(layout.any_fworker),
        "PING_TIME_SECS": 60,
        "RUN_EXPIRATION_SECS": 900,
        "RAPIDFIRE_SLEEP_SECS": 1,
        "QUEUE_UPDATE_INTERVAL": 5,
        "QSTAT_FREQUENCY": 10,
        "SORT_FWS": "FIFO",
        "PRINT_FW_JSON": False,
        "REMOVE_USELESS_DIRS": True,
        "STORE_PACKING_INFO": False,
        "MONGO_SOCKET_TIMEOUT_MS": WAIT_MS,
    }
    comment = "FireWorks' settings. ~/.fireworks/FW_config.yaml, where there is one, wins outside of this folder."
    return ClusterFile(yaml_text(content, comment))


def fworker_file(layout: ClusterLayout, profile: Profile | None, project_id: str | None) -> ClusterFile:
    """Return ``my_fworker_<profile>.yaml``, or ``fworker.yaml`` for the jobs of all profiles.

    It names the project: others may have jobs of this category in the same database.
    """
    content = {
        "name": layout.slug if profile is None else f"{layout.slug}-{profile.name}",
        "category": "" if profile is None else profile.category,
        "query": json.dumps(jobs_of_project(project_id)),
        "env": {},
    }
    if profile is None:
        return ClusterFile(yaml_text(content, "What FireWorks' 'rlaunch' takes without '-w': this project's jobs."))
    return ClusterFile(yaml_text(content, f"Takes this project's jobs of profile '{profile.name}'."))


def worker_command(layout: ClusterLayout, answers: ClusterAnswers, profile: Profile) -> str:
    """Return the shell command of a profile's worker."""
    words = [str(answers.python), "-m", "atomfoundry.cli.main", "worker"]
    words += ["--project", str(layout.project_path), "--category", profile.category]
    words += ["--parallel", str(profile.jobs_at_once), "--threads", str(profile.threads)]
    return shlex.join(words)


def project_environment(layout: ClusterLayout, results: str, more: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that every worker of a project has; paths, no credential.

    Parameters
    ----------
    layout
        Where the project's files are.
    results
        Its kind of database, ``"sqlite"`` or ``"mongodb"``.
    more
        Further variables.
    """
    variables = {"ATOMFOUNDRY_PROJECT": str(layout.project_path), "FW_CONFIG_FILE": str(layout.fireworks)}
    if results == "mongodb":
        variables["JOBFLOW_CONFIG_FILE"] = str(layout.jobflow)
    return {**variables, **more}


def qadapter_file(
    layout: ClusterLayout, answers: ClusterAnswers, profile: Profile, environment: Mapping[str, str]
) -> ClusterFile:
    """Return ``my_qadapter_<profile>.yaml``.

    Raises
    ------
    ConfigurationError
        If the profile's ``extra`` has a key that the scheduler's template lacks.
    """
    content: dict[str, Any] = {
        "_fw_name": "CommonAdapter",
        "_fw_q_type": _QUEUE_TYPES[answers.scheduler],
        "_fw_q_name": job_name(profile.name, answers.scheduler),
        "_fw_timeout": 60,
    }
    if answers.scheduler == "pbs":
        content["_fw_template_file"] = str(layout.pbs_template)
    # exec: the batch process becomes the worker, so that the queue's signal reaches it
    # 'singleshot' is what FireWorks looks for where it reserves a job, whose '--fw_id' it puts behind
    content["rocket_launch"] = f"exec {worker_command(layout, answers, profile)} singleshot"
    content |= profile.queue_parameters(answers.scheduler, environment=environment)
    comment = "Made from profiles.yaml: change that, then 'atomfoundry init cluster --force'."
    return ClusterFile(yaml_text(content, comment))


PROFILES_COMMENT = """\
What jobs get from the queue. This file is yours: 'init cluster' never replaces it; after a change
'atomfoundry init cluster --force' writes the adapters anew.

nodes, cores, gpus, memory_mb   of one allocation, on each node
cores_per_job                   several jobs share an allocation: cores // cores_per_job at the same time
threads                         of one process (MPI rank): OMP_NUM_THREADS, Slurm's cpus-per-task
max_queued                      allocations in the queue at the same time
Also: category, gpu_type, signal_before (s), modules, environment, extra (raw keys of the queue's template)."""

JOBS_EXAMPLE = """\
# Other resources by a job's name, for instance with a profile of its own above
# (dft_large: {queue: cpu, nodes: 2, cores: 48, wall_time: "48:00:00"}):
# jobs:
#   "label supercell *": {profile: dft_large}
"""


def profiles_fields(answers: ClusterAnswers) -> dict[str, dict[str, Any]]:
    """Return the fields of the four profiles as the answers shape them."""
    profiles: dict[str, dict[str, Any]] = {}
    for name, defaults in DEFAULTS.items():
        fields = {**defaults, "queue": answers.cpu_partition, "account": answers.account}
        if name == "gpu":
            if answers.gpu_partition:
                fields["queue"] = answers.gpu_partition
            elif answers.scheduler != "none":
                fields["gpus"] = 0
        if answers.modules:
            fields["modules"] = list(answers.modules)
        profiles[name] = fields
    return profiles


def profiles_file(answers: ClusterAnswers) -> ClusterFile:
    """Return ``profiles.yaml``, which from then on is the user's."""
    shown = {}
    for name, fields in profiles_fields(answers).items():
        profile = Profile(**{**fields, "name": name})
        entry = {key: getattr(profile, key) for key in _SHOWN}
        shown[name] = {key: value for key, value in entry.items() if value is not None or key == "queue"}
        shown[name]["wall_time"] = format_wall_time(profile.wall_time)
        if profile.modules:
            shown[name]["modules"] = list(profile.modules)
    scheduler = None if answers.scheduler == "none" else answers.scheduler
    text = yaml_text({"scheduler": scheduler, "profiles": shown}, PROFILES_COMMENT)
    return ClusterFile(f"{text}\n{JOBS_EXAMPLE}", users=True)
