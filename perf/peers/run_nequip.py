"""nequip-allegro under the clock; run by ``perf/allegro.py`` with the interpreter of its environment.

The settings are those of Allegro-FM64 as near as its configuration allows: this generation of the model has one width
for all hidden layers of the two-body embedding, joins latents instead of adding them, and by default gives each channel
a weight of its own on each path of the tensor product (``coupled``), where ours and the published one share it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from allegro.model import AllegroModel
from ase import Atoms
from ase.calculators.calculator import Calculator
from case import CUTOFF, NEIGHBOURS, cpu_seconds, loss, main, silicon
from nequip.data import AtomicDataDict, from_ase
from nequip.integrations.ase import NequIPCalculator
from nequip.integrations.utils import basic_transforms
from nequip.model.modify_utils import modify
from nequip.utils.global_state import set_global_state

TYPES = ["Si"]
TRITON = "enable_TritonContracter"
"""Its kernel for inference on a GPU, which it takes only where asked."""
SETTINGS: dict[str, Any] = {
    "l_max": 2,
    "parity": True,
    "r_max": CUTOFF,
    "radial_chemical_embed": {
        "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
        "num_bessels": 8,
        "bessel_trainable": True,
        "polynomial_cutoff_p": 6,
    },
    "radial_chemical_embed_dim": 16,
    "scalar_embed_mlp_hidden_layers_depth": 1,
    "scalar_embed_mlp_hidden_layers_width": 32,
    "num_layers": 2,
    "num_scalar_features": 64,
    "num_tensor_features": 16,
    "allegro_mlp_hidden_layers_depth": 2,
    "allegro_mlp_hidden_layers_width": 64,
    "readout_mlp_hidden_layers_depth": 1,
    "readout_mlp_hidden_layers_width": 64,
    "readout_mlp_nonlinearity": None,
    "avg_num_neighbors": NEIGHBOURS,
    "per_type_energy_scales": 1.0,
    "per_type_energy_shifts": 0.0,
}


class NequipAllegro:
    """Eager, compiled for training (``compiled``) or ahead of time for inference (``aoti``)."""

    def __init__(self, what: dict[str, Any]) -> None:
        set_global_state()
        self.what = what
        self.mode, self.device = what["mode"], torch.device(what["device"])
        model_settings = SETTINGS | {"tp_path_channel_coupling": what["coupled"]}
        self.settings = model_settings | {"mode": self.mode}
        self.model = AllegroModel(
            seed=0,
            model_dtype=what["dtype"],
            type_names=TYPES,
            compile_mode="compile" if self.mode == "compiled" else "eager",
            **model_settings,
        )
        if what.get("triton"):
            self.settings["modifier"] = TRITON
            modify(self.model, [{"modifier": TRITON}])
        self.model.to(self.device)
        self.parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.transforms = basic_transforms(self.model.metadata, CUTOFF, TYPES, {name: name for name in TYPES})

    def _data(self, atoms: Atoms) -> AtomicDataDict.Type:
        data = from_ase(atoms)
        for transform in self.transforms:
            data = transform(data)
        return data

    def batch(self, frames: list[Atoms]) -> AtomicDataDict.Type:
        if self.mode == "compiled" and len(frames) < 2:
            raise ValueError("compiled training runs eager on a batch of one frame; give two")
        batch = AtomicDataDict.batched_from_list([self._data(frame) for frame in frames])
        return AtomicDataDict.to_(batch, self.device)

    def edges(self, batch: AtomicDataDict.Type) -> int:
        return int(AtomicDataDict.num_edges(batch))

    def training_step(self, batch: AtomicDataDict.Type) -> None:
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        out = self.model(batch.copy())
        per_atom = out[AtomicDataDict.TOTAL_ENERGY_KEY] * len(batch[AtomicDataDict.NUM_NODES_KEY])
        per_atom = per_atom / AtomicDataDict.num_nodes(batch)
        loss(per_atom, out[AtomicDataDict.FORCE_KEY], out[AtomicDataDict.STRESS_KEY]).backward()

    def calculator(self) -> Calculator:
        self.model.eval()
        if self.mode == "aoti":
            return NequIPCalculator.from_compiled_model(
                self._package(), device=self.device, chemical_species_to_atom_type_map={name: name for name in TYPES}
            )
        return NequIPCalculator(model=self.model, device=self.device, transforms=self.transforms)

    def _package(self) -> Path:
        """Return the model compiled as ``nequip-compile --mode aotinductor --target ase`` does; made once."""
        name = f"{'coupled' if self.what['coupled'] else 'uncoupled'}-{self.what['dtype']}-{self.what['threads']}"
        if self.device.type != "cpu":
            name += "-cuda-triton" if self.what.get("triton") else "-cuda"
        path = Path(self.what["folder"]) / f"{name}.nequip.pt2"
        record = path.with_suffix(".json")
        wanted = json.loads(json.dumps(self.settings | {"torch": torch.__version__} | self._gpu()))
        if path.exists() and record.exists():
            known = json.loads(record.read_text())
            if known["settings"] == wanted:
                self.settings = self.settings | {"compile_cpu_s": known["compile_cpu_s"]}
                return path
        seconds = self._compile(path)
        record.write_text(json.dumps({"settings": wanted, "compile_cpu_s": seconds}))
        self.settings = self.settings | {"compile_cpu_s": seconds}
        return path

    def _gpu(self) -> dict[str, str]:
        """Return the GPU that is compiled for; nothing on a CPU."""
        return {} if self.device.type == "cpu" else {"device": torch.cuda.get_device_name()}

    def _compile(self, path: Path) -> float:
        from nequip.scripts._compile_utils import AOTI_ASE_TARGET, COMPILE_TARGET_DICT
        from nequip.utils.aot import aot_export_model
        from nequip.utils.aoti_metadata import NEQUIP_AOTI_INPUTS_KEY, NEQUIP_AOTI_OUTPUTS_KEY, serialize_aoti_keys
        from nequip.utils.global_state import get_latest_global_state

        target = COMPILE_TARGET_DICT[AOTI_ASE_TARGET]
        dims = {kind: torch.export.dynamic_shapes.Dim(f"num_{kind}s", min=2) for kind in ("graph", "node", "edge")}
        metadata = self.model.metadata | get_latest_global_state(only_metadata_related=True)
        metadata = {key: str(int(value)) if isinstance(value, bool) else str(value) for key, value in metadata.items()}
        metadata[NEQUIP_AOTI_INPUTS_KEY] = serialize_aoti_keys(target["input"])
        metadata[NEQUIP_AOTI_OUTPUTS_KEY] = serialize_aoti_keys(target["output"])
        start = cpu_seconds()
        aot_export_model(
            model=self.model,
            device=self.device,
            input_fields=target["input"],
            output_fields=target["output"],
            data=target["data_settings"](AtomicDataDict.to_(self._data(silicon(64)), self.device)),
            batch_map=target["batch_map_settings"](dims),
            output_path=str(path),
            inductor_configs={"aot_inductor.metadata": metadata},
        )
        return round(cpu_seconds() - start, 1)


if __name__ == "__main__":
    main(NequipAllegro)
