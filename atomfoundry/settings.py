"""Settings, from ``ATOMFOUNDRY_*`` variables and ``~/.atomfoundry.yaml``; an unknown key is an error."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from atomfoundry.errors import ConfigurationError

logger = logging.getLogger(__name__)

DEFAULT_SETTINGS_FILE = "~/.atomfoundry.yaml"


_SECRET = ("materials_project_key",)


class AtomfoundrySettings(BaseSettings):
    """All settings of Atomfoundry."""

    model_config = SettingsConfigDict(env_prefix="ATOMFOUNDRY_", extra="forbid", hide_input_in_errors=True)

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
    trusted_packages: list[str] = Field(
        default_factory=list,
        description="Packages of your own whose classes job outputs may hold; in the environment a JSON list.",
    )
    workers: int | None = Field(default=None, ge=1, description="Worker processes of the local runner.")
    database_timeout: float = Field(
        default=60.0, gt=0, description="How long to wait while another process holds a project's database, s."
    )
    checkpoint_interval: float = Field(
        default=60.0,
        ge=0,
        description="Seconds between two checkpoints of molecular dynamics and other long computations.",
    )
    kernel: Literal["auto", "off"] = Field(
        default="auto",
        description="Whether models run on the compiled kernel (needs g++ once) or on PyTorch alone ('off').",
    )
    compile: Literal["off", "on"] = Field(
        default="off",
        description="Whether torch.compile compiles models where that kernel does not reach: on GPUs, variant B, "
        "three layers and more. It takes up to minutes for each shape of a batch, once.",
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
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=settings_file())

    @property
    def home_dir(self) -> Path:
        """The expanded home folder."""
        return self.home.expanduser()


def settings_file() -> Path:
    """Return where the settings file is, if there is one."""
    return Path(os.environ.get("ATOMFOUNDRY_SETTINGS_FILE", DEFAULT_SETTINGS_FILE)).expanduser()


def _warn_of_readers(path: Path) -> None:
    """Warn of a file that holds a key and that others may read."""
    try:
        mode = path.stat().st_mode
        holds_key = mode & 0o077 and any(
            line.partition(":")[0].strip() in _SECRET for line in path.read_text(encoding="utf-8").splitlines()
        )
    except (OSError, UnicodeDecodeError):
        return
    if holds_key:
        logger.warning("%s holds a key and others may read it: run 'chmod 600 %s'", path, path)


@lru_cache(maxsize=1)
def settings() -> AtomfoundrySettings:
    """Return the settings, read once per process.

    Raises
    ------
    ConfigurationError
        If the settings file or an environment variable is wrong.
    """
    import yaml

    try:
        found = AtomfoundrySettings()
        _warn_of_readers(settings_file())
        return found
    except SettingsError as error:
        raise ConfigurationError(
            f"A setting cannot be read: {error}.",
            remedy="Lists are written as JSON in the environment: ATOMFOUNDRY_TRUSTED_PACKAGES='[\"my_package\"]'.",
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        # the error itself quotes the line, which may hold a key
        raise ConfigurationError(
            f"The settings file is no plain YAML{f' (line {mark.line + 1})' if mark else ''}.",
            remedy=f"Correct {settings_file()}.",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"Setting '{key}': {first['msg']}.",
            remedy=f"Check {DEFAULT_SETTINGS_FILE} and the ATOMFOUNDRY_* variables.",
        ) from error
