"""LiteRT (TFLite): a file of its own format that computes in integers from the first layer to the head's outputs.

What the student quantizes has its step sizes; what it leaves in float between layers, and LiteRT computes in integers,
gets ranges from calibration images.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from detectors.protocol import Detector
from quantization.engines.census import ACTIVATION_IN_FLOAT, OUTPUT_IN_FLOAT
from quantization.engines.litert.environment import ENVIRONMENT, how_to_make, litert_version, run_module
from quantization.engines.litert.export import BITS, export_litert
from quantization.engines.target import Images
from schemas.eval_config import EngineName
from schemas.student import ExportForm, QuantizerRecord, StudentManifest
from schemas.target import Census, FloatLayer

REGIONS = "roi_heads."
"""Beginning of the names of a second stage's layers."""


class LiteRt:
    """Implements `quantization.engines.target.OwnFormat`."""

    title = "LiteRT (TFLite), CPU"
    placement = "INT8 from the first layer to the head's outputs, weights INT8 or INT4 per channel; decoding in float"
    measured = "W8A8 YOLO11n, 640 px: 2.75 times as fast as FP32 (docs/engines.md#litert)"
    runs_in: EngineName = "litert"
    needs_images = True
    overflows_without_vnni = False  # as far as is known: no such processor was measured
    requires = f"{ENVIRONMENT}: an environment of its own"

    def obstacle(self, quantizers: Sequence[QuantizerRecord]) -> str | None:
        for record in quantizers:
            if record.name.startswith(REGIONS):
                return (
                    "LiteRT has no operators that pool regions and suppress them between two stages; take litert out "
                    "of qat.targets"
                )
            if record.name.endswith((".left", ".right")):
                product = record.name.rpartition(".")[0]
                return (
                    f"LiteRT files have no quantized products of activations yet, and {product} is one; take litert "
                    "out of qat.targets"
                )
        narrow = {record.bits for record in quantizers if not record.name.endswith(".weight")} - {BITS}
        if narrow:
            return f"LiteRT takes activations of {BITS} bits, not {min(narrow)}; set bits.activation_bits to {BITS}"
        if litert_version() is None:
            return f"its files are made in an environment of their own: {how_to_make()}"
        return None

    def write(
        self, student: Detector, manifest: StudentManifest, images: Images, path: Path, form: ExportForm
    ) -> dict[str, str]:
        return export_litert(student, manifest, path, images, form)

    def census(self, path: Path) -> Census:
        found = json.loads(run_module("converter.census", str(path.absolute())))
        layers = (
            FloatLayer(name=each["name"], reason=OUTPUT_IN_FLOAT if each["input_was_integer"] else ACTIVATION_IN_FLOAT)
            for each in found["layers"]
        )
        return Census(
            by=f"litert {litert_version()}, the operators of its interpreter",
            integer=dict(sorted(found["integer"].items())),
            floating=dict(sorted(found["floating"].items())),
            float_layers=tuple(layers),
        )


ENGINE = LiteRt()
