"""Waiting across workflows: the end of a part is noted, and gates that wait for it open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fireworks.core.firework import FiretaskBase, Firework, FWAction, Workflow
from fireworks.utilities.fw_utilities import explicit_serialize

from atomfoundry.running.cluster.access import launchpad_of

if TYPE_CHECKING:
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

GATE, END = "gate", "end"


def is_open(lpad: FoundryLaunchPad, needs: list[str]) -> bool:
    """Tell whether all of some parts have ended.

    Parameters
    ----------
    lpad
        The LaunchPad.
    needs
        Names of parts.
    """
    return lpad.ended_parts.count_documents({"_id": {"$in": needs}}) == len(set(needs))


def open_gates(lpad: FoundryLaunchPad, *, part: str | None = None, project_id: str | None = None) -> int:
    """Let gates go on whose parts have all ended.

    Parameters
    ----------
    lpad
        The LaunchPad.
    part
        Only gates that wait for this part.
    project_id
        Only gates of this project.

    Returns
    -------
    int
        How many were opened.
    """
    criteria: dict[str, Any] = {"state": "PAUSED", "spec.foundry.kind": GATE}
    if part is not None:
        criteria["spec.foundry.needs"] = part
    if project_id is not None:
        criteria["spec.foundry.project_id"] = project_id
    opened = 0
    for gate in list(lpad.fireworks.find(criteria, ["fw_id", "spec.foundry.needs"])):
        if is_open(lpad, gate["spec"]["foundry"]["needs"]):
            lpad.resume_fw(gate["fw_id"])
            opened += 1
    return opened


@explicit_serialize
class GateTask(FiretaskBase):
    """Ends where all parts that it needs have ended; else it leaves a paused gate in its place.

    Other Parameters
    ----------------
    needs : list of str
        Names of parts.
    """

    required_params = ("needs",)

    def run_task(self, fw_spec: dict) -> FWAction:
        """Look, and wait paused if the parts have not ended.

        Parameters
        ----------
        fw_spec
            The job's spec.
        """
        lpad = launchpad_of(self)
        if not is_open(lpad, self["needs"]):
            shared = fw_spec["foundry"]
            paused = gate(self["needs"], fw_spec, name="gate")
            paused.state = "PAUSED"
            # What this second job finds cannot be lost: it looks when the paused gate is there.
            look = Firework(
                [LookTask(needs=self["needs"])],
                spec={**_common(fw_spec), "foundry": {**shared, "kind": "look"}},
                name="gate look",
            )
            lpad.attach(self.fw_id, Workflow([paused, look]), f"{shared['gate']}:{self.fw_id}", detour=True)
        return FWAction()


@explicit_serialize
class LookTask(FiretaskBase):
    """Opens gates whose parts ended before they were there.

    Other Parameters
    ----------------
    needs : list of str
        Names of parts.
    """

    required_params = ("needs",)

    def run_task(self, fw_spec: dict) -> FWAction:
        """Open what can be opened.

        Parameters
        ----------
        fw_spec
            The job's spec.
        """
        open_gates(launchpad_of(self), part=self["needs"][0])
        return FWAction()


@explicit_serialize
class EndTask(FiretaskBase):
    """Notes that all jobs of a part have ended, well or not, and opens gates.

    Other Parameters
    ----------------
    part : str
        Name of the part.
    """

    required_params = ("part",)

    def run_task(self, fw_spec: dict) -> FWAction:
        """Note the end.

        Parameters
        ----------
        fw_spec
            The job's spec.
        """
        lpad = launchpad_of(self)
        lpad.ended_parts.update_one({"_id": self["part"]}, {"$set": {"ended": True}}, upsert=True)
        open_gates(lpad, part=self["part"])
        return FWAction()


def _common(spec: dict) -> dict[str, Any]:
    return {key: spec[key] for key in ("_category", "_queueadapter", "_priority") if key in spec} | {
        "_add_launchpad_and_fw_id": True
    }


def gate(needs: list[str], spec: dict, *, name: str = "gate") -> Firework:
    """Make a gate.

    Parameters
    ----------
    needs
        Names of parts.
    spec
        Spec of a light job of the same run.
    name
        Its name.
    """
    needs = sorted(needs)
    identity = f"{spec['foundry']['run_id']}:{','.join(needs)}"
    foundry = {**spec["foundry"], "kind": GATE, "needs": needs, "gate": identity}
    foundry.pop("attached", None)
    return Firework([GateTask(needs=needs)], spec={**_common(spec), "foundry": foundry}, name=name)


def end(part: str, spec: dict, parents: list[Firework]) -> Firework:
    """Make the end of a part.

    Parameters
    ----------
    part
        Name of the part.
    spec
        Spec of a light job of the same run.
    parents
        Jobs that must have ended.
    """
    foundry = {**spec["foundry"], "kind": END, "part": part}
    # An empty list keeps FireWorks from copying every failed parent into the spec.
    more = {"_allow_fizzled_parents": True, "_fizzled_parents": [], "foundry": foundry}
    return Firework([EndTask(part=part)], spec={**_common(spec), **more}, name="part end", parents=parents)
