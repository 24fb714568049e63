"""RT-DETR of the ultralytics package, through the library's own loss. Attention products stay in float."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from ultralytics.nn.tasks import RTDETRDetectionModel

from detectors.detections import Detections
from detectors.hooks import hooked
from detectors.protocol import HeadOutputs
from detectors.query_sets import ABSENT, CELL, set_out, smallest_side
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.image_size import ImageSize
from schemas.teacher import Family


class RtdetrDetector(UltralyticsDetector):
    """Implements `detectors.protocol.Detector` for `rtdetr-*.pt`.

    The library stretches images to the input square; here they are padded like those of every other family.
    """

    FAMILY: Family = "rtdetr"
    HEADS = ("RTDETRDecoder",)
    NETWORK = RTDETRDetectionModel

    def __init__(self, identity: Any, network: Any, gains: dict[str, float] | None = None) -> None:
        super().__init__(identity, network, gains)
        self.network.nc = len(identity.class_names)  # the library's loss asks the network for it

    @property
    def smallest_input(self) -> int:
        """See `Detector`: an image must have as many places as the decoder has queries."""
        stride = self.identity.stride
        return smallest_side((stride // 4, stride // 2, stride), int(self._head.num_queries))

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """See `Detector`: what the encoder says of every place, then what the last decoder layer says of its queries.

        Queries are set out by the place they were chosen from, so that student and teacher compare where both chose.
        """
        head = self._head
        with _outputs(head.enc_output, head.enc_score_head) as (features, scores):
            _, raw = self.network(images)
        boxes, decoded_scores, *_ = raw
        dense = (head.enc_bbox_head(features[0]) + head.anchors).sigmoid()
        chosen = scores[0].amax(dim=2).topk(boxes.shape[2], dim=1).indices[..., None]
        logits = set_out(decoded_scores[0], chosen, dense.shape[1], ABSENT)
        refined = set_out(boxes[0], chosen, dense.shape[1], 0.0)
        cells = images.new_tensor([images.shape[3], images.shape[2]]).repeat(2)[:, None, None] / CELL
        return HeadOutputs(
            class_logits=(scores[0].transpose(1, 2), logits.transpose(1, 2)),
            box_logits=tuple(each.transpose(1, 2).unsqueeze(2) * cells for each in (dense, refined)),
            raw=(raw, (images.shape[3], images.shape[2])),
        )

    def task_loss(self, outputs: HeadOutputs, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`: matched queries of the encoder and the last decoder layer, a mean over the labelled objects.

        Denoising queries and earlier decoder layers, which the library adds in training mode, are not there.
        """
        raw, (width, height) = outputs.raw
        device = raw[0].device
        corners = torch.cat([label.boxes for label in labels]).to(device) / torch.tensor(
            [width, height, width, height], device=device
        )
        batch = {
            "img": raw[0].new_empty(len(labels), 0),  # of which the library takes the batch size and the device
            "batch_idx": torch.cat([torch.full((len(label),), number) for number, label in enumerate(labels)]).to(
                device
            ),
            "cls": torch.cat([label.classes for label in labels]).to(device),
            "bboxes": torch.cat(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), dim=1),
        }
        loss: Tensor = self.network.loss(batch, preds=(None, raw))[0]
        return loss

    def detection_loss(self, images: Tensor, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`."""
        _, raw = self.network(images)
        return self.task_loss(HeadOutputs((), (), raw=(raw, (images.shape[3], images.shape[2]))), labels)

    def decoded(self, images: Tensor) -> Tensor:
        """See `Detector`: rows of the library's head, which are shares of the image's sides, in pixels."""
        return in_pixels(self.network(images)[0], images)

    @property
    def end_to_end(self) -> bool:
        """See `Detector`: a query set needs no NMS."""
        return True

    def deployed(self) -> nn.Module:
        """See `Detector`: rows in pixels, as other end-to-end heads of the library give them."""
        twin = self.copy()
        twin.fold_batch_norm()
        head = twin._head
        head.export, head.format, head.shapes = True, "onnx", []  # anchors of an earlier input size
        return _Deployed(twin.network.cpu())

    def deployment_metadata(self, image_size: ImageSize) -> dict[str, str]:
        """See `Detector`: read as an end-to-end YOLO, whose rows are the same."""
        return super().deployment_metadata(image_size) | {"head": "Detect"}

    def fold_batch_norm(self) -> None:
        """See `Detector`. The decoder pairs convolution and norm in sequences."""
        super().fold_batch_norm()
        for sequence in self._head.input_proj:
            if isinstance(sequence[1], nn.BatchNorm2d):
                sequence[0] = fuse_conv_bn_eval(sequence[0], sequence[1])
                sequence[1] = nn.Identity()
        self.network.requires_grad_(False)

    def output_layers(self) -> list[str]:
        """See `Layers.output`: the last layers of the encoder's and the decoder's predictions."""
        head = self._head
        encoder = [head.enc_score_head, head.enc_bbox_head.layers[-1]]
        return self.names_of([*encoder, head.dec_score_head[-1], head.dec_bbox_head[-1].layers[-1]])

    def head_layers(self) -> list[str]:
        """See `Layers.head`."""
        outside = set(self.float_layers())
        inside = [module for module in self._head.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        return [name for name in self.names_of(inside) if name not in outside]

    def float_layers(self) -> list[str]:
        """See `Layers.in_float`: projections inside attention, and class layers that only training uses."""
        attention = [m.out_proj for m in self.network.modules() if isinstance(m, nn.MultiheadAttention)]
        return self.names_of([*attention, *self._head.dec_score_head[:-1]])


def in_pixels(rows: Tensor, images: Tensor) -> Tensor:
    """`(B, N, 6)` rows [x1, y1, x2, y2, score, class] in pixels, from centres and sizes as shares of the sides."""
    width, height = images.shape[3], images.shape[2]
    x, y, w, h, *rest = rows.split(1, dim=2)
    corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    return torch.cat((*corners, *rest), dim=2)


class _Deployed(nn.Module):
    """The exported form: the network, then pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return in_pixels(self.network(images), images)


@contextmanager
def _outputs(*modules: nn.Module) -> Iterator[tuple[list[Tensor], ...]]:
    """What modules give out inside the block."""
    kept: tuple[list[Tensor], ...] = tuple([] for _ in modules)
    pairs = zip(modules, kept, strict=True)
    with hooked(module.register_forward_hook(lambda _m, _i, output, to=to: to.append(output)) for module, to in pairs):
        yield kept
