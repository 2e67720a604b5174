"""How accurate our Allegro becomes within a budget of CPU time, on mlearn's silicon or lithium; JSON out.

    python perf/accuracy.py [--element Si] [--cpu-minutes 10] [--seeds 0 1 2] [--settings FILE] [--set KEY=VALUE ...]

Data are mlearn's training.json.gz and test.json.gz in ``datasets/mlearn/ELEMENT/`` of the folder that
ATOMFOUNDRY_TEST_DATA names (PBE; energies, forces, stresses). A tenth of the training set, drawn from each kind of
frame, is held out for validation: it chooses the weights. The test set is read once, after training.

The budget is CPU time of this process: neighbour lists, a trial of the speed, training and validation. The trial says
how many epochs fit, so that the learning rate comes down to its end within the budget; where the machine turns out to
be slower the training starts anew with fewer epochs, at the cost of those done. It never runs over: at the end of the
budget the last checkpoint counts. ``--epochs`` repeats a training exactly.

Settings, as JSON or by ``--set``, are those of AllegroConfig and TrainingSettings:
``--set architecture.num_channels=8 training.lr=0.004 training.loss.forces_weight=10``; the rest is Allegro-FM64's
architecture and the trainer's defaults.

The curve holds validation errors against CPU seconds. Published test errors stand beside ours: MTP, GAP and SNAP
(Zuo et al., J. Phys. Chem. A 2020, 124, 731), and nequip-allegro and MACE after 10 CPU minutes each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from pydantic import ValidationError

from atomfoundry.datasets.foreign import read_mlearn
from atomfoundry.documents.model import EpochRecord
from atomfoundry.errors import AtomfoundryError, ConfigurationError
from atomfoundry.models import Allegro, AllegroConfig, GraphBatch, HeadConfig, allegro_fm64, build_graph
from atomfoundry.models.evaluation import evaluate
from atomfoundry.models.io import save_model
from atomfoundry.models.training import TrainingResult, TrainingSettings, fit_reference_energies, force_rms, train

PUBLISHED = {
    "Si": {
        "MTP": (2.21, 0.06),
        "GAP": (2.91, 0.07),
        "SNAP": (6.44, 0.133),
        "nequip-allegro, 10 CPU minutes": (8.4, 0.129),
        "MACE 64x0e, 10 CPU minutes": (9.1, 0.139),
    }
}
"""Element -> test MAE, meV/atom and eV/A."""

TRIAL = 4
"""The trial of the speed takes each so-many-th frame."""
RESERVE = 0.05
"""Part of the budget planned to stay unused."""
SLOWER = 1.03
"""Expected over given CPU time from which a training of many epochs starts anew."""


class Stop(Exception):
    """Ends a training from its callback."""


@dataclass
class Data:
    """Graphs with labels, and what the configuration takes from the training frames."""

    train: list[GraphBatch]
    valid: list[GraphBatch]
    test: list[GraphBatch]
    isolated: dict[str, float]
    scale: float

    @property
    def neighbours(self) -> float:
        """Directed edges an atom in the training set."""
        return sum(graph.num_edges for graph in self.train) / sum(graph.num_nodes for graph in self.train)


def split(frames: list[Atoms], *, fraction: float, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """Return training and validation frames; of each kind of frame the same fraction is held out."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        kinds[frame.info["sampling"]].append(index)
    rng = np.random.default_rng(seed)
    held: set[int] = set()
    for kind in sorted(kinds):
        members = kinds[kind]
        held.update(rng.permutation(members)[: round(fraction * len(members))].tolist())
    chosen = [frame for index, frame in enumerate(frames) if index in held]
    return [frame for index, frame in enumerate(frames) if index not in held], chosen


def read(element: str, *, cutoff: float, fraction: float, seed: int) -> Data:
    """Read both files and build the graphs.

    Raises
    ------
    ConfigurationError
        If ATOMFOUNDRY_TEST_DATA does not name a folder with this element.
    """
    folder = Path(os.environ.get("ATOMFOUNDRY_TEST_DATA", "")) / "datasets" / "mlearn" / element
    files = [folder / "training.json.gz", folder / "test.json.gz"]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ConfigurationError(
            f"There is no {' and no '.join(missing)}.",
            remedy="Set ATOMFOUNDRY_TEST_DATA to the folder that holds datasets/mlearn, or choose another --element.",
        )
    known, test = (list(read_mlearn(file)) for file in files)
    training, validation = split(known, fraction=fraction, seed=seed)

    def graphs(frames: list[Atoms]) -> list[GraphBatch]:
        return [build_graph(frame, cutoff=cutoff, type_names=[element]) for frame in frames]

    return Data(
        graphs(training),
        graphs(validation),
        graphs(test),
        fit_reference_energies(training, [element], policy="mean").energies,
        force_rms(training),
    )


