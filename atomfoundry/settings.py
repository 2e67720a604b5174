"""Settings, from ``ATOMFOUNDRY_*`` variables and ``~/.atomfoundry.yaml``; an unknown key is an error."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from atomfoundry.errors import ConfigurationError

DEFAULT_SETTINGS_FILE = "~/.atomfoundry.yaml"


class AtomfoundrySettings(BaseSettings):
    """All settings of Atomfoundry."""

    model_config = SettingsConfigDict(env_prefix="ATOMFOUNDRY_", extra="forbid")

    home: Path = Field(
        default=Path("~/.local/share/atomfoundry"),
        description="Private folder for installed engines (Quantum ESPRESSO, pseudopotentials).",
    )
    project: Path | None = Field(default=None, description="Project folder used when a command or a job names none.")
    artifacts_url: str | None = Field(
        default=None,
        description="Where artifacts are kept (fsspec URL or folder); default: PROJECT/artifacts.",
    )
    espresso_command: str | None = Field(
        default=None, description="Command that runs pw.x, e.g. 'mpirun -np 4 pw.x'; default: found."
    )
    espresso_pseudo_dir: Path | None = Field(
        default=None, description="Folder of UPF files named '<Element>.<anything>.upf'; default: SPMS."
    )
    abinit_command: str | None = Field(
        default=None, description="Command that runs ABINIT, e.g. 'mpirun -np 4 abinit'; default: abinit in PATH."
    )
    cp2k_command: str | None = Field(
        default=None, description="Command that runs CP2K, e.g. 'mpirun -np 4 cp2k.psmp'; default: found in PATH."
    )
    lammps: Path | None = Field(
        default=None,
        description="LAMMPS to compile plugins for: its source, its prefix or its headers; default: package lammps.",
    )
    lammps_mpi_include: Path | None = Field(
        default=None, description="Folder with the mpi.h that LAMMPS was compiled with; default: found."
    )
    materials_project_key: SecretStr | None = Field(
        default=None, description="Key of the Materials Project; goes into a request's header and nowhere else."
    )
    materials_project_url: str = Field(
        default="https://api.materialsproject.org", description="REST address of the Materials Project."
    )
    workers: int | None = Field(default=None, ge=1, description="Worker processes of the local runner.")
    database_timeout: float = Field(
        default=60.0, gt=0, description="How long to wait while another process holds a project's database, s."
    )
    kernel: Literal["auto", "off"] = Field(
        default="auto",
        description="Whether models run on the compiled kernel (needs g++ once) or on PyTorch alone ('off').",
    )
    test_data: Path | None = Field(default=None, description="Folder of real data that the tests read.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file."""
        path = Path(os.environ.get("ATOMFOUNDRY_SETTINGS_FILE", DEFAULT_SETTINGS_FILE)).expanduser()
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=path)

    @property
    def home_dir(self) -> Path:
        """The expanded home folder."""
        return self.home.expanduser()


@lru_cache(maxsize=1)
def settings() -> AtomfoundrySettings:
    """Return the settings, read once per process.

    Raises
    ------
    ConfigurationError
        If the settings file or an environment variable is wrong.
    """
    try:
        return AtomfoundrySettings()
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"Setting '{key}': {first['msg']}.",
            remedy=f"Check {DEFAULT_SETTINGS_FILE} and the ATOMFOUNDRY_* variables.",
        ) from error
