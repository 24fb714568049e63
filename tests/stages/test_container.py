"""Messages inside a container name what whoever reads them can change: mounts, variables, owners."""

from pathlib import Path

import pytest

from detectors.source import checkpoint_path
from label_formats.find import find_labelled_images
from schemas.errors import InputError
from schemas.teacher import TeacherSource
from stages import container


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(container, "MODELS", folder)
    return folder


def test_outside_of_a_container_nothing_is_said_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(container.CONTAINER_VARIABLE, raising=False)
    assert container.where_checkpoints_lie() == container.where_images_lie() == ""
    assert container.unwritable(PermissionError()) == "choose another one"
    assert "--overwrite" in container.other_output("qat") and "--overwrite" in container.start_anew()


@pytest.mark.parametrize(("by", "source"), [("compose", "ZSQ_MODELS"), ("docker", "-v FOLDER:")])
def test_a_missing_checkpoint_says_where_checkpoints_lie_and_which_are_there(
    monkeypatch: pytest.MonkeyPatch, models: Path, by: str, source: str
) -> None:
    monkeypatch.setenv(container.CONTAINER_VARIABLE, by)
    with pytest.raises(InputError, match="there are none"):
        checkpoint_path(TeacherSource(path="/home/me/best.pt"))
    (models / "best.pt").touch()
    (models / ".gitkeep").touch()
    for path in ("/home/me/best.pt", "mine.pt"):  # the second is no published name
        with pytest.raises(InputError, match=r"in a container, checkpoints lie under .*there are: best\.pt$") as found:
            checkpoint_path(TeacherSource(path=path))
        assert source in str(found.value)


def test_missing_images_say_where_images_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(container.CONTAINER_VARIABLE, "compose")
    with pytest.raises(InputError, match="lie under /validation, which ZSQ_VALIDATION fills; there are none"):
        find_labelled_images(tmp_path / "missing", None, None)


def test_a_folder_of_somebody_else_says_whose_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(container.CONTAINER_VARIABLE, "compose")
    monkeypatch.setattr(container.os, "getuid", lambda: 10001)
    monkeypatch.setattr(container.os, "getgid", lambda: 10001)
    assert "chown 10001:10001" in container.unwritable(PermissionError())
    assert "ZSQ_USER" in container.unwritable(PermissionError())
    assert container.unwritable(OSError("disk full")) == "choose another one"


def test_what_is_in_the_way_is_replaced_or_kept_the_compose_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(container.CONTAINER_VARIABLE, "compose")
    assert "ZSQ_STUDENT" in container.other_output("qat") and "ZSQ_SET_DIR" in container.other_output("synth")
    for stage in ("synth", "qat", "eval"):
        assert container.other_output(stage).endswith("ZSQ_OVERWRITE=1")
