"""The embedded default: a tiny YOLO detector trained on scenes that the project renders itself."""

from pathlib import Path

ARCHITECTURE: Path = Path(__file__).parent / "architecture.yaml"
WEIGHTS: Path = Path(__file__).parent / "weights.safetensors"
