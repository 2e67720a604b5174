"""Queue entries as fireworks and workflows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fireworks.core.firework import Firework, Workflow

from atomfoundry.results.mongomock_file import MOCK_VARIABLE, mock_file
from atomfoundry.results.project import Project
from atomfoundry.running.cluster import gates
from atomfoundry.running.cluster.fireworks_files import project_environment
from atomfoundry.running.cluster.layout import ClusterLayout
from atomfoundry.running.cluster.parts import WORKFLOW_SIZE, Part, cut
from atomfoundry.running.cluster.profiles import Profiles
from atomfoundry.running.cluster.task import FoundryTask
from atomfoundry.running.identity import Entry

LIGHT = "light"


@dataclass(frozen=True)
class Converter:
    """Makes workflows of one run.

    Parameters
    ----------
    project_id, run_id, run_name
        Whose jobs they are.
    profiles
        What resources a job gets.
    scheduler
        ``"slurm"``, ``"pbs"`` or None.
    environment
        Variables that every worker of the project has; no credentials.
    size
        At most so many jobs make a workflow.
    inherited
        jobflow's manager configuration of the job that made these; counts where a job has none of its own.
    metadata
        Of every workflow.
    """

    project_id: str | None
    run_id: str
    run_name: str
    profiles: Profiles
    scheduler: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    size: int = WORKFLOW_SIZE
    inherited: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_project(cls, project: Project, **fields: Any) -> Converter:
        """Return the converter with a project's profiles, scheduler, variables and id.

        Parameters
        ----------
        project
            The project.
        **fields
            Further fields.
        """
        layout = ClusterLayout(project.path)
        profiles = Profiles.load(layout.profiles)
        mock = mock_file()
        return cls(
            project_id=project.project_id,
            profiles=profiles,
            scheduler=profiles.scheduler,
            environment=project_environment(layout, project.database, {MOCK_VARIABLE: mock} if mock else {}),
            **fields,
        )

    @property
    def lasting_name(self) -> str:
        """The run's name in the LaunchPad: projects that share one may run the same flow, each for itself."""
        return f"{self.project_id}/{self.run_id}"

    def spec(self, name: str, profile: str, priority: int = 0) -> dict[str, Any]:
        """Return the part of a spec that says who runs a job, and on what.

        Parameters
        ----------
        name, profile, priority
            Of the job.
        """
        resources = self.profiles.for_job(name, profile)
        made: dict[str, Any] = {
            "_add_launchpad_and_fw_id": True,
            "_category": resources.category,
            "foundry": {"project_id": self.project_id, "run_id": self.run_id, "profile": profile, "kind": "job"},
        }
        if self.scheduler is not None:
            made["_queueadapter"] = self.profiles.job_parameters(
                resources, self.scheduler, environment=self.environment
            )
        if priority:
            made["_priority"] = priority
        return made

    def firework(self, entry: Entry, parents: Sequence[Firework] = ()) -> Firework:
        """Turn one job into a firework.

        Parameters
        ----------
        entry
            The job.
        parents
            What it waits for.
        """
        spec = self.spec(entry.name, entry.profile, entry.priority)
        spec["foundry"].update(uuid=entry.uuid, index=entry.index, name=entry.name, stage=entry.stage)
        if entry.on_missing != "error":
            # An empty list keeps FireWorks from copying every failed parent into the spec.
            spec.update(_allow_fizzled_parents=True, _fizzled_parents=[])
        for given in (self.inherited, entry.manager_config):
            for key, value in given.items():
                both = isinstance(value, dict) and isinstance(spec.get(key), dict)
                if given is self.inherited and key in spec and not both:
                    continue
                spec[key] = {**spec[key], **value} if both else value
        task = FoundryTask(
            job=entry.payload,
            on_missing=entry.on_missing,
            parents=entry.parents,
            manager_config={**self.inherited, **entry.manager_config},
        )
        return Firework([task], spec=spec, name=entry.name or "job", parents=list(parents))

    def _workflow(self, fireworks: list[Firework]) -> Workflow:
        mark = {"project_id": self.project_id, "run_id": self.run_id}
        return Workflow(fireworks, name=self.run_name, metadata={**self.metadata, "foundry": mark})

    def connected(self, entries: Sequence[Entry]) -> Workflow:
        """Make one workflow of jobs, whatever their number.

        Parameters
        ----------
        entries
            Jobs.
        """
        (workflow, _), *rest = self.workflows(entries, "", size=max(1, len(entries)))
        assert not rest
        return workflow

    def workflows(
        self, entries: Sequence[Entry], name: str, *, size: int | None = None, always_end: bool = False
    ) -> list[tuple[Workflow, str]]:
        """Turn jobs into workflows of bounded size.

        Parameters
        ----------
        entries
            Jobs.
        name
            Lasting name of these jobs; the parts are called ``NAME/NUMBER``.
        size
            Instead of the converter's.
        always_end
            Note the end of every part, also where no other part waits for it.

        Returns
        -------
        list of (Workflow, str)
            Workflows, and the names of the parts.
        """
        place = {(entry.uuid, entry.index): number for number, entry in enumerate(entries)}
        latest: dict[str, int] = {}
        for entry in entries:
            latest[entry.uuid] = max(entry.index, latest.get(entry.uuid, 0))
        parents = [
            [place[uuid, latest[uuid]] for uuid in entry.parents if uuid in latest and uuid != entry.uuid]
            for entry in entries
        ]
        parts = cut(parents, size or self.size)
        names = [f"{name}/{number}" for number in range(len(parts))]
        return [
            (self._part(entries, parents, part, names, number, always_end=always_end), names[number])
            for number, part in enumerate(parts)
        ]

    def _part(
        self,
        entries: Sequence[Entry],
        parents: list[list[int]],
        part: Part,
        names: list[str],
        number: int,
        *,
        always_end: bool,
    ) -> Workflow:
        light = self.spec("gate", LIGHT)
        made: dict[int, Firework] = {}
        opened: dict[frozenset[int], Firework] = {}
        for node in part.nodes:
            before = [made[parent] for parent in dict.fromkeys(parents[node]) if parent in made]
            needs = part.needs.get(node)
            if needs:
                if needs not in opened:
                    opened[needs] = gates.gate([names[other] for other in sorted(needs)], light)
                before.append(opened[needs])
            made[node] = self.firework(entries[node], before)
        ends: list[Firework] = []
        if part.exports or always_end:
            inside = {parent for node in part.nodes for parent in parents[node]}
            last = [node for node in part.nodes if node not in inside] if always_end else []
            waited = dict.fromkeys([*part.exports, *last])
            ends = [gates.end(names[number], light, [made[node] for node in waited])]
        return self._workflow([*opened.values(), *made.values(), *ends])
