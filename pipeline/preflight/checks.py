"""Everything about a run that can be checked before it starts: the detector, sizes, labels, engines, the disk."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detectors.protocol import Detector
from detectors.registry import check_size, load_teacher, resolve_device
from eval_job.data import find_photographs, find_validation_data
from eval_job.measure import labelled_shapes
from label_formats.images import ValidationImage, ValidationSet
from pipeline.preflight.findings import Findings, gigabytes
from schemas.errors import ConfigError, InputError
from schemas.files import expanded
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind
from schemas.qat_config import QatConfig
from schemas.run_config import RunConfig
from schemas.synth_config import SynthConfig
from stages.event_files import require_tensorboard
from synth_job.given_labels import read_given_labels

BYTES_PER_PIXEL = 3
"""Of a stored synthetic image: noise hardly shrinks in a PNG."""
BYTES_PER_PARAMETER = 40
"""Of students, checkpoints of the training and exported models, together: about ten copies in single precision."""
BYTES_BESIDE = 50_000_000
"""Detections, pictures and reports."""


def examine(config: RunConfig, *, containers: bool) -> Findings:
    """Check a run, and measure how long it will take.

    Args:
        config: of the run.
        containers: stages run elsewhere: devices and engines are not those of this machine.

    Raises:
        ConfigError: a setting does not fit the detector or this machine.
        InputError: the detector, the labels or the images cannot be used, or do not fit each other; a full disk.
    """
    device = resolve_device("cpu" if containers else config.synth.device)
    teacher = load_teacher(config.teacher, device)
    synth = config.for_stage("synth")
    assert isinstance(synth, SynthConfig)
    own = ImageSize.square(teacher.identity.input_size)
    size = synth.image_size or own
    check_sizes(config, teacher, size)
    validation, photos = read_validation(config, teacher)
    check_settings(config, teacher, containers)
    needed = bytes_needed(synth, size, teacher)
    free = bytes_free(expanded(config.storage))
    if free < needed:
        raise InputError(
            f"storage {config.storage}: {gigabytes(free)} are free and about {gigabytes(needed)} are needed; make "
            "room, or choose another folder"
        )
    from pipeline.preflight.estimate import expected_seconds  # loads what a run that is refused does not need

    images = sum(len(each) for each in (validation.images if validation else (), photos or ()))
    return Findings(
        family=teacher.identity.family,
        classes=len(teacher.identity.class_names),
        parameters=sum(parameter.numel() for parameter in teacher.network.parameters()),
        image_size=size,
        own_size=size == own,
        labelled_images=None if validation is None else len(validation.images),
        photos=None if photos is None else len(photos),
        bytes_needed=needed,
        bytes_free=free,
        seconds=expected_seconds(config, teacher, size, images),
    )


def bytes_needed(synth: SynthConfig, size: ImageSize, teacher: Detector) -> int:
    """Room that a run takes, about, in bytes."""
    images = synth.images + (synth.held_back or 0)
    parameters = sum(parameter.numel() for parameter in teacher.network.parameters())
    return images * size.pixels * BYTES_PER_PIXEL + parameters * BYTES_PER_PARAMETER + BYTES_BESIDE


def bytes_free(folder: Path) -> int:
    """Room where `folder` is or will be, in bytes."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def check_sizes(config: RunConfig, teacher: Detector, size: ImageSize) -> None:
    """Check that a detector takes the sizes of a run.

    Raises:
        ConfigError: it does not.
    """
    check_size(teacher, size, "image_size")
    check_size(teacher, ImageSize.square(config.synth.labels.size), "synth.labels.size")
    check_size(teacher, config.eval.image_size or size, "eval.image_size")


def check_settings(config: RunConfig, teacher: Detector, containers: bool) -> None:
    """Check what the settings say against the detector, and where stages run here, against this machine.

    Args:
        config: of the run.
        teacher: the detector.
        containers: stages run elsewhere.

    Raises:
        ConfigError: a setting does not fit.
        InputError: given labels cannot be read.
    """
    if teacher.sees is not ShapeKind.BOX:
        from quantization.onnx.export import check_head

        for target in config.qat.targets:
            check_head(teacher, target)
    check_planned_bits(config.qat, teacher)
    if config.synth.labels.path is not None:
        read_given_labels(Path(config.synth.labels.path), teacher.identity.class_names)
    if containers:
        return
    for stage in (config.qat, config.eval):
        resolve_device(stage.device)
    if config.synth.tensorboard or config.qat.tensorboard:
        require_tensorboard()
    if config.eval.onnx.models != "none":
        from quantization.onnx.engine import check_engine  # loads engines

        check_engine("onnxruntime", config.eval.onnx.providers)


def check_planned_bits(qat: QatConfig, teacher: Detector) -> None:
    """Check that the layers of a plan are there, and that a budget can be kept.

    Raises:
        ConfigError: they are not, or it cannot.
    """
    budget = qat.sensitivity.budget if qat.sensitivity is not None else None
    if not qat.bits.layers and budget is None:
        return
    from quantization.convert import make_student, mean_weight_bits  # loads what a run that plans nothing does not need
    from quantization.mixed_precision import check_budget

    if budget is None:
        make_student(teacher, qat.bits)  # which knows the names of its layers
    else:
        fewest = qat.bits.model_copy(update={"weight_bits": qat.planned_widths[0]})
        check_budget(budget, mean_weight_bits(make_student(teacher, fewest).network))


def read_validation(config: RunConfig, teacher: Detector) -> tuple[ValidationSet | None, list[ValidationImage] | None]:
    """The labelled images and the photographs that evaluation will read, each image's header looked at.

    Raises:
        ConfigError: settings of the data contradict each other.
        InputError: labels or images cannot be read, or do not fit each other or the detector.
    """
    photos = None if config.eval.photos is None else find_photographs(config.eval.photos).images()
    data = config.eval.labelled_data
    if data is None:
        if config.eval.images is not None:
            raise ConfigError("eval.images: is set, but eval.data is not; images goes with a COCO JSON file in data")
        return None, photos
    validation = find_validation_data(data, config.eval.images, config.eval.split).read(teacher.identity.class_names)
    with ThreadPoolExecutor() as pool:
        list(pool.map(_check_image, validation.images))
    labelled_shapes(validation, teacher)
    return validation, photos


def _check_image(image: ValidationImage) -> None:
    """Look at the header of an image.

    Raises:
        InputError: the image is missing, is none, or is not of the size that its labels are for.
    """
    size = image.size()
    if image.labelled_size not in (None, size):
        image.pixels()  # which says so
