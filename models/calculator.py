"""The model as an ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from atomfoundry.errors import ModelError
from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.dispersion import D3Dispersion
from atomfoundry.models.graph import GraphBatch, build_graph
from atomfoundry.models.io import load_model

FINE_TUNED = "ft"
"""Head used if none is named and the model has it; otherwise the first."""


def default_head(config: AllegroConfig) -> str:
    """Return the head of a model that counts where none is named: ``"ft"`` if it has it, else its first."""
    names = [head.name for head in config.heads]
    return FINE_TUNED if FINE_TUNED in names else names[0]


class FoundryCalculator(Calculator):
    """Energy, forces, stress and atomic energies of molecules, slabs and crystals, small cells included.

    The neighbour list is made anew at every call: it costs a few percent of an evaluation, a list with a
    skin makes every evaluation dearer by the edges in the skin.

    Parameters
    ----------
    model
        A model, or the folder of one.
    head
        Readout head; default ``"ft"`` if the model has it, else its first.
    device
        Default: where the model is (a folder is read onto the CPU). A model elsewhere is copied, not moved.
    dispersion
        Add DFT-D3(BJ) to energy, forces and stress: the functional of the labels (``"pbe"``), or a
        :class:`~atomfoundry.models.dispersion.D3Dispersion`. Only for labels without dispersion. There are then no
        ``energies``: the correction has no atomic ones.

    Attributes
    ----------
    output
        What :meth:`Allegro.forward <atomfoundry.models.allegro.model.Allegro.forward>` returned at the last
        evaluation, tensors on the model's device, without dispersion. ``edge_energy`` (M,), eV, are the energies of
        the directed edges of ``graph``, scale and normalisation included: those of an atom's edges, its
        isolated-atom energy and its ``zbl_energy`` add up to its ``atomic_energy``.
    graph
        What was evaluated; ``edge_index`` (2, M) names centre and neighbour of each edge.

    Raises
    ------
    ModelError
        If there is no such head or model; at evaluation, if an element is unknown to the model or to the
        head.
    ConfigurationError
        If there are no D3 parameters for the functional.

    Notes
    -----
    A model knows no charges: initial charges of the atoms and total charge do not matter, and there is no property
    of that name.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies"]
    default_parameters: ClassVar[dict[str, Any]] = {}
    nolabel = True

    def __init__(
        self,
        model: Allegro | str | Path,
        head: str | None = None,
        device: str | torch.device | None = None,
        dispersion: str | D3Dispersion | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(model, Allegro):
            model = load_model(model, device or "cpu")
        where = next(model.parameters()).device
        self.device = where if device is None else torch.device(device)
        if self.device.type != where.type or self.device.index not in (None, where.index):
            copied = Allegro(model.config)
            copied.load_state_dict(model.state_dict())
            model = copied.to(self.device).eval()
        self.model = model
        head = default_head(model.config) if head is None else head
        self.head, self._head_index = head, model.head_index(head)
        self.dispersion = D3Dispersion(dispersion) if isinstance(dispersion, str) else dispersion
        self.output: dict[str, torch.Tensor] = {}
        self.graph: GraphBatch | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate everything in one pass."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        config = self.model.config
        self._check_elements(self.atoms)
        graph = build_graph(self.atoms, cutoff=config.cutoff, type_names=config.type_names, head=self._head_index).to(
            self.device
        )
        output = self.model(graph)
        self.output, self.graph = output, graph
        energy = float(output["energy"][0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": output["atomic_energy"].cpu().numpy(),
            "forces": output["forces"].cpu().numpy(),
        }
        if bool(self.atoms.pbc.all()):
            self.results["stress"] = full_3x3_to_voigt_6_stress(output["stress"][0].cpu().numpy())
        if self.dispersion is not None:
            added = self.dispersion.evaluate(self.atoms)
            del self.results["energies"]
            for key in self.results:
                self.results[key] = self.results[key] + added["energy" if key == "free_energy" else key]

    def _check_elements(self, atoms: Atoms) -> None:
        """Refuse an element that the model knows but this head has no isolated-atom energy for."""
        known = self.model.config.heads[self._head_index].isolated_energies
        absent = set(atoms.get_chemical_symbols()) & set(self.model.config.type_names) - set(known)
        if known and absent:
            raise ModelError(
                f"Head '{self.head}' has no isolated-atom energy of {', '.join(sorted(absent))}.",
                remedy=f"Use another head, or a model whose head '{self.head}' was trained on it.",
            )
