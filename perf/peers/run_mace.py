"""MACE under the clock; run by ``perf/allegro.py`` with the interpreter of its environment.

Settings are the defaults of ``mace_run_train`` but for the cutoff, the hidden features and the degree of the spherical
harmonics, which is 2 as in our model instead of 3: that is a third cheaper.
"""

from __future__ import annotations

from typing import Any

import mace  # noqa: F401  (lets an older e3nn read its tables with this torch; must come before torch)
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from case import CUTOFF, NEIGHBOURS, loss, main
from e3nn import o3
from mace import data, modules
from mace.calculators import MACECalculator
from mace.tools import AtomicNumberTable, torch_geometric


class Mace:
    """Two interactions, correlation 3, one element."""

    def __init__(self, what: dict[str, Any]) -> None:
        torch.set_default_dtype(getattr(torch, what["dtype"]))
        self.dtype, self.device = what["dtype"], what["device"]
        self.settings = {"hidden_irreps": what["hidden"], "max_ell": what["max_ell"], "correlation": 3}
        self.table = AtomicNumberTable([14])
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        self.model = modules.ScaleShiftMACE(
            r_max=CUTOFF,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=what["max_ell"],
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=2,
            num_elements=1,
            hidden_irreps=o3.Irreps(what["hidden"]),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros((1, 1)),
            avg_num_neighbors=NEIGHBOURS,
            atomic_numbers=[14],
            correlation=3,
            gate=torch.nn.functional.silu,
            use_reduced_cg=False,
            radial_MLP=[64, 64, 64],
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        ).to(self.device)
        self.parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def batch(self, frames: list[Atoms]) -> Any:
        graphs = [
            data.AtomicData.from_config(data.config_from_atoms(frame), z_table=self.table, cutoff=CUTOFF)
            for frame in frames
        ]
        loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs), shuffle=False)
        return next(iter(loader)).to(self.device)

    def edges(self, batch: Any) -> int:
        return int(batch.edge_index.shape[1])

    def training_step(self, batch: Any) -> None:
        self.model.zero_grad(set_to_none=True)
        out = self.model(batch.to_dict(), training=True, compute_force=True, compute_stress=True)
        loss(out["energy"] * batch.num_graphs / batch.num_nodes, out["forces"], out["stress"]).backward()

    def calculator(self) -> Calculator:
        return MACECalculator(models=[self.model], device=self.device, default_dtype=self.dtype)


if __name__ == "__main__":
    main(Mace)
