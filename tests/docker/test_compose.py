"""`docker compose up synth qat eval` on a real engine."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.evaluation import EvalReport
from schemas.student import StudentManifest
from stages.shards import open_calibration_set
from stages.storage import file_digest
from tests.docker.conftest import ROOT, STAGES, Project, assignments

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]

IMAGE_USER = 10001
OUTPUTS = ("calibration/manifest.json", "student/student.json", "eval/report.json", "eval/report.html")


@pytest.fixture(scope="module")
def default_run(make_project: Callable[[], Project]) -> Project:
    """The run that nothing is set for, finished."""
    project = make_project()
    code, output = project.up(*STAGES)
    assert code == 0, output
    return project


@pytest.fixture(scope="module")
def artifacts(default_run: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What that run left on its volume, copied out."""
    return default_run.copy_out(tmp_path_factory.mktemp("volume") / "data")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(folder.glob("calib-*.tar"))}


def test_with_nothing_set_all_three_stages_end_well(default_run: Project) -> None:
    assert default_run.states() == dict.fromkeys(STAGES, ("exited", 0))


def test_everything_on_the_volume_belongs_to_the_images_user(default_run: Project) -> None:
    arguments = ("/data", "!", "-user", str(IMAGE_USER), "-o", "!", "-group", str(IMAGE_USER))
    others = default_run("run", "--rm", "--no-deps", "--entrypoint", "find", "synth", *arguments, check=True)
    assert others.stdout == ""


def test_the_volume_holds_a_set_a_student_made_of_it_and_their_evaluation(artifacts: Path) -> None:
    made = open_calibration_set(artifacts / "calibration").manifest
    student = StudentManifest.read(artifacts / "student" / "student.json")
    report = EvalReport.read(artifacts / "eval" / "report.json")
    assert student.calibration_set.digest == made.digest
    assert student.weights_sha256 in {model.weights_sha256 for model in report.models}
    full, before, after = (report.models[number].precision.map50_95 for number in range(3))
    assert before < after < full, "training on synthetic images must bring back what 3-bit weights lose"
    assert made.provenance.code_version != "0+uninstalled"


def test_a_second_up_repeats_nothing(default_run: Project, artifacts: Path, tmp_path: Path) -> None:
    before = {path: (artifacts / path).stat().st_mtime_ns for path in OUTPUTS}
    code, output = default_run.up(*STAGES)
    assert code == 0
    assert output.count("up to date") == 3
    after = default_run.copy_out(tmp_path / "data")
    assert {path: (after / path).stat().st_mtime_ns for path in OUTPUTS} == before


