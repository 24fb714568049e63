"""The transformers package: whether it is there, and networks of it. It is imported here alone, and asks no network."""

import builtins
import contextlib
import copy
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from detectors.stored import LARGEST_STRIDE, MAX_CLASSES, one_line, plain_values
from detectors.transformers.architecture import BACKBONES, FIXED, NETWORKS, backbone_of, kept_fields, model_type
from schemas.errors import ConfigError, VerificationError
from stages.extras import how_to_install

OLDEST = (5, 24)
"""First version whose names of modules, outputs and fields of descriptions are those used here."""
WITHOUT_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"
"""The library's variable; its checks of values are no operators of a file."""
LOOKED_AT = 4
"""Side of the image whose feature maps are counted, in cells of the coarsest level."""


@cache
def library() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed, or is too old.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here names a model that is published
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"the detector is of the transformers package, which is not installed; {how_to_install('transformers')}"
        ) from error
    if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST:
        raise ConfigError(
            f"the transformers package is of version {transformers.__version__}, which names modules and fields in "
            f"another way; {how_to_install('transformers')}"
        )
    return transformers


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the library's remarks and progress bars."""
    logging = library().utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class Architecture:
    """What decides the network, and its values as an artifact keeps them.

    Attributes:
        model: `model_type` of the library.
        fields: of the library's description of the network.
        backbone: the same of its backbone, its own `model_type` included; None for the library's default.
        mean: subtracted from pixels, RGB in [0, 1]; None where pixels go in as they are.
        std: divides them then.
    """

    model: str
    fields: dict[str, Any]
    backbone: dict[str, Any] | None
    mean: list[float] | None = None
    std: list[float] | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Architecture":
        """From `config.json`, or from what `plain` gave; `mean` and `std` as there.

        Raises:
            VerificationError: a value is beyond its bounds, or the network is none that is known here.
            ConfigError: the package is not installed.
        """
        values = plain_values(dict(stored), "its config.json")
        kind = model_type(values)
        backbone = backbone_of(values)
        if backbone is not None:
            backbone = {"model_type": backbone["model_type"]} | kept_fields(
                backbone, _fields(BACKBONES[backbone["model_type"]]) | {"out_features", "out_indices"}
            )
            if backbone.get("out_indices") is not None:
                backbone.pop("out_features", None)  # the same said twice
        fields = kept_fields(values, _fields(NETWORKS[kind][0]))
        eval_idx, layers = fields.get("eval_idx", -1), fields.get("decoder_layers")
        if eval_idx != -1 and (not isinstance(layers, int) or eval_idx != layers - 1):
            raise VerificationError(
                f"config.json: eval_idx is {eval_idx!r}, an earlier layer of the decoder than the last; only detectors "
                "that give out what their last layer says fit: set it to -1 and train the last layer"
            )
        return cls(kind, fields | {k: v for k, v in FIXED.items() if k in _fields(NETWORKS[kind][0])}, backbone,
                   *(_channels(values.get(name)) for name in ("mean", "std")))  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """As a manifest keeps it: `of` reads it."""
        values = {"model_type": self.model, **self.fields}
        further = {"backbone_config": self.backbone, "mean": self.mean, "std": self.std}
        return values | {name: value for name, value in further.items() if value is not None}

    def configuration(self, classes: int) -> Any:
        """The library's own description of the network.

        Raises:
            VerificationError: the library takes it for none.
        """
        package = library()
        if not 0 < classes <= MAX_CLASSES:
            raise VerificationError(f"tells {classes} classes apart, and at most {MAX_CLASSES} fit")
        try:
            with quietly():
                values = copy.deepcopy(self.fields)
                if self.backbone is not None:
                    kind = getattr(package, BACKBONES[self.backbone["model_type"]])
                    values["backbone_config"] = kind(**{k: v for k, v in self.backbone.items() if k != "model_type"})
                return getattr(package, NETWORKS[self.model][0])(**values, num_labels=classes)
        except Exception as error:  # whatever a foreign description makes the library raise
            raise VerificationError(f"the architecture of the teacher does not build ({one_line(error)})") from error

    def empty(self, classes: int) -> Any:
        """The network with unset weights, in eval mode, as `alone` leaves it.

        Raises:
            VerificationError: it does not build.
        """
        return alone(self._made(self.configuration(classes)))

    def outline(self, classes: int) -> Any:
        """The network without memory for its weights, to count and to look at.

        Raises:
            VerificationError: it does not build.
        """
        configuration = self.configuration(classes)
        with torch.device("meta"):
            return alone(self._made(configuration))

    def filled(self, classes: int, state: dict[str, Tensor]) -> Any:
        """The network with weights by the names of any release of the library, which knows the older ones.

        Raises:
            VerificationError: they are not those of the network.
        """
        kind, configuration = getattr(library(), NETWORKS[self.model][1]), self.configuration(classes)
        for name in [name for name in state if name.endswith(".running_var")]:  # frozen norms count no batches
            state.setdefault(name.removesuffix("running_var") + "num_batches_tracked", torch.tensor(0))
        state = {name: value for name, value in state.items() if not name.endswith("denoising_class_embed.weight")}
        try:
            with quietly():
                network, found = kind.from_pretrained(
                    None, config=configuration, state_dict=state, output_loading_info=True, dtype=torch.float32
                )
        except Exception as error:  # tensors of another shape, and what else the library raises
            raise VerificationError(f"its weights are not those of its config.json ({one_line(error)})") from error
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            if names := sorted(str(name) for name in found.get(what) or ()):
                raise VerificationError(
                    f"its weights are not those of its config.json ({len(names)} {what.replace('_', ' ')}, as "
                    f"{names[0][:80]}); take both files from one saved model"
                )
        return alone(network)

    def _made(self, configuration: Any) -> Any:
        try:
            with quietly():
                return getattr(library(), NETWORKS[self.model][1])(configuration)
        except Exception as error:  # whatever a foreign description makes the library raise
            raise VerificationError(f"the architecture of the teacher does not build ({one_line(error)})") from error


