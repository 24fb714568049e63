"""Measurements: accuracy grids, baselines and timings. Run as `python -m benchmarks.<name>`."""
