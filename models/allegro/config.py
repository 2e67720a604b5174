"""What an Allegro model is made of, and the published sizes."""

from __future__ import annotations

from typing import Any, Literal

from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_HEAD = "pt"
"""Name of the first head of a model: the pretraining level."""


class HeadConfig(BaseModel):
    """One readout head: a level of theory with its own isolated-atom energies and scale.

    ``isolated_energies`` empty means that energies are relative to isolated atoms (all zero); otherwise an
    element it lacks has no energy with this head (NaN), and the calculator refuses it.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default=DEFAULT_HEAD, min_length=1)
    isolated_energies: dict[str, float] = Field(default_factory=dict, description="Element -> eV")
    scale: float | dict[str, float] = Field(default=1.0, description="eV; one number, or element -> number")
    level_id: str | None = Field(default=None, description="Id of the level of theory of its labels")


class AllegroConfig(BaseModel):
    """Architecture of an Allegro model.

    Variant A is that of J. Phys. Chem. Lett. 2025, 16, 6637, Table 1. Variant B is that of the public Allegro since its
    version 0.4 (https://github.com/mir-group/allegro): layers see the scalars of all layers before, the environment
    includes the edge itself, path weights belong to channels, the readout has SiLU.
    """

    model_config = ConfigDict(extra="forbid")

    variant: Literal["A", "B"] = "A"
    type_names: list[str] = Field(min_length=1, description="Elements, in the order of the type index")
    cutoff: float = Field(default=5.2, gt=0, description="A")
    n_layers: int = Field(default=2, ge=1, le=4)
    l_max: int = Field(default=2, ge=0, le=3)
    num_channels: int = Field(default=16, ge=1, description="Channels C of the tensor track")
    latent_dims: list[int] = Field(
        default=[64, 64, 64], min_length=1, description="Widths of each layer's perceptron, the output's last"
    )
    two_body_dims: list[int] = Field(
        default=[16, 32, 64],
        min_length=1,
        description="Width of the embedding, then of the layers on it, the latents' last; A applies one more of the "
        "first width",
    )
    edge_energy_dims: list[int] = Field(
        default=[64], description="Hidden widths of the readout; linear in A, SiLU after each in B"
    )
    num_basis: int = Field(default=8, ge=1)
    polynomial_p: int = Field(default=6, ge=2)
    avg_num_neighbors: float = Field(gt=1.0, description="Mean directed edges of an atom in the training set")
    heads: list[HeadConfig] = Field(default_factory=lambda: [HeadConfig()], min_length=1)
    zbl: bool = Field(default=False, description="Add the Ziegler-Biersack-Littmark core repulsion")
    radial_transform: Literal["none", "agnesi"] = "none"
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="Of features; geometry and sums are always float64"
    )
    parity: Literal["o3_full", "so3"] = Field(
        default="o3_full", description="so3: no parity labels, all l1 x l2 -> l3; mirror images may differ"
    )
    seed: int = Field(default=0, ge=0)

    @field_validator("type_names")
    @classmethod
    def _known_elements(cls, names: list[str]) -> list[str]:
        unknown = [name for name in names if name not in atomic_numbers]
        if unknown or len(set(names)) != len(names):
            raise ValueError(f"type_names must be different chemical symbols; wrong: {unknown or names}")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> AllegroConfig:
        if self.latent_dims[-1] != self.two_body_dims[-1]:
            raise ValueError(
                f"latent_dims must end in the last of two_body_dims ({self.two_body_dims[-1]}), because "
                f"all latents have one width; it ends in {self.latent_dims[-1]}"
            )
        if self.variant == "B" and len(self.two_body_dims) < 2:
            raise ValueError("two_body_dims of variant B needs two numbers at least: the embedding's and the output's")
        if self.two_body_dims[0] % 2:
            raise ValueError("two_body_dims must begin with an even number: half for each atom of the pair")
        names = [head.name for head in self.heads]
        if len(set(names)) != len(names):
            raise ValueError(f"heads must have different names, got {names}")
        for head in self.heads:
            if isinstance(head.scale, dict) and (missing := set(self.type_names) - set(head.scale)):
                raise ValueError(f"head '{head.name}': scale lacks {sorted(missing)}")
        return self

    @property
    def latent_width(self) -> int:
        """Width of the scalars that a layer gives an edge."""
        return self.two_body_dims[-1]

    @property
    def scalar_width(self) -> int:
        """Width of the edge latents that the readouts see: in B those of all layers side by side."""
        return self.latent_width * (1 if self.variant == "A" else self.n_layers + 1)

    @property
    def edge_sum_norm(self) -> float:
        """Factor on an atom's sum of edge energies: Nbar^(-1/2), in B (2 Nbar)^(-1/2)."""
        return (self.avg_num_neighbors * (1 if self.variant == "A" else 2)) ** -0.5


def allegro_fm64(type_names: list[str], *, avg_num_neighbors: float, **changes: Any) -> AllegroConfig:
    """Return Allegro-FM64's architecture (Table 1: 44.4 thousand parameters with 89 elements)."""
    return _preset(type_names, avg_num_neighbors, changes, num_channels=16, width=64, edge=64)


def allegro_fm256(type_names: list[str], *, avg_num_neighbors: float, **changes: Any) -> AllegroConfig:
    """Return Allegro-FM256's architecture (Table 1: 690 thousand parameters with 89 elements).

    The edge width is 256: the printed 128 does not give the printed number of parameters.
    """
    return _preset(type_names, avg_num_neighbors, changes, num_channels=64, width=256, edge=256)


def allegro_fm512(type_names: list[str], *, avg_num_neighbors: float, **changes: Any) -> AllegroConfig:
    """Return Allegro-FM512's architecture (Table 1: 2.6 million parameters with 89 elements)."""
    return _preset(type_names, avg_num_neighbors, changes, num_channels=128, width=512, edge=128)


def alumina(type_names: list[str] | None = None, *, avg_num_neighbors: float, **changes: Any) -> AllegroConfig:
    """Return AtomProNet's alumina settings: l_max 1, cutoff 3.0 A, two-body 32, 64, 128, float64.

    Its latent widths and channels are not published; 128 and 32, those of Allegro-Legato, are our choice.
    """
    settings: dict[str, Any] = {
        "cutoff": 3.0,
        "l_max": 1,
        "num_channels": 32,
        "two_body_dims": [32, 64, 128],
        "latent_dims": [128],
        "edge_energy_dims": [32],
        "dtype": "float64",
    }
    names = type_names or ["Al", "O"]
    return AllegroConfig(type_names=names, avg_num_neighbors=avg_num_neighbors, **(settings | changes))


def _preset(
    type_names: list[str],
    avg_num_neighbors: float,
    changes: dict[str, Any],
    *,
    num_channels: int,
    width: int,
    edge: int,
) -> AllegroConfig:
    settings: dict[str, Any] = {
        "num_channels": num_channels,
        "latent_dims": [width] * 3,
        "two_body_dims": [width // 4, width // 2, width],
        "edge_energy_dims": [edge],
    }
    return AllegroConfig(type_names=type_names, avg_num_neighbors=avg_num_neighbors, **(settings | changes))
