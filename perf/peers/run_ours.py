"""Our Allegro under the clock; run by ``perf/allegro.py`` with the interpreter that has atomfoundry."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from case import CUTOFF, NEIGHBOURS, check_device, loss, main, silicon

from atomfoundry.models import Allegro, FoundryCalculator, GraphBatch, allegro_fm64, build_graph, collate
from atomfoundry.models.compiled import UNUSED
from atomfoundry.models.recording import Recording, record

TYPES = ["Si"]


class Ours:
    """Allegro-FM64's architecture for one element; its training step compiled (``compiled``) or as it comes."""

    def __init__(self, what: dict[str, Any]) -> None:
        config = allegro_fm64(TYPES, avg_num_neighbors=NEIGHBOURS, cutoff=CUTOFF, dtype=what["dtype"])
        self.device = what["device"]
        self.compiled: dict[int, Recording] | None = {} if what.get("compiled") else None
        self.model = Allegro(config).to(self.device)
        self.parameters = self.model.num_parameters
        self.settings = config.model_dump(mode="json", exclude={"heads", "seed"})

    def batch(self, frames: list[Atoms]) -> GraphBatch:
        batch = collate([build_graph(frame, cutoff=CUTOFF, type_names=TYPES) for frame in frames]).to(self.device)
        if self.compiled is not None:
            # here and not at the first step, whose memory is measured
            start = time.perf_counter()
            self.compiled[id(batch)] = record(self.model, batch, leave_out=UNUSED[True]).compiled("inductor")
            self.settings["recording_s"] = round(time.perf_counter() - start, 1)
        return batch

    def edges(self, batch: GraphBatch) -> int:
        return batch.num_edges

    def training_step(self, batch: GraphBatch) -> None:
        self.model.zero_grad(set_to_none=True)
        if self.compiled is None:
            out = self.model(batch, create_graph=True)
        else:
            out = self.compiled[id(batch)](self.model, batch)
        loss(out["energy"] * batch.num_graphs / batch.num_nodes, out["forces"], out["stress"]).backward()

    def calculator(self) -> Calculator:
        return FoundryCalculator(self.model)


def profile(what: dict[str, Any]) -> None:
    """Print the operators of our training step; on a GPU by the time of its kernels."""
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    check_device(what["device"])
    on_gpu = what["device"] != "cpu"
    model = Ours(what)
    batch = model.batch([silicon(64)])
    model.training_step(batch)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(what["profile"]):
            model.training_step(batch)
        if on_gpu:
            torch.cuda.synchronize()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=60))


if __name__ == "__main__":
    if "profile" in json.loads(sys.argv[1]):
        profile(json.loads(sys.argv[1]))
    else:
        main(Ours)
