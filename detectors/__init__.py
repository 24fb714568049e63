"""Detector families behind one small interface, their safe loading, and what detectors are judged by."""

import os

# Read by the ultralytics package when it is first imported, by whichever module here that is.
os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"  # build networks without eval(), whatever an architecture says
os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # a job never installs packages
os.environ.setdefault("YOLO_OFFLINE", "true")  # no look-up of names to see whether there is a network, no events
os.environ.setdefault("YOLO_VERBOSE", "false")  # a stage reports through one reporter alone
