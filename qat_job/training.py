"""Quantization-aware training: scales, zero points, biases and, where asked, weights learn, guided by the teacher."""

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.memory import fitting, kept_bytes
from detectors.protocol import Detector, HeadOutputs
from qat_job.checkpoint import Checkpoint, Checkpoints, TrainingState
from qat_job.distillation import FeatureTap, feature_error, feature_variances, output_divergence
from qat_job.event_record import EventRecord
from qat_job.images import ImageBatches
from qat_job.optimizer import Adam
from qat_job.team import Team
from quantization.convert import activation_quantizers, quantized_layers
from quantization.fake_quantize import FakeQuantizer
from schemas.errors import InputError
from schemas.qat_config import QatConfig
from schemas.student import TrainingSummary
from schemas.training_terms import DistillationWeights
from stages.container import start_anew
from stages.stage import Stage

CHECK_INTERVAL = 25
"""Steps between checks that the loss is finite; each check waits for the device."""


@dataclass(frozen=True)
class Seen:
    """What a detector makes of a batch: its head outputs, and its features at the distillation sites."""

    outputs: HeadOutputs
    features: list[Tensor]


class Training:
    """A student that learns, its teacher, and how far it has come; batch-norm statistics stay as they are.

    Use it as a context, inside which the features of both networks are kept.

    Args:
        student: calibrated, or with any step sizes where there is a `checkpoint`; trained in place.
        teacher: guides it.
        config: settings.
        team: processes that share each batch; the leading one's student is where all start. Gradients are averaged, so
            that a step is that of one process on the whole batch, but for the order of sums and for what the family's
            task loss divides by (each process its own labels).
        checkpoint: where to go on; the steps from there are those of a training that was never interrupted.
    """

    def __init__(
        self, student: Detector, teacher: Detector, config: QatConfig, team: Team, checkpoint: Checkpoint | None = None
    ) -> None:
        if checkpoint is None:
            team.take_over(student.network.state_dict().values())
        if not config.learns_weights:
            for layer in quantized_layers(student.network).values():
                layer.fix_rounding()
        self.student, self.config, self.team = student, config, team
        self._teacher = teacher.copy()
        self._teacher.fold_batch_norm()  # the same function, one pass over every activation less
        self._optimizer = Adam(parameter_groups(student, config))
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, T_max=config.training_steps)
        for parameter in student.network.parameters():
            parameter.requires_grad_(False)
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        sites = student.layers.distillation
        self._hooks = ExitStack()
        self._taps = [FeatureTap(each.network, sites) for each in (student, self._teacher)]
        self.state = TrainingState(student.network, self._optimizer, self._schedule, [])
        if checkpoint is not None:
            self.state.restore(checkpoint)
        for place in activation_quantizers(student.network):
            place.quantizer.parts = team.count

    def __enter__(self) -> Self:
        for tap in self._taps:
            self._hooks.enter_context(tap)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.state.losses)

    @property
    def learning_rate(self) -> float:
        """The rate of the weights now; of the biases where weights do not learn."""
        return float(self._schedule.get_last_lr()[0])

    def step(self, batch: Tensor, labels: list[Detections]) -> None:
        """One step on this process's part of a batch, `(B, 3, H, W)`."""
        losses = self.state.losses
        loss = self._loss(batch, labels)
        self._optimizer.zero_grad()
        loss.backward()
        losses.append(loss.detach())
        self.team.average([*self._optimizer.gradients(), losses[-1]])
        self._optimizer.step()
        self._schedule.step()

    def kept_bytes(self, batch: Tensor, labels: list[Detections]) -> int:
        """Bytes that one step on a batch, `(B, 3, H, W)`, keeps for its gradients."""
        return kept_bytes(lambda: self._loss(batch, labels))

    def _loss(self, batch: Tensor, labels: list[Detections]) -> Tensor:
        student_tap, teacher_tap = self._taps
        with torch.no_grad():
            teacher_outputs = self._teacher.head_outputs(batch)
        try:
            student_outputs = self.student.head_outputs(batch, like=teacher_outputs)
        except RuntimeError:  # PyTorch's operator refuses a zero point that is not a number
            check_finite(self.state.losses, self.config)
            raise
        seen, expected = Seen(student_outputs, student_tap.features()), Seen(teacher_outputs, teacher_tap.features())
        return training_loss(self.student, self.config.weights, labels, seen, expected, self.team)

    def finish(self) -> None:
        """Leave the student as it is saved and deployed: weights on their grid, every quantizer an ordinary one."""
        for layer in quantized_layers(self.student.network).values():
            layer.release_rounding()

    def summary(self, seconds: float) -> TrainingSummary:
        """The course of a training that took `seconds`."""
        curve = torch.stack(self.state.losses).tolist()
        tail = curve[-max(1, len(curve) // 10) :]
        return TrainingSummary(
            steps=self.steps,
            seconds=round(seconds, 1),
            first_loss=curve[0],
            last_loss=math.fsum(tail) / len(tail),
            losses=tuple(curve),
        )


def train(
    training: Training, images: ImageBatches, stage: Stage, checkpoints: Checkpoints, events: EventRecord | None = None
) -> TrainingSummary:
    """Train to the last step.

    Args:
        training: goes on where it stands.
        images: of the calibration set.
        stage: shows progress.
        checkpoints: takes the state every `checkpoint_interval` steps and when the stage is asked to stop.
        events: takes the progress where it is given.

    Raises:
        ConfigError: the batch cannot be split evenly.
        InputError: the loss is no longer finite; the last checkpoint is of a step where it was.
        Stopped: SIGTERM arrived, the state is saved.
    """
    config, team, state = training.config, training.team, training.state
    last, share = config.training_steps, team.share(config.batch)
    first = saved = training.steps
    batches = images.shuffled(last, config.batch, config.seed, config.augmentation, first, share)
    start = time.monotonic() - state.seconds
    stage.reporter.plan([1.0])  # what comes after it, the export, is short
    with training:
        for step in stage.reporter.track(range(first, last), "training"):
            stopping = team.any(stage.stop_asked)
            due = step % config.checkpoint_interval == 0 or stopping
            if due and step > saved and team.leads and state.is_finite():
                state.seconds = time.monotonic() - start
                checkpoints.save(state, config.bits)
                saved = step
            if stopping:
                team.wait()  # for what the leading rank saves
                stage.request_stop()
                stage.stop_here_if_asked()  # not where all ranks did not agree to: a signal may have come since
            with fitting(f"training: {config.batch} images a step", "batch"):
                training.step(*next(batches))
            if training.steps % CHECK_INTERVAL == 0 or training.steps == last:
                check_finite(state.losses, config)
                if events is not None:
                    events.write(state.losses, training.learning_rate, training.student.network)
    training.finish()
    return training.summary(time.monotonic() - start)


def training_loss(
    student: Detector,
    weights: DistillationWeights,
    labels: list[Detections],
    seen: Seen,
    expected: Seen,
    team: Team | None = None,
) -> Tensor:
    """α · task loss + β · KL(teacher ‖ student) on head outputs + γ · feature error (arXiv 2507.16782), a scalar.

    Args:
        student: knows its family's task loss.
        weights: α, β and γ, and the temperature of the divergence.
        labels: of each image.
        seen: by the student.
        expected: seen by the teacher.
        team: whose processes share the batch, over which the variance of features is taken.
    """
    loss = seen.outputs.class_logits[0].new_zeros(())
    if weights.task:
        loss = loss + weights.task * student.task_loss(seen.outputs, labels)
    if weights.outputs:
        loss = loss + weights.outputs * output_divergence(seen.outputs, expected.outputs, weights.temperature)
    if weights.features:
        variances = feature_variances(expected.features, team)
        loss = loss + weights.features * feature_error(seen.features, expected.features, variances)
    return loss


def parameter_groups(student: Detector, config: QatConfig) -> list[dict[str, Any]]:
    """Adam's groups: weights (but those of decoding) where they learn, biases of quantized layers, and each quantizer.

    Adam's steps have the size of the learning rate whatever the gradient. Biases are not rounded, so that they may move
    faster than weights. Step sizes span orders of magnitude, so that one absolute rate would freeze some and scatter
    others: theirs is relative to the initial value. Zero points move relative to the number of levels.
    """
    network = student.network
    quantizers = [module for module in network.modules() if isinstance(module, FakeQuantizer)]
    biases = [layer.bias for layer in quantized_layers(network).values() if layer.bias is not None]
    fixed = [network.get_submodule(name) for name in student.layers.in_float]
    not_weights = {id(parameter) for module in (*quantizers, *fixed) for parameter in module.parameters()}
    not_weights |= {id(bias) for bias in biases}
    weights = [parameter for parameter in network.parameters() if id(parameter) not in not_weights]
    groups: list[dict[str, Any]] = [{"params": biases, "lr": config.rate_of_biases}]
    if config.learns_weights:
        groups.insert(0, {"params": weights, "lr": config.rate_of_weights})
    relative = config.step_size_learning_rate
    for quantizer in quantizers if relative else ():
        lowest, highest = quantizer.spec.range
        groups.append({"params": [quantizer.step_size], "lr": relative * float(quantizer.step_size.detach().mean())})
        if quantizer.spec.affine:
            groups.append({"params": [quantizer.zero_point], "lr": relative * (highest - lowest)})
    return groups


def check_finite(losses: list[Tensor], config: QatConfig) -> None:
    """Stop a training whose loss is not a number any more.

    Raises:
        InputError: it is not.
    """
    if losses and not bool(torch.isfinite(losses[-1])):
        raise InputError(
            f"training diverged: the loss is not finite by step {len(losses)}; "
            f"lower learning_rate (now {config.rate_of_weights:g}), bias_learning_rate (now {config.rate_of_biases:g}) "
            f"or step_size_learning_rate (now {config.step_size_learning_rate:g}), and {start_anew()}"
        )
