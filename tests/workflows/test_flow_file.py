"""Flow files are checked before anything runs; a typo is an error with the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from atomfoundry.errors import ConfigurationError
from atomfoundry.workflows import FoundationFlowMaker
from atomfoundry.workflows.flow_file import list_presets, load_flow_file, load_preset


def write(folder: Path, text: str) -> Path:
    path = folder / "flow.yaml"
    path.write_text(text)
    return path


def test_presets_build() -> None:
    assert {"quickstart", "instant"} <= set(list_presets())
    for name in list_presets():
        assert isinstance(load_preset(name), FoundationFlowMaker)


def test_a_file_may_start_from_a_preset(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "workflow: FoundationFlowMaker\npreset: instant\narguments:\n  seed: 7\n  train:\n    seed: 3\n",
    )
    maker = load_flow_file(path)
    assert (maker.seed, maker.train.seed) == (7, 3)
    assert maker.crystal_labels == load_preset("instant").crystal_labels
    assert maker._seeded().train.seed == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workflow: FoundationFlowMakr", ["FoundationFlowMakr", "Did you mean 'FoundationFlowMaker'"]),
        ("workflw: FoundationFlowMaker", ["workflw", "Did you mean 'workflow'"]),
        ("workflow: FoundationFlowMaker\narguments: {sed: 1}", ["'sed'", "Did you mean 'seed'"]),
        ("workflow: FoundationFlowMaker\narguments: {seed: one}", ["'seed' is 'one'", "integer"]),
        (
            "workflow: FoundationFlowMaker\narguments: {crystal_labels: {engin: xtb}}",
            ["'crystal_labels.engin'", "Did you mean 'engine'"],
        ),
        ("- a\n- b", ["must be a mapping"]),
        ("a: [", ["not YAML"]),
        ("workflow: FoundationFlowMaker\npreset: quikstart", ["quikstart", "Did you mean 'quickstart'"]),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_flow_file(write(tmp_path, text))
    for word in words:
        assert word in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml does not exist"):
        load_flow_file(tmp_path / "nowhere.yaml")
