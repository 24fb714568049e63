"""D-FINE, RT-DETR and RT-DETRv2 of the transformers package, through the library's own losses."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detectors.base import BaseDetector, Decoding
from detectors.detections import Detections
from detectors.hooks import hooked
from detectors.protocol import HeadOutputs, PlainOutputs
from detectors.query_sets import ABSENT, CELL, set_out, smallest_side
from detectors.transformers.library import Architecture, traceable
from schemas.image_size import ImageSize
from schemas.teacher import TeacherIdentity


class TransformersDetector(BaseDetector):
    """Implements `detectors.protocol.Detector` for what `save_pretrained` writes.

    The library stretches images to the input square; here they are padded like those of every other family.

    Args:
        identity: which detector it is.
        network: the library's, as `detectors.transformers.library.alone` leaves it.
        architecture: what decides the network.
    """

    def __init__(self, identity: TeacherIdentity, network: Any, architecture: Architecture) -> None:
        super().__init__(identity, network)
        self._mean, self._std = architecture.mean, architecture.std

    @property
    def smallest_input(self) -> int:
        """See `Detector`: an image must have as many places as the decoder has queries."""
        return smallest_side(self.network.config.feat_strides, int(self.network.config.num_queries))

    def _outputs(self, images: Tensor) -> Any:
        """What the library's network gives for images `(B, 3, H, W)` in [0, 1]."""
        if self._mean is not None and self._std is not None:
            mean, std = (images.new_tensor(each)[:, None, None] for each in (self._mean, self._std))
            images = (images - mean) / std
        return self.network(images)

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """See `Detector`: what the encoder says of every place, then what the last decoder layer says of its queries.

        Queries are set out by the place they were chosen from, so that student and teacher compare where both chose.
        D-FINE's last layer has distributions of edges; they start from boxes that an earlier step gave. Such earlier
        boxes, of every network, are plain outputs.
        """
        first: list[Tensor] = []
        start = getattr(self.network.model.decoder, "pre_bbox_head", None)
        handles = [] if start is None else [start.register_forward_hook(lambda _m, _i, output: first.append(output))]
        with hooked(handles):
            raw = self._outputs(images)
        scores, dense = raw.enc_outputs_class, raw.enc_outputs_coord_logits.sigmoid()
        chosen = scores.amax(dim=2).topk(raw.logits.shape[1], dim=1).indices[..., None]
        cells = images.new_tensor([images.shape[3], images.shape[2]]).repeat(2) / CELL

        placed = partial(set_out, chosen=chosen, places=scores.shape[1])
        logits = placed(raw.logits, elsewhere=ABSENT)
        if raw.intermediate_predicted_corners is None:
            earlier = (raw.intermediate_reference_points[:, :-1] * cells).transpose(1, 2).flatten(2)
            refined = placed(raw.pred_boxes * cells, elsewhere=0.0).transpose(1, 2).unsqueeze(2)
        else:
            proposed = raw.init_reference_points.sigmoid()
            earlier = (first[0] + proposed.logit(1e-5)).sigmoid() * cells
            refined = (
                placed(raw.intermediate_predicted_corners[:, -1], elsewhere=0.0).transpose(1, 2).unflatten(1, (4, -1))
            )
        certain = logits.detach().sigmoid().amax(dim=2)
        plain = PlainOutputs(placed(earlier, elsewhere=0.0).transpose(1, 2), certain)
        return HeadOutputs(
            class_logits=(scores.transpose(1, 2), logits.transpose(1, 2)),
            box_logits=((dense * cells).transpose(1, 2).unsqueeze(2), refined),
            raw=(raw, ImageSize(*images.shape[2:])),
            plain=(plain,) if earlier.shape[2] else (),
        )

    def task_loss(self, outputs: HeadOutputs, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`: matched queries of the encoder and the last decoder layer, a mean over the labelled objects.

        Denoising queries and earlier decoder layers, which the library adds in training mode, are not there.
        """
        raw, size = outputs.raw
        device = raw.logits.device
        sides = torch.tensor([size.width, size.height], device=device).repeat(2)
        targets = []
        for label in labels:
            first, last = (label.boxes.to(device) / sides).split(2, dim=1)
            boxes = torch.cat(((first + last) / 2, last - first), dim=1)
            targets.append({"class_labels": label.classes.to(device), "boxes": boxes})
        loss: Tensor = self.network.loss_function(
            raw.logits, targets, device, raw.pred_boxes, self.network.config,
            _last(raw.intermediate_logits), _last(raw.intermediate_reference_points),
            enc_topk_logits=raw.enc_topk_logits, enc_topk_bboxes=raw.enc_topk_bboxes,
            denoising_meta_values=None, predicted_corners=_last(raw.intermediate_predicted_corners),
            initial_reference_points=_last(raw.initial_reference_points),
        )[0]  # fmt: skip
        return loss

    def detection_loss(self, images: Tensor, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`."""
        raw = self._outputs(images)
        return self.task_loss(HeadOutputs((), (), raw=(raw, ImageSize(*images.shape[2:]))), labels)

    def decoded(self, images: Tensor) -> Tensor:
        """See `Detector`: the best N of all classes of all N queries, best first, as the library's processor takes."""
        raw = self._outputs(images)
        scores, best = raw.logits.sigmoid().flatten(1).topk(raw.logits.shape[1], dim=1)
        classes = raw.logits.shape[2]
        query = torch.div(best, classes, rounding_mode="floor")[..., None]
        centres, sizes = raw.pred_boxes.gather(1, query.expand(-1, -1, 4)).split(2, dim=2)
        width, height = images.shape[3], images.shape[2]
        x1, y1 = (centres - sizes / 2).unbind(dim=2)
        x2, y2 = (centres + sizes / 2).unbind(dim=2)
        rows = (x1 * width, y1 * height, x2 * width, y2 * height, scores, (best % classes).to(scores))
        return torch.stack(rows, dim=2)

    @property
    def end_to_end(self) -> bool:
        """See `Detector`: a query set needs no NMS."""
        return True

    def deployed(self) -> nn.Module:
        """See `Detector`."""
        twin = self.copy()
        twin.fold_batch_norm()
        twin.network.cpu()
        return _Deployed(twin)

    def output_layers(self) -> list[str]:
        """See `Layers.output`: the last layers of predictions; each decoder layer refines the boxes that come out."""
        model = self.network.model
        decoder = model.decoder
        last = [model.enc_score_head, model.enc_bbox_head.layers[-1], decoder.class_embed[-1]]
        last += [head.layers[-1] for head in decoder.bbox_embed]
        if hasattr(decoder, "pre_bbox_head"):
            last += [decoder.pre_bbox_head.layers[-1], decoder.lqe_layers[-1].reg_conf.layers[-1]]
        return self.names_of(last)

    def head_layers(self) -> list[str]:
        """See `Layers.head`: all that follows the encoder."""
        model, outside = self.network.model, set(self.float_layers())
        parts = (model.enc_output, model.enc_score_head, model.enc_bbox_head, model.decoder_input_proj, model.decoder)
        inside = [each for part in parts for each in part.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
        return [name for name in self.names_of(inside) if name not in outside]

    def float_layers(self) -> list[str]:
        """See `Layers.in_float`: what only training uses, the scores of the decoder's earlier layers."""
        decoder = self.network.model.decoder
        unused = [*decoder.class_embed[:-1], *getattr(decoder, "lqe_layers", ())[:-1]]
        return self.names_of([each for part in unused for each in part.modules() if isinstance(each, nn.Linear)])

    def distillation_sites(self) -> list[str]:
        """See `Layers.distillation`: the stages of the backbone, and the blocks of the encoder."""
        model = self.network.model
        return self.names_of(
            [*model.backbone.model.encoder.stages, *model.encoder.fpn_blocks, *model.encoder.pan_blocks]
        )


def _last(layers: Tensor | None) -> Tensor | None:
    """Of what each layer of a decoder gives, `(B, layers, …)`, the last layer's; None where layers do not give it."""
    return None if layers is None else layers[:, -1:]


class _Deployed(Decoding):
    """The exported form, of any number of images."""

    def forward(self, images: Tensor) -> Tensor:
        with traceable(self.network):
            rows: Tensor = super().forward(images)
            return rows
