"""Quantization-aware training: weights, step sizes and zero points learn together, guided by the teacher."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Detector, HeadOutputs
from qat_job.checkpoint import Checkpoint, Checkpoints, TrainingState
from qat_job.distillation import FeatureTap, feature_error, feature_variances, output_divergence
from qat_job.event_record import EventRecord
from qat_job.images import ImageBatches
from qat_job.optimizer import Adam
from qat_job.team import Team
from quantization.convert import quantized_layers
from quantization.fake_quantize import FakeQuantizer
from schemas.errors import InputError
from schemas.qat_config import DistillationWeights, QatConfig
from schemas.student import TrainingSummary
from stages.container import start_anew
from stages.ranks import Rank
from stages.stage import Stage

CHECK_INTERVAL = 25
"""Steps between checks that the loss is finite; each check waits for the device."""


def train(
    student: Detector,
    teacher: Detector,
    images: ImageBatches,
    config: QatConfig,
    stage: Stage,
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None = None,
    events: EventRecord | None = None,
    team: Team | None = None,
) -> TrainingSummary:
    """Train a calibrated student in place; batch-norm statistics stay as they are.

    Args:
        student: calibrated, or with any step sizes where there is a `checkpoint`.
        teacher: guides it.
        images: of the calibration set.
        config: settings.
        stage: shows progress.
        checkpoints: takes the state every `config.checkpoint_interval` steps and when the stage is asked to stop.
        checkpoint: where to go on; the steps from there are those of a training that was never interrupted.
        events: takes the progress where it is given.
        team: processes that share each batch; the leading one's student is where all start. Gradients are averaged, so
            that a step is that of one process on the whole batch, but for the order of sums and for what the family's
            task loss divides by (each process its own labels).

    Raises:
        ConfigError: the batch cannot be split evenly.
        InputError: the loss is no longer finite; the last checkpoint is of a step where it was.
        Stopped: SIGTERM arrived, the state is saved.
    """
    team = team or Team(Rank(), next(student.network.parameters()).device)
    share = team.share(config.batch)
    if checkpoint is None:
        team.take_over(student.network.state_dict().values())
    teacher = teacher.copy()
    teacher.fold_batch_norm()  # the same function, one pass over every activation less
    optimizer = Adam(parameter_groups(student, config))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.training_steps)
    for parameter in student.network.parameters():
        parameter.requires_grad_(False)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)

    sites = student.distillation_sites()
    losses: list[Tensor] = []
    state = TrainingState(student.network, optimizer, schedule, losses)
    if checkpoint is not None:
        state.restore(checkpoint)
    for layer in quantized_layers(student.network).values():
        layer.input_quantizer.parts = team.count
    first = saved = len(losses)
    batches = images.shuffled(config.training_steps, config.batch, config.seed, config.augmentation, first, share)
    start = time.monotonic() - state.seconds
    stage.reporter.plan([1.0])  # what comes after it, the export, is short
    with FeatureTap(student.network, sites) as student_tap, FeatureTap(teacher.network, sites) as teacher_tap:
        for step in stage.reporter.track(range(first, config.training_steps), "training"):
            stopping = team.any(stage.stop_asked)
            due = step % config.checkpoint_interval == 0 or stopping
            if due and step > saved and team.leads and state.is_finite():
                state.seconds = time.monotonic() - start
                checkpoints.save(state, config.bits)
                saved = step
            if stopping:
                team.wait()  # for what the leading rank saves
                stage.request_stop()
            stage.stop_here_if_asked()
            batch, labels = next(batches)
            with torch.no_grad():
                teacher_outputs = teacher.head_outputs(batch)
            try:
                student_outputs = student.head_outputs(batch, like=teacher_outputs)
            except RuntimeError:  # PyTorch's operator refuses a zero point that is not a number
                check_finite(losses, config)
                raise
            loss = training_loss(
                student, config.weights, labels, student_outputs, teacher_outputs,
                student_tap.features(), teacher_tap.features(), team,
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.detach())
            team.average([*optimizer.gradients(), losses[-1]])
            optimizer.step()
            schedule.step()
            if len(losses) % CHECK_INTERVAL == 0 or len(losses) == config.training_steps:
                check_finite(losses, config)
                if events is not None:
                    events.write(losses, float(schedule.get_last_lr()[0]), student.network)
    curve = torch.stack(losses).tolist()
    tail = curve[-max(1, len(curve) // 10) :]
    return TrainingSummary(
        steps=config.training_steps,
        seconds=round(time.monotonic() - start, 1),
        first_loss=curve[0],
        last_loss=math.fsum(tail) / len(tail),
        losses=tuple(curve),
    )


def training_loss(
    student: Detector,
    weights: DistillationWeights,
    labels: list[Detections],
    student_outputs: HeadOutputs,
    teacher_outputs: HeadOutputs,
    student_features: list[Tensor],
    teacher_features: list[Tensor],
    team: Team | None = None,
) -> Tensor:
    """α · task loss + β · KL(teacher ‖ student) on head outputs + γ · feature error (arXiv 2507.16782), a scalar."""
    loss = student_outputs.class_logits[0].new_zeros(())
    if weights.task:
        loss = loss + weights.task * student.task_loss(student_outputs, labels)
    if weights.outputs:
        loss = loss + weights.outputs * output_divergence(student_outputs, teacher_outputs, weights.temperature)
    if weights.features:
        loss = loss + weights.features * feature_error(
            student_features, teacher_features, feature_variances(teacher_features, team)
        )
    return loss


def parameter_groups(student: Detector, config: QatConfig) -> list[dict[str, Any]]:
    """Adam's groups: weights (but those of decoding), biases of quantized layers, and each quantizer by itself.

    Adam's steps have the size of the learning rate whatever the gradient. Biases are not rounded, so that they may move
    faster than weights. Step sizes span orders of magnitude, so that one absolute rate would freeze some and scatter
    others: theirs is relative to the initial value. Zero points move relative to the number of levels.
    """
    network = student.network
    quantizers = [module for module in network.modules() if isinstance(module, FakeQuantizer)]
    biases = [layer.bias for layer in quantized_layers(network).values() if layer.bias is not None]
    fixed = [network.get_submodule(name) for name in student.float_layers()]
    not_weights = {id(parameter) for module in (*quantizers, *fixed) for parameter in module.parameters()}
    not_weights |= {id(bias) for bias in biases}
    weights = [parameter for parameter in network.parameters() if id(parameter) not in not_weights]
    groups: list[dict[str, Any]] = [
        {"params": weights, "lr": config.rate_of_weights},
        {"params": biases, "lr": config.rate_of_biases},
    ]
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
