"""LiteRT (TFLite): a student as a file with its own step sizes, converted in an environment of its own."""
