"""A detector of the rendered scenes with fewer than half the layers of the embedded one, mAP50-95 0.560 on them.

What costs time by the layer (calibration, tracing for a file) is tested on it. It was trained by
`python -m detectors.embedded.train --architecture FOLDER/architecture.yaml --out FOLDER/weights.safetensors
--minutes 6`, where FOLDER is this one.
"""

from pathlib import Path

from detectors.ultralytics.yolo import UltralyticsDetector

ARCHITECTURE = Path(__file__).parent / "architecture.yaml"
WEIGHTS = Path(__file__).parent / "weights.safetensors"


def small_detector() -> UltralyticsDetector:
    """The detector, made anew."""
    return UltralyticsDetector.embedded(WEIGHTS, ARCHITECTURE)
