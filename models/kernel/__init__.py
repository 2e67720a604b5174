"""Our Allegro in compiled form: one C++ kernel for training, calculators and LAMMPS.

The kernel sweeps over a few atoms at a time, so that all numbers of their edges stay in the processor's cache, and
differentiates by hand: a sweep back gives dE/dr, and the same two sweeps with tangents give what training needs,
without a second differentiation. g++ compiles it for the model's shape in some seconds, once; without a compiler
(or with ``ATOMFOUNDRY_KERNEL=off``, or on a GPU) PyTorch evaluates the model with the same numbers.
"""

from __future__ import annotations

from atomfoundry.models.kernel.evaluation import Edges, Kernel, differentiable, evaluate, find_kernel
from atomfoundry.models.kernel.threads import kernel_first

__all__ = ["Edges", "Kernel", "differentiable", "evaluate", "find_kernel", "kernel_first"]
