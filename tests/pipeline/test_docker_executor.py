"""What the Docker executor asks of an engine; tests/docker runs it on a real one."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from requests.exceptions import ConnectionError as RequestsConnectionError

from pipeline import docker_executor
from pipeline.conductor import ExecutorName, checked
from pipeline.docker_executor import CONFINEMENT, DockerExecutor, container_name, image_name, mounts
from pipeline.plan import StageCommand, plan_stages
from schemas.base import validate_config
from schemas.errors import ConfigError, InputError
from schemas.run_config import RunConfig

COMPOSE_FILE = Path(__file__).resolve().parents[2] / "docker-compose.yml"
COMPOSE = yaml.safe_load(COMPOSE_FILE.read_text())


class FakeContainer:
    status = "exited"

    def __init__(self, engine: "FakeEngine") -> None:
        self.engine = engine

    def attach(self, **_: Any) -> Any:
        return iter([(b"to stdout\n", None), (None, b"to stderr\n")])

    def start(self) -> None:
        if self.engine.start_error:
            raise self.engine.start_error

    def wait(self) -> dict[str, int]:
        return {"StatusCode": 3}

    def remove(self, force: bool = False) -> None:
        self.engine.removed += 1


class FakeEngine:
    """Stands in for the engine and its `containers` collection."""

    def __init__(self) -> None:
        self.containers = self
        self.asked: dict[str, Any] = {}
        self.removed = 0
        self.left_over: FakeContainer | None = None
        self.create_error: Exception | None = None
        self.start_error: Exception | None = None
        self.runtimes = ["runc"]

    def ping(self) -> None: ...

    def info(self) -> dict[str, Any]:
        return {"Runtimes": dict.fromkeys(self.runtimes)}

    def get(self, name: str) -> FakeContainer:
        if self.left_over is None:
            raise NotFound(name)
        return self.left_over

    def create(self, image: str, command: list[str], **options: Any) -> FakeContainer:
        if self.create_error:
            raise self.create_error
        self.asked = {"image": image, "command": command} | options
        return FakeContainer(self)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    fake = FakeEngine()
    tmp_path.chmod(0o755)  # as a folder is that a user makes
    monkeypatch.setattr(docker_executor.docker, "from_env", lambda: fake)
    return fake


def plan(storage: Path, **settings: Any) -> dict[str, StageCommand]:
    config = validate_config(RunConfig, {"storage": str(storage)} | settings, "test")
    return {command.stage: command for command in plan_stages(config)}


def bound(command: StageCommand) -> dict[str, bool]:
    """Path in the container → whether it can be written."""
    assert all(mount["Type"] == "bind" for mount in mounts(command))
    return {mount["Target"]: not mount["ReadOnly"] for mount in mounts(command)}


def test_a_container_is_confined_as_a_compose_service_is():
    job = COMPOSE["x-job"]
    tmpfs = dict(entry.split(":") for entry in job["tmpfs"])
    same = {key: job[key] for key in ("init", "read_only", "network_mode", "cap_drop", "security_opt", "shm_size")}
    assert same | {"tmpfs": tmpfs} == CONFINEMENT


def test_images_and_memory_follow_the_variables_of_compose(monkeypatch, engine, tmp_path):
    for service, definition in COMPOSE["services"].items():
        assert definition["image"] == f"${{ZSQ_REGISTRY:-}}zsq-{service}:${{ZSQ_TAG:-latest}}"
        assert image_name(service) == f"zsq-{service}:latest"
    monkeypatch.setenv("ZSQ_REGISTRY", "registry.example.com/team/")
    monkeypatch.setenv("ZSQ_TAG", "1.2")
    monkeypatch.setenv("ZSQ_MEMORY", "3g")
    DockerExecutor().run(plan(tmp_path)["qat"])
    assert engine.asked["image"] == "registry.example.com/team/zsq-qat:1.2"
    assert engine.asked["mem_limit"] == 3 * 2**30


@pytest.mark.parametrize("amount", ["lots", "8 apples", "-1g", "0", "5m"])
def test_an_amount_of_memory_that_is_none_is_one_line(monkeypatch, engine, tmp_path, amount):
    monkeypatch.setenv("ZSQ_MEMORY", amount)
    with pytest.raises(ConfigError, match=re.escape(f"ZSQ_MEMORY: got {amount!r}; write an amount of memory")):
        DockerExecutor().run(plan(tmp_path)["qat"])


@pytest.mark.parametrize("error", [DockerException("bad value"), RequestsConnectionError("the engine is gone")])
@pytest.mark.parametrize("at", ["create_error", "start_error"])
def test_whatever_the_sdk_raises_is_one_line(engine, tmp_path, error, at):
    setattr(engine, at, error)
    with pytest.raises(InputError, match="qat: the engine"):
        DockerExecutor().run(plan(tmp_path)["qat"])


@pytest.mark.parametrize("folder", ["/", "/usr", "/opt", "/etc", "/tmp"])
def test_a_folder_that_would_hide_the_container_s_own_is_refused(folder):
    with pytest.raises(InputError, match=f"^{folder}: would hide the /"):
        mounts(plan(Path(folder))["synth"])
    with pytest.raises(InputError, match=f"^{folder}: would hide the /"):
        mounts(plan(Path("/mnt/runs"), eval={"photos": folder})["eval"])


def test_such_a_storage_is_refused_before_anything_is_made(engine, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to("/usr")
    made = []
    monkeypatch.setattr(docker_executor, "make_folder", made.append)
    for storage in (Path("/"), link):
        with pytest.raises(InputError, match="would hide"):
            DockerExecutor().run(plan(storage)["synth"])
        config = validate_config(RunConfig, {"storage": str(storage)}, "test")
        with pytest.raises(InputError, match="would hide"):
            checked(config, plan_stages(config), ExecutorName.DOCKER, overwrite=False)
    assert made == []


as_root = pytest.mark.skipif(os.getuid() != 0, reason="changes owners")


@as_root
def test_root_changes_the_owner_of_its_own_files_and_of_nothing_a_link_points_at(engine, tmp_path):
    elsewhere, storage = tmp_path / "elsewhere", tmp_path / "run"
    output = storage / "calibration"
    (output / "held-back").mkdir(parents=True)
    elsewhere.mkdir()
    for path in (elsewhere / "secret", elsewhere / "twice", output / "mine", output / "held-back" / "mine"):
        path.touch()
    (output / "theirs").touch()
    os.chown(output / "theirs", 4321, 4321)
    (output / "folder").symlink_to(elsewhere)
    (output / "file").symlink_to(elsewhere / "secret")
    os.link(elsewhere / "twice", output / "twice")
    DockerExecutor().run(plan(storage)["synth"])
    assert {path.stat().st_uid for path in (output, output / "mine", output / "held-back" / "mine")} == {10001}
    assert (output / "theirs").stat().st_uid == 4321
    for path in (elsewhere, *elsewhere.iterdir(), storage):
        assert path.stat().st_uid == 0, path


@as_root
def test_root_refuses_an_output_that_is_a_link(engine, tmp_path):
    elsewhere, storage = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    storage.mkdir()
    (storage / "calibration").symlink_to(elsewhere)
    with pytest.raises(InputError, match="calibration: is a link"):
        DockerExecutor().run(plan(storage)["synth"])
    assert elsewhere.stat().st_uid == 0 and engine.asked == {}


@as_root
def test_a_storage_that_the_containers_user_may_not_enter_says_so(engine, tmp_path):
    storage = tmp_path / "run"
    storage.mkdir(mode=0o700)
    with pytest.raises(InputError, match=r"may not enter this folder; chmod o\+rx"):
        DockerExecutor().run(plan(storage)["synth"])


def test_a_stage_s_output_streams_and_its_exit_code_comes_back(engine, tmp_path, capfd):
    assert DockerExecutor().run(plan(tmp_path)["synth"]) == 3
    assert capfd.readouterr() == ("to stdout\n", "to stderr\n")
    assert engine.removed == 1
    root = os.getuid() == 0
    assert engine.asked["user"] == ("10001:10001" if root else f"{os.getuid()}:{os.getgid()}")
    assert (tmp_path / "calibration").stat().st_uid == (10001 if root else os.getuid())
    assert engine.asked["command"][:2] == ["--config", str(tmp_path / "config" / "synth.yaml")]
    assert engine.asked["device_requests"] == []


def test_a_stage_writes_its_own_output_alone(tmp_path):
    for stage, folder in (("synth", "calibration"), ("qat", "student"), ("eval", "eval")):
        assert bound(plan(tmp_path)[stage]) == {str(tmp_path): False, str(tmp_path / folder): True}


def test_each_stage_sees_what_it_reads_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.json").touch()
    (tmp_path / "val.json").touch()
    commands = plan(
        tmp_path / "run",
        teacher={"path": "./best.pt"},
        synth={"labels": {"source": "given", "path": "labels.json"}},
        eval={"data": "val.json", "images": "val"},
    )
    seen = {
        stage: set(bound(command)) - {str(command.storage), str(command.output)} for stage, command in commands.items()
    }
    teacher = str(tmp_path / "best.pt")
    assert seen == {
        "synth": {teacher, str(tmp_path / "labels.json")},
        "qat": {teacher},
        "eval": {teacher, str(tmp_path / "val.json"), str(tmp_path / "val")},
    }


def test_a_list_of_voc_images_is_seen_with_its_whole_folder(tmp_path):
    voc = tmp_path / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    split = voc / "ImageSets" / "Main" / "test.txt"
    split.write_text("000001\n")
    given = {"labels": {"source": "given", "path": str(split)}}
    commands = plan(tmp_path / "run", eval={"data": str(split)}, synth=given)
    assert str(voc) in bound(commands["synth"])
    assert str(voc) in bound(commands["eval"])
    assert str(split.parent / "images") not in bound(commands["eval"])


def test_images_beside_a_coco_file_are_seen_too(tmp_path):
    (tmp_path / "instances.json").touch()
    (tmp_path / "images").mkdir()
    command = plan(tmp_path / "run", eval={"data": str(tmp_path / "instances.json")})["eval"]
    assert str(tmp_path / "images") in bound(command)


def test_gpus_are_asked_for_where_the_configuration_or_the_engine_has_them(engine, tmp_path):
    DockerExecutor().run(plan(tmp_path, device="cuda:1")["qat"])
    assert engine.asked["device_requests"][0]["Capabilities"] == [["gpu"]]
    engine.runtimes.append("nvidia")
    DockerExecutor().run(plan(tmp_path, device="auto")["qat"])
    assert len(engine.asked["device_requests"]) == 1
    DockerExecutor().run(plan(tmp_path, device="cpu")["qat"])
    assert engine.asked["device_requests"] == []


def test_the_container_of_a_killed_run_is_replaced_and_one_at_work_is_left_alone(engine, tmp_path):
    command = plan(tmp_path)["synth"]
    engine.left_over = FakeContainer(engine)
    assert DockerExecutor().run(command) == 3
    assert engine.removed == 2
    engine.left_over.status = "running"
    with pytest.raises(InputError, match=f"container {container_name(command)} is at work on the same folder"):
        DockerExecutor().run(command)
    assert engine.removed == 2


def test_containers_are_named_by_stage_and_folder(tmp_path):
    one, other = plan(tmp_path / "one"), plan(tmp_path / "other")
    names = {container_name(command) for command in (*one.values(), *other.values())}
    assert len(names) == 6
    assert all(re.fullmatch(r"zsq-(synth|qat|eval)-[0-9a-f]{12}", name) for name in names)


def test_a_missing_image_is_one_line_that_says_how_to_get_it(engine, tmp_path):
    engine.create_error = ImageNotFound("no such image")
    with pytest.raises(InputError, match="image zsq-synth:latest is not on this engine; build it"):
        DockerExecutor().run(plan(tmp_path)["synth"])


def test_an_engine_that_cannot_start_the_container_is_one_line_and_nothing_is_left(engine, tmp_path):
    engine.start_error = APIError("could not select device driver")
    with pytest.raises(InputError, match="does not start the container"):
        DockerExecutor().run(plan(tmp_path, device="cuda")["synth"])
    assert engine.removed == 1


def test_the_default_of_compose_is_the_default_of_zsq_run():
    sources = [entry["source"] for entry in COMPOSE["x-job"]["volumes"] if isinstance(entry, dict)]
    assert sources[-1] == "${ZSQ_RUN_CONFIG:-./pipeline/defaults/embedded.yaml}"


def test_a_folder_that_compose_mounts_has_to_be_there():
    volumes = [*COMPOSE["x-job"]["volumes"], *COMPOSE["x-with-validation"]["volumes"]]
    bound = [entry for entry in volumes if isinstance(entry, dict)]
    assert {entry["target"] for entry in bound} == {"/models", "/set", "/config/run.yaml", "/validation"}
    assert all(entry["bind"] == {"create_host_path": False} and entry["read_only"] for entry in bound)


def test_the_example_names_every_variable_of_compose():
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    described = set(re.findall(r"^#(\w+)=", (COMPOSE_FILE.parent / ".env.example").read_text(), re.MULTILINE))
    assert asked == described
