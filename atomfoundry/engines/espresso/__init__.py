"""Quantum ESPRESSO, plane-wave density functional theory."""
