"""Detector families behind one small interface, their safe loading, and what detectors are judged by."""
