"""Finished calibration sets between teams: fetch, publish, merge, take a part, export."""
