"""PySCF: Gaussian-basis quantum chemistry of molecules and atoms."""
