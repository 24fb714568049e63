import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.plan import StageCommand
from pipeline.preflight.findings import Findings
from schemas.base import validate_config
from schemas.run_config import RunConfig

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


FINDINGS = Findings(
    family="ultralytics", classes=8, parameters=800_000, image_size=160, own_size=True, labelled_images=256,
    photos=None,
    bytes_needed=10**8, bytes_free=10**10, seconds={"synth": 60.0, "qat": 30.0, "eval": 30.0},
)  # fmt: skip


def zsq(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class RecordingExecutor:
    """Succeeds at everything and remembers what it was asked."""

    commands: list[StageCommand] = []  # noqa: RUF012

    def run(self, command: StageCommand) -> int:
        assert command.config_path.exists()
        self.commands.append(command)
        return 0


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> type[RecordingExecutor]:
    monkeypatch.setattr(RecordingExecutor, "commands", [])
    monkeypatch.setattr("pipeline.conductor.EXECUTORS", {"local": RecordingExecutor})
    monkeypatch.setattr("pipeline.conductor.preflight", lambda config, containers: FINDINGS)
    return RecordingExecutor


def surface(command: Any, name: str = "zsq") -> dict[str, list[str]]:
    if hasattr(command, "commands"):
        below: dict[str, list[str]] = {}
        for sub, inner in command.commands.items():
            below |= surface(inner, f"{name} {sub}")
        return below
    return {name: sorted(option for parameter in command.params for option in parameter.opts)}


def test_the_public_command_line_is_frozen():
    """Changing this list breaks somebody's script: add a line to CHANGELOG.md when you do."""
    assert surface(typer.main.get_command(app)) == {
        "zsq run": [
            "--bits",
            "--budget",
            "--data",
            "--dry-run",
            "--executor",
            "--images",
            "--max-drop",
            "--output",
            "--overwrite",
            "--photos",
            "--set",
            "--size",
            "--storage",
            "--target",
            "source",
        ],
        "zsq synth": ["--config", "--output", "--overwrite", "--run-config", "--set"],
        "zsq qat": ["--calibration-set", "--config", "--output", "--overwrite", "--run-config", "--set"],
        "zsq sensitivity": [
            "--budget",
            "--calibration-set",
            "--candidates",
            "--config",
            "--max-drop",
            "--output",
            "--overwrite",
            "--run-config",
            "--set",
        ],
        "zsq eval": [
            "--calibration-set",
            "--config",
            "--held-back",
            "--output",
            "--overwrite",
            "--run-config",
            "--set",
            "--student",
        ],
        "zsq export": [
            "--calibration-set",
            "--image-size",
            "--int4",
            "--output",
            "--overwrite",
            "--student",
            "--target",
        ],
        "zsq targets": [],
        "zsq thresholds": ["--evaluation", "--student"],
        "zsq report page": ["--calibration-set", "--evaluation", "--output", "--student", "storage"],
        "zsq report compare": ["--output", "folders"],
        "zsq report track": ["--experiment", "--to", "evaluation"],
        "zsq set export": ["--format", "--output", "folder"],
        "zsq set inspect": ["--json", "folder"],
        "zsq set merge": ["--allow", "--output", "--overwrite", "folders"],
        "zsq set privacy": ["--against", "--features", "--output", "--record", "folder"],
        "zsq set pull": ["--digest", "--overwrite", "folder", "source"],
        "zsq set push": ["--overwrite", "folder", "target"],
        "zsq set subset": ["--class", "--count", "--output", "--overwrite", "--samples", "folder"],
        "zsq set verify": ["folder"],
    }


def test_version_is_printed():
    result = zsq("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"zsq \S+\n", result.stdout)


def loaded_by(*arguments: object) -> tuple[str, set[str]]:
    """What a command says, and which large libraries its own process has loaded at its end; it starts no other."""
    script = (
        "import subprocess, sys; subprocess.Popen = None\n"
        "from pipeline.cli import app\n"
        "try: app()\n"
        "finally: print('loaded:', *({'torch', 'torchvision', 'ultralytics', 'onnx', 'numpy'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in found.stderr, found.stderr
    return found.stdout + found.stderr, set(found.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("run", "--help"), ("set", "--help")])
def test_what_only_answers_loads_nothing(arguments):
    assert loaded_by(*arguments)[1] == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "synth.imagess=3"), "did you mean 'images'?"),
        (("--target", "nothing"), "'onnxruntime'"),
        (("--data", "nowhere"), "does not exist"),
        (("{checkpoint}",), "another task (classification)"),
        (("{labels}",), "labels"),
    ],
    ids=["typo", "target", "no labels", "classification", "labels missing"],
)
def test_a_refusal_that_needs_no_detector_does_not_wait_for_torch(tmp_path, arguments, said):
    named = b"\x80\x02cultralytics.nn.tasks\nClassificationModel\n."
    (tmp_path / "yolo11n-cls.pt").write_bytes(named)
    (tmp_path / "data" / "images").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "data" / "images" / "1.png")
    places = {
        "{checkpoint}": (tmp_path / "yolo11n-cls.pt",), "{labels}": ("--data", tmp_path / "data"),
    }  # fmt: skip
    given = [each for argument in arguments for each in places.get(argument, (argument,))]
    text, loaded = loaded_by("run", *given, "--output", tmp_path / "out")
    assert said in text
    assert not loaded & {"torch", "torchvision", "ultralytics", "onnx"}


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("sead: 1\n", (), "unknown key 'sead'; did you mean 'seed'?"),
        (
            "synth:\n  labels:\n    itertions: 3\n",
            (),
            "unknown key 'synth.labels.itertions'; did you mean 'iterations'?",
        ),
        (
            "qat:\n  bits:\n    weight_bits: 1\n",
            (),
            "qat.bits.weight_bits: got 1, should be greater than or equal to 2",
        ),
        ("- one\n", (), "must hold `key: value` lines, got list"),
        ("seed: !!python/object/apply:os.getpid []\n", (), "not plain YAML"),
        ("", ("--set", "seed"), "write it as key=value"),
        ("", ("--set", "seed=x"), "seed: got 'x'"),
        ("seed: 1\n", ("--set", "seed.x=1"), "seed is a plain value"),
        ("image_size: 16\n", (), "image_size: got 16"),
        ("eval:\n  data: no/such.json\n", (), "eval.data: no/such.json does not exist"),
        ("teacher:\n  path: no/such.pt\n", (), "teacher.path: no/such.pt does not exist"),
        ("synth:\n  labels: {source: given, path: none.json}\n", (), "synth.labels.path: none.json does not exist"),
        ("qat:\n  teacher: {path: other.pt}\n", (), "a run has one teacher"),
    ],
)
def test_a_bad_setting_is_one_line_exit_2_and_starts_nothing(tmp_path, executor, content, arguments, message):
    config = tmp_path / "run.yaml"
    config.write_text(content)
    result = zsq("run", config, "--storage", tmp_path / "storage", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("zsq run: ") and result.stderr.count("\n") == 1
    assert executor.commands == [] and not (tmp_path / "storage").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "4.5", "--max-drop", "1"), "max-drop: got 1, and qat.sensitivity.budget (--budget) is 4.5"),
        (("--bits", "w4a8", "--budget", "4.5"), "bits: w4a8 asks for 4 weight bits, but budget 4.5"),
        (("--bits", "w4a8", "--max-drop", "1"), "bits: w4a8 asks for 4 weight bits, but max-drop 1"),
        (("--images", "8", "--set", "synth.images=16"), "synth.images: is set to 16, but the command asks for 8"),
        (("--set", "qat.bits.mean_weight_bits=4.5"), "set sensitivity.budget to ask for a mean"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_options_that_contradict_each_other_are_one_line_exit_2_and_start_nothing(
    tmp_path, executor, arguments, said, dry
):
    result = zsq("run", "--output", tmp_path / "out", *arguments, *dry)
    assert result.exit_code == 2
    assert result.stderr.startswith("zsq run: ") and result.stderr.count("\n") == 1
    assert said in result.stderr
    assert executor.commands == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("sensitivity.budget=3", "sensitivity.budget: is set to 3, but the command asks for 4.5"),
        (
            "sensitivity={candidates: [2, 8]}",
            "sensitivity.candidates: is set to [2, 8], but the command asks for [4,8]",
        ),
    ],
)
def test_a_measurement_of_layers_has_one_budget(tmp_path, monkeypatch, assignment, said):
    monkeypatch.setattr("pipeline.local_executor.run_job", lambda module, arguments: 0)
    options = ("--calibration-set", tmp_path, "--output", tmp_path / "out", "--budget", "4.5", "--candidates", "4,8")
    refused = zsq("sensitivity", *options, "--set", assignment)
    assert refused.exit_code == 2
    assert f"zsq sensitivity: {said}" in refused.stderr
    assert zsq("sensitivity", *options, "--set", "sensitivity.candidates=[4, 8]").exit_code == 0


