"""Time of one image in an inference engine, all models measured side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eval_job.onnx_model import OnnxFile
from quantization.onnx.engine import CPU, Engine, engine_title, open_engine, seconds_of
from schemas.eval_config import EngineName, OnnxEvaluation
from schemas.evaluation import Latency
from schemas.image_size import ImageSize
from stages.threads import usable_cores

WARM_UP = 3
"""Untimed runs of each model: engines compile and allocate in the first ones."""


def time_files(
    files: Sequence[OnnxFile], image_size: ImageSize, settings: OnnxEvaluation
) -> dict[str, tuple[Latency, ...]]:
    """The latencies of each file by the name of its row: a student's in its engine, the teacher's in each of those.

    Args:
        files: to time.
        image_size: of the input.
        settings: threads, repetitions and providers.

    Raises:
        ConfigError: an engine or a provider is not installed.
        VerificationError: an engine cannot read a file.
    """
    latencies: dict[str, tuple[Latency, ...]] = {}
    for engine in dict.fromkeys(file.engine for file in files if file.engine):
        measured = measure_latencies(
            {file.name: file.path for file in files if file.timed_in(engine)},
            image_size,
            engine=engine,
            threads=settings.threads or tuple(sorted({1, usable_cores()})),
            repetitions=settings.repetitions,
            providers=settings.providers,
        )
        for name, found in measured.items():
            latencies[name] = latencies.get(name, ()) + found
    return latencies


def measure_latencies(
    files: Mapping[str, Path],
    image_size: ImageSize,
    *,
    engine: EngineName,
    threads: Sequence[int],
    repetitions: int,
    providers: Sequence[str] = CPU,
) -> dict[str, tuple[Latency, ...]]:
    """Median and 95th percentile of each model in an engine, by threads, at batch 1.

    Models take turns run by run, so that whatever else the machine does falls on all of them alike.

    Args:
        files: model files by name.
        image_size: of the input; its content (noise) does not change the time.
        engine: which.
        threads: thread counts.
        repetitions: timed runs of each.
        providers: ONNX Runtime's execution providers.

    Raises:
        ConfigError: the engine or a provider is not installed.
        VerificationError: the engine cannot read a model.
    """
    shape = (1, 3, image_size.height, image_size.width)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    measured: dict[str, list[Latency]] = {name: [] for name in files}
    for count in threads:
        runs = {name: open_engine(path, engine, threads=count, providers=providers) for name, path in files.items()}
        for name, seconds in _interleaved(runs, image, repetitions).items():
            median, p95 = (float(value) * 1e3 for value in np.percentile(seconds, (50, 95)))
            measured[name].append(
                Latency(
                    engine=engine_title(engine, providers),
                    threads=count,
                    median_ms=median,
                    p95_ms=p95,
                    repetitions=repetitions,
                )
            )
    return {name: tuple(latencies) for name, latencies in measured.items()}


def _interleaved(
    runs: Mapping[str, Engine], image: np.ndarray[tuple[int, ...], np.dtype[np.float32]], repetitions: int
) -> dict[str, list[float]]:
    for _ in range(WARM_UP):
        for run in runs.values():
            run(image)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, image))
    return seconds
