"""The lists of packages that the images install, from what the lock file names; run by the Dockerfile.

    python docker/requirements.py EXPORTED FOLDER cuda|cpu

reads what `uv export` wrote and writes `base.txt`, what every stage installs, `onnx.txt`, the same and ONNX, and
`torch.txt`. The last one is empty for `cuda`, where the lock file's own builds of PyTorch come from PyPI. For `cpu` it
names the same versions, to be taken from an index of CPU builds, whose files the lock file knows no hashes of.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ONNX = {"onnx", "onnx-ir", "onnxruntime", "onnxscript", "onnxslim", "ml-dtypes", "protobuf", "flatbuffers"}
"""What qat and eval have beyond synth."""
UNUSED = {"polars", "polars-runtime-32", "triton"}
"""What Ultralytics trains and PyTorch compiles with, which no stage does; they go on without them."""
TORCH = {"torch", "torchvision"}
CUDA = ("cuda-", "nvidia-")
"""How the packages begin that only a CUDA build of PyTorch needs."""
NOT_CUDA = {"nvidia-ml-py"}
"""Plain Python that Ultralytics asks for."""


def blocks(exported: str) -> Iterator[tuple[str, str]]:
    """Name and text, hashes included, of each requirement."""
    block: list[str] = []
    for line in exported.splitlines():
        if line.lstrip().startswith("#") or not line.strip():
            continue
        block.append(line)
        if not line.endswith("\\"):
            yield block[0].partition("==")[0].strip(), "\n".join(block)
            block = []


def needs_cuda(name: str) -> bool:
    """Whether a package is of no use to a CPU build."""
    return name.startswith(CUDA) and name not in NOT_CUDA


def lists(exported: str, torch: str) -> dict[str, str]:
    """The text of each list by its file name.

    Raises:
        SystemExit: `torch` is neither `cuda` nor `cpu`.
    """
    if torch not in ("cuda", "cpu"):
        raise SystemExit(f"TORCH={torch}: takes cuda or cpu")
    wanted = [(name, text) for name, text in blocks(exported) if name not in UNUSED]
    pinned = [text for name, text in wanted if name in TORCH]
    if torch == "cpu":
        wanted = [(name, text) for name, text in wanted if name not in TORCH and not needs_cuda(name)]
    return {
        "base.txt": joined(text for name, text in wanted if name not in ONNX),
        "onnx.txt": joined(text for _, text in wanted),
        "torch.txt": joined(text.partition("\\")[0].strip() for text in pinned) if torch == "cpu" else "",
    }


def joined(texts: Iterable[str]) -> str:
    """As a file of requirements."""
    return "".join(f"{text}\n" for text in texts)


def main(exported: str, folder: str, torch: str) -> None:
    """Write the lists."""
    for name, text in lists(Path(exported).read_text(encoding="utf-8"), torch).items():
        (Path(folder) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
