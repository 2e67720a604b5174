"""A model on disk: a folder with ``model.safetensors`` and ``config.json``; no pickle.

Architecture, heads and metadata are in ``config.json``, with the sha256 of the weights, so that a save that
was interrupted, or a file that was changed, is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors

from atomfoundry.errors import ModelError
from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.model import Allegro

FORMAT = "atomfoundry-model"
SCHEMA_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
RESAVE = "Save the model again, or fetch it from where it came."


def save_model(model: Allegro, path: str | Path, *, metadata: dict[str, Any]) -> Path:
    """Write a model folder.

    A new folder appears whole or not at all. In a folder that exists the two files are replaced one after
    the other and the rest (``checkpoint/``) stays; killed in between, it is refused by :func:`load_model`.

    Parameters
    ----------
    model
        The model; its device does not matter.
    path
        The folder.
    metadata
        What else to know about it (dataset ids, metrics, seeds, versions): anything JSON can hold.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModelError
        If the metadata cannot be written as JSON or the path is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ModelError(f"{path} is a file; a model is a folder.", remedy="Choose another path.")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = write_safetensors(tensors, metadata={"format": FORMAT})
    record = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "architecture": "allegro",
        "config": model.config.model_dump(mode="json"),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "metadata": metadata,
    }
    try:
        text = json.dumps(record, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"Metadata of the model for {path} cannot be written as JSON: {error}.",
            remedy="Use finite numbers, strings, lists and dictionaries.",
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _replace(path / WEIGHTS, weights)
        _replace(path / CONFIG, text.encode())
        return path
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        _replace(scratch / WEIGHTS, weights)
        _replace(scratch / CONFIG, text.encode())
        scratch.chmod(0o777 & ~_umask())
        scratch.replace(path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return path


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Allegro:
    """Read a model folder, in evaluation mode.

    Parameters
    ----------
    path
        The folder.
    device
        Where to put the model.

    Raises
    ------
    ModelError
        If a file is missing, was changed, is of a newer format or does not fit its architecture.
    """
    path = Path(path)
    record = read_record(path)
    try:
        config = AllegroConfig.model_validate(record["config"])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path / CONFIG}: config.{key}: {first['msg']}.", remedy=RESAVE) from error
    if not (path / WEIGHTS).is_file():
        raise ModelError(f"{path} has no {WEIGHTS}: no model, or only part of one.", remedy=RESAVE)
    weights = (path / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != record["sha256"]:
        raise ModelError(
            f"{path / WEIGHTS} is not the file that was saved (its sha256 differs from {CONFIG}'s).",
            remedy=RESAVE,
        )
    model = Allegro(config)
    try:
        model.load_state_dict(read_safetensors(weights))
    except (RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path / WEIGHTS} does not fit its architecture: {error}", remedy=RESAVE) from error
    return model.to(device).eval()


def read_record(path: str | Path) -> dict[str, Any]:
    """Return a model folder's ``config.json``: architecture, config, sha256, metadata.

    Raises
    ------
    ModelError
        If it is missing, unreadable or of a newer format.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise ModelError(f"{path} is no model folder: it has no {CONFIG}.", remedy="Check the path.")
    try:
        record = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not valid JSON: {error}.", remedy=RESAVE) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ModelError(f"{file} does not describe an Atomfoundry model.", remedy="Check the path.")
    version = record.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ModelError(
            f"{file} has format version {version!r}; this version reads up to {SCHEMA_VERSION}.",
            remedy="Upgrade atomfoundry.",
        )
    missing = {"architecture", "config", "sha256", "metadata"} - set(record)
    if missing or record["architecture"] != "allegro":
        wrong = f"lacks {', '.join(sorted(missing))}" if missing else "names an unknown architecture"
        raise ModelError(f"{file} {wrong}.", remedy=RESAVE)
    return record


def _replace(target: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    with scratch.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(target)


def _umask() -> int:
    """Return the process's file mode mask (mkdtemp ignores it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
