"""What a lineage comes down to: structures, levels of theory, code versions, seeds, machines."""

from __future__ import annotations

from typing import Any

from atomfoundry.results.lineage_graph import LineageGraph


def summarise_lineage(graph: LineageGraph) -> dict[str, Any]:
    """Collect what the outputs of a lineage say about how they were made.

    Parameters
    ----------
    graph
        The lineage.

    Returns
    -------
    dict
        ``structures`` (uuid -> name of the sets of structures), ``levels`` (id -> label), ``code`` (version and
        commit), ``packages`` (package -> versions), ``seeds`` (job -> seeds), ``hosts``, ``devices``, ``started``
        (the first and the last job, UTC), ``n_jobs``, ``stale`` (frame ids of withdrawn labels).
    """
    levels: dict[str, str] = {}
    packages: dict[str, set[str]] = {}
    seeds: dict[str, set[int]] = {}
    sets: dict[str, set[str]] = {"code": set(), "hosts": set(), "devices": set(), "stale": set()}
    started: list[str] = []
    for node in graph.nodes.values():
        levels.update(node.levels)
        sets["stale"].update(mark["frame_id"] for mark in node.stale)
        source = node.provenance
        for name, version in (source.get("packages") or {}).items():
            packages.setdefault(name, set()).add(version)
        if source.get("seed") is not None:
            seeds.setdefault(node.name, set()).add(source["seed"])
        if source.get("code_version"):
            commit = f" ({source['git_commit']})" if source.get("git_commit") else ""
            sets["code"].add(f"{source['code_version']}{commit}")
        for key, name in (("hosts", "host"), ("devices", "device")):
            if source.get(name):
                sets[key].add(source[name])
        if source.get("started_at"):
            started.append(source["started_at"])
    return {
        "n_jobs": len({node.uuid for node in graph.nodes.values() if node.is_job}),
        "structures": {node.uuid: node.name for node in graph.of_kind("StructureSetDoc")},
        "levels": dict(sorted(levels.items())),
        "code": sorted(sets["code"]),
        "packages": {name: sorted(versions) for name, versions in sorted(packages.items())},
        "seeds": {name: sorted(values) for name, values in sorted(seeds.items())},
        "hosts": sorted(sets["hosts"]),
        "devices": sorted(sets["devices"]),
        "started": [min(started), max(started)] if started else [],
        "stale": sorted(sets["stale"]),
    }
