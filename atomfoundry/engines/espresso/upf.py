"""Convert norm-conserving pseudopotentials from ``psp8`` to UPF, so that Quantum ESPRESSO reads them.

Format of ``psp8``: ONCVPSP's ABINIT output (D. R. Hamann, Phys. Rev. B 88, 085117 (2013)). Energies in
Hartree on an even radial grid; for every angular momentum the Kleinman-Bylander energies followed by r
times the projectors; the local potential; 4 pi times the model core density with four derivatives; 4 pi
times the valence density. UPF 2.0.1 wants Rydberg, r times the projectors, the core density itself and 4 pi
r^2 times the valence density.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atomfoundry.errors import InputError

MESH_END = 10.0
"""Bohr. Quantum ESPRESSO integrates the local potential to here at most."""

CONVERTER_VERSION = 1
"""Part of the name of a cached UPF: raise it whenever the numbers written here change."""


@dataclass(frozen=True)
class Psp8:
    """A scalar-relativistic norm-conserving pseudopotential, in Hartree atomic units.

    Attributes
    ----------
    symbol
        Chemical symbol.
    z_valence
        Valence charge.
    r
        Radial grid, shape (n,), even, beginning at 0.
    local
        Local potential, shape (n,).
    projectors
        (angular momentum, Kleinman-Bylander energy, r times the projector with shape (n,)).
    core_density
        Model core density, shape (n,), zero without nonlinear core correction.
    has_core
        Whether there is a nonlinear core correction.
    valence
        4 pi r^2 times the valence density, shape (n,).
    qcut
        Largest wave vector of the optimisation, 1/bohr; None where the file does not tell.
    """

    symbol: str
    z_valence: float
    r: np.ndarray
    local: np.ndarray
    projectors: tuple[tuple[int, float, np.ndarray], ...]
    core_density: np.ndarray
    has_core: bool
    valence: np.ndarray
    qcut: float | None


def _block(lines: Iterator[str], n_rows: int) -> np.ndarray:
    return np.array([next(lines).replace("D", "E").split()[1:] for _ in range(n_rows)], dtype=float)


def _qcut(lines: list[str]) -> float | None:
    starts = [i for i, line in enumerate(lines) if "qcut" in line and line.startswith("#")]
    if not starts:
        return None
    values = []
    for line in lines[starts[0] + 1 :]:
        if line.startswith("#"):
            break
        values.append(float(line.split()[5]))
    return max(values, default=None)


def read_psp8(path: Path) -> Psp8:
    """Read a ``psp8`` file of ONCVPSP.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Psp8
        Its content.

    Raises
    ------
    InputError
        If the file is not a scalar-relativistic ``psp8`` with the valence density.
    """
    from ase.data import chemical_symbols

    text = path.read_text().splitlines()
    try:
        lines = iter(text[1:])
        z_atom, z_valence = (float(word) for word in next(lines).split()[:2])
        kind, _, l_max, l_local, n = (int(word) for word in next(lines).split()[:5])
        core_charge = float(next(lines).split()[1])
        n_projectors = [int(word) for word in next(lines).split()[:5]]
        extension = int(next(lines).split()[0])
        if kind != 8 or extension != 1 or l_local <= l_max:
            raise InputError(
                f"{path} is no scalar-relativistic psp8 with a separate local potential and valence density "
                f"(pspcod {kind}, extension {extension}, lloc {l_local}, lmax {l_max}).",
                remedy="Use pseudopotentials of the SPMS family, or UPF files.",
            )
        projectors = []
        for momentum in range(l_max + 1):
            if n_projectors[momentum] == 0:
                continue
            energies = [float(word) for word in next(lines).split()[1:]]
            table = _block(lines, n)
            projectors += [(momentum, e, table[:, 1 + i]) for i, e in enumerate(energies)]
        next(lines)
        table = _block(lines, n)
        r, local = table[:, 0], table[:, 1]
        core = _block(lines, n)[:, 1] / (4 * np.pi) if core_charge > 0 else np.zeros(n)
        valence = _block(lines, n)[:, 1] * r**2
    except (StopIteration, IndexError, ValueError) as error:
        raise InputError(
            f"{path} is not a readable psp8 file: {error or 'it ends too early'}.",
            remedy="Get the file again.",
        ) from error
    return Psp8(
        symbol=chemical_symbols[round(z_atom)],
        z_valence=z_valence,
        r=r,
        local=local,
        projectors=tuple(projectors),
        core_density=core,
        has_core=core_charge > 0,
        valence=valence,
        qcut=_qcut(text),
    )


def _extend(psp: Psp8) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Continue grid, local potential, core and valence density to ``MESH_END``.

    The tables of some elements end at 3 bohr, where erfc(r) is not zero yet; the valence tail only matters
    for the first guess of the density.
    """
    step = psp.r[1] - psp.r[0]
    r = step * np.arange(2 * (round(MESH_END / step) // 2) + 1)
    n = len(psp.r)
    tail = r[n:]
    local = np.concatenate([psp.local, -psp.z_valence / tail])
    core = np.concatenate([psp.core_density, np.zeros(len(tail))])
    last, before = psp.valence[n - 1], psp.valence[n - 11]
    decay = np.log(before / last) / (10 * step) if before > last > 0 else np.inf
    valence = np.concatenate([psp.valence, last * np.exp(-decay * (tail - psp.r[-1]))])
    return r, local, core, valence


def _array(tag: str, values: np.ndarray, **attributes: object) -> str:
    head = "".join(f' {key}="{value}"' for key, value in attributes.items())
    rows = [values[i : i + 4] for i in range(0, len(values), 4)]
    body = "\n".join(" ".join(f"{v:23.15E}" for v in row) for row in rows)
    return f'<{tag} type="real" size="{len(values)}" columns="4"{head}>\n{body}\n</{tag}>\n'


def format_upf(psp: Psp8) -> str:
    """Write a pseudopotential as UPF 2.0.1.

    Parameters
    ----------
    psp
        The pseudopotential.

    Returns
    -------
    str
        Text of the UPF file.
    """
    r, local, core, valence = _extend(psp)
    n_beta = len(psp.projectors)
    # Odd number of points: Simpson's rule of Quantum ESPRESSO drops the last one otherwise.
    n_cut = len(psp.r) - 1 + len(psp.r) % 2
    l_max = max((momentum for momentum, _, _ in psp.projectors), default=0)
    header = {
        "generated": "psp8 of ONCVPSP, converted by Atomfoundry",
        "element": f"{psp.symbol:>2}",
        "pseudo_type": "NC",
        "relativistic": "scalar",
        "is_ultrasoft": "F",
        "is_paw": "F",
        "is_coulomb": "F",
        "has_so": "F",
        "has_wfc": "F",
        "has_gipaw": "F",
        "core_correction": "T" if psp.has_core else "F",
        "functional": "PBE",
        "z_valence": f"{psp.z_valence:.6f}",
        "total_psenergy": "0.0",
        "wfc_cutoff": "0.0",
        "rho_cutoff": "0.0",
        "l_max": l_max,
        "l_local": -1,
        "mesh_size": len(r),
        "number_of_wfc": 0,
        "number_of_proj": n_beta,
    }
    text = '<UPF version="2.0.1">\n<PP_INFO>\nConverted from psp8 by Atomfoundry.\n</PP_INFO>\n<PP_HEADER'
    text += "".join(f'\n {key}="{value}"' for key, value in header.items()) + "/>\n"
    text += f'<PP_MESH dx="0.0" mesh="{len(r)}" xmin="0.0" rmax="{r[-1]}" zmesh="0.0">\n'
    text += _array("PP_R", r) + _array("PP_RAB", np.full(len(r), r[1] - r[0])) + "</PP_MESH>\n"
    if psp.has_core:
        text += _array("PP_NLCC", core)
    text += _array("PP_LOCAL", 2 * local) + "<PP_NONLOCAL>\n"
    for i, (momentum, _, beta) in enumerate(psp.projectors, start=1):
        padded = np.concatenate([beta, np.zeros(len(r) - len(beta))])
        text += _array(
            f"PP_BETA.{i}",
            padded,
            index=i,
            angular_momentum=momentum,
            cutoff_radius_index=n_cut,
            cutoff_radius=f"{r[n_cut - 1]:.6f}",
        )
    energies = np.diag([2 * energy for _, energy, _ in psp.projectors]).ravel()
    text += _array("PP_DIJ", energies) + "</PP_NONLOCAL>\n<PP_PSWFC>\n</PP_PSWFC>\n"
    return text + _array("PP_RHOATOM", valence) + "</UPF>\n"


def cached_upf(source: Path, cache_dir: Path) -> Path:
    """Return the UPF of a ``psp8`` file, converted once and kept.

    Parameters
    ----------
    source
        The ``psp8`` file.
    cache_dir
        Folder of the converted files; written atomically.

    Returns
    -------
    Path
        ``<Element>.<family and hash>.upf`` in the cache.

    Raises
    ------
    InputError
        If the file cannot be converted.
    """
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    symbol = source.name.split("_")[1]
    target = cache_dir / f"{symbol}.{source.stem}.{CONVERTER_VERSION}-{digest}.upf"
    if target.exists():
        return target
    text = format_upf(read_psp8(source))
    cache_dir.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=cache_dir, suffix=".part")
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    Path(name).replace(target)
    return target
