"""Time of one image in an inference engine, all models measured side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval_job.onnx_model import SINGLE, OnnxFile
from eval_job.operator_times import operator_times
from quantization.onnx.engine import CPU, Engine, Images, engine_title, open_engine, seconds_of
from schemas.engine_timing import OperatorTime, Spread, Throughput
from schemas.eval_config import EngineName, OnnxEvaluation
from schemas.evaluation import Latency
from schemas.image_size import ImageSize
from stages.threads import usable_cores

WARM_UP = 3
"""Untimed runs of each model: engines compile and allocate in the first ones."""


@dataclass(frozen=True)
class Timing:
    """What is known of the time that a file takes."""

    latencies: tuple[Latency, ...] = ()
    throughput: tuple[Throughput, ...] = ()
    operator_times: tuple[OperatorTime, ...] = ()

    def described(self) -> dict[str, Any]:
        """Fields of a row of the report."""
        return {
            "latencies": self.latencies,
            "throughput": self.throughput,
            "operator_times": self.operator_times,
        }


def time_files(files: Sequence[OnnxFile], image_size: ImageSize, settings: OnnxEvaluation) -> dict[str, Timing]:
    """The timing of each file by the name of its row: a student's in its engine, the teacher's in each of those.

    Args:
        files: to time.
        image_size: of the input.
        settings: threads, repetitions, batches and providers.

    Raises:
        ConfigError: an engine or a provider is not installed.
        VerificationError: an engine cannot read a file.
    """
    timings: dict[str, Timing] = {file.name: Timing() for file in files}
    for engine in dict.fromkeys(file.engine for file in files if file.engine):
        there = [file for file in files if file.timed_in(engine)]
        measured = measure_latencies(
            {file.name: file.path for file in there},
            image_size,
            engine=engine,
            threads=settings.threads or tuple(sorted({1, usable_cores()})),
            repetitions=settings.repetitions,
            providers=settings.providers,
        )
        throughput = measure_throughput(there, image_size, engine, settings)
        for file in there:
            before = timings[file.name]
            operators = before.operator_times
            if settings.profile and not operators and settings.providers[0] == CPU[0]:
                operators = operator_times(file.path, engine, noise(1, image_size))
            timings[file.name] = Timing(
                before.latencies + measured[file.name], before.throughput + throughput[file.name], operators
            )
    return timings


def measure_throughput(
    files: Sequence[OnnxFile], image_size: ImageSize, engine: EngineName, settings: OnnxEvaluation
) -> dict[str, tuple[Throughput, ...]]:
    """Images a second of each file at each batch size with all usable cores, files taking turns run by run.

    Files that take one image of one size are measured at batch 1 alone.
    """
    threads = usable_cores()
    found: dict[str, list[Throughput]] = {file.name: [] for file in files}
    for batch in settings.batches:
        able = {file.name: file for file in files if batch == 1 or not file.takes_one_image}
        runs = {
            name: open_engine(file.path, engine, threads=threads, providers=settings.providers)
            for name, file in able.items()
        }
        repetitions = max(2, settings.repetitions // batch)
        for name, seconds in _interleaved(runs, noise(batch, image_size), repetitions, warm_up=1).items():
            found[name].append(
                Throughput(
                    engine=engine_title(engine, settings.providers),
                    threads=threads,
                    batch=batch,
                    images_per_second=batch / float(np.median(seconds)),
                    repetitions=repetitions,
                )
            )
    return {name: tuple(each) for name, each in found.items()}


def noise(batch: int, image_size: ImageSize) -> Images:
    """An input; its content does not change the time."""
    shape = (batch, 3, image_size.height, image_size.width)
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def measure_latencies(
    files: Mapping[str, Path],
    image_size: ImageSize,
    *,
    engine: EngineName,
    threads: Sequence[int],
    repetitions: int,
    providers: Sequence[str] = CPU,
) -> dict[str, tuple[Latency, ...]]:
    """Median, 5th and 95th percentile of each model in an engine, by threads, at batch 1.

    Models take turns run by run, so that whatever else the machine does falls on all of them alike; where the teacher's
    FP32 file is among them, the others are held against it turn by turn.

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
    image = noise(1, image_size)
    full_precision = next((name for name, path in files.items() if path.name == SINGLE), None)
    measured: dict[str, list[Latency]] = {name: [] for name in files}
    for count in threads:
        runs = {name: open_engine(path, engine, threads=count, providers=providers) for name, path in files.items()}
        taken = _interleaved(runs, image, repetitions)
        for name, seconds in taken.items():
            p5, median, p95 = (float(value) * 1e3 for value in np.percentile(seconds, (5, 50, 95)))
            full = None if name == full_precision else taken.get(full_precision or "")
            measured[name].append(
                Latency(
                    engine=engine_title(engine, providers),
                    threads=count,
                    median_ms=median,
                    p95_ms=p95,
                    p5_ms=p5,
                    speed_up=None if full is None else _spread(np.array(full) / np.array(seconds)),
                    repetitions=repetitions,
                )
            )
    return {name: tuple(latencies) for name, latencies in measured.items()}


def _spread(values: NDArray[np.float64]) -> Spread:
    low, median, high = (float(value) for value in np.percentile(values, (5, 50, 95)))
    return Spread(median=median, low=low, high=high)


def _interleaved(
    runs: Mapping[str, Engine], image: Images, repetitions: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    for _ in range(warm_up):
        for run in runs.values():
            run(image)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, image))
    return seconds
