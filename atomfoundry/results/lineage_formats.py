"""A lineage as a tree for the terminal, as a Mermaid diagram, as plain JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atomfoundry.results.lineage_graph import READ, LineageGraph
from atomfoundry.results.lineage_summary import summarise_lineage

if TYPE_CHECKING:
    from rich.tree import Tree


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


def to_json(graph: LineageGraph) -> dict[str, Any]:
    """Write a lineage as plain content: nodes, edges and what they come down to.

    Parameters
    ----------
    graph
        The lineage.

    Returns
    -------
    dict
        ``root``, ``nodes``, ``edges`` and ``summary``; a node is named by ``uuid`` and ``index``.
    """
    return {
        "root": list(graph.root),
        "direction": "back" if graph.towards_parents else "forward",
        "nodes": [
            {
                "uuid": node.uuid,
                "index": node.index,
                "name": node.name,
                "kind": node.kind,
                "completed_at": node.completed_at,
                "missing": node.missing,
                "note": node.note,
                "artifacts": {name: artifact.model_dump() for name, artifact in node.files.items()},
                "levels": node.levels,
                "provenance": node.provenance,
                "stale": node.stale,
            }
            for node in graph.nodes.values()
        ],
        "edges": [{"child": list(edge.child), "parent": list(edge.parent), "how": edge.how} for edge in graph.edges],
        "summary": summarise_lineage(graph),
    }
