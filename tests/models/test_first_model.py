"""What a training begins with: numbers from the data where nothing is said, and those that are said."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from atomfoundry.datasets import attach_labels, with_metadata
from atomfoundry.errors import ConfigurationError, TrainingError
from atomfoundry.models import Allegro, AllegroConfig, load_model, save_model
from atomfoundry.models.allegro.config import HeadConfig
from atomfoundry.models.calculator import FoundryCalculator, default_head
from atomfoundry.models.first_model import first_model, new_config
from atomfoundry.models.train_plan import HeadData, training_plan
from atomfoundry.models.training.energies import force_rms

SMALL = {
    "cutoff": 3.5,
    "num_channels": 4,
    "l_max": 1,
    "n_layers": 1,
    "two_body_dims": [8, 8],
    "latent_dims": [8, 8],
    "edge_energy_dims": [8],
    "dtype": "float64",
}
ENERGIES = {"Na": -2.0, "Cl": -5.0}


def salt(symbols="NaCl", shift=0.0, forces=(1.0, 3.0)):
    """A crystal whose energy is the sum of its atoms' and whose forces have the given size on each element."""
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.set_chemical_symbols(Atoms(symbols).get_chemical_symbols())
    sizes = dict(zip(("Na", "Cl"), forces, strict=True))
    labels = [[sizes[s], -sizes[s], sizes[s]] for s in atoms.get_chemical_symbols()]
    energy = sum(ENERGIES[s] + shift for s in atoms.get_chemical_symbols())
    return attach_labels(with_metadata(atoms), energy, labels)


def head(*frames, name="pt", **known):
    return HeadData(name, train=list(frames), **known)


def plan(**values):
    return training_plan({"heads": {"pt": {"data": "-"}}, "architecture": SMALL} | values)


def test_what_is_left_out_comes_from_the_frames():
    data = head(salt(), salt(), isolated_energies={"Na": -1.0, "Cl": -3.0, "K": -9.0})
    config = new_config(plan(seed=4), [data])
    assert (config.type_names, config.seed) == (["Na", "Cl"], 4)
    assert config.avg_num_neighbors == 6.0
    assert config.heads[0].isolated_energies == {"Na": -1.0, "Cl": -3.0}
    assert config.heads[0].scale == pytest.approx(5**0.5)


def test_what_is_said_of_a_head_is_kept_and_the_rest_found():
    data = head(salt(), isolated_energies={"Na": -1.0, "Cl": -3.0})
    said = {"heads": [{"name": "pt", "isolated_energies": {"Na": 7.0, "Cl": 8.0}}]}
    (found,) = new_config(plan(architecture=SMALL | said), [data]).heads
    assert found.isolated_energies == {"Na": 7.0, "Cl": 8.0}
    assert found.scale == pytest.approx(5**0.5)
    # only who says that there are none has none
    said = {"heads": [{"name": "pt", "isolated_energies": {}, "scale": 0.25}]}
    (found,) = new_config(plan(architecture=SMALL | said), [head(salt())]).heads
    assert (found.isolated_energies, found.scale) == ({}, 0.25)
    with pytest.raises(TrainingError, match=r"Head 'pt': No isolated-atom energy of Na, Cl.*--energies lstsq"):
        new_config(plan(architecture=SMALL | {"heads": [{"name": "pt"}]}), [head(salt())])
    with pytest.raises(ConfigurationError, match="'heads' is no list of tables"):
        new_config(plan(architecture=SMALL | {"heads": "pt"}), [head(salt())])