def test_an_option_changes_what_an_environment_variable_sets(tmp_path, executor, monkeypatch):
    monkeypatch.setenv("ZSQ_SET", "synth.images=16 seed=3")
    assert zsq("run", "--output", tmp_path / "out", "--images", "8").exit_code == 0
    assert (executor.commands[0].config.images, executor.commands[0].config.seed) == (8, 3)


def test_a_missing_configuration_file_is_one_line_exit_2(tmp_path):
    result = zsq("run", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "none.yaml: cannot be read" in result.stderr and result.stderr.count("\n") == 1


def test_a_storage_that_cannot_be_a_folder_is_one_line_exit_2(tmp_path):
    (tmp_path / "file").write_text("")
    result = zsq("run", "--storage", tmp_path / "file")
    assert result.exit_code == 2
    assert "cannot be created" in result.stderr and result.stderr.count("\n") == 1


def test_without_a_docker_engine_the_run_is_refused_in_one_line_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    result = zsq("run", "--executor", "docker", "--storage", tmp_path / "storage")
    assert result.exit_code == 2
    assert "no Docker engine answers" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "storage").exists()


def test_a_dry_run_prints_a_plan_that_reads_back_and_writes_nothing(tmp_path, executor, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = zsq("run", "--dry-run", "--set", "seed=5")
    assert result.exit_code == 0
    assert list(tmp_path.iterdir()) == [] and executor.commands == []
    for stage in ("synth", "qat", "eval"):
        assert f"#   zsq {stage} --config runs/default/config/{stage}.yaml" in result.stdout
    run = validate_config(RunConfig, yaml.safe_load(result.stdout), "plan")
    assert (run.seed, run.synth.seed, run.qat.seed) == (5, 5, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["eval.data=d/data.yaml"], "does not name its classes"),
        (["eval.data=d"], "a.txt, line 1: class index x"),
        (["eval.data=d/data.json"], "not a COCO instances file"),
        (["eval.data=d", "eval.images=d/images"], "images goes with a COCO JSON file only"),
        (["eval.split=test"], "split: got 'test'"),
        (["synth.labels.source=given", "synth.labels.path=d/labels"], "a.txt, line 1: class index x"),
        (["eval.data=" + "d" * 5000], "does not exist"),
    ],
)
def test_labels_that_cannot_be_read_are_found_before_the_first_stage(
    tmp_path, executor, monkeypatch, settings, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("images", "labels"):
        (tmp_path / "d" / name).mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "d" / "images" / "a.png")
    (tmp_path / "d" / "labels" / "a.txt").write_text("1.5 0.5 0.5 0.1 0.1\n")
    (tmp_path / "d" / "data.yaml").write_text("path: .\nval: images\n")
    (tmp_path / "d" / "data.json").write_text("{}")
    dry_run = [argument for setting in settings for argument in ("--set", setting)]
    result = zsq("run", "--dry-run", *dry_run)
    assert result.exit_code == 2 and executor.commands == []
    assert message.replace("index x", "index 1.5") in result.stderr and result.stderr.count("\n") == 1
    assert len(result.stderr) < 6000


