"""A lineage as a tree for the terminal, as a Mermaid diagram, as W3C PROV-JSON."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from atomfoundry.results.lineage_graph import POINTS, READ, REPLACES, SPAWNED, Key, LineageGraph, LineageNode

if TYPE_CHECKING:
    from rich.tree import Tree

PREFIX = "urn:atomfoundry:"


def to_tree(graph: LineageGraph) -> Tree:
    """Draw a lineage as a tree; an output met again is not drawn twice.

    Parameters
    ----------
    graph
        The lineage.
    """
    from rich.text import Text
    from rich.tree import Tree

    seen = {graph.root}
    tree = Tree(Text(graph.nodes[graph.root].label, style="bold"))
    stack = [(tree, graph.root)]
    while stack:
        branch, key = stack.pop()
        for node, how in graph.neighbours(key):
            mark = "" if how == READ else f" [{how}]"
            if node.key in seen:
                branch.add(Text(f"{node.label}{mark} (see elsewhere)", style="dim"))
                continue
            seen.add(node.key)
            stack.append((branch.add(Text(f"{node.label}{mark}")), node.key))
    return tree


def to_text(graph: LineageGraph, *, width: int = 120) -> str:
    """Write a lineage as a tree of text.

    Parameters
    ----------
    graph
        The lineage.
    width
        Characters a line.
    """
    import io

    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, force_terminal=False).print(to_tree(graph))
    return buffer.getvalue()


def to_mermaid(graph: LineageGraph) -> str:
    """Write a lineage as a Mermaid flow chart; data walks from top to bottom.

    Parameters
    ----------
    graph
        The lineage.
    """
    names = {key: f"n{number}" for number, key in enumerate(graph.nodes)}
    lines = ["flowchart TD"]
    for key, node in graph.nodes.items():
        label = node.label.replace('"', "#quot;")
        lines.append(f'    {names[key]}["{label}"]')
    for edge in graph.edges:
        arrow = "-->" if edge.how == READ else f"-. {edge.how} .->"
        lines.append(f"    {names[edge.parent]} {arrow} {names[edge.child]}")
    lines.append(f"    style {names[graph.root]} stroke-width:3px")
    return "\n".join(lines) + "\n"


def _entity(key: Key) -> str:
    return f"foundry:output_{key[0]}_{key[1]}"


def _activity(key: Key) -> str:
    return f"foundry:job_{key[0]}_{key[1]}"


def _times(node: LineageNode) -> tuple[str | None, str | None]:
    started = node.provenance.get("started_at")
    if started:
        begin = datetime.fromisoformat(started)
        return begin.isoformat(), (begin + timedelta(seconds=node.provenance["wall_time_s"])).isoformat()
    if node.completed_at:
        # jobflow writes local time without saying so.
        return None, datetime.fromisoformat(node.completed_at).astimezone().isoformat()
    return None, None


def to_prov_json(graph: LineageGraph) -> dict[str, Any]:
    """Write a lineage in the structure of the W3C submission PROV-JSON (2013).

    Outputs are entities, jobs activities, the code that ran is a software agent.

    Parameters
    ----------
    graph
        The lineage.

    Returns
    -------
    dict
        JSON content.
    """
    record: dict[str, Any] = {
        "prefix": {
            "foundry": PREFIX,
            "prov": "http://www.w3.org/ns/prov#",
            "xsd": "http://www.w3.org/2001/XMLSchema#",
        },
        "entity": {},
        "activity": {},
        "agent": {},
        "wasGeneratedBy": {},
        "used": {},
        "wasDerivedFrom": {},
        "wasInformedBy": {},
        "wasAssociatedWith": {},
    }

    def relate(relation: str, **members: str | None) -> None:
        content = {f"prov:{name}": value for name, value in members.items() if value}
        record[relation][f"_:{relation}{len(record[relation]) + 1}"] = content

    for key, node in graph.nodes.items():
        entity: dict[str, Any] = {"prov:label": node.label}
        if node.kind:
            entity["prov:type"] = {"$": f"foundry:{node.kind}", "type": "xsd:QName"}
        for name, sha256 in node.artifacts.items():
            entity[f"foundry:{name}_sha256"] = sha256
        record["entity"][_entity(key)] = entity
        if node.missing:
            continue
        started, ended = _times(node)
        activity: dict[str, Any] = {"prov:label": node.name}
        if started:
            activity["prov:startTime"] = started
        if ended:
            activity["prov:endTime"] = ended
        for name in ("host", "device", "seed", "settings_hash", "git_commit"):
            if node.provenance.get(name) is not None:
                activity[f"foundry:{name}"] = node.provenance[name]
        record["activity"][_activity(key)] = activity
        relate("wasGeneratedBy", entity=_entity(key), activity=_activity(key), time=ended)
        version = node.provenance.get("code_version")
        if version:
            agent = f"foundry:atomfoundry_{version}"
            record["agent"][agent] = {
                "prov:type": {"$": "prov:SoftwareAgent", "type": "xsd:QName"},
                "prov:label": f"Atomfoundry {version}",
            }
            relate("wasAssociatedWith", activity=_activity(key), agent=agent)
    for edge in graph.edges:
        child_known = not graph.nodes[edge.child].missing
        if edge.how in (SPAWNED, REPLACES) and not graph.nodes[edge.parent].missing:
            relate("wasInformedBy", informed=_activity(edge.child), informant=_activity(edge.parent))
        elif edge.how in (READ, POINTS):
            if child_known:
                relate("used", activity=_activity(edge.child), entity=_entity(edge.parent))
            relate("wasDerivedFrom", generatedEntity=_entity(edge.child), usedEntity=_entity(edge.parent))
    return {name: content for name, content in record.items() if content}
