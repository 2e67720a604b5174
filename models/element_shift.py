"""The best shift of energies per element, from frames that come one by one (ALGORITHMS 4.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

BLOCK = 512
"""Rows that are gathered before they are folded in."""


class ElementShift:
    """Least squares of energy errors on compositions; memory grows with the elements, not with the frames.

    Two levels of theory differ first of all by the energies of their atoms. What is left when the best shift per
    element is taken away says how well a model of another level does. Rows are folded into a triangular factor (the
    updating QR of G. H. Golub and C. F. Van Loan, Matrix Computations, section 6.5), which keeps the digits that
    normal equations would lose where total energies are large.
    """

    def __init__(self) -> None:
        self.elements: list[str] = []
        self.n_frames = 0
        self._factor: np.ndarray = np.zeros((0, 1))
        self._rows: list[tuple[Counter[str], float]] = []

    def add(self, symbols: Sequence[str], error: float) -> None:
        """Add a frame.

        Parameters
        ----------
        symbols
            Elements of its atoms.
        error
            Predicted minus reference energy, eV/atom.
        """
        self._rows.append((Counter(symbols), error))
        self.n_frames += 1
        if len(self._rows) >= BLOCK:
            self._fold()

    def _fold(self) -> None:
        if not self._rows:
            return
        new = sorted({symbol for counts, _ in self._rows for symbol in counts} - set(self.elements))
        old, n_old = self._factor, len(self.elements)
        self.elements += new
        column = {symbol: place for place, symbol in enumerate(self.elements)}
        block = np.zeros((len(old) + len(self._rows), len(self.elements) + 1))
        block[: len(old), :n_old], block[: len(old), -1] = old[:, :-1], old[:, -1]
        for row, (counts, error) in enumerate(self._rows, start=len(old)):
            total = sum(counts.values())
            for symbol, number in counts.items():
                block[row, column[symbol]] = number / total
            block[row, -1] = error
        self._factor = np.asarray(np.linalg.qr(block, mode="r"))
        self._rows = []

    def solve(self) -> tuple[dict[str, float], float]:
        """Return the shifts, element -> eV, and the RMSE that is left, eV/atom (NaN without frames).

        Where compositions do not tell elements apart the smallest shifts are taken.
        """
        self._fold()
        if not self.n_frames:
            return {}, float("nan")
        matrix, target = self._factor[:, :-1], self._factor[:, -1]
        shifts = np.linalg.lstsq(matrix, target, rcond=1e-8)[0]
        left = float(np.linalg.norm(target - matrix @ shifts))
        return dict(zip(self.elements, map(float, shifts), strict=True)), left / np.sqrt(self.n_frames)
