"""Quantizers, what a policy quantizes, step-size initialisation, and the student's files."""

import sys

# OpenVINO reports its use to its makers when it is imported, unless this module is missing. Nothing here calls anybody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
