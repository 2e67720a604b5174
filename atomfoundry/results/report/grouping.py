"""Like jobs of a pipeline drawn as one: nodes of a graph without cycles."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from atomfoundry.results.report.data import JobRow

_NUMBER_AT_END = re.compile(r"[\s_#-]+[\[(]?\d+(\s*(/|of)\s*\d+)?[\])]?$")


@dataclass
class Node:
    """Jobs of the same name, stage and depth, and the nodes that they read from."""

    index: int
    name: str
    stage: str
    depth: int
    jobs: list[JobRow] = field(default_factory=list)
    parents: set[int] = field(default_factory=set)

    @property
    def state(self) -> str:
        """The worst state among the jobs."""
        return min((job.state.lower() for job in self.jobs), key=_urgency)

    @property
    def wall_time_s(self) -> float | None:
        """Sum over the jobs that have run."""
        times = [job.wall_time_s for job in self.jobs if job.wall_time_s is not None]
        return sum(times) if times else None

    def total(self, column: str) -> int | None:
        """Sum of a count over the jobs, ``None`` if no job has one."""
        found = [value for job in self.jobs if (value := getattr(job, column)) is not None]
        return sum(found) if found else None


def _urgency(state: str) -> int:
    """Rank states: what needs a reader's eye comes first."""
    order = ("failed", "fizzled", "cancelled", "running", "waiting", "ready")
    return order.index(state) if state in order else len(order)


def depths(jobs: list[JobRow]) -> dict[str, int]:
    """Return the length of the longest way from a root to each job.

    Parents that are not among the jobs are ignored; a cycle, which no flow has, is cut where it closes.
    """
    parents = {job.uuid: [p for p in job.parents if p != job.uuid] for job in jobs}
    found: dict[str, int] = {}
    for start in parents:
        stack, open_jobs = [start], set[str]()
        while stack:
            uuid = stack[-1]
            if uuid in found:
                stack.pop()
                continue
            open_jobs.add(uuid)
            missing = [p for p in parents[uuid] if p in parents and p not in found and p not in open_jobs]
            if missing:
                stack.extend(missing)
                continue
            found[uuid] = max((found[p] + 1 for p in parents[uuid] if p in found), default=0)
            stack.pop()
    return found


def group_jobs(jobs: list[JobRow]) -> list[Node]:
    """Return the nodes of the pipeline.

    Jobs whose names differ only in a number at the end, of the same stage and depth, become one node. Since
    an edge always leads to a greater depth, the graph of nodes has no cycle either.
    """
    depth = depths(jobs)
    members: dict[tuple[str, str, int], list[JobRow]] = defaultdict(list)
    for job in jobs:
        stem = _NUMBER_AT_END.sub("", job.name) or job.name
        members[(job.stage, stem, depth[job.uuid])].append(job)
    nodes = [
        Node(index=i, name=stem if len(like) > 1 else like[0].name, stage=stage, depth=level, jobs=like)
        for i, ((stage, stem, level), like) in enumerate(members.items())
    ]
    home = {job.uuid: node.index for node in nodes for job in node.jobs}
    for node in nodes:
        found = {home[p] for job in node.jobs for p in job.parents if p in home}
        node.parents = {p for p in found if nodes[p].depth < node.depth}
    return nodes


def reduced_edges(nodes: list[Node]) -> list[tuple[int, int]]:
    """Return the edges (parent, child) that no longer way implies: the transitive reduction."""
    ancestors: dict[int, set[int]] = {}
    edges = []
    for node in sorted(nodes, key=lambda n: n.depth):
        implied = set().union(*(ancestors[p] for p in node.parents)) if node.parents else set()
        edges += [(p, node.index) for p in sorted(node.parents - implied)]
        ancestors[node.index] = node.parents | implied
    return edges
