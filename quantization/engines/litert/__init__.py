"""LiteRT (TFLite): a student as a file with its own step sizes, converted and run in an environment of its own."""

from quantization.engines.litert.engine import ENGINE

__all__ = ["ENGINE"]
