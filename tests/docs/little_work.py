"""Settings with which a whole run takes seconds: pages are tried with them, and not judged."""

LITTLE_WORK = {
    "synth.images": 4,
    "synth.labels.size": 96,
    "synth.labels.iterations": 4,
    "synth.labels.warm_up": 1,
    "synth.labels.interval": 1,
    "synth.inversion.iterations": 3,
    "qat.steps": 2,
    "eval.onnx.repetitions": 1,
}
