"""What watches a molecular dynamics run with a model: collapse, heat, and uncertainty (ALGORITHMS 5.4, 5.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.checkpoint import Saved
    from atomfoundry.models.exploration import ForceUncertainty

HOTTEST = 10.0
"""A run ends above this many times its target temperature."""
CLOSEST = 0.5
"""A run ends when two atoms are nearer than this part of the sum of their covalent radii."""
STREAK = 3
"""Consecutive evaluations above the high threshold that end a run."""


class Watch:
    """Looks at a run: cheap checks each step, the uncertainty now and then.

    Parameters
    ----------
    uncertainty
        Knows the model, or the committee of calculators.
    limits
        'low' and 'high', eV/A.
    head
        Readout head.
    n_samples
        Draws of the readout an evaluation.
    temperature
        Target, K.
    label
        Of the run.

    Attributes
    ----------
    times, temperatures, sigmas
        fs, K and eV/A of every look.
    flagged
        Frames between the limits.
    last_good
        Last frame below the high one.
    """

    def __init__(
        self,
        uncertainty: ForceUncertainty,
        limits: Mapping[str, float],
        head: str,
        n_samples: int,
        temperature: float,
        label: str,
    ) -> None:
        self.uncertainty = uncertainty
        self.limits = limits
        self.head = head
        self.n_samples = n_samples
        self.temperature = temperature
        self.label = label
        self.times: list[float] = []
        self.temperatures: list[float] = []
        self.sigmas: list[float] = []
        self.flagged: list[Atoms] = []
        self.last_good: Atoms | None = None
        self._streak = 0

    def glance(self, system: Any) -> str | None:
        """Return why the run must end now, or None."""
        if not (np.isfinite(system.positions).all() and np.isfinite(system.get_forces()).all()):
            return "nan"
        if system.get_temperature() > HOTTEST * self.temperature:
            return "temperature"
        return None

    def look(self, system: Any, *, time: float) -> str | None:
        """Evaluate the uncertainty, take note, and return why the run must end, or None."""
        if too_close(system):
            return "min_distance"
        sigma = float(self.uncertainty.sigma_forces(system, head=self.head, n_samples=self.n_samples).max(initial=0.0))
        if not np.isfinite(sigma):
            return "nan"
        self.times.append(time)
        self.temperatures.append(float(system.get_temperature()))
        self.sigmas.append(sigma)
        if sigma > self.limits["high"]:
            self._streak += 1
            return "uncertain" if self._streak >= STREAK else None
        self._streak = 0
        frame = self._snapshot(system, len(self.times) - 1)
        self.last_good = frame
        if sigma > self.limits["low"]:
            self.flagged.append(frame)
        return None

    def _snapshot(self, system: Any, look: int) -> Atoms:
        """Return the frame of a look, without velocities."""
        from atomfoundry.datasets import frame_id

        frame = system.copy()
        frame.calc = None
        frame.arrays.pop("momenta", None)
        frame.info |= {
            "sampling": "md",
            "source": self.label,
            "sigma_forces_max": self.sigmas[look],
            "temperature": self.temperatures[look],
            "md_time": self.times[look],
            "flags": [],
        }
        frame.info["frame_id"] = frame_id(frame)
        return frame

    def collect(self, saved: Saved, reason: str | None) -> Saved:
        """Add all that has been seen to the state of the run, and why it has ended, if it has."""
        kept = [] if self.last_good is None else [self.last_good]
        look = {time: number for number, time in enumerate(self.times)}
        saved.arrays |= {
            "looks": np.array([self.times, self.temperatures, self.sigmas]),
            "flagged/looks": np.array([look[frame.info["md_time"]] for frame in self.flagged], dtype=int),
            "flagged/positions": np.array([frame.positions for frame in self.flagged]),
            "last_good/looks": np.array([look[frame.info["md_time"]] for frame in kept], dtype=int),
            "last_good/positions": np.array([frame.positions for frame in kept]),
        }
        saved.state |= {"reason": reason, "streak": self._streak}
        return saved

    def restore(self, saved: Saved, start: Atoms) -> None:
        """Put back what `collect` took; the cell never changes."""
        self.times, self.temperatures, self.sigmas = saved.arrays["looks"].tolist()
        self._streak = saved.state["streak"]

        def frames(kind: str) -> list[Atoms]:
            found = []
            for look, positions in zip(saved.arrays[f"{kind}/looks"], saved.arrays[f"{kind}/positions"], strict=True):
                there = start.copy()
                there.positions = positions
                found.append(self._snapshot(there, int(look)))
            return found

        self.flagged = frames("flagged")
        self.last_good = next(iter(frames("last_good")), None)


def too_close(atoms: Atoms, *, fraction: float = CLOSEST) -> bool:
    """Return whether two atoms are nearer than a part of the sum of their covalent radii.

    Parameters
    ----------
    atoms
        Structure; periodic images count.
    fraction
        Part of the sum of the radii.
    """
    from ase.data import covalent_radii

    from atomfoundry.models.graph import neighbour_pairs

    radii = covalent_radii[atoms.numbers]
    cell, positions = atoms.cell.array, atoms.positions
    pairs, shifts = neighbour_pairs(positions, cell=cell, pbc=atoms.pbc, cutoff=2 * fraction * float(radii.max()))
    first, second = pairs
    distance = np.linalg.norm(positions[second] - positions[first] + shifts @ cell, axis=1)
    return bool((distance < fraction * (radii[first] + radii[second])).any())
