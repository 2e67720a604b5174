"""Whose results a MongoDB database holds: those of one project, or the outputs of two could not be told apart."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from atomfoundry.errors import ProjectError

if TYPE_CHECKING:
    from pymongo.database import Database

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
    if owner != project_id:
        raise ProjectError(
            f"{where} holds the results of another project ({owner}); this one is {project_id}.",
            remedy="Give this one a database of its own: 'atomfoundry init cluster DIR --database-name NAME --force'. "
            f"If the other project is gone, drop its database, or keep its results here: mongosh {database.name}, "
            f"db.{OWNER}.drop().",
        )