def alone(network: Any) -> Any:
    """A network in eval mode whose prediction layers lie in the decoder alone, each with weights of its own.

    The library keeps a second name for them and may let layers share weights; each is quantized for itself here.

    Raises:
        VerificationError: there are none.
    """
    decoder = network.model.decoder
    for name in ("class_embed", "bbox_embed"):
        if name in network._modules:
            delattr(network, name)
        heads = getattr(decoder, name)
        if not heads:
            raise VerificationError("the decoder of the teacher has no layers of prediction")
        setattr(decoder, name, nn.ModuleList(copy.deepcopy(head) for head in heads))
    return network.eval()


@contextlib.contextmanager
def traceable(network: Any) -> Iterator[None]:
    """Let a tracer keep sizes free: no checks of values, and none of the two functions that make a size a constant.

    Functions are replaced in the module of the network alone, by what is the same where nothing is traced.
    """
    module = sys.modules[type(network.model).__module__]
    sizes_kept = {
        "len": lambda values: values.shape[0] if isinstance(values, Tensor) else builtins.len(values),
        "torch_int": lambda size: size,
    }
    with mock.patch.dict(vars(module), sizes_kept), mock.patch.dict(os.environ, {WITHOUT_CHECKS: "1"}):
        yield


def strides_of(network: Any) -> tuple[int, ...]:
    """The strides of the feature maps that a network without memory looks at, pixels, finest first.

    Raises:
        VerificationError: they are not those that its description says, or no strides.
    """
    said = tuple(network.config.feat_strides)
    if not said or not all(isinstance(each, int) and 1 <= each <= LARGEST_STRIDE for each in said):
        raise VerificationError(f"config.json: feat_strides are {said}, not pixels from 1 to {LARGEST_STRIDE}")
    side = LOOKED_AT * max(said)
    try:
        with torch.no_grad():
            images, mask = (torch.empty(shape, device="meta") for shape in ((1, 3, side, side), (1, side, side)))
            maps = [feature for feature, _ in network.model.backbone(images, mask)]
    except Exception as error:
        raise VerificationError(f"the backbone of the teacher takes no colour images ({one_line(error)})") from error
    seen = tuple(side // feature.shape[2] for feature in maps)
    if seen != said or any(coarse != 2 * fine for fine, coarse in pairwise(seen)):
        raise VerificationError(
            f"config.json: feat_strides are {said}, and the backbone's are {seen}; each must be twice the one before"
        )
    return seen


def _fields(kind: str) -> frozenset[str]:
    """The names that a class of the library gives to the fields of a description, those of every model left out."""
    package = library()
    own = getattr(package, kind).__annotations__
    return frozenset(name for name in own if not name.startswith("_") and name not in ("model_type", "layer_types"))


def _channels(stored: Any) -> list[float] | None:
    """A number for each channel of pixels."""
    if stored is None:
        return None
    if not (isinstance(stored, list) and len(stored) == 3 and all(isinstance(each, int | float) for each in stored)):
        raise VerificationError("its mean or deviation of pixels is not a number for each of three channels")
    return [float(each) for each in stored]
