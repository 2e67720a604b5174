"""Whose results a MongoDB database holds: those of one project, or the outputs of two could not be told apart."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from atomfoundry.errors import ProjectError

if TYPE_CHECKING:
    from pymongo.database import Database

    from atomfoundry.results.mongodb import MongoConnection

PATIENCE_S = 2.0
OWNER = "foundry_owner"
"""Collection of one document: the id of the project whose outputs and labels are in this database."""

_RESULTS = {"_id": "results"}


def owner_of(database: Database) -> str | None:
    """Return the id of the project whose results are in a database; None where nobody has written any.

    Parameters
    ----------
    database
        The database.
    """
    found = database[OWNER].find_one(_RESULTS)
    return None if found is None else found["project_id"]


def claim_results(database: Database, project_id: str, where: str) -> None:
    """Enter a project as the one whose results are in a database; idempotent.

    The jobs of several projects may share a database. Their results may not: outputs have no project, and the same
    flow has the same uuids in every project, so that one project's outputs would replace the other's.

    Parameters
    ----------
    database
        The database.
    project_id
        The project's id.
    where
        Server and database for the error's text.

    Raises
    ------
    ProjectError
        If the results of another project are there.
    """
    from pymongo.errors import DuplicateKeyError

    owner = owner_of(database)
    if owner is None:
        with suppress(DuplicateKeyError):  # another process was first
            database[OWNER].update_one(_RESULTS, {"$setOnInsert": {"project_id": project_id}}, upsert=True)
        owner = owner_of(database)
    _check(owner, project_id, where, database.name)


def refuse_other_owner(connection: MongoConnection, project_id: str | None) -> None:
    """Refuse a database with the results of another project; one that is not there yet is asked by the first write.

    Parameters
    ----------
    connection
        Where the database is.
    project_id
        The project's id.

    Raises
    ------
    ProjectError
        If the results of another project are there.
    """
    from pymongo.errors import PyMongoError

    if not _listens(connection):
        return
    client = connection.brief_client(PATIENCE_S)
    try:
        owner = owner_of(client[connection.name])
    except PyMongoError:
        return
    finally:
        client.close()
    if owner is not None:
        _check(owner, project_id, connection.label, connection.name)


def _listens(connection: MongoConnection) -> bool:
    """Tell whether the first of the database's machines takes connections."""
    address = connection.host.partition("://")[2].partition("/")[0] if connection.uri_mode else connection.host
    try:
        place = urlsplit(f"//{address.partition(',')[0]}")
        socket.create_connection((place.hostname or "", place.port or connection.port), PATIENCE_S).close()
    except (OSError, ValueError):
        return False
    return True


def _check(owner: str | None, project_id: str | None, where: str, name: str) -> None:
    if owner != project_id:
        raise ProjectError(
            f"{where} holds the results of another project ({owner}); this one is {project_id}.",
            remedy="Give this one a database of its own: 'atomfoundry init cluster DIR --database-name NAME --force'. "
            f"If the other project is gone, drop its database, or keep its results here: mongosh {name}, "
            f"db.{OWNER}.drop().",
        )
