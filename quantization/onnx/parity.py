"""Whether an exported model is the student that training simulated.

Two comparisons answer that. With every activation left in float, the file and the student compute the same numbers,
whatever the bits: a file that was put together wrongly fails here. With activations rounded, their outputs differ,
since engines add up in another order and round more tensors; few bits amplify each difference on its way through the
network. The scores of a YOLO11n at W4A4 are 24 % off themselves when its input is changed by at most half a step of 8
bits, and 57 % off in its file for ONNX Runtime (`benchmarks/few_bits.py`). So this second comparison refuses a file
only at 6 bits and more, and only where the student does not differ from itself by as much when its input hardly
changes: a detector that picks regions or queries by scores that are nearly equal does. Its figures are recorded in any
case.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import onnx
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from detectors.protocol import Detector
from quantization.convert import activations_in_float, quantized_layers
from quantization.onnx.activations import leave_activations_in_float
from quantization.onnx.engine import Engine, open_engine
from schemas.errors import VerificationError
from schemas.eval_config import EngineName
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind
from schemas.student import OnnxParity

PARITY_IMAGES = 8
"""Images that the outputs are compared on."""
BEST_ANCHORS = 100
"""Per image, the outputs that a model is accepted or refused by: those that the student scores highest."""
COMPARABLE_BITS = 6
"""Fewest bits of activations at which rounded outputs can refuse a file."""
NUDGE = 1 / 1024
"""Largest change of a pixel that nobody can tell from rounding: a quarter of a step of 8 bits."""
SMALLEST_SUM = 1e-6
"""What a share of nothing is taken of."""
SMALLEST_MATCH = 0.5
"""Share of an end-to-end head's best outputs that need one of their class in the model."""


@dataclass(frozen=True)
class Limits:
    """The largest errors that a file may have.

    Attributes:
        scores: share of the student's scores.
        boxes: share of the image's longer side, weighted by score.
    """

    scores: float
    boxes: float


ROUNDED = Limits(scores=0.5, boxes=0.02)
"""Of rounding, scores are up to 0.1 off and boxes 0.002; unrelated outputs about 1, another image's boxes 0.03."""
IN_FLOAT = Limits(scores=0.01, boxes=0.001)
"""Of adding up in another order, both are about 1e-5 off."""


@torch.no_grad()
def measure_parity(
    student: Detector, path: Path, images: Tensor | None, image_size: ImageSize, engine: EngineName = "onnxruntime"
) -> OnnxParity:
    """Errors of an exported model's decoded outputs against the simulated student's.

    Args:
        student: that the file was made of.
        path: the file.
        images: calibration images, `(B, 3, H, W)`; None compares outputs on noise.
        image_size: that they are compared at.
        engine: that runs the file.

    Raises:
        VerificationError: the model does not compute what the student computes.
    """
    source: Literal["calibration set", "noise"] = "noise" if images is None else "calibration set"
    compared = _compared(images, image_size)
    theirs, mine = _outputs(student, compared), _run(open_engine(path, engine), compared)
    rules = _Rules(student.end_to_end, len(student.identity.class_names), image_size)
    reason = _impossible(mine, theirs)
    if reason is None and _fewest_bits(student) >= COMPARABLE_BITS:
        reason = _difference(mine, theirs, rules, ROUNDED)
        if reason is not None and _is_as_far_off_itself(student, compared, theirs, rules):
            reason = None
    _refuse(path, reason)
    further = None if student.sees is ShapeKind.BOX else _further_error(mine, theirs, rules)
    own, expected = mine[0], theirs[0]
    matched = torch.ones(())
    if student.end_to_end:
        own, expected, matched = _same_rows(own, expected)
        scores, boxes = (own - expected)[:, 4].abs(), (own - expected)[:, :4].abs()
    else:
        errors = (own - expected).abs()
        boxes, scores = errors[:, :4], errors[:, 4 : rules.plain]
    return OnnxParity(
        images=len(compared),
        image_source=source,
        score_max=float(scores.max()),
        score_mean=float(scores.mean()),
        box_max=float(boxes.max()),
        box_mean=float(boxes.mean()),
        matched=float(matched),
        further=further,
    )


@torch.no_grad()
def check_in_float(student: Detector, path: Path, images: Tensor | None, image_size: ImageSize) -> None:
    """Check that an ONNX model computes what the student computes where both leave every activation in float.

    Args:
        student: that the file was made of.
        path: the file.
        images: as for `measure_parity`.
        image_size: that they are compared at.

    Raises:
        VerificationError: it computes something else.
    """
    compared = _compared(images, image_size)
    with activations_in_float(student.network):
        theirs = _outputs(student, compared)
    model = ir.from_proto(onnx.load(path))
    leave_activations_in_float(model.graph)
    with TemporaryDirectory() as folder:
        in_float = Path(folder) / path.name
        in_float.write_bytes(ir.to_proto(model).SerializeToString())
        mine = _run(open_engine(in_float, float_products=True), compared)
    rules = _Rules(student.end_to_end, len(student.identity.class_names), image_size)
    reason = _impossible(mine, theirs) or _difference(mine, theirs, rules, IN_FLOAT)
    _refuse(path, reason and f"with activations in float, {reason}")


def resized(images: Tensor, size: ImageSize) -> Tensor:
    """Images `(B, C, H, W)` at another size."""
    height_width = (size.height, size.width)
    if tuple(images.shape[2:]) == height_width:
        return images
    return F.interpolate(images, height_width, mode="bilinear", antialias=True)


def _compared(images: Tensor | None, size: ImageSize) -> Tensor:
    if images is None:
        return torch.rand(PARITY_IMAGES, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))
    return resized(images[:PARITY_IMAGES], size)


