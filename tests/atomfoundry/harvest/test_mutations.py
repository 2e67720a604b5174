"""Damaged outputs: no crash, no hang, and never a frame whose forces are not in its own file.

By default a short seeded run; ``-m slow`` reads ten thousand.
"""

from __future__ import annotations

import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from atomfoundry.datasets import CurationSettings, labels_of
from atomfoundry.harvest.formats import kind_of
from atomfoundry.harvest.judge import HarvestOptions, read_file
from atomfoundry.harvest.run import open_binary
from atomfoundry.units import BOHR, HARTREE_PER_BOHR, RYDBERG

SOURCES = {
    "OUTCAR": "vasp/Li_pbe_relax/OUTCAR",
    "vasprun.xml": "vasp/Fe2_sample/vasprun.xml",
    "pw.out": "qe/vcrelax_success/aiida.out",
    "data-file-schema.xml": "qe/default_xml_211101/data-file-schema.xml",
    "cp2k.out": "cp2k/si_bulk8/si_bulk8.out",
    "orca.out": "orca/orca.out.gz",
    "aims.out": "fhiaims/diamond_disp/aims.out.gz",
    "Si.castep": "castep/Si8-md-NPT.castep",
}
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[Ee][-+]?[0-9]+)?"
OPEN = CurationSettings(
    max_force=1e12, max_stress=1e12, max_net_force_periodic=1e12, max_net_force_molecule=1e12, min_distance_factor=0
)


def data_folder() -> Path:
    import os

    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    return folder / "dft_outputs"


def mutate(content: bytes, rng: random.Random) -> bytes:
    kind = rng.choice(["flip", "cut", "nan", "end", "double", "swap"])
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(rng.choice([1, 5, 50])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == "end":
        return content[: rng.randrange(len(content))]
    lines = content.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    if kind == "cut":
        del lines[place : place + rng.choice([1, 1, 3, 30])]
    elif kind == "double":
        lines[place:place] = lines[place : place + rng.choice([1, 3, 30])]
    elif kind == "swap":
        other = rng.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
    else:
        numbered = [number for number, line in enumerate(lines) if re.search(rb"\d\.\d{4}", line)]
        for _ in range(rng.choice([1, 3])):
            line = rng.choice(numbered)
            lines[line] = re.sub(rb"-?\d+\.\d{4,}", rng.choice([b"NaN", b"********"]), lines[line], count=1)
    return b"".join(lines)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"a parser took more than {seconds} s")

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def numbers_in(content: bytes, factor: float) -> np.ndarray:
    text = content.decode(errors="replace").replace("D+", "E+").replace("D-", "E-")
    # As ASE does: a minus sign glued to a digit begins a number.
    text = re.sub(r"(\d)-(?=\d+\.)", r"\1 -", text)
    return np.sort(np.array([float(found) for found in re.findall(_NUMBER, text)] or [0.0]) * factor)


FACTORS = {
    "espresso": RYDBERG / BOHR,
    "espresso_xml": HARTREE_PER_BOHR,
    "cp2k": HARTREE_PER_BOHR,
    "orca": HARTREE_PER_BOHR,
}


def all_in(values: np.ndarray, known: np.ndarray, *, sign: bool) -> bool:
    for value in (np.abs(values) if sign else values).ravel():
        candidates = [value, -value] if sign else [value]
        found = False
        for candidate in candidates:
            index = np.searchsorted(known, candidate)
            near = known[max(0, index - 1) : index + 1]
            found = found or bool((np.abs(near - candidate) <= 1e-8 + 1e-7 * abs(candidate)).any())
        if not found:
            return False
    return True


def run_mutations(folder: Path, number: int, seed: int) -> Counter[str]:
    rng = random.Random(seed)
    originals = {name: open_binary(data_folder() / path).read() for name, path in SOURCES.items()}
    outcomes: Counter[str] = Counter()
    for index in range(number):
        name = list(originals)[index % len(originals)]
        content = mutate(originals[name], rng)
        path = folder / name
        path.write_bytes(content)
        kind = kind_of(path)
        if kind is None:
            outcomes["skipped"] += 1
            continue
        with time_limit(120):
            found = read_file(str(path), name, kind, name, HarvestOptions(steps="all", settings=OPEN))
        assert found.frames or found.rejections, (name, index)
        outcomes.update(item.reason for item in found.rejections)
        if not found.frames:
            continue
        known = numbers_in(content, FACTORS.get(kind, 1.0))
        for atoms in found.frames:
            outcomes["frames"] += 1
            energy, forces, stress = labels_of(atoms)
            assert energy is not None and np.isfinite(energy)
            assert forces is not None and np.isfinite(forces).all() and forces.shape == (len(atoms), 3)
            assert stress is None or np.isfinite(stress).all()
            # ORCA prints gradients: the forces with the other sign.
            assert all_in(forces, known, sign=kind == "orca"), (name, index, "forces that are not in the file")
    return outcomes


def test_a_few_hundred_damaged_files(tmp_path: Path) -> None:
    outcomes = run_mutations(tmp_path, 160, seed=7)
    assert outcomes["frames"] > 50
    assert set(outcomes) & {"unreadable", "truncated"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_damaged_files(tmp_path: Path, seed: int) -> None:
    outcomes = run_mutations(tmp_path, 2500, seed=seed)
    assert outcomes["frames"] > 250
