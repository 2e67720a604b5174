"""Devices by name, and models that are on another device than the structures they are asked about."""

from __future__ import annotations

import pytest
import torch

from atomfoundry.errors import ConfigurationError
from atomfoundry.models.devices import find_device


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto", where="x") == find_device("cpu", where="x") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "cuda:3"):
        with pytest.raises(ConfigurationError, match=rf"^x: there is no GPU for device '{name}'.*sees none.*'auto'"):
            find_device(name, where="x")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto", where="x") == find_device("cuda", where="x") == torch.device("cuda")
    assert find_device("cuda:1", where="x") == torch.device("cuda:1")
    assert find_device("cpu", where="x") == torch.device("cpu")
    with pytest.raises(ConfigurationError, match="'cuda:2': torch .* sees 2"):
        find_device("cuda:2", where="x")
    for name in ("gpu", "CUDA", "cuda:", "cuda:-1", "mps", "", " cpu", None):
        with pytest.raises(ConfigurationError, match="train: there is no device .*Valid: 'auto', 'cpu', 'cuda'"):
            find_device(name, where="train")
