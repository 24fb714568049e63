"""Several runs, several students, sets of somebody else and plain `docker run`s, side by side on one engine."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.student import StudentManifest
from stages.shards import open_calibration_set
from tests.docker.conftest import ROOT, STAGES, Project, assignments

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

DONE = dict.fromkeys(STAGES, ("exited", 0))


def quickly(**changes: object) -> str:
    """The smallest settings without the files for engines, which other tests look at."""
    return assignments(qat__targets="[]", eval__onnx__models="none", eval__samples=0, **changes)


def begin(project: Project, **environment: str) -> subprocess.Popen[str]:
    """`up` of a whole run, in the background; any container of the project that fails ends it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ZSQ_")}
    command = project.command("up", "--abort-on-container-failure", *STAGES)
    return subprocess.Popen(
        command, cwd=ROOT, env=clean | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def side_by_side(make_project: Callable[[], Project]) -> Project:
    """Two projects and, from the first line of theirs on, a `docker run` that fails, all at once; the first project."""
    one, other = make_project(), make_project()
    runs = [begin(one, ZSQ_SET=quickly()), begin(other, ZSQ_SET=quickly(seed=1))]
    for run in runs:
        assert run.stdout is not None and any("shard 1" in line for line in run.stdout)
    # It carries no label of Compose's, or `up` would take it for its own, and its failure for that of the run.
    alone = subprocess.run(["docker", "run", "--rm", "--network", "none", "zsq-qat"], capture_output=True, text=True)
    assert alone.returncode == 2 and "no finished calibration set here" in alone.stderr
    for run in runs:
        output, _ = run.communicate()
        assert run.returncode == 0, output
    assert one.states() == other.states() == DONE
    return one


@pytest.fixture(scope="module")
def pulled(side_by_side: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first run's set as `zsq set pull` leaves one, verified in the image without PyTorch."""
    data = side_by_side.copy_out(tmp_path_factory.mktemp("volume") / "data")
    folder = tmp_path_factory.mktemp("sets") / "theirs"
    folder.parent.chmod(0o755)
    command = ["docker", "run", "--rm", "--user", "0:0", "-v", f"{data}:/data:ro", "-v", f"{folder.parent}:/sets"]
    arguments = ["zsq-set", "pull", "/data/calibration", "/sets/theirs"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert open_calibration_set(folder).manifest.digest == open_calibration_set(data / "calibration").manifest.digest
    return folder


def test_a_second_student_of_the_same_set_lies_beside_the_first(side_by_side: Project, tmp_path: Path) -> None:
    code, output = side_by_side.up(*STAGES, ZSQ_STUDENT="w6", ZSQ_SET=quickly(qat__bits__weight_bits=6))
    assert code == 0, output
    assert output.count("up to date") == 1, "the set is not made again"
    data = side_by_side.copy_out(tmp_path / "data")
    bits = {name: StudentManifest.read(data / name / "student.json").bits for name in ("student", "w6/student")}
    assert {name: each.weight_bits for name, each in bits.items()} == {"student": 3, "w6/student": 6}
    assert (data / "w6" / "eval" / "report.html").is_file() and (data / "eval" / "report.html").is_file()


def test_another_student_in_the_way_names_the_variables_and_check_says_it_first(side_by_side: Project) -> None:
    settings = quickly(qat__bits__weight_bits=5)
    _, output = side_by_side.up("qat", ZSQ_SET=settings)
    assert side_by_side.states()["qat"] == ("exited", 2)
    said = "keep both by a name in ZSQ_STUDENT, or replace it with ZSQ_OVERWRITE=1"
    assert said in output
    checked = side_by_side("run", "--rm", "check", ZSQ_SET=settings)
    assert checked.returncode == 2 and said in checked.stderr
    assert side_by_side("run", "--rm", "check", ZSQ_SET=settings, ZSQ_OVERWRITE="1").returncode == 0
    code, output = side_by_side.up("qat", ZSQ_SET=settings, ZSQ_OVERWRITE="1")
    assert code == 0 and side_by_side.states()["qat"] == ("exited", 0), output


def test_a_pulled_set_takes_the_place_of_what_synth_makes(project: Project, pulled: Path, tmp_path: Path) -> None:
    code, output = project.up("qat", "eval", ZSQ_SET_DIR=str(pulled), ZSQ_SET=quickly())
    assert code == 0 and project.states() == DONE, output + project("logs", "synth").stdout
    data = project.copy_out(tmp_path / "data")
    student = StudentManifest.read(data / "student" / "student.json")
    assert student.calibration_set.digest == open_calibration_set(pulled).manifest.digest
    assert not (data / "calibration").exists()


def test_check_names_all_that_is_wrong_at_once(project: Project, tmp_path: Path) -> None:
    models, storage = tmp_path / "models", tmp_path / "storage"
    models.mkdir()
    (models / "best.pt").write_bytes(b"not a checkpoint")
    storage.mkdir(mode=0o755)  # of whoever runs the tests
    tmp_path.chmod(0o755)
    wrong = quickly(teacher__path="/models/other.pt", eval__data="/validation/val")
    found = project("run", "--rm", "check", ZSQ_MODELS=str(models), ZSQ_STORAGE=str(storage), ZSQ_SET=wrong)
    assert found.returncode == 2
    lines = [line for line in found.stderr.splitlines() if line.startswith("zsq check: ")]
    assert len(lines) == 3, found.stderr
    assert "checkpoints lie under /models, which ZSQ_MODELS fills; there are: best.pt" in lines[0]
    assert "validation images lie under /validation, which ZSQ_VALIDATION fills; there are none" in lines[1]
    assert "chown 10001:10001 the folder on the host, or set ZSQ_USER" in lines[2]
    events = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
    assert [event["exit_code"] for event in events if event["event"] == "error"] == [2, 2, 2]
    assert {event["run"] for event in events} == {project.name}


def test_a_folder_that_is_not_there_is_refused_and_does_not_appear(project: Project, tmp_path: Path) -> None:
    for variable in ("ZSQ_MODELS", "ZSQ_VALIDATION", "ZSQ_SET_DIR"):
        missing = tmp_path / variable
        found = project("run", "--rm", "check", **{variable: str(missing)})
        assert found.returncode != 0 and str(missing) in found.stderr
        assert not missing.exists()
