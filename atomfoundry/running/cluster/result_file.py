"""What a job came to, as a file in its folder: written before anything is reported, so that no failure loses it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bson import json_util
from monty.json import jsanitize

from atomfoundry.checkpoint.files import write_atomically
from atomfoundry.errors import RunError
from atomfoundry.running.identity import Entry

RESULT_FILE = "result.json"
VERSION = 1


@dataclass
class MadeJobs:
    """Jobs that a job made."""

    entries: list[Entry]
    waited_for: bool


@dataclass
class JobResult:
    """Everything that is to be stored and entered when a job has ended."""

    uuid: str
    index: int
    documents: list[tuple[list[dict], list[str] | None, Any]]
    """Documents, the fields that name them, and what goes to additional stores."""
    made: list[MadeJobs] = field(default_factory=list)
    stop_children: bool = False
    stop_flow: bool = False
    stored_data: Any = None


def write_result(folder: Path, result: JobResult) -> None:
    """Write a result into a job's folder.

    Parameters
    ----------
    folder
        The job's folder.
    result
        The result.
    """
    content = {
        "version": VERSION,
        "uuid": result.uuid,
        "index": result.index,
        "documents": [
            {"docs": jsanitize(docs, strict=True, allow_bson=True), "key": key, "save": save}
            for docs, key, save in result.documents
        ],
        "made": [
            {"entries": [asdict(entry) for entry in made.entries], "waited_for": made.waited_for}
            for made in result.made
        ],
        "stop_children": result.stop_children,
        "stop_flow": result.stop_flow,
        "stored_data": result.stored_data,
    }
    text = json_util.dumps(content, json_options=json_util.RELAXED_JSON_OPTIONS)
    write_atomically(folder / RESULT_FILE, text.encode())


def read_result(folder: Path, uuid: str, index: int) -> JobResult | None:
    """Read the result that an earlier attempt left.

    Parameters
    ----------
    folder
        The job's folder.
    uuid, index
        The job.

    Returns
    -------
    JobResult or None
        None if there is none.

    Raises
    ------
    RunError
        If the file is damaged, or of another job.
    """
    path = folder / RESULT_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        content = json_util.loads(text)
        if (content["version"], content["uuid"], content["index"]) != (VERSION, uuid, index):
            raise ValueError("it belongs to another job or version")
        return JobResult(
            uuid=uuid,
            index=index,
            documents=[(item["docs"], item["key"], item["save"]) for item in content["documents"]],
            made=[
                MadeJobs([Entry(**entry) for entry in made["entries"]], made["waited_for"]) for made in content["made"]
            ],
            stop_children=content["stop_children"],
            stop_flow=content["stop_flow"],
            stored_data=content["stored_data"],
        )
    except (ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise RunError(
            f"{path} cannot be used: {error}.", remedy="Remove the file and retry the job: it is computed again."
        ) from error