def test_a_scale_for_each_element():
    data = head(salt(), salt("Na2"), isolated_energies=ENERGIES)
    (found,) = new_config(plan(scale="per_element"), [data]).heads
    assert found.scale == {"Na": pytest.approx(1.0), "Cl": pytest.approx(3.0)}
    # of an element that this head's frames lack, or that is at rest, all forces tell
    other = head(salt("Na2"), name="ft", isolated_energies=ENERGIES)
    heads = new_config(plan(scale="per_element"), [data, other]).heads
    assert heads[1].scale == {"Na": pytest.approx(1.0), "Cl": pytest.approx(1.0)}
    still = salt(forces=(2.0, 0.0))
    (found,) = new_config(plan(scale="per_element"), [head(still, isolated_energies=ENERGIES)]).heads
    assert found.scale == {"Na": pytest.approx(2.0), "Cl": pytest.approx(force_rms([still]))}
    with pytest.raises(ConfigurationError, match="scale"):
        plan(scale="per-type")


def test_energies_that_the_frames_do_not_determine_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        first = first_model(plan(energies="lstsq"), [head(salt(), salt())])
    (message,) = [record.getMessage() for record in caplog.records]
    assert "Head 'pt'" in message
    assert "of Na, Cl (rank 1 of 2)" in message
    record = first.records()["pt"]
    assert (record["policy"], record["rank"], record["undetermined"]) == ("lstsq", 1, ["Na", "Cl"])
    caplog.clear()
    first = first_model(plan(energies="lstsq"), [head(salt(), salt("Na2"))])
    assert not caplog.records
    assert first.references["pt"].undetermined == []
    assert first.model.config.heads[0].isolated_energies == pytest.approx(ENERGIES)


def old_model(folder):
    config = AllegroConfig(
        type_names=["Na", "Cl"],
        avg_num_neighbors=6.0,
        heads=[HeadConfig(name="pt", isolated_energies={"Na": -1.5, "Cl": -4.0}, scale={"Na": 0.5, "Cl": 0.25})],
        **SMALL,
    )
    save_model(Allegro(config), folder, metadata={})
    return str(folder)


def test_a_models_energies_are_corrected_by_its_errors(tmp_path):
    """Labels that are the old model's and a constant an atom of each element: it is found exactly."""
    start = old_model(tmp_path / "old")
    model = load_model(start)
    frames = []
    for symbols, shift in (("NaCl", 3.0 + 0.5), ("Na2", 6.0)):
        atoms = salt(symbols)
        atoms.calc = FoundryCalculator(model)
        energy = atoms.get_potential_energy() + shift
        frames.append(attach_labels(with_metadata(salt(symbols)), energy, np.ones((2, 3))))
    wanted = plan(architecture={}, start=start, energies="foundation_corrected", heads={"ft": {"data": "-"}})
    first = first_model(wanted, [head(*frames, name="ft")])
    fine = first.model.config.heads[1]
    assert fine.isolated_energies == {"Na": pytest.approx(-1.5 + 3.0), "Cl": pytest.approx(-4.0 + 0.5)}
    assert fine.scale == {"Na": 0.5, "Cl": 0.25}
    assert first.references["ft"].policy == "foundation_corrected"
    # so the new head is right from the first step
    for atoms in frames:
        label = atoms.get_potential_energy()
        atoms.calc = FoundryCalculator(first.model, head="ft")
        assert atoms.get_potential_energy() == pytest.approx(label, abs=1e-9)
    with pytest.raises(ConfigurationError, match=r"foundation_corrected.*there is none"):
        first_model(plan(energies="foundation_corrected"), [head(*frames)])
    with pytest.raises(ConfigurationError, match=r"'lstsq' are for new heads; .*old has 'pt', which keep theirs"):
        first_model(plan(architecture={}, start=start, energies="lstsq"), [head(*frames)])
    with pytest.raises(ConfigurationError, match=r"The scale of .*old is given"):
        first_model(plan(architecture={}, start=start, scale="per_element"), [head(*frames)])


def test_the_head_that_counts_where_none_is_named():
    heads = [HeadConfig(name=name) for name in ("pt", "ft")]
    values = {"type_names": ["Na"], "avg_num_neighbors": 6.0}
    assert default_head(AllegroConfig(heads=heads, **values)) == "ft"
    assert default_head(AllegroConfig(heads=[*heads[:1], HeadConfig(name="r2")], **values)) == "pt"
