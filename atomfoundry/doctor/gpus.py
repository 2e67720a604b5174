"""GPUs: what the driver sees, what this process may use, and whether the installed torch fits."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from atomfoundry.doctor.commands import ask
from atomfoundry.doctor.findings import Finding, ok, problem, skipped, warning
from atomfoundry.doctor.python_packages import installed
from atomfoundry.doctor.registry import check

if TYPE_CHECKING:
    from atomfoundry.doctor.world import World

QUERY = "index,uuid,name,memory.total,memory.used,driver_version,compute_mode,mig.mode.current"
MINIMUM_DRIVERS = {13: "580", 12: "525", 11: "450"}
"""Oldest Linux driver for a CUDA major version, by NVIDIA's table of minor version compatibility."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as nvidia-smi describes it; memory in MiB."""

    index: str
    uuid: str
    name: str
    memory: int
    used: int
    driver: str
    compute_mode: str
    mig: str


def list_gpus(text: str) -> list[Gpu]:
    """Read the lines of ``nvidia-smi --query-gpu``.

    Parameters
    ----------
    text
        Its output, in CSV without header and units.
    """
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 8:
            index, uuid, name, memory, used, driver, mode, mig = words
            found.append(Gpu(index, uuid, name, _number(memory), _number(used), driver, mode, mig))
    return found


def _number(text: str) -> int:
    return int(float(text)) if re.fullmatch(r"[\d.]+", text) else 0


@check("gpu", "machine", limit=20.0)
def gpu(world: World) -> Iterator[Finding]:
    """List the GPUs, and check that this process may use them and that torch fits the driver."""
    if shutil.which("nvidia-smi") is None:
        if os.path.exists("/proc/driver/nvidia"):  # noqa: PTH110
            yield warning(
                "An NVIDIA driver is loaded, but there is no nvidia-smi in PATH: GPUs cannot be told apart.",
                "Install the driver's tools, e.g. apt-get install nvidia-utils-580.",
            )
        else:
            yield skipped("No NVIDIA GPU (no nvidia-smi): models train and run on the processor")
        return
    answer = ask(["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"], timeout=15.0)
    if not answer.ok:
        yield problem(
            f"nvidia-smi failed: {answer.last_line}",
            "nvidia-smi; if it says that driver and library versions differ, restart the machine.",
        )
        return
    gpus = list_gpus(answer.output)
    if not gpus:
        yield skipped("nvidia-smi sees no GPU")
        return
    names = ", ".join(f"{each.index}: {each.name} ({each.memory / 1024:.0f} GiB)" for each in gpus)
    details = {"gpus": [each.__dict__ for each in gpus], "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}
    yield from _visible(gpus, names, details)
    yield from _torch(gpus)


def _visible(gpus: list[Gpu], names: str, details: dict) -> Iterator[Finding]:
    """Compare CUDA_VISIBLE_DEVICES with what there is."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        yield ok(names, **details)
        return
    if chosen.strip() in ("", "-1", "NoDevFiles"):
        yield warning(f"{names}; CUDA_VISIBLE_DEVICES='{chosen}' hides them.", "unset CUDA_VISIBLE_DEVICES", **details)
        return
    wanted = [word.strip() for word in chosen.split(",")]
    unknown = [
        word
        for word in wanted
        if not any(word == each.index or each.uuid.startswith(word) or word.startswith("MIG-") for each in gpus)
    ]
    if unknown:
        yield problem(
            f"CUDA_VISIBLE_DEVICES={chosen}: there is no GPU {', '.join(unknown)} (there are {names}); CUDA ignores "
            "all that follow.",
            f"export CUDA_VISIBLE_DEVICES={gpus[0].index}",
            **details,
        )
    else:
        yield ok(f"{names}; CUDA_VISIBLE_DEVICES={chosen}", **details)
    for each in gpus:
        if each.compute_mode == "Prohibited":
            yield problem(
                f"GPU {each.index} is in compute mode Prohibited.", f"nvidia-smi -i {each.index} -c 0 (as root)"
            )


def _torch(gpus: list[Gpu]) -> Iterator[Finding]:
    """Compare the installed torch with the driver; where they should fit, let a child try."""
    version = installed("torch")
    if version is None:
        return  # the check of packages says so
    build = cuda_build(version)
    if build is None:
        yield warning(
            f"torch {version} is built for the processor only; the GPU is not used.",
            f'pip install --force-reinstall "torch=={version.partition("+")[0]}" (a build for CUDA)',
            torch=version,
        )
        return
    driver, oldest = gpus[0].driver, MINIMUM_DRIVERS.get(build)
    if oldest is not None and _older(driver, oldest):
        yield problem(
            f"torch {version} is built for CUDA {build}, which needs driver {oldest} or newer; here is {driver}.",
            f"Update the driver to {oldest} or newer, or install a torch for an older CUDA.",
            torch=version,
            driver=driver,
        )
        return
    code = "import torch; print(torch.cuda.is_available(), torch.cuda.device_count())"
    answer = ask([sys.executable, "-c", code], timeout=18.0)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")
    if answer.code is None:
        yield warning(f"torch {version} could not be tried: {answer.error}.", f'{sys.executable} -c "{code}"')
    elif answer.output.startswith("True") or (answer.ok and hidden):
        yield ok(f"torch {version} on driver {driver}", torch=version, driver=driver)
    else:
        yield problem(
            f"torch {version} does not see the GPU: {answer.last_line}.", f'{sys.executable} -c "{code}"', driver=driver
        )


def cuda_build(version: str) -> int | None:
    """Return the CUDA major version that the installed torch is built for, None for a processor-only build.

    Parameters
    ----------
    version
        torch's version; a local part such as ``+cu128`` or ``+cpu`` decides, else the packages beside it do.
    """
    local = version.partition("+")[2]
    found = re.fullmatch(r"cu(\d{2})\d+", local)
    if found:
        return int(found.group(1))
    if local:
        return None
    for major in sorted(MINIMUM_DRIVERS, reverse=True):
        if installed(f"nvidia-cuda-runtime-cu{major}") or (major >= 13 and installed("nvidia-cuda-runtime")):
            return major
    return None


def _older(version: str, than: str) -> bool:
    try:
        return Version(version) < Version(than)
    except InvalidVersion:
        return False
