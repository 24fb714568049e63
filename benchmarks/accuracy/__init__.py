"""Experiments on what moves a student's accuracy: grids in YAML, one JSON line per run, one generated page."""