def test_a_set_from_a_volume_serves_a_training_outside_of_docker(artifacts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "qat", "--calibration-set", str(artifacts / "calibration")]
    settings = ["--set", "ptq_only=true", "--set", "calibration_images=2"]
    finished = subprocess.run(
        [*command, "--output", str(tmp_path / "student"), *settings], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    manifest = open_calibration_set(artifacts / "calibration").manifest  # verifies every shard's digest
    assert StudentManifest.read(tmp_path / "student" / "student.json").calibration_set.digest == manifest.digest


def test_bad_bits_in_the_run_s_configuration_stop_it_before_the_first_stage_works(project: Project) -> None:
    code, output = project.up(*STAGES, ZSQ_SET=assignments(qat__bits__weight_bits=99))
    assert code != 0
    assert "qat.bits.weight_bits: got 99" in output
    assert project.states() == {"synth": ("exited", 2), "qat": ("created", 0), "eval": ("created", 0)}


def test_a_failing_qat_keeps_eval_from_starting_and_fails_the_command(project: Project, tmp_path: Path) -> None:
    bad_bits = tmp_path / "bad-bits.yaml"
    bad_bits.write_text(
        json.dumps({"services": {"qat": {"environment": {"ZSQ_SET": assignments(qat__bits__weight_bits=99)}}}})
    )
    project.files.append(bad_bits)
    code, output = project.up(*STAGES, ZSQ_SET=assignments())
    assert code != 0
    assert "qat.bits.weight_bits: got 99" in output
    assert project.states() == {"synth": ("exited", 0), "qat": ("exited", 2), "eval": ("created", 0)}


def test_a_failing_eval_fails_the_command_that_the_readme_names(project: Project) -> None:
    settings = assignments(eval__data="/validation")  # an empty volume
    code, output = project.up("--abort-on-container-failure", *STAGES, ZSQ_SET=settings)
    assert code != 0
    assert "zsq eval: validation data /validation" in output
    assert project.states() == {"synth": ("exited", 0), "qat": ("exited", 0), "eval": ("exited", 2)}


def test_a_stopped_synth_goes_on_at_its_shard_and_ends_with_the_same_bytes(
    make_project: Callable[[], Project], tmp_path: Path
) -> None:
    settings = assignments(synth__images=6, synth__inversion__iterations=150)
    stopped, uninterrupted = make_project(), make_project()
    stopped("up", "--detach", "synth", check=True, ZSQ_SET=settings)
    following = subprocess.Popen(stopped.command("logs", "-f", "synth"), stdout=subprocess.PIPE, text=True)
    assert following.stdout is not None
    assert any("shard 2 of 3" in line for line in following.stdout)
    stopped("stop", "synth", check=True)
    following.communicate(timeout=60)
    assert stopped.states()["synth"] == ("exited", 143)
    first = stopped.copy_out(tmp_path / "stopped") / "calibration"
    assert list(digests(first)) == ["calib-000000.tar"], "the shard at work is dropped, finished ones are kept"

    _, output = stopped.up("synth", ZSQ_SET=settings)
    assert stopped.states()["synth"] == ("exited", 0), output
    assert "shard 1 of 3" not in output and "shard 2 of 3" in output
    assert uninterrupted.up("synth", ZSQ_SET=settings)[0] == 0
    after = stopped.copy_out(tmp_path / "resumed") / "calibration"
    reference = uninterrupted.copy_out(tmp_path / "reference") / "calibration"
    assert digests(after) == digests(reference)
    assert open_calibration_set(after).manifest.digest == open_calibration_set(reference).manifest.digest


def test_two_ranks_of_torchrun_make_the_set_of_one(make_project: Callable[[], Project], tmp_path: Path) -> None:
    job = ("-m", "synth_job", "--output", "/data/calibration")
    commands = {
        "several": ("torchrun", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2", *job),
        "alone": ("python", *job),
    }
    made = {}
    for name, (program, *arguments) in commands.items():
        project = make_project()
        container = f"{project.name}-{name}"
        # The number of threads decides the order of sums on a CPU, and so the last digits; torchrun would take one.
        run = ("run", "--no-deps", "--env", "OMP_NUM_THREADS=1", "--name", container, "--entrypoint", program)
        finished = project(*run, "synth", *arguments, ZSQ_SET=assignments())
        assert finished.returncode == 0, finished.stderr
        subprocess.run(["docker", "cp", f"{container}:/data", str(tmp_path / name)], check=True, capture_output=True)
        made[name] = digests(tmp_path / name / "calibration")
    assert made["several"] == made["alone"] and len(made["alone"]) == 2
    assert (tmp_path / "several" / "calibration" / "manifest.json").exists()


def test_a_host_folder_and_a_run_file_take_the_place_of_volume_and_default(project: Project, tmp_path: Path) -> None:
    storage, run_file = tmp_path / "storage", tmp_path / "run.yaml"
    storage.mkdir(mode=0o777)
    storage.chmod(0o777)
    run_file.write_text("seed: 11\n")
    environment = {"ZSQ_STORAGE": str(storage), "ZSQ_RUN_CONFIG": str(run_file), "ZSQ_SET": assignments()}
    assert project.up("synth", **environment)[0] == 0
    assert open_calibration_set(storage / "calibration").manifest.seed == 11


def test_a_missing_run_file_is_refused_and_no_folder_appears_in_its_place(project: Project, tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    code, output = project.up("synth", ZSQ_RUN_CONFIG=str(missing))
    assert code != 0 and "missing.yaml" in output
    assert not missing.exists()


def test_a_read_only_folder_for_the_output_is_one_line_and_exit_2(project: Project, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir(mode=0o755)  # of whoever runs the tests, not of the images' user
    _, output = project.up("synth", ZSQ_STORAGE=str(storage), ZSQ_SET=assignments())
    assert project.states()["synth"] == ("exited", 2)
    assert "zsq synth: folder /data/calibration: cannot be created (Permission denied)" in output
    assert "shard 1" not in output, "found out before any work"


def test_the_gpu_file_adds_a_reservation_to_every_stage(project: Project) -> None:
    project.files.append(ROOT / "docker" / "compose.gpu.yml")
    merged = json.loads(project("--profile", "check", "config", "--format", "json", check=True).stdout)
    for stage in (*STAGES, "check"):
        (device,) = merged["services"][stage]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"] and device["driver"] == "nvidia"
