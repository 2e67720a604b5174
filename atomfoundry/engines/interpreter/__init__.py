"""Calculators that live in another Python interpreter, with packages that do not go together with ours."""

from atomfoundry.engines.interpreter.calculator import InterpreterCalculator

__all__ = ["InterpreterCalculator"]
