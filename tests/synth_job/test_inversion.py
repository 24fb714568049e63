"""Inversion lowers the loss it says it does, term by term."""

import pytest
import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Detector
from schemas.errors import Stopped
from schemas.image_size import ImageSize
from schemas.synth_config import Initialisation, LossWeights, Precision, SynthConfig, ViewConfig
from synth_job.initialisation import enlarged, initial_images, sample_generator
from synth_job.inversion import Course, Inversion, Relabel, Watch, total_variation
from synth_job.statistics import BatchNormMatching

LABELS = [Detections.of([[8.0, 8.0, 72.0, 80.0]], [2]), Detections.of([[30.0, 20.0, 90.0, 60.0]], [5])]
ONE_VIEW = ViewConfig(flip=0, shift=0, scales=(1.0,))


def noise(size: int = 96, count: int = 2) -> Tensor:
    return initial_images(Initialisation.NOISE, 0, range(count), ImageSize.square(size))


def inverted(teacher: Detector, weights: LossWeights, iterations: int = 8, views: ViewConfig = ONE_VIEW) -> Tensor:
    return Inversion(teacher).run(noise(), LABELS, Course(iterations, 0.1, weights, views), sample_generator(0, 0))


def only(**weight: float) -> LossWeights:
    return LossWeights(**{"task": 0.0, "batch_norm": 0.0, "first_layer": 0.0, "total_variation": 0.0} | weight)


def batch_norm_losses(teacher: Detector, images: Tensor) -> tuple[float, float]:
    with BatchNormMatching(teacher.statistics_sites()) as matching:
        teacher.head_outputs(images)
        every_layer, first_layer = matching.losses()
    return float(every_layer), float(first_layer)


def test_the_task_loss_falls_and_images_stay_in_range(teacher: Detector) -> None:
    images = inverted(teacher, only(task=1.0))
    before, after = (float(teacher.task_loss(teacher.head_outputs(x), LABELS)) for x in (noise(), images))
    assert after < 0.8 * before
    assert images.shape == noise().shape
    assert 0 <= float(images.min()) < float(images.max()) <= 1


def test_the_batch_norm_terms_fall(teacher: Detector) -> None:
    every_layer, first_layer = batch_norm_losses(teacher, noise())
    assert batch_norm_losses(teacher, inverted(teacher, only(batch_norm=1.0)))[0] < 0.9 * every_layer
    assert batch_norm_losses(teacher, inverted(teacher, only(first_layer=1.0)))[1] < 0.7 * first_layer


def test_the_total_variation_falls(teacher: Detector) -> None:
    assert total_variation(inverted(teacher, only(total_variation=1.0))) < 0.7 * total_variation(noise())


def test_default_settings_lower_the_task_loss_in_the_plain_view(teacher: Detector) -> None:
    images = inverted(teacher, LossWeights(), iterations=12, views=ViewConfig())
    before, after = (float(teacher.task_loss(teacher.head_outputs(x), LABELS)) for x in (noise(), images))
    assert after < before


def test_inversion_is_reproducible_and_leaves_start_and_teacher_alone(teacher: Detector) -> None:
    start = noise()
    before = {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}
    inversion = Inversion(teacher)
    one, other = (inversion.run(start, LABELS, Course(3, 0.1), sample_generator(3, 4)) for _ in range(2))
    assert torch.equal(one, other), "nothing of a batch is left for the next"
    again = Inversion(teacher).run(start, LABELS, Course(3, 0.1), sample_generator(3, 4))
    assert torch.equal(one, again)
    assert torch.equal(start, noise())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.network.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert not one.requires_grad


