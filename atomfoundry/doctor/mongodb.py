"""The database server: reachable, new enough, closed to strangers, with a clock that agrees."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from atomfoundry.doctor.database_access import address, is_local, make_client
from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.moments import moment, span
from atomfoundry.doctor.registry import check
from atomfoundry.doctor.world import UnansweredError
from atomfoundry.errors import AtomfoundryError
from atomfoundry.results.mongodb import LAUNCHPAD_FILE

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

OLDEST = (4, 2)
"""pymongo 4.16 speaks with no older one; our own questions need nothing newer."""
MAINTAINED = (7, 0)
"""Older ones get no fixes any more; our servers' recipe and manual name no older one."""
SLOW_MS = 20.0
"""A job takes some forty commands one after the other."""
COMMANDS_A_JOB = 40
SKEW_S = 5.0
LARGE_SKEW_S = 300.0
UNAUTHORIZED, AUTHENTICATION_FAILED = 13, 18


def _ask(world: World, command: str) -> dict[str, Any]:
    """Ask the server; a stand-in for tests knows few commands."""
    try:
        return world.database.client.admin.command(command)
    except NotImplementedError as error:
        raise UnansweredError("the database is a stand-in that does not tell") from error


@check("mongodb", "database", limit=20.0)
def mongodb(world: World) -> Iterator[Finding]:
    """Check that the database answers, and how fast."""
    path = world.cluster / LAUNCHPAD_FILE
    content = world.document(LAUNCHPAD_FILE)
    where = address(content)
    try:
        database = world.connect()
    except AtomfoundryError as error:
        yield problem(error.message, error.remedy or f"Correct {path}.")
        return
    except Exception as error:  # noqa: BLE001, RUF100 - pymongo's own classes, and those of what it calls
        yield _unreachable(error, where, content, str(path))
        return
    times = []
    for _ in range(5):
        started = time.monotonic()
        database.client.admin.command("ping")
        times.append(1000 * (time.monotonic() - started))
    latency = median(times)
    details = {"address": where, "database": database.name, "latency_ms": round(latency, 2)}
    if latency > SLOW_MS:
        yield warning(
            f"MongoDB on {where} answers in {latency:.0f} ms: each job spends {COMMANDS_A_JOB * latency / 1000:.1f} s "
            "waiting for it.",
            "Put the database nearer to the workers, or more work into one job (LabelMaker's batch_size).",
            **details,
        )
    else:
        yield ok(f"MongoDB on {where}, database '{database.name}', answers in {latency:.1f} ms", **details)


def _unreachable(error: Exception, where: str, content: dict[str, Any], path: str) -> Finding:
    """Say why the database could not be opened, without what may be secret in the error's text."""
    text = re.split(r", Timeout:| \(configured timeouts", str(error))[0]
    password = content.get("password")
    if password:
        text = text.replace(str(password), "...")
    code = getattr(error, "code", None)
    host, _, port = where.partition(",")[0].rpartition(":")
    if code == AUTHENTICATION_FAILED:
        return problem(
            f"MongoDB on {where} refuses user '{content.get('username')}': wrong name, password or authsource.",
            f"Correct username, password and authsource in {path}, or export ATOMFOUNDRY_MONGODB_PASSWORD.",
        )
    if code == UNAUTHORIZED:
        return problem(
            f"User '{content.get('username')}' may not read the database '{content.get('name') or 'fireworks'}' on "
            f"{where}.",
            f"Write username and password in {path}, or in mongosh: db.grantRolesToUser('{content.get('username')}', "
            f"[{{role: 'readWrite', db: '{content.get('name') or 'fireworks'}'}}])",
        )
    if "wire version" in text:
        return problem(
            f"MongoDB on {where} is too old for this pymongo: {text}.", "Update the server to MongoDB 7.0 or newer."
        )
    if "SSL" in text or "certificate" in text:
        return problem(
            f"MongoDB on {where} and this machine do not agree on TLS: {text}.",
            f"Write 'mongoclient_kwargs: {{tls: true, tlsCAFile: /path/ca.pem}}' in {path}.",
        )
    return problem(
        f"MongoDB on {where} does not answer: {text}.",
        f"nc -vz {host or where} {port or 27017}; start the server, or correct host and port in {path}.",
        error=type(error).__name__,
    )


@check("mongodb-version", "database")
def mongodb_version(world: World) -> Iterator[Finding]:
    """Check that the database server is new enough."""
    found = world.database.client.server_info()
    version = str(found.get("version"))
    number = tuple(found.get("versionArray", [0, 0]))[:2]
    if number < OLDEST:
        yield problem(
            f"MongoDB {version}; pymongo 4.16 needs {OLDEST[0]}.{OLDEST[1]} or newer.",
            "Update the server to MongoDB 7.0 or newer, one major version after the other.",
            version=version,
        )
    elif number < MAINTAINED:
        yield warning(
            f"MongoDB {version} works, but its makers mend nothing older than {MAINTAINED[0]}.{MAINTAINED[1]} any "
            "more.",
            "Update the server to MongoDB 7.0 or newer, one major version after the other.",
            version=version,
        )
    else:
        yield ok(f"MongoDB {version}", version=version)


