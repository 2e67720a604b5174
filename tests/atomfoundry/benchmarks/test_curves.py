from __future__ import annotations

import numpy as np
import pytest

from atomfoundry.benchmarks.curves import reversal_jump, sign_flips, spearman, tortuosity


def test_sign_flips():
    assert sign_flips(np.array([3, 1, -1, -2])) == 1
    assert sign_flips(np.array([1, 0, 1])) == 0
    assert sign_flips(np.array([1, 0, -1])) == 1
    assert sign_flips(np.array([1, -0.005, 1, -1]), threshold=0.01) == 1
    assert sign_flips(np.array([])) == 0


def test_tortuosity():
    assert tortuosity(np.array([3.0, 0.0, 1.0])) == 1
    assert tortuosity(np.array([3.0, 0.0, 2.0, 1.0, 2.0])) == pytest.approx(7 / 5)
    assert tortuosity(np.array([3.0, 2.0, 1.0])) == 1
    assert tortuosity(np.array([1.0, 1.0])) is None
    assert tortuosity(np.array([])) is None


def test_reversal_jump():
    assert reversal_jump(np.array([3.0, 1.0, 2.0])) == 3
    assert reversal_jump(np.array([3.0, 2.0, 1.0])) == 0


def test_spearman():
    x = np.arange(5.0)
    assert spearman(x, x**3) == pytest.approx(1)
    assert spearman(x, -np.exp(x)) == pytest.approx(-1)
    assert spearman(x, np.ones(5)) is None
    assert spearman(x[:2], x[:2]) is None
