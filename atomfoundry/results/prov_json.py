"""A lineage as W3C PROV-JSON (member submission of 24 April 2013)."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime, timedelta
from typing import Any

from atomfoundry.results.lineage_graph import (
    ARTIFACT_KIND,
    COMPUTED,
    FRAME_KIND,
    HOLDS,
    LABEL_KIND,
    LABELLED,
    REPLACES,
    SPAWNED,
    STORED,
    Key,
    LineageEdge,
    LineageGraph,
    LineageNode,
)

PREFIX = "urn:atomfoundry:"

_RELATIONS = (
    "wasGeneratedBy",
    "used",
    "wasDerivedFrom",
    "wasInformedBy",
    "wasAssociatedWith",
    "wasInvalidatedBy",
    "hadMember",
)


def to_prov_json(graph: LineageGraph) -> dict[str, Any]:
    """Write a lineage in the structure of the W3C submission PROV-JSON (2013).

    Outputs, artifacts, labels and frames are entities, jobs are activities with their seed, settings and machine,
    and the code that ran, with the versions of its packages, is a software agent. A withdrawn label is an
    invalidated entity.

    Parameters
    ----------
    graph
        The lineage.

    Returns
    -------
    dict
        JSON content.
    """
    return _Writer(graph).content()


def job_times(node: LineageNode) -> tuple[str | None, str | None]:
    """Return when a job started and ended, ISO 8601 with offset; None where that is not known.

    Parameters
    ----------
    node
        Its output.
    """
    started = node.provenance.get("started_at")
    if started:
        begin = datetime.fromisoformat(started)
        end = begin + timedelta(seconds=node.provenance["wall_time_s"])
        return begin.isoformat(timespec="milliseconds"), end.isoformat(timespec="milliseconds")
    if node.completed_at:
        # jobflow writes local time without saying so.
        return None, datetime.fromisoformat(node.completed_at).astimezone().isoformat()
    return None, None


def _qualified(name: str) -> dict[str, str]:
    return {"$": name, "type": "xsd:QName"}


def _local(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


class _Writer:
    def __init__(self, graph: LineageGraph) -> None:
        self.graph = graph
        self.entity: dict[str, dict[str, Any]] = {}
        self.activity: dict[str, dict[str, Any]] = {}
        self.agent: dict[str, dict[str, Any]] = {}
        self.relations: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in _RELATIONS}

    def content(self) -> dict[str, Any]:
        for node in self.graph.nodes.values():
            self.add_node(node)
        for edge in self.graph.edges:
            self.add_edge(edge)
        record: dict[str, Any] = {
            "prefix": {
                "foundry": PREFIX,
                "prov": "http://www.w3.org/ns/prov#",
                "xsd": "http://www.w3.org/2001/XMLSchema#",
            },
            "entity": self.entity,
            "activity": self.activity,
            "agent": self.agent,
            **self.relations,
        }
        return {name: content for name, content in record.items() if content}

    def relate(self, relation: str, **members: str | None) -> None:
        content = {f"prov:{name}": value for name, value in members.items() if value}
        known = self.relations[relation]
        known[f"_:{relation}{len(known) + 1}"] = content

    def entity_of(self, key: Key) -> str:
        node = self.graph.nodes[key]
        kind = {FRAME_KIND: "frame", LABEL_KIND: "label", ARTIFACT_KIND: "artifact"}.get(node.kind)
        return f"foundry:{kind}_{_local(key[0])}" if kind else f"foundry:output_{key[0]}_{key[1]}"

    @staticmethod
    def activity_of(key: Key) -> str:
        return f"foundry:job_{key[0]}_{key[1]}"

    def add_node(self, node: LineageNode) -> None:
        name = self.entity_of(node.key)
        entity: dict[str, Any] = {"prov:label": node.label}
        if node.kind:
            entity["prov:type"] = _qualified(f"foundry:{node.kind}")
        for level, label in node.levels.items():
            entity[f"foundry:level_{_local(level)}"] = label
        for mark in node.stale:
            entity.setdefault("foundry:stale", []).append(f"{mark['frame_id']} {mark['since']} {mark['reason']}")
        self.entity[name] = entity
        if not node.is_job:
            self._add_label(node, name)
            return
        if node.missing:
            return
        ended = self._add_activity(node)
        activity = self.activity_of(node.key)
        self.relate("wasGeneratedBy", entity=name, activity=activity, time=ended)
        for field, artifact in node.files.items():
            entity[f"foundry:sha256_{_local(field)}"] = artifact.sha256
            file = f"foundry:artifact_{artifact.sha256}"
            known = self.entity.setdefault(file, {"prov:type": _qualified("foundry:Artifact")})
            known |= {
                "foundry:sha256": artifact.sha256,
                "foundry:size": artifact.size,
                "foundry:media_type": artifact.media_type,
                "foundry:address": artifact.uri,
            }
            self.relate("hadMember", collection=name, entity=file)
            self.relate("wasGeneratedBy", entity=file, activity=activity, time=ended)

    def _add_label(self, node: LineageNode, name: str) -> None:
        if node.kind == LABEL_KIND and node.note.startswith("withdrawn"):
            self.relate("wasInvalidatedBy", entity=name, time=node.provenance.get("withdrawn_at"))
            self.entity[name]["foundry:withdrawn"] = node.note

    def _add_activity(self, node: LineageNode) -> str | None:
        started, ended = job_times(node)
        activity: dict[str, Any] = {"prov:label": node.name}
        if started:
            activity["prov:startTime"] = started
        if ended:
            activity["prov:endTime"] = ended
        if node.provenance.get("host"):
            activity["prov:location"] = node.provenance["host"]
        for name in ("host", "device", "seed", "settings_hash", "git_commit", "wall_time_s", "peak_memory_mb"):
            if node.provenance.get(name) is not None:
                activity[f"foundry:{name}"] = node.provenance[name]
        self.activity[self.activity_of(node.key)] = activity
        version = node.provenance.get("code_version")
        if version:
            agent = self._software(version, node.provenance.get("git_commit"), node.provenance.get("packages") or {})
            self.relate("wasAssociatedWith", activity=self.activity_of(node.key), agent=agent)
        return ended

    def _software(self, version: str, commit: str | None, packages: dict[str, str]) -> str:
        """Return the agent of one version of the code with its packages."""
        digest = hashlib.sha256(json.dumps([commit, packages], sort_keys=True).encode()).hexdigest()[:8]
        name = f"foundry:atomfoundry_{_local(version)}_{digest}"
        self.agent[name] = {
            "prov:type": _qualified("prov:SoftwareAgent"),
            "prov:label": f"Atomfoundry {version}",
            "foundry:version": version,
            **({"foundry:git_commit": commit} if commit else {}),
            **{f"foundry:package_{_local(package)}": number for package, number in sorted(packages.items())},
        }
        return name

    def add_edge(self, edge: LineageEdge) -> None:
        child, parent = self.entity_of(edge.child), self.entity_of(edge.parent)
        child_known, parent_known = (not self.graph.nodes[key].missing for key in (edge.child, edge.parent))
        if edge.how in (SPAWNED, REPLACES):
            if child_known and parent_known:
                informed, informant = self.activity_of(edge.child), self.activity_of(edge.parent)
                self.relate("wasInformedBy", informed=informed, informant=informant)
        elif edge.how == COMPUTED:
            if parent_known:
                self.relate("wasGeneratedBy", entity=child, activity=self.activity_of(edge.parent))
        elif edge.how == LABELLED:
            # a label is of a frame, whichever way the graph was walked
            frame, label = (child, parent) if self.graph.towards_parents else (parent, child)
            self.relate("wasDerivedFrom", generatedEntity=label, usedEntity=frame)
        elif edge.how == HOLDS:
            self.relate("hadMember", collection=child, entity=parent)
            self.relate("wasDerivedFrom", generatedEntity=child, usedEntity=parent)
        elif edge.how == STORED:
            return  # every artifact of an output is its member
        else:
            if child_known:
                self.relate("used", activity=self.activity_of(edge.child), entity=parent)
            self.relate("wasDerivedFrom", generatedEntity=child, usedEntity=parent)