def _outputs(student: Detector, images: Tensor) -> tuple[Tensor, ...]:
    device = next(student.network.parameters()).device
    decoded = student.decoded(images.to(device))
    return tuple(each.cpu() for each in (decoded if isinstance(decoded, tuple) else (decoded,)))


def _is_as_far_off_itself(student: Detector, images: Tensor, outputs: tuple[Tensor, ...], rules: "_Rules") -> bool:
    """Whether a student's outputs on images are as far from those on nearly the same images as a refused file's."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images) * 2 - 1
    nudged = _outputs(student, (images + NUDGE * noise).clamp(0, 1))
    return _difference(nudged, outputs, rules, ROUNDED) is not None


def _run(engine: Engine, images: Tensor) -> tuple[Tensor, ...]:
    outputs = engine(images.cpu().contiguous().numpy())
    return tuple(map(torch.from_numpy, outputs if isinstance(outputs, tuple) else (outputs,)))


def _fewest_bits(student: Detector) -> int:
    """Of the activations; a detector in float counts as 8."""
    return min((layer.input_quantizer.spec.bits for layer in quantized_layers(student.network).values()), default=8)


def _refuse(path: Path, reason: str | None) -> None:
    if reason is not None:
        raise VerificationError(
            f"{path}: the exported model is not the student: {reason}; not kept. Please report this with the "
            "architecture"
        )


@dataclass(frozen=True)
class _Rules:
    """How a detector's outputs read: whether they are end-to-end rows, of how many classes, of which images."""

    end_to_end: bool
    classes: int
    image_size: ImageSize

    @property
    def plain(self) -> int:
        """Numbers of a row that are boxes and scores."""
        return 6 if self.end_to_end else 4 + self.classes


def _impossible(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> str | None:
    """Why outputs cannot be those of any student."""
    made, wanted = ([tuple(each.shape) for each in outputs] for outputs in (mine, theirs))
    if made != wanted:
        return f"its outputs are {', '.join(map(str, made))} instead of {', '.join(map(str, wanted))}"
    if not all(each.isfinite().all() for each in mine):
        return "it computes values that are not finite"
    return None


def _best_rows(mine: Tensor, theirs: Tensor, rules: _Rules) -> tuple[Tensor, Tensor, Tensor]:
    """Rows `(M, numbers)` of both where the student scores highest, and the share of its rows that could be paired."""
    if rules.end_to_end:
        return _same_rows(mine, theirs[:, :BEST_ANCHORS])  # sorted by score
    scores = theirs[:, 4 : rules.plain].amax(dim=1)
    best = scores.topk(min(BEST_ANCHORS, scores.shape[1])).indices[:, None].expand(-1, theirs.shape[1], -1)
    mine, theirs = (outputs.gather(2, best).transpose(1, 2).flatten(0, 1) for outputs in (mine, theirs))
    return mine, theirs, torch.ones(())


def _further_error(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], rules: _Rules) -> float:
    """Mean error of what outputs hold beside boxes and scores, as a share of how far these are from 0; the largest."""
    own, expected, _ = _best_rows(mine[0], theirs[0], rules)
    pairs = [(own[:, rules.plain :], expected[:, rules.plain :]), *zip(mine[1:], theirs[1:], strict=True)]
    shares = [float((a - b).abs().sum() / b.abs().sum().clamp(min=SMALLEST_SUM)) for a, b in pairs if b.numel()]
    return max(shares, default=0.0)


def _difference(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], rules: _Rules, limits: Limits) -> str | None:
    """Why a model's outputs cannot be the student's, judged by the student's best; None where they can.

    Background is left out: its scores are near 0 in any model, and its boxes are chance.
    """
    own, expected, matched = _best_rows(mine[0], theirs[0], rules)
    if not matched >= SMALLEST_MATCH:
        return f"only {matched:.0%} of the student's outputs have one of their class in it"
    last = 5 if rules.end_to_end else rules.plain
    reason = _off(own[:, :last], expected[:, :last], rules, limits)
    if reason is None and not (error := _further_error(mine, theirs, rules)) <= limits.scores:
        reason = f"what it says beside boxes and scores is {error:.0%} off on average"
    return reason


def _off(mine: Tensor, theirs: Tensor, rules: _Rules, limits: Limits) -> str | None:
    """Why boxes and scores `(M, 4 + scores)` are too far apart; None where they are not."""
    errors, weights = (mine - theirs).abs(), theirs[:, 4:].sum(dim=1)
    # Written so that an error which is not a number fails.
    if not errors[:, 4:].sum() <= limits.scores * weights.sum():
        return f"its class scores are {errors[:, 4:].sum() / weights.sum():.0%} off on average"
    if not (errors[:, :4].mean(dim=1) * weights).sum() <= limits.boxes * rules.image_size.longer * weights.sum():
        return f"its boxes are {(errors[:, :4].mean(dim=1) * weights).sum() / weights.sum():.1f} px off on average"
    return None


def _same_rows(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """End-to-end rows `(B, N, 6)` as pairs `(M, 6)`, and the share paired.

    Rows are sorted by score, so that equal objects may stand in other rows: each goes with the nearest of its class, of
    equal boxes the one that scores most alike.
    """
    distances = torch.cdist(theirs[..., :5], mine[..., :5])  # a score is at most a pixel
    distance, nearest = distances.where(theirs[..., None, 5] == mine[:, None, :, 5], torch.inf).min(dim=2)
    paired = distance.isfinite()
    return mine.gather(1, nearest[..., None].expand_as(theirs))[paired], theirs[paired], paired.float().mean()
