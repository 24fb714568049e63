"""Features of a network that is not the teacher: what it sees in an image, wherever in the image that is."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from detectors.hooks import hooked
from detectors.protocol import Detector
from detectors.registry import load_teacher
from pipeline.privacy.measures import Measure, PixelMeasure
from pipeline.privacy.prepared import SIDE, Floats, Prepared
from schemas.errors import ConfigError
from schemas.privacy import MeasureName
from schemas.teacher import EMBEDDED, TeacherIdentity, TeacherSource
from stages.stage import Stage

GRID = 2
"""Features are means over the cells of a grid of this side: roughly where something is counts, not exactly."""


DEPTH = 0.375
"""How deep in the network the features are taken, as a share of the blocks before its head. Deeper ones of a detector
that knows few things say little of anything else: `benchmarks/privacy.py` compares them."""


class FeatureMeasure:
    """Means of a detector's features over parts of an image, by how they vary among real images."""

    name: MeasureName = "features"
    floor = 0.0

    def __init__(self, detector: Detector) -> None:
        self.network: str | None = detector.identity.sha256
        self._detector = detector
        stride = detector.identity.stride
        self._side = -(-max(SIDE, detector.smallest_input) // stride) * stride
        self._mean: Floats | None = None
        self._deviation: Floats | None = None

    def learn(self, images: Sequence[Prepared]) -> None:
        """See `Measure`."""
        features = np.concatenate([self._features([image]) for image in images])
        self._mean, self._deviation = features.mean(axis=0), features.std(axis=0) + 1e-6

    def queries(self, image: Prepared) -> Floats:
        """See `Measure`."""
        return self._unit(self._features(image.views()))

    def references(self, images: Sequence[Prepared]) -> Floats:
        """See `Measure`; one vector an image."""
        return self._unit(self._features(images))[:, np.newaxis]

    def _unit(self, features: Floats) -> Floats:
        assert self._mean is not None and self._deviation is not None, "learn comes first"
        vectors = (features - self._mean) / self._deviation
        unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
        return unit

    @torch.no_grad()
    def _features(self, images: Sequence[Prepared]) -> Floats:
        """`(N, D)`."""
        batch = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2) / 255
        if self._side != SIDE:
            batch = nn.functional.interpolate(batch, (self._side, self._side), mode="bilinear", antialias=True)
        kept: list[Tensor] = []
        sites = self._detector.layers.distillation
        site = self._detector.network.get_submodule(sites[int(DEPTH * (len(sites) - 1))])
        with hooked([site.register_forward_hook(lambda _module, _inputs, output: kept.append(output))]):
            self._detector.head_outputs(batch)
        pooled: Tensor = nn.functional.adaptive_avg_pool2d(kept[-1].float(), GRID).flatten(1)
        return pooled.numpy()


def chosen_measures(checkpoint: str | None, teacher: TeacherIdentity, stage: Stage) -> list[Measure]:
    """Thumbnails, and the features of a named detector, else of the embedded one unless that is the teacher.

    Raises:
        ConfigError: `checkpoint` is the teacher.
        InputError: it does not load.
    """
    detector = load_teacher(TeacherSource(path=checkpoint or EMBEDDED), torch.device("cpu"))
    if detector.identity.sha256 != teacher.sha256:
        return [PixelMeasure(), FeatureMeasure(detector)]
    if checkpoint is not None:
        raise ConfigError(
            f"--features {checkpoint}: is the teacher of the set, whose features the images were made to have; name "
            "another detector, or leave it out"
        )
    stage.reporter.message("compared by pixels only: the embedded detector is the teacher; --features names another")
    return [PixelMeasure()]
