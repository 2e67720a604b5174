"""Many levels at once: alignments as edges, and the path of least expected error from each source to the target.

Errors of steps are taken as independent: the squares add, each scaled by the steps that follow it. A path over a
middle level can so beat a direct alignment with few common structures, and reaches levels that share none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ase import Atoms

from atomfoundry.alignment.dispersion import Dispersion, edge_dispersion, merge_dispersion
from atomfoundry.alignment.fitting import fit_alignment
from atomfoundry.alignment.pairs import merge_terms
from atomfoundry.alignment.problem import AlignmentSettings
from atomfoundry.alignment.transform import Alignment, AlignmentReport, Mode
from atomfoundry.datasets import frame_id
from atomfoundry.documents import AlignmentStep, LevelOfTheory
from atomfoundry.errors import AlignmentError


def invert_alignment(alignment: Alignment) -> Alignment:
    """Return the alignment from the target back to the source.

    Energies, forces and stress are those of ``Alignment.invert``; the expected error is divided by the scale.
    """
    scale = 1 / alignment.scale
    return alignment.model_copy(
        update={
            "mode": "path",
            "source_level": alignment.target_level,
            "target_level": alignment.source_level,
            "bridge_level": None,
            "scale": scale,
            "source_isolated_energies": dict(alignment.target_isolated_energies),
            "target_isolated_energies": dict(alignment.source_isolated_energies),
            "shifts": {
                symbol: alignment.source_isolated_energies[symbol] - energy
                for symbol, energy in alignment.target_isolated_energies.items()
                if symbol in alignment.source_isolated_energies
            },
            "pair_terms": [terms.scaled(-scale) for terms in alignment.pair_terms],
            "dispersion_terms": [term.scaled(-scale) for term in alignment.dispersion_terms],
            "path": _accumulate([_turned(step) for step in reversed(_steps(alignment))]),
        }
    )


def compose_alignments(first: Alignment, second: Alignment) -> Alignment:
    """Return the alignment that does ``first`` and then ``second``, as one transform.

    Raises
    ------
    AlignmentError
        If the second does not begin where the first ends, or only one scales forces.
    """
    if first.target_level.id != second.source_level.id:
        raise AlignmentError(
            f"An alignment to {first.target_level.label} cannot be followed by one from {second.source_level.label}."
        )
    if first.scale_forces != second.scale_forces:
        raise AlignmentError(
            f"{first.source_level.label} to {first.target_level.label} and on to {second.target_level.label}: only one "
            "of the two alignments scales forces.",
            remedy="Fit both alike.",
        )
    a = second.scale
    # E2 = n E0^t2 + a2 (E1 - n E0^s2) with E1 = n E0^t1 + a1 (E - n E0^s1)
    target = {
        symbol: energy + a * (first.target_isolated_energies[symbol] - second.source_isolated_energies[symbol])
        for symbol, energy in second.target_isolated_energies.items()
        if symbol in first.target_isolated_energies and symbol in second.source_isolated_energies
    }
    source = {symbol: energy for symbol, energy in first.source_isolated_energies.items() if symbol in target}
    lost = (set(first.target_isolated_energies) | set(first.source_isolated_energies)) - set(target)
    report = AlignmentReport(
        n_overlap=min(first.report.n_overlap, second.report.n_overlap),
        reference="nothing: expected from the errors of the steps, taken as independent",
        estimated=sorted({*first.report.estimated, *second.report.estimated}),
        uncovered={**second.report.uncovered, **first.report.uncovered},
        overridden=[*first.report.overridden, *second.report.overridden],
    )
    return Alignment(
        mode="path",
        source_level=first.source_level,
        target_level=second.target_level,
        scale=first.scale * a,
        source_isolated_energies=source,
        target_isolated_energies={symbol: target[symbol] for symbol in source},
        shifts={symbol: target[symbol] - energy for symbol, energy in source.items()},
        pair_terms=merge_terms([*(terms.scaled(a) for terms in first.pair_terms), *second.pair_terms]),
        dispersion_terms=merge_dispersion(
            [*(term.scaled(a) for term in first.dispersion_terms), *second.dispersion_terms]
        ),
        uncovered=sorted({*first.uncovered, *second.uncovered, *(lost & set(first.source_isolated_energies))}),
        path=_accumulate([*_steps(first), *_steps(second)]),
        scale_forces=first.scale_forces,
        report=report,
    )


def _steps(alignment: Alignment) -> list[AlignmentStep]:
    if alignment.path:
        return list(alignment.path)
    error = alignment.expected_error
    return [
        AlignmentStep(
            source_id=alignment.source_level.id,
            source=alignment.source_level.label,
            target_id=alignment.target_level.id,
            target=alignment.target_level.label,
            mode=alignment.mode,
            scale=alignment.scale,
            error=error,
            accumulated=error,
        )
    ]


def _turned(step: AlignmentStep) -> AlignmentStep:
    return step.model_copy(
        update={
            "source_id": step.target_id,
            "source": step.target,
            "target_id": step.source_id,
            "target": step.source,
            "scale": 1 / step.scale,
            "inverted": not step.inverted,
            "error": None if step.error is None else step.error / step.scale,
        }
    )


def _accumulate(steps: Sequence[AlignmentStep]) -> list[AlignmentStep]:
    """Fill the accumulated errors: e_k^2 = (a_k e_{k-1})^2 + (error of step k)^2."""
    filled, before = [], 0.0
    for step in steps:
        before = math.inf if step.error is None else math.hypot(step.scale * before, step.error)
        filled.append(step.model_copy(update={"accumulated": before if math.isfinite(before) else None}))
    return filled


@dataclass
class LevelData:
    """What a graph is fitted from at one level.

    Parameters
    ----------
    level
        Its record.
    frames
        Labelled frames; read several times, so a dataset or a list, not a generator.
    isolated_energies
        Element -> E0, eV, as far as known.
    """

    level: LevelOfTheory
    frames: Iterable[Atoms]
    isolated_energies: Mapping[str, float] = field(default_factory=dict)


class AlignmentGraph:
    """Levels joined by alignments, each of which can be walked both ways.

    Parameters
    ----------
    alignments
        Edges; of several between the same levels the one of least expected error counts.
    """

    def __init__(self, alignments: Iterable[Alignment] = ()) -> None:
        self.levels: dict[str, LevelOfTheory] = {}
        self.refused: dict[tuple[str, str], str] = {}
        """(source id, target id) -> why ``fit_graph`` made no such edge."""
        self._edges: dict[str, dict[str, Alignment]] = {}
        for alignment in alignments:
            self.add(alignment)

    @property
    def alignments(self) -> list[Alignment]:
        """All edges, those that are only inverses of others too."""
        return [edge for edges in self._edges.values() for edge in edges.values()]

    def add(self, alignment: Alignment) -> None:
        """Add an alignment and, where no better one is known, its inverse."""
        for level in (alignment.source_level, alignment.target_level):
            self.levels.setdefault(level.id, level)
        for edge in (alignment, invert_alignment(alignment)):
            known = self._edges.setdefault(edge.source_level.id, {}).get(edge.target_level.id)
            if known is None or _error(edge) < _error(known):
                self._edges[edge.source_level.id][edge.target_level.id] = edge

    def best(self, source_id: str, target_id: str) -> Alignment:
        """Return the alignment along the path of least expected error; its ``path`` names the steps.

        Parameters
        ----------
        source_id, target_id
            Ids of levels.

        Raises
        ------
        AlignmentError
            If no path joins the levels.
        """
        best: tuple[float, list[Alignment]] | None = None
        # Depth first over simple paths. The error of a path never shrinks by going on only if scales are 1; so the
        # whole path is judged, which is cheap: there are tens of levels, not thousands.
        stack: list[list[Alignment]] = [[edge] for edge in self._edges.get(source_id, {}).values()]
        while stack:
            path = stack.pop()
            last = path[-1].target_level.id
            if last == target_id:
                error = _path_error(path)
                if best is None or error < best[0]:
                    best = error, path
                continue
            visited = {source_id, *(edge.target_level.id for edge in path)}
            stack += [[*path, edge] for key, edge in self._edges[last].items() if key not in visited]
        if best is None:
            names = [self.levels[key].label if key in self.levels else key for key in (source_id, target_id)]
            why = "; ".join(
                f"{self.levels[a].label} to {self.levels[b].label}: {reason}"
                for (a, b), reason in self.refused.items()
                # The way back is refused for the same reasons.
                if a == source_id or b == target_id
            )
            raise AlignmentError(
                f"No alignment leads from {names[0]} to {names[1]}{f' ({why})' if why else ''}.",
                remedy="Label some structures at both levels, or at a level between that others share.",
            )
        alignment = best[1][0]
        for edge in best[1][1:]:
            alignment = compose_alignments(alignment, edge)
        return alignment

    def to(self, target_id: str) -> dict[str, Alignment]:
        """Return the best alignment from every other level to one: level id -> alignment.

        Raises
        ------
        AlignmentError
            If a level cannot be reached.
        """
        return {key: self.best(key, target_id) for key in self.levels if key != target_id}


def _error(alignment: Alignment) -> float:
    error = alignment.expected_error
    return math.inf if error is None else error


def _path_error(path: Sequence[Alignment]) -> float:
    total = 0.0
    for edge in path:
        total = math.hypot(edge.scale * total, _error(edge))
    return total


def fit_graph(
    levels: Sequence[LevelData],
    *,
    modes: Sequence[Mode] = ("atoms", "overlap"),
    key: Callable[[Atoms], str] = frame_id,
    scale_forces: bool = True,
    dispersion: Dispersion = "keep",
    force: bool = False,
    settings: AlignmentSettings | None = None,
) -> AlignmentGraph:
    """Fit an alignment between every two levels that allow one, in both directions.

    Parameters
    ----------
    levels
        The levels with their frames; those of equal ``key`` are one structure.
    modes
        Of ``fit_alignment``, without ``bridge`` and ``model``; cross-validation chooses.
    dispersion
        As for ``fit_alignment``, between levels of which one has a correction and the other none; of these only the
        direction that the option names is fitted, the other is its inverse.
    key, scale_forces, force, settings
        As for ``fit_alignment``.

    Returns
    -------
    AlignmentGraph
        Pairs of levels that were refused are in ``refused``, with the reason.

    Raises
    ------
    AlignmentError
        If a mode cannot be used here.
    """
    wrong = sorted(set(modes) - {"atoms", "overlap", "pairs"})
    if wrong:
        raise AlignmentError(
            f"Mode '{wrong[0]}' cannot join many levels.", remedy="Take some of 'atoms', 'overlap', 'pairs'."
        )
    graph = AlignmentGraph()
    for source in levels:
        graph.levels.setdefault(source.level.id, source.level)
        for target in levels:
            if source.level.id == target.level.id:
                continue
            treated = edge_dispersion(source.level, target.level, dispersion)
            if treated is None:
                continue
            fitted, reasons = [], []
            for mode in modes:
                try:
                    fitted.append(
                        fit_alignment(
                            source.frames,
                            target=target.frames,
                            source_level=source.level,
                            target_level=target.level,
                            source_isolated_energies=source.isolated_energies,
                            # The other modes fit these: dissociation limits for a smaller error where atoms are bound.
                            target_isolated_energies=target.isolated_energies if mode == "atoms" else None,
                            mode=mode,
                            key=key,
                            scale_forces=scale_forces,
                            dispersion=treated,
                            force=force,
                            settings=settings,
                        )
                    )
                except AlignmentError as error:
                    reasons.append(f"{mode}: {error.message}")
            if fitted:
                graph.add(min(fitted, key=_error))
            else:
                graph.refused[source.level.id, target.level.id] = " ".join(reasons)
    return graph
