"""Trainings of one, two and four processes for test_training_distributed.py: ``python trained_together.py FOLDER``.

The processes are forked from this one, which has loaded torch but not used it, and meet over gloo.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from functools import cache
from pathlib import Path

import torch
import torch._dynamo  # which optimisers load: once is enough
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from argon import Killed, config, crystals, labelled, losses, settings, weights
from ase import Atoms
from ase.build import bulk
from safetensors.torch import save_file

import atomfoundry.deadline
from atomfoundry.errors import TrainingError
from atomfoundry.models.allegro.config import HeadConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.training.loader import prepare_graphs
from atomfoundry.models.training.loss import Loss
from atomfoundry.models.training.processes import Processes
from atomfoundry.models.training.settings import LossSettings
from atomfoundry.models.training.trainer import train
from atomfoundry.models.training.validation import in_chunks, validate

SIZES = (1, 2, 4)
NOBLE = ["Xe", "Ar", "Kr"]
HEADS = [HeadConfig(name=name, isolated_energies={"Ar": 0.0}) for name in ("pt", "ft")]
LOSSES = {
    "default": {},
    "rmse": {"loss": LossSettings(form="rmse", stress_unit="eV/A^3")},
    "universal": {"loss": LossSettings(kind="mace_universal")},
    "sharpness": {"sam_rho": 0.05},
    "adaptive": {"sam_rho": 0.5, "sam_adaptive": True, "clip_norm": 0.1},
    "balanced": {"batching": "balanced", "batch_size": 2, "batches_per_step": 6},
    "rmse_parts": {"loss": LossSettings(form="rmse", stress_unit="eV/A^3"), "batch_size": 2, "batches_per_step": 6},
}


@cache
def frames():
    """Two heads, three sizes, some labels missing; ten structures of head pt and one of ft."""
    dimer = labelled(Atoms("Ar2", positions=[[0, 0, 0], [2.8, 0, 0]]))
    large = labelled(bulk("Ar", "fcc", a=4.1) * (2, 2, 1))
    mixed = [*crystals(6), dimer, large, labelled(bulk("Ar", a=4.1), keys=("energy",)), labelled(bulk("Ar", a=4.0))]
    return {"pt": mixed, "ft": crystals(1, seed=4)}


@cache
def unseen():
    return {"pt": crystals(5, seed=9)}


@cache
def noble():
    """Two heads with elements of their own, labels missing; more structures on one head than on the other."""
    found = {"pt": crystals(7, seed=5), "ft": crystals(4, seed=6)}
    for i, atoms in enumerate(found["pt"]):
        atoms.symbols = ("ArKr", "KrKr", "ArAr")[i % 3]
    for i, atoms in enumerate(found["ft"]):
        atoms.symbols = ("XeXe", "XeAr")[i % 2]
    del found["pt"][3].calc.results["forces"], found["ft"][1].calc.results["energy"]
    found["pt"][4].calc.results["forces"][1, 1] = float("nan")
    return found


def by_part(processes):
    """Return the numbers of a validation by head and element, and by size of the force."""
    heads = [HeadConfig(name=name, isolated_energies=dict.fromkeys(NOBLE, 0.0)) for name in ("pt", "ft")]
    model = Allegro(config(heads, dtype="float64", type_names=NOBLE))
    graphs = [g for i, (_, found) in enumerate(noble().items()) for g in prepare_graphs(model, found, head=i)]
    loss = Loss(settings().loss, force_rms={0: 1.0, 1: 1.0})
    parts = validate(model, in_chunks(graphs, 2, processes=processes), loss, processes=processes).parts
    return [vars(entry) for entry in parts.elements], [vars(entry) for entry in parts.force_bins]


def one_step(changes):
    # Adam's step does not depend on the size of the gradient; with weight decay it does.
    asked = settings(**({"max_epochs": 1, "batch_size": 11, "ema_decay": None, "weight_decay": 0.1} | changes))
    return train(config(HEADS, dtype="float64"), frames(), settings=asked, head_weights={"ft": 0.3})


def course(folder):
    asked = settings(batch_size=5, schedule="plateau", plateau_patience=1, checkpoint_epochs=1, max_epochs=4)
    edges = folder.parent / "edges"
    model = config(HEADS, dtype="float64")
    return train(model, frames(), unseen(), settings=asked, directory=folder, edge_cache=edges)


def killed(folder):
    """Stop as a kill would: an exception in every process, after the second epoch."""

    def kill(record):
        if record.epoch == 2:
            raise Killed

    from atomfoundry.models.training import trainer

    tell = trainer._Trainer._tell
    trainer._Trainer._tell = lambda self, record, callback: (tell(self, record, callback), kill(record))
    try:
        course(folder)
    except Killed:
        pass
    finally:
        trainer._Trainer._tell = tell
    return course(folder)


def signalled(folder, rank, size):
    """Ask the last process alone to stop, while it takes its fifth step."""
    from atomfoundry.models.training import trainer

    step, calls = trainer._Trainer._step, []

    def counted(self, *arguments):
        step(self, *arguments)
        calls.append(1)
        if len(calls) == 5 and rank == size - 1:
            atomfoundry.deadline._Request.signal = "SIGUSR1"

    trainer._Trainer._step = counted
    stopped = course(folder)
    trainer._Trainer._step = step
    atomfoundry.deadline.forget_stop()
    if rank == 0:
        shutil.copytree(folder, folder.parent / "half")
    dist.barrier()
    return stopped, course(folder)


def work(rank, size, out):
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting-{size}", rank=rank, world_size=size)
    folder = out / str(size)
    report = {}

    def keep(name, result):
        report[name] = {
            "losses": losses(result),
            "shares": result.gradient_shares,
            "stop_reason": result.stop_reason,
            "interrupted": result.interrupted,
            "n_epochs": result.n_epochs,
            "n_skipped": result.n_skipped,
            "elements": [vars(entry) for entry in result.elements],
        }
        save_file(weights(result.model), out / f"{size}-{rank}-{name}.safetensors")

    report["by_element"], report["by_force"] = by_part(Processes.current())
    for name, changes in LOSSES.items():
        keep(name, one_step(changes))
    if size <= 2:
        courses(keep, folder, rank, size)
    (out / f"{size}-{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


def courses(keep, folder, rank, size):
    """Whole trainings, their stops, and what goes wrong."""
    keep("course", course(folder / "course"))
    keep("resumed", killed(folder / "resumed"))
    stopped, continued = signalled(folder / "signalled", rank, size)
    keep("stopped", stopped)
    keep("continued", continued)
    skips = crystals(2, seed=1)
    skips[0].info["weight"] = float("inf")
    keep("skipped", train(config(), skips, settings=settings(max_epochs=2, batch_size=1)))
    keep("first_weights", train(Allegro(config(seed=1 + rank)), crystals(4), settings=settings(max_epochs=1)))
    try:
        keep("other_data", train(config(), crystals(2, seed=rank), settings=settings(max_epochs=1)))
    except TrainingError as error:
        (folder / f"other_data-{rank}").write_text(str(error))


def main(out):
    frames(), unseen(), noble()  # once, before there are processes
    for size in SIZES:
        children = []
        for rank in range(size):
            pid = os.fork()
            if pid == 0:
                try:
                    work(rank, size, out)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        if any(codes):
            raise SystemExit(f"{size} processes: exit codes {codes}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
