"""What the options of `zsq set` take; apart from the commands' code, so that `--help` loads none of it."""

from enum import StrEnum


class Difference(StrEnum):
    """In what sets that are merged may differ when the user says so; the first set's teacher and classes stay."""

    TEACHER = "teacher"
    """Checkpoints; a student will be trained with the first set's."""
    CLASSES = "classes"
    """Class lists; labels are matched by name, and a name that the first set's teacher does not know is an error."""
    LABELS = "labels"
    """Label modes; the merged set is marked as of given labels if any part is."""
    IMAGES = "images"
    """Image sources; the merged set is marked as real if any part is."""


class ExportFormat(StrEnum):
    """What an exported set looks like."""

    COCO = "coco"
    """`images/` and `instances.json`."""
    YOLO = "yolo"
    """`images/`, `labels/` with one text file per image, and `data.yaml`."""
    IMAGES = "images"
    """`images/`, and nothing else: for tools that take a folder."""
    LIST = "list"
    """`images/` and `dataset.txt`, which names one image a line: for RKNN and others that take a list."""
    NCHW = "nchw"
    """`calibration.npy`, `(N, 3, H, W)` float32 RGB in [0, 1], as the network takes it: for ONNX Runtime, TensorRT."""
    NHWC = "nhwc"
    """`calibration.npy`, `(N, H, W, 3)` uint8 RGB: for Hailo and others that scale pixels themselves."""
