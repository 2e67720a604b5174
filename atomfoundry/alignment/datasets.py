"""Fit alignments between datasets on disk: several sources, one target, levels in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

from ase import Atoms

from atomfoundry.alignment.dispersion import Dispersion, dispersion_terms, edge_dispersion
from atomfoundry.alignment.fitting import fit_alignment
from atomfoundry.alignment.graph import LevelData, fit_graph
from atomfoundry.alignment.problem import AlignmentSettings
from atomfoundry.alignment.transform import Alignment
from atomfoundry.datasets import Dataset, frame_id, isolated_energies
from atomfoundry.datasets.isolated import ISOLATED_ATOM
from atomfoundry.errors import AlignmentError

DatasetMode = Literal["auto", "atoms", "overlap", "pairs", "bridge", "model"]


class _Chain:
    """Frames of several datasets one after the other, as often as wanted."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self._datasets = datasets

    def __iter__(self) -> Iterator[Atoms]:
        for dataset in self._datasets:
            yield from dataset.frames()


def fit_datasets(
    sources: Sequence[Dataset],
    target: Dataset,
    *,
    through: Sequence[Dataset] = (),
    mode: DatasetMode = "auto",
    predictor: Callable[[Atoms], float] | None = None,
    key: Callable[[Atoms], str] = frame_id,
    scale_forces: bool = True,
    dispersion: Dispersion = "keep",
    force: bool = False,
    settings: AlignmentSettings | None = None,
) -> dict[str, Alignment]:
    """Fit an alignment from the level of every source to that of the target.

    Parameters
    ----------
    sources
        Datasets of one level each; several may share a level.
    target
        Dataset of the target level; structures that other datasets hold too are the overlap.
    through
        Datasets of further levels. In mode ``bridge`` the one bridge; else levels that a path may lead over.
    mode
        ``auto``: ``atoms`` or ``overlap``, whichever cross-validates better, over the path of least expected error.
        ``atoms``, ``overlap``, ``pairs``: only that. ``bridge``, ``model``: straight to the target.
    predictor
        For mode ``model``: structure -> total energy (eV) at the target level.
    dispersion
        ``keep``, ``subtract_source`` or ``add_source``, as for ``fit_alignment``. Sources that are as the target is
        (both with a correction, or neither) stay as they are; at least one has to differ.
    key, scale_forces, force, settings
        As for ``fit_alignment``.

    Returns
    -------
    dict
        Source level id -> alignment to the target.

    Raises
    ------
    AlignmentError
        If a dataset has no single level, a source cannot be aligned, or its dispersion not be treated as wanted.
    """
    if mode not in get_args(DatasetMode):
        raise AlignmentError(f"There is no mode '{mode}'.", remedy=f"Modes: {', '.join(get_args(DatasetMode))}.")
    levels = _levels([*sources, *through, target])
    end = _level_id(target)
    wanted = list(dict.fromkeys(key for key in map(_level_id, sources) if key != end))
    if not wanted:
        raise AlignmentError(f"All sources are of the target's level {levels[end].level.label} already.")
    _check_dispersion([levels[key] for key in wanted], levels[end], dispersion)
    options = {"key": key, "scale_forces": scale_forces, "dispersion": dispersion, "force": force, "settings": settings}
    if mode in ("bridge", "model"):
        return {key: _straight(levels, key, end, through, mode, predictor, options) for key in wanted}
    modes = ("atoms", "overlap") if mode == "auto" else (mode,)
    graph = fit_graph(list(levels.values()), modes=modes, **options)  # type: ignore[arg-type]
    return {key: graph.best(key, end) for key in wanted}


def _straight(  # type: ignore[no-untyped-def]
    levels: dict[str, LevelData], start: str, end: str, through: Sequence[Dataset], mode: str, predictor, options: dict
) -> Alignment:
    """Fit in a mode that needs more than source and target."""
    source, target = levels[start], levels[end]
    treated = edge_dispersion(source.level, target.level, options["dispersion"])
    more: dict = {"predictor": predictor}
    if mode == "bridge":
        bridges = {_level_id(dataset) for dataset in through}
        if len(bridges) != 1:
            raise AlignmentError(
                f"Mode 'bridge' needs one bridge level, not {len(bridges)}.",
                remedy="Give one dataset with the target's functional and the sources' kind of basis.",
            )
        bridge = levels[bridges.pop()]
        more = {
            "bridge": bridge.frames,
            "bridge_level": bridge.level,
            "bridge_isolated_energies": bridge.isolated_energies,
        }
    return fit_alignment(
        source.frames,
        target=target.frames,
        source_level=source.level,
        target_level=target.level,
        source_isolated_energies=source.isolated_energies,
        target_isolated_energies=target.isolated_energies,
        mode=mode,  # type: ignore[arg-type]
        **more,
        **{**options, "dispersion": treated},
    )


def _check_dispersion(sources: Sequence[LevelData], target: LevelData, dispersion: Dispersion) -> None:
    """Refuse what dispersion option suits no source, or would make one less like the target."""
    treated = [edge_dispersion(source.level, target.level, dispersion) for source in sources]
    for source, how in zip(sources, treated, strict=True):
        if how is None or dispersion not in treated:
            # Says what is wrong; a source that stays as it is while others change is all right.
            dispersion_terms(source.level, target.level, dispersion)


def _level_id(dataset: Dataset) -> str:
    if dataset.level is None:
        raise AlignmentError(
            f"Dataset '{dataset.path}' is not of one known level of theory.",
            remedy="Write it with its level, or part it by level first.",
        )
    return dataset.level.id


def _levels(datasets: Sequence[Dataset]) -> dict[str, LevelData]:
    """Gather the datasets of each level and their isolated-atom energies."""
    grouped: dict[str, list[Dataset]] = {}
    for dataset in datasets:
        home = grouped.setdefault(_level_id(dataset), [])
        if all(dataset.path != other.path for other in home):
            home.append(dataset)
    levels = {}
    for group in grouped.values():
        energies: dict[str, float] = {}
        for dataset in group:
            found = dict(dataset.isolated_energies)
            if not found and ISOLATED_ATOM in dataset.metadata.counts.samplings:
                found = isolated_energies(dataset.frames())
            energies = {**found, **energies}
        assert group[0].level is not None
        levels[group[0].level.id] = LevelData(group[0].level, _Chain(group), energies)
    return levels
