"""GPAW, density functional theory with projector-augmented waves."""
