"""Inference engines as targets: where each wants Q/DQ, what it can express, and what it makes of a file."""