def test_labels_that_relabelling_returns_replace_the_current_ones(teacher: Detector) -> None:
    replacement = [LABELS[0], Detections.of([[0.0, 0.0, 40.0, 40.0], [50.0, 50.0, 90.0, 90.0]], [1, 1])]
    seen: list[int] = []

    def relabel(step: int, images: Tensor) -> list[Detections] | None:
        assert not images.requires_grad
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        seen.append(step)
        return replacement if step == 0 else None

    def run(labels: list[Detections], relabel: Relabel | None = None) -> Tensor:
        course, generator = Course(4, 0.1, views=ONE_VIEW), sample_generator(0, 0)
        return Inversion(teacher).run(noise(), labels, course, generator, Watch(relabel=relabel))

    images = run(LABELS, relabel)
    assert seen == [0, 1, 2, 3]
    assert not torch.equal(images, run(LABELS))
    loss, kept = (float(teacher.task_loss(teacher.head_outputs(x), replacement)) for x in (images, run(LABELS)))
    assert loss < kept


def test_progress_is_told_after_every_step_and_hooks_are_gone_after_an_error(teacher: Detector) -> None:
    steps: list[int] = []

    def advance() -> None:
        steps.append(len(steps))
        if len(steps) == 3:
            raise Stopped("now")

    inversion, course = Inversion(teacher), Course(5, 0.1, views=ONE_VIEW)
    with pytest.raises(Stopped):
        inversion.run(noise(), LABELS, course, sample_generator(0, 0), Watch(advance))
    assert steps == [0, 1, 2]
    hooked = [module for module in inversion._teacher.network.modules() if module._forward_hooks]
    assert hooked == []


def test_total_variation_by_hand() -> None:
    image = torch.zeros(1, 1, 2, 3)
    image[0, 0] = torch.tensor([[0.0, 3.0, 3.0], [4.0, 3.0, 3.0]])
    # Vertical differences 4, 0, 0; horizontal ones 3, 0, -1, 0.
    assert float(total_variation(image)) == pytest.approx(4 + 10**0.5)
    assert float(total_variation(torch.full((1, 3, 4, 4), 0.3))) == 0


@pytest.mark.parametrize("kind", [Initialisation.NOISE, Initialisation.LOW_FREQUENCY])
def test_a_start_image_depends_on_seed_and_sample_index_alone(kind: Initialisation) -> None:
    images = initial_images(kind, 3, [5, 6], ImageSize.square(64))
    assert images.shape == (2, 3, 64, 64)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert torch.equal(initial_images(kind, 3, [6], ImageSize.square(64))[0], images[1])
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(initial_images(kind, 4, [5], ImageSize.square(64))[0], images[0])


def test_low_frequency_noise_is_smoother_than_noise() -> None:
    smooth, rough = (
        initial_images(kind, 0, [0], ImageSize.square(96))
        for kind in (Initialisation.LOW_FREQUENCY, Initialisation.NOISE)
    )
    assert total_variation(smooth) / smooth.std() < 0.5 * total_variation(rough) / rough.std()


def test_enlarged_images_stay_in_range() -> None:
    checks = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(1, 3, 8, 8)
    large = enlarged(checks, ImageSize.square(48))
    assert large.shape == (1, 3, 48, 48)
    assert 0 <= float(large.min()) <= float(large.max()) <= 1


def test_the_gradient_of_the_total_variation_is_right_and_zero_without_variation() -> None:
    images = torch.rand(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(total_variation, (images,))
    flat = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)
    assert torch.equal(torch.autograd.grad(total_variation(flat), flat)[0], torch.zeros_like(flat))


def test_bfloat16_lowers_the_loss_too_and_is_no_hidden_default(teacher: Detector) -> None:
    course = Course(8, 0.1, only(batch_norm=1.0), ONE_VIEW)
    images = Inversion(teacher, Precision.BFLOAT16).run(noise(), LABELS, course, sample_generator(0, 0))
    assert images.dtype == torch.float32
    assert batch_norm_losses(teacher, images)[0] < 0.9 * batch_norm_losses(teacher, noise())[0]
    plain = Inversion(teacher).run(noise(), LABELS, course, sample_generator(0, 0))
    assert not torch.equal(images, plain)
    assert SynthConfig().precision is Precision.FLOAT32
