from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from atomfoundry.errors import DatasetError, ModelError
from atomfoundry.models import Allegro, AllegroConfig, training_similarity


@pytest.fixture(scope="module")
def model():
    return Allegro(AllegroConfig(type_names=["H", "C", "O", "Si"], cutoff=4.0, num_channels=4, avg_num_neighbors=8.0))


def test_a_turned_copy_in_training_is_found(model):
    rng = np.random.default_rng(0)
    training = []
    for name in ("CH4", "CH3CH2OH", "H2O", "C2H4", "CH3OH"):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=1)
        training.append(atoms)
    training.insert(2, bulk("Si", cubic=True))
    test = training[1][rng.permutation(9)]
    test.rotate(70, (1, 2, 3))
    found, compared = training_similarity(model, test, training)
    assert compared == [0, 1, 3, 4, 5]  # silicon has no element in common
    assert found.score == pytest.approx(1.0, abs=1e-5)
    assert found.structures[0] == 1
    np.testing.assert_allclose(found.atoms, 1.0, atol=1e-5)
    assert found.scores[1] < 1 - 1e-5


def test_nothing_comparable_is_an_error(model):
    with pytest.raises(DatasetError, match="comparable to H2O"):
        training_similarity(model, molecule("H2O"), [bulk("Si")])


def test_a_foreign_calculator_s_descriptors_serve_as_well():
    class Described(EMT):
        """Sorted distances to the next atoms: no rotation changes them."""

        def get_descriptors(self, atoms):
            return np.sort(atoms.get_all_distances(mic=True), axis=1)[:, 1:3]

    training = [molecule(name) for name in ("CH4", "H2O", "CH3OH", "Si2H6")]
    test = molecule("CH3OH")
    test.rotate(50, (1, 1, 0))
    found, compared = training_similarity(Described(), test, training)
    assert compared == [0, 1, 2]
    assert found.structures[0] == 2
    assert found.score == pytest.approx(1.0)
    with pytest.raises(ModelError, match="EMT has no descriptors"):
        training_similarity(EMT(), test, training)