def test_without_a_configuration_the_embedded_default_runs(tmp_path, executor):
    result = zsq("run", "--storage", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert [command.stage for command in executor.commands] == ["synth", "qat", "eval"]
    assert executor.commands[0].config.teacher.path == "embedded"
    for made in ("calibration", "student", "eval/report.html"):
        assert str(tmp_path / "out" / made) in result.stdout


def test_overwrite_reaches_every_stage(tmp_path, executor):
    assert zsq("run", "--storage", tmp_path / "out", "--overwrite").exit_code == 0
    assert all(command.arguments[-1] == "--overwrite" for command in executor.commands)


@pytest.mark.parametrize(
    ("arguments", "module", "expected"),
    [
        (
            ("synth", "--config", "c.yaml", "--set", "seed=1", "--set", "images=2", "--output", "o", "--overwrite"),
            "synth_job",
            ["--config", "c.yaml", "--set", "seed=1", "--set", "images=2", "--output", "o", "--overwrite"],
        ),
        (
            ("qat", "--calibration-set", "s", "--output", "o"),
            "qat_job",
            ["--calibration-set", "s", "--output", "o"],
        ),
        (
            ("eval", "--student", "a", "--student", "b", "--calibration-set", "s", "--output", "o"),
            "eval_job",
            ["--student", "a", "--student", "b", "--calibration-set", "s", "--output", "o"],
        ),
    ],
)
def test_a_stage_alone_gets_its_options_and_gives_its_exit_code(monkeypatch, arguments, module, expected):
    asked = []

    def run_job(module: str, arguments: list[str]) -> int:
        asked.append((module, list(arguments)))
        return 3

    monkeypatch.setattr("pipeline.local_executor.run_job", run_job)
    assert zsq(*arguments).exit_code == 3
    assert asked == [(module, expected)]


@pytest.mark.parametrize("arguments", [(), ("runs/default", "--evaluation", "eval")])
def test_a_report_is_of_a_run_or_of_an_evaluation(arguments):
    result = zsq("report", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("zsq report: name either") and result.stderr.count("\n") == 1


def test_a_report_without_an_evaluation_is_one_line_exit_2(tmp_path):
    result = zsq("report", tmp_path)
    assert result.exit_code == 2
    assert "no finished evaluation here" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid_run_configurations(path):
    validate_config(RunConfig, yaml.safe_load(path.read_text()), path.name)