def given_settings(file: Path | None, changes: list[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of the file with those of the command line on top.

    Raises
    ------
    ConfigurationError
        If they cannot be read, or belong neither to the architecture nor to the training.
    """
    settings: dict[str, dict[str, Any]] = {"architecture": {}, "training": {}}
    try:
        settings |= json.loads(file.read_text()) if file else {}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"Settings '{file}' cannot be read: {error}", remedy="Give a JSON object.") from error
    for change in changes:
        key, found, text = change.partition("=")
        *path, last = key.split(".")
        if not found or not path:
            raise ConfigurationError(f"--set {change} is no SECTION.KEY=VALUE.", remedy="e.g. training.lr=0.004")
        place: dict[str, Any] = settings
        for part in path:
            place = place.setdefault(part, {})
        try:
            place[last] = json.loads(text)
        except ValueError:
            place[last] = text
    unknown = set(settings) - {"architecture", "training"}
    if unknown:
        raise ConfigurationError(
            f"Settings have the section {', '.join(sorted(unknown))}.", remedy="Sections: architecture, training."
        )
    return settings


def valid_settings(settings: dict[str, dict[str, Any]], seed: int, epochs: int) -> TrainingSettings:
    """Return the trainer's settings: its defaults, changed as asked for."""
    changes = dict(settings["training"])
    if "loss" in changes:
        changes["loss"] = TrainingSettings().loss.model_dump() | changes["loss"]
    # a checkpoint after each epoch and none within: the last one is of before the end of the budget
    fixed = {"max_epochs": epochs, "seed": seed, "checkpoint_epochs": 1, "checkpoint_interval_s": 1e9}
    return TrainingSettings.model_validate(changes | fixed)


def fitted(settings: TrainingSettings, seconds_per_epoch: float, budget: float, used: float) -> TrainingSettings:
    """Return the settings with as many epochs as fit into what is left of the budget.

    Raises
    ------
    ConfigurationError
        If not even one does.
    """
    epochs = int((budget * (1 - RESERVE) - used) / seconds_per_epoch)
    if epochs < 1:
        raise too_short(budget, now_used=used + seconds_per_epoch)
    return settings.model_copy(update={"max_epochs": epochs})


def too_short(budget: float, *, now_used: float) -> ConfigurationError:
    return ConfigurationError(
        f"A budget of {budget / 60:g} CPU minutes does not suffice for one epoch, with which it would be "
        f"{now_used / 60:.2f}.",
        remedy="Raise --cpu-minutes, or take a smaller model.",
    )


def configuration(element: str, data: Data, settings: dict[str, dict[str, Any]], seed: int) -> AllegroConfig:
    """Return the architecture: Allegro-FM64's, changed as asked for."""
    head = HeadConfig(isolated_energies=data.isolated, scale=data.scale)
    changes: dict[str, Any] = {"avg_num_neighbors": data.neighbours, "heads": [head], "seed": seed}
    return allegro_fm64([element], **(changes | settings["architecture"]))


class Course:
    """One training under the clock: its curve, and what it does when the budget ends."""

    def __init__(self, budget: float, used: Callable[[], float]) -> None:
        self.budget, self.used = budget, used
        self.curve: list[dict[str, float]] = []
        self.replan = 0.0

    def train(
        self, config: AllegroConfig, data: Data, settings: TrainingSettings, *, may_restart: bool
    ) -> TrainingResult | None:
        """Train; None if the speed turned out so different that it should start anew (`replan`: seconds an epoch)."""
        begin = self.used()
        self.curve = []

        def look(record: EpochRecord) -> None:
            now = self.used()
            point: dict[str, float] = {"epoch": record.epoch, "cpu_s": round(now, 2)}
            if record.energy_mae is not None and record.forces_mae is not None:
                point |= {
                    "valid_energy_mae_meV_per_atom": round(1e3 * record.energy_mae, 3),
                    "valid_forces_mae_eV_per_A": round(record.forces_mae, 5),
                }
            if now > self.budget:
                raise Stop
            self.curve.append(point)
            if may_restart and record.epoch == 2 and settings.max_epochs >= 20:
                each = (now - begin) / 2
                if each * settings.max_epochs > SLOWER * (self.budget - begin):
                    self.replan = each
                    raise Stop

        with tempfile.TemporaryDirectory() as folder:
            try:
                return train(config, data.train, data.valid, settings=settings, directory=folder, callback=look)
            except Stop:
                if self.replan:
                    return None
                if not self.curve:
                    raise too_short(self.budget, now_used=self.used()) from None
                # the checkpoint is of before the end of the budget; a training without time gives its weights back
                late = settings.model_copy(update={"max_wall_time_s": 1e-9})
                return train(config, data.train, data.valid, settings=late, directory=folder)


def trial(config: AllegroConfig, data: Data, settings: TrainingSettings) -> float:
    """Return CPU seconds an epoch, from the second epoch of a short training on a part of the frames."""
    part, few = data.train[::TRIAL], data.valid[::TRIAL]
    times: list[float] = []
    short = settings.model_copy(update={"max_epochs": 2})
    train(config, part, few, settings=short, callback=lambda _: times.append(time.process_time()))
    share = sum(graph.num_edges for graph in part) / sum(graph.num_edges for graph in data.train)
    return (times[1] - times[0]) / share


def one(element: str, options: argparse.Namespace, settings: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """Train within the budget and test."""
    start = time.process_time()
    wall = time.perf_counter()
    budget = 60 * options.cpu_minutes

    def used() -> float:
        return time.process_time() - start

    cutoff = settings["architecture"].get("cutoff", AllegroConfig.model_fields["cutoff"].default)
    data = read(element, cutoff=float(cutoff), fraction=options.validation, seed=seed)
    config = configuration(element, data, settings, seed)
    prepared = used()
    plan = valid_settings(settings, seed, options.epochs or 1)
    course = Course(math.inf if options.epochs else budget, used)
    expected = None
    if not options.epochs:
        expected = trial(config, data, plan)
        plan = fitted(plan, expected, budget, used())
    tried = used() - prepared
    result = course.train(config, data, plan, may_restart=not options.epochs)
    restarted = result is None
    if result is None:
        expected = course.replan
        plan = fitted(plan, expected, budget, used())
        result = course.train(config, data, plan, may_restart=False)
    assert result is not None
    trained = used()
    if options.models:
        save_model(result.model, options.models / f"{element}-{seed}", metadata={"benchmark": "mlearn", "seed": seed})
    return {
        "seed": seed,
        "test": errors(result.model, data.test, "test"),
        "valid": errors(result.model, data.valid, "valid"),
        "cpu_s": {
            "budget": None if options.epochs else budget,
            "used": round(trained, 1),
            "up_to_last_epoch_counted": course.curve[-1]["cpu_s"],
            "reading": round(prepared, 1),
            "trial": round(tried, 1),
            "expected_per_epoch": None if expected is None else round(expected, 2),
        },
        "wall_s": round(time.perf_counter() - wall, 1),
        "epochs": {"planned": plan.max_epochs, "done": result.n_epochs, "best": result.best_epoch},
        "restarted": restarted,
        "ended": "budget" if result.stop_reason == "wall_time" else result.stop_reason,
        "frames": {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)},
        "parameters": Allegro(config).num_parameters,
        "architecture": config.model_dump(mode="json"),
        "training": plan.model_dump(mode="json"),
        "curve": course.curve,
    }


def errors(model: Allegro, graphs: list[GraphBatch], name: str) -> dict[str, Any]:
    """Return mean absolute errors in the published units."""
    metrics, _ = evaluate(model, graphs, split=name)
    found = {"energy_mae_meV_per_atom": 1e3 * metrics.energy_mae, "energy_rmse_meV_per_atom": 1e3 * metrics.energy_rmse}
    for quantity, unit in (("forces", "eV_per_A"), ("stress", "eV_per_A3")):
        for kind in ("mae", "rmse"):
            value = getattr(metrics, f"{quantity}_{kind}")
            if value is not None:
                found[f"{quantity}_{kind}_{unit}"] = value
    return {key: round(value, 5) for key, value in found.items()}


def spread(runs: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return mean and sample standard deviation of the test errors over the seeds."""
    table = {key: [run["test"][key] for run in runs] for key in runs[0]["test"]}
    return {
        key: {
            "mean": round(float(np.mean(values)), 5),
            "std": round(float(np.std(values, ddof=1)), 5) if len(values) > 1 else None,
        }
        for key, values in table.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--element", default="Si", choices=["Si", "Li"])
    parser.add_argument("--cpu-minutes", type=float, default=10.0)
    parser.add_argument("--epochs", type=int, help="train so many epochs, whatever they take")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--validation", type=float, default=0.1, help="part of the training set held out")
    parser.add_argument("--settings", type=Path, help='JSON: {"architecture": {...}, "training": {...}}')
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--models", type=Path, help="folder for the trained models, one folder a seed")
    parser.add_argument("--output", type=Path, default=Path("accuracy.json"))
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    try:
        settings = given_settings(options.settings, options.set)
        for seed in options.seeds:
            run = one(options.element, options, settings, seed)
            runs.append(run)
            print(f"seed {seed}: {run['test']} after {run['cpu_s']['used']} s of CPU", file=sys.stderr, flush=True)
            report = {
                "element": options.element,
                "cpu_minutes": None if options.epochs else options.cpu_minutes,
                "test": spread(runs),
                "published_energy_meV_per_atom_and_forces_eV_per_A": PUBLISHED.get(options.element, {}),
                "runs": runs,
            }
            part = options.output.with_name(f".{options.output.name}.part")
            part.write_text(json.dumps(report, indent=1) + "\n")
            part.replace(options.output)
    except ValidationError as error:
        first = error.errors()[0]
        print(f"Setting '{'.'.join(map(str, first['loc']))}': {first['msg']}.", file=sys.stderr)
        raise SystemExit(2) from None
    except AtomfoundryError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps({key: value for key, value in report.items() if key != "runs"}, indent=1))


if __name__ == "__main__":
    main()
