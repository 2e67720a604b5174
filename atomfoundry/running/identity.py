"""Identity by content: the same flow gets the same uuids, so that a second run finds the first."""

from __future__ import annotations

import hashlib
import json
import re
import uuid as uuid_module
import warnings
from dataclasses import dataclass, field
from typing import Any

from jobflow import Flow, Job
from monty.json import MontyEncoder

NAMESPACE = uuid_module.UUID("6b5e2c1a-0d0f-5a5e-9f5e-a70f0dd00001")
"""Namespace of all uuids made here."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def uuids_in_order(flow: Flow) -> list[str]:
    """List the uuids of a flow, its subflows and jobs, in the order of the flow's own structure.

    Parameters
    ----------
    flow
        A flow.
    """
    found = [flow.uuid]
    for item in flow.jobs:
        if isinstance(item, Flow):
            found += uuids_in_order(item)
        else:
            found.append(item.uuid)
    return list(dict.fromkeys(found))


def rename(value: Any, names: dict[str, str]) -> Any:
    """Replace uuids everywhere in nested dictionaries and lists, also inside longer texts.

    Parameters
    ----------
    value
        JSON-like content.
    names
        Old uuid -> new uuid.
    """
    if isinstance(value, str):
        if value in names:
            return names[value]
        if len(value) > 36:
            return _UUID.sub(lambda match: names.get(match.group(), match.group()), value)
        return value
    if isinstance(value, dict):
        return {rename(key, names): rename(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rename(item, names) for item in value]
    return value


def _without_versions(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_versions(item) for key, item in value.items() if key != "@version"}
    if isinstance(value, list | tuple):
        return [_without_versions(item) for item in value]
    return value


def encode(content: Any) -> str:
    """Write content as JSON, objects that monty knows included.

    Parameters
    ----------
    content
        JSON-like content.
    """
    return json.dumps(content, cls=MontyEncoder, sort_keys=True)


def fingerprint(flow_dict: dict, order: list[str]) -> str:
    """Hash what a flow does: its serialised form with uuids counted through and versions left out.

    Parameters
    ----------
    flow_dict
        ``flow.as_dict()``.
    order
        Its uuids, from ``uuids_in_order``.

    Returns
    -------
    str
        32 hex digits, equal in every process.
    """
    names = {uuid: f"#{ordinal}" for ordinal, uuid in enumerate(order)}
    content = encode(_without_versions(rename(flow_dict, names)))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def child_names(parent_uuid: str, parent_index: int, flows: list[Flow]) -> dict[str, str]:
    """Give the jobs and flows that a job made their lasting uuids.

    Parameters
    ----------
    parent_uuid, parent_index
        The job that made them.
    flows
        Its replacement, detour and addition, in this order.

    Returns
    -------
    dict[str, str]
        Old uuid -> new uuid; the parent's own, which a replacement keeps, is left alone.
    """
    order = dict.fromkeys(uuid for flow in flows for uuid in uuids_in_order(flow) if uuid != parent_uuid)
    return {
        uuid: str(uuid_module.uuid5(NAMESPACE, f"{parent_uuid}:{parent_index}:{ordinal}"))
        for ordinal, uuid in enumerate(order)
    }


@dataclass(frozen=True)
class Entry:
    """A job as it goes into the queue."""

    uuid: str
    index: int
    name: str
    stage: str
    on_missing: str
    priority: int
    payload: str
    parents: list[str] = field(default_factory=list)
    """uuids of the jobs whose output it reads, or that come before it in a linear flow."""
    profile: str = "light"
    """Name of the resources it asks for."""
    manager_config: dict[str, Any] = field(default_factory=dict)
    """What jobflow passes on to the workflow manager."""


def _job_dicts(flow_dict: dict) -> dict[tuple[str, int], dict]:
    found = {}
    for item in flow_dict["jobs"]:
        if "jobs" in item:
            found.update(_job_dicts(item))
        else:
            found[item["uuid"], item["index"]] = item
    return found


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        if value.get("@class") == "OutputReference" and "uuid" in value:
            return {value["uuid"]}
        return set().union(*(_references(item) for item in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(_references(item) for item in value))
    return set()


def entries(flow: Flow, flow_dict: dict, names: dict[str, str], *, metadata: dict | None = None) -> list[Entry]:
    """Turn a flow into queue entries, in the order of the flow's own structure.

    Parameters
    ----------
    flow
        The flow.
    flow_dict
        ``flow.as_dict()``.
    names
        Old uuid -> new uuid.
    metadata
        Added to each job's metadata, unless it is there already.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some jobs are not connected")
        parents_of = {(job.uuid, job.index): parents for job, parents in flow.iterflow()}
    made = []
    for key, job_dict in _job_dicts(flow_dict).items():
        content = rename(job_dict, names)
        parents = parents_of[key]
        if metadata:
            content["metadata"] = {**metadata, **(content["metadata"] or {})}
        reads = _references([content["function_args"], content["function_kwargs"]])
        ordered = dict.fromkeys([*(names.get(parent, parent) for parent in parents), *sorted(reads)])
        ordered.pop(content["uuid"], None)
        made.append(
            Entry(
                uuid=content["uuid"],
                index=content["index"],
                name=content["name"] or "",
                stage=str((content["metadata"] or {}).get("stage") or content["name"]),
                on_missing=str(content["config"]["on_missing_references"]),
                priority=int((content["metadata"] or {}).get("priority", 0)),
                payload=encode(content),
                parents=list(ordered),
                profile=str((content["metadata"] or {}).get("profile") or "light"),
                manager_config=content["config"].get("manager_config") or {},
            )
        )
    return made


@dataclass(frozen=True)
class PreparedFlow:
    """A flow with its identity."""

    run_id: str
    name: str
    names: dict[str, str]
    """The flow's own uuids -> those in the project."""
    entries: list[Entry]


def prepare(flow: Flow | Job | list) -> PreparedFlow:
    """Give a flow its identity; the flow itself is not changed.

    Parameters
    ----------
    flow
        A flow, a job or a list of both.

    Raises
    ------
    ValueError
        If a job reads the output of one that is not in the flow, or jobs wait for each other in a circle.
    """
    from copy import deepcopy

    from jobflow.core.flow import get_flow

    if not isinstance(flow, Flow):
        # Wrapping marks a job as belonging to the wrapper: a second run of the same object would be refused.
        parts = deepcopy([flow] if isinstance(flow, Job) else list(flow))
        for part in parts:
            part.hosts = []
        flow = Flow(parts)
    flow = get_flow(flow)
    flow_dict = flow.as_dict()
    order = uuids_in_order(flow)
    run_id = fingerprint(flow_dict, order)
    names = {uuid: str(uuid_module.uuid5(NAMESPACE, f"{run_id}:{ordinal}")) for ordinal, uuid in enumerate(order)}
    return PreparedFlow(run_id, flow.name, names, entries(flow, flow_dict, names))
