"""The wheel, in an environment of its own and outside a checkout, on each supported Python that is on this machine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

ROOT = Path(__file__).resolve().parents[2]
SMALLEST = (
    "image_size=96", "synth.images=4", "synth.shard_size=2", "synth.labels.size=64", "synth.labels.iterations=3",
    "synth.labels.warm_up=1", "synth.labels.interval=1", "synth.inversion.iterations=2",
    "qat.ptq_only=true", "qat.targets=[]", "eval.batch=64",
)  # fmt: skip


def command(*arguments: str | Path, folder: Path) -> str:
    """What a command says that ends well, started as by somebody who never saw this checkout."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("ZSQ_", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [*map(str, arguments)], cwd=folder, env=clean, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interpreter(version: str) -> Path:
    """A Python of `version`, on PATH or among pyenv's."""
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    on_path = shutil.which(f"python{version}")
    for path in (*pyenv, *([Path(on_path)] if on_path else [])):
        asked = subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        )
        if asked.stdout.strip() == version:
            return path
    pytest.skip(f"there is no Python {version} on this machine")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command("uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT, folder=folder)
    export = ("uv", "export", "--quiet", "--locked", "--no-emit-project", "--no-hashes", "--no-default-groups")
    command(*export, "--output-file", folder / "locked.txt", folder=ROOT)
    (built,) = folder.glob("zsq-*.whl")
    return built


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_wheel_runs_outside_a_checkout(wheel: Path, version: str, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    python, zsq = environment / "bin" / "python", environment / "bin" / "zsq"
    command("uv", "venv", "--quiet", "--python", interpreter(version), environment, folder=tmp_path)
    install = ("uv", "pip", "install", "--quiet", "--python", python, "--constraint", wheel.parent / "locked.txt")
    command(*install, wheel, folder=tmp_path)

    assert command(zsq, "--version", folder=tmp_path) == f"zsq {wheel.name.split('-')[1]}\n"
    where = command(python, "-c", "import schemas, pipeline; print(schemas.__file__)", folder=tmp_path)
    assert where.startswith(str(environment))
    assert "onnxruntime" in command(zsq, "targets", folder=tmp_path)
    settings = [part for assignment in SMALLEST for part in ("--set", assignment)]
    assert "zsq synth" in command(zsq, "run", "--dry-run", *settings, folder=tmp_path)
    if version == "3.11":
        command(zsq, "run", *settings, folder=tmp_path)
        assert (tmp_path / "runs" / "default" / "eval" / "report.html").is_file()
