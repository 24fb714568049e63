"""Running an exported model: ONNX Runtime, OpenVINO where it is installed, LiteRT where its environment is named."""

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from quantization.engines.litert.environment import how_to_make, litert_version
from quantization.engines.litert.interpreter import LiteRtInterpreter
from quantization.onnx.names import INPUT
from schemas.errors import ConfigError, VerificationError
from schemas.eval_config import EngineName
from stages import extras
from stages.threads import usable_cores

Images = NDArray[np.float32]
Engine = Callable[[Images], Any]
"""`(B, 3, H, W)` images to decoded outputs: an array, or a tuple of arrays where a model gives several."""
CPU = ("CPUExecutionProvider",)
ONNX_ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
"""Those that read ONNX models."""


def open_engine(
    path: Path,
    engine: EngineName = "onnxruntime",
    *,
    threads: int | None = None,
    providers: Sequence[str] = CPU,
    float_products: bool = False,
) -> Engine:
    """Load an exported model into an engine.

    Args:
        path: the model file, verified.
        engine: which.
        threads: threads of one run; None for all usable cores.
        providers: ONNX Runtime's execution providers, best first.
        float_products: ONNX Runtime computes a product of integer weights and a float activation in float. By default,
            as users run it, it rounds that activation to 8 bits.

    Raises:
        ConfigError: the engine or a provider is not installed, or does not start.
        VerificationError: the engine cannot read the model.
    """
    check_engine(engine, providers)
    count = threads or usable_cores()
    if engine == "litert":
        return LiteRtInterpreter(path, count)
    if engine == "openvino":
        return _openvino(path, count)
    return _onnxruntime(path, count, providers, float_products)


def seconds_of(engine: Engine, images: Images) -> float:
    """Time of one run of one image, without what it takes to reach an engine in a process of its own."""
    start = time.perf_counter()
    engine(images)
    return engine.seconds if isinstance(engine, LiteRtInterpreter) else time.perf_counter() - start


def check_engine(engine: EngineName, providers: Sequence[str] = CPU) -> None:
    """Check that an engine can be opened here, before anything is done for it.

    Raises:
        ConfigError: the engine or a provider is not installed.
    """
    if engine not in installed_engines():
        raise ConfigError(f"{engine} is not installed; {how_to_install(engine)}")
    missing = [name for name in providers if name not in onnxruntime.get_available_providers()]
    if engine == "onnxruntime" and missing:
        raise ConfigError(
            f"onnx.providers: {', '.join(missing)} not in this onnxruntime (it has "
            f"{', '.join(onnxruntime.get_available_providers())}); install the build that has it, or change the setting"
        )


def installed_engines() -> tuple[EngineName, ...]:
    """The engines that are here."""
    openvino: tuple[EngineName, ...] = ("openvino",) if importlib.util.find_spec("openvino") else ()
    litert: tuple[EngineName, ...] = ("litert",) if litert_version() else ()
    return ("onnxruntime", *openvino, *litert)


def how_to_install(engine: EngineName) -> str:
    """What to do where an engine is missing."""
    return how_to_make() if engine == "litert" else extras.how_to_install(engine)


def engine_title(engine: EngineName, providers: Sequence[str] = CPU) -> str:
    """Name, version and device, for a report."""
    if engine == "onnxruntime":
        return f"onnxruntime {onnxruntime.__version__} {providers[0].removesuffix('ExecutionProvider')}"
    if engine == "litert":
        return f"litert {litert_version()} CPU"
    import openvino

    return f"openvino {openvino.__version__.partition('-')[0]} CPU"


def _onnxruntime(path: Path, threads: int, providers: Sequence[str], float_products: bool) -> Engine:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # Idle threads that spin would slow whatever runs next, PyTorch or another engine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if float_products:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # the library's own exceptions have no common base
        raise _unreadable(path, "onnxruntime", error) from error
    session.disable_fallback()
    if failed := set(providers) - set(session.get_providers()):
        raise ConfigError(
            f"onnx.providers: {', '.join(sorted(failed))} does not start here (driver or library missing?); "
            "leave it out, or mend the installation"
        )
    return lambda images: _outputs(session.run(None, {INPUT: images}))


def _openvino(path: Path, threads: int) -> Engine:
    import openvino

    core = openvino.Core()
    requests: dict[tuple[int, ...], openvino.InferRequest] = {}

    def run(images: Images) -> Any:
        if images.shape not in requests:  # compiled per shape: code for a free batch dimension is slower
            model = core.read_model(path)
            model.reshape(list(images.shape))
            hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            requests[images.shape] = core.compile_model(model, "CPU", hints).create_infer_request()
        results = requests[images.shape].infer({0: images})
        return _outputs([results[index].copy() for index in range(len(results))])

    try:
        core.read_model(path)
    except RuntimeError as error:
        raise _unreadable(path, "openvino", error) from error
    return run


def _outputs(arrays: Sequence[NDArray[np.float32]]) -> Any:
    """An array by itself where there is one."""
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def _unreadable(path: Path, engine: str, error: Exception) -> VerificationError:
    reason = " ".join(str(error).split())[:200]
    return VerificationError(f"{path}: {engine} cannot read it ({reason}); export it again")