@check("mongodb-authentication", "database", limit=20.0)
def mongodb_authentication(world: World) -> Iterator[Finding]:
    """Check that the database refuses whoever has no password."""
    content = world.document(LAUNCHPAD_FILE)
    _ask(world, "hello")
    where = address(content)
    client = make_client(world.cluster / LAUNCHPAD_FILE, login=False)
    try:
        client[world.database.name]["fireworks"].find_one({}, {"_id": 1})
    except Exception as error:  # noqa: BLE001, RUF100
        if getattr(error, "code", None) == UNAUTHORIZED:
            yield ok("The database is closed to whoever has no password")
        else:
            yield skipped(f"Whether {where} asks for a password could not be tried: {type(error).__name__}")
        return
    user = content.get("username") or "atomfoundry"
    role = f"{{role: 'readWrite', db: '{world.database.name}'}}"
    cure = (
        f"mongosh: db.getSiblingDB('admin').createUser({{user: '{user}', pwd: passwordPrompt(), roles: [{role}]}}); "
        "then 'security: {authorization: enabled}' in mongod.conf, and restart it."
    )
    if is_local(content):
        yield warning(
            f"MongoDB on {where} asks for no password: everybody with an account on this machine can make your workers "
            "run their code.",
            cure,
        )
    else:
        yield problem(
            f"MongoDB on {where} asks for no password: whoever reaches it can make the workers run their code.", cure
        )


@check("mongodb-tls", "database")
def mongodb_tls(world: World) -> Iterator[Finding]:
    """Check that the way to the database is encrypted."""
    content = world.document(LAUNCHPAD_FILE)
    if not content:
        yield skipped(f"{world.cluster / LAUNCHPAD_FILE} cannot be read (see 'cluster-files')")
        return
    kwargs = content.get("mongoclient_kwargs") or {}
    host = str(content.get("host") or "")
    words = {str(key).lower(): str(value).lower() for key, value in kwargs.items()}
    on = (
        words.get("tls") == "true"
        or words.get("ssl") == "true"
        or host.startswith("mongodb+srv://")
        or "tls=true" in host.lower()
        or "ssl=true" in host.lower()
    )
    lax = [
        name
        for name in ("tlsallowinvalidcertificates", "tlsinsecure")
        if words.get(name) == "true" or f"{name}=true" in host.lower()
    ]
    path = world.cluster / LAUNCHPAD_FILE
    if on and lax:
        yield warning(
            f"{path} accepts any certificate: whoever stands between can read the password.",
            f"Remove {lax[0]} from {path} and name the authority: tlsCAFile: /path/ca.pem",
        )
    elif on:
        yield ok("TLS to the database is on")
    elif is_local(content):
        yield ok("The database is on this machine: no TLS needed")
    else:
        yield warning(
            f"The way to MongoDB on {address(content)} is not encrypted: whoever listens can read results and change "
            "them.",
            f"Write 'mongoclient_kwargs: {{tls: true, tlsCAFile: /path/ca.pem}}' in {path}, and 'net: {{tls: {{mode: "
            "requireTLS, "
            "certificateKeyFile: ...}}' in mongod.conf.",
        )


@check("mongodb-clock", "database")
def mongodb_clock(world: World) -> Iterator[Finding]:
    """Compare the clocks of the database and this machine."""
    before = datetime.now(UTC)
    told = moment(_ask(world, "hello").get("localTime"))
    after = datetime.now(UTC)
    if told is None:
        yield skipped("The database does not tell its time")
        return
    skew = (told - (before + (after - before) / 2)).total_seconds()
    details = {"skew": round(skew, 3), "uncertainty": round((after - before).total_seconds() / 2, 3)}
    text = f"The database's clock is {span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine's"
    cure = "chronyc tracking (or timedatectl) on both; systemctl enable --now chronyd where it is off."
    if abs(skew) > LARGE_SKEW_S:
        yield problem(f"{text}: living jobs look lost, and lost ones living.", cure, **details)
    elif abs(skew) > SKEW_S:
        yield warning(f"{text}.", cure, **details)
    else:
        yield ok(f"Clocks differ by {1000 * abs(skew):.0f} ms", **details)


@check("mongodb-topology", "database")
def mongodb_topology(world: World) -> Iterator[Finding]:
    """Tell whether the database is one server or a replica set."""
    found = _ask(world, "hello")
    if found.get("setName"):
        hosts = found.get("hosts") or []
        if len(hosts) < 3:
            yield ok(
                f"Replica set '{found['setName']}' of {len(hosts)}: it does not survive the loss of one", hosts=hosts
            )
        else:
            yield ok(f"Replica set '{found['setName']}' of {len(hosts)}", hosts=hosts)
    elif found.get("msg") == "isdbgrid":
        yield ok("Sharded cluster")
    else:
        yield ok("One server without replicas: mongodump it regularly")
