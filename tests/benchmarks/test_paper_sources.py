import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.paper.rows import Detector, published_detectors
from benchmarks.paper.sources import COCO_FOLDER, SOURCES, Sources, fetched_checkpoint, fetched_coco
from label_formats.find import find_labelled_images
from schemas.errors import ConfigError, InputError, VerificationError
from stages.stage import Stage
from tests.benchmarks.conftest import stored

STAGE = Stage("test")


def test_coco_is_fetched_unpacked_and_reads_as_labelled_images(small_coco: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = fetched_coco(Sources.read(small_coco.sources).coco, cache, STAGE)

    assert sorted(path.name for path in folder.iterdir()) == ["images", "instances.json"]
    assert [path.name for path in cache.iterdir()] == [COCO_FOLDER], "archives are not kept"
    assert len(list((folder / "images").iterdir())) == small_coco.images, "what no label names is left out"
    names = [each["name"] for each in json.loads((folder / "instances.json").read_text())["categories"]]
    assert len(find_labelled_images(folder, None, None).read(names).images) == small_coco.images


def test_coco_that_is_there_is_not_asked_for(small_coco: Any, tmp_path: Path) -> None:
    coco = Sources.read(small_coco.sources).coco
    folder = fetched_coco(coco, tmp_path / "cache", STAGE)
    asked = list(small_coco.asked)
    assert len(asked) == 2
    assert fetched_coco(coco, tmp_path / "cache", STAGE) == folder
    assert small_coco.asked == asked


def test_an_archive_that_has_arrived_before_a_stop_is_kept(small_coco: Any, tmp_path: Path) -> None:
    coco = Sources.read(small_coco.sources).coco
    coco.images.fetched(tmp_path / "cache", STAGE)
    (tmp_path / "cache" / f".{COCO_FOLDER}" / "images").mkdir(parents=True)
    (tmp_path / "cache" / f".{COCO_FOLDER}" / "images" / "half.jpg").write_bytes(b"")

    folder = fetched_coco(coco, tmp_path / "cache", STAGE)

    assert small_coco.asked == ["/zips/val2017.zip", "/annotations/annotations_trainval2017.zip"]
    assert not (folder / "images" / "half.jpg").exists()


@pytest.mark.parametrize("content", ["longer", "as long", "shorter"])
def test_another_archive_than_the_known_one_is_refused(content: str, small_coco: Any, tmp_path: Path) -> None:
    path = small_coco.served / "zips" / "val2017.zip"
    good = path.read_bytes()
    other = {"longer": good + b"!", "as long": b"!" + good[1:], "shorter": good[:-1]}
    path.write_bytes(other[content])

    with pytest.raises(VerificationError, match=r"val2017\.zip"):
        fetched_coco(Sources.read(small_coco.sources).coco, tmp_path / "cache", STAGE)
    assert not (tmp_path / "cache" / COCO_FOLDER).exists()
    assert not (tmp_path / "cache" / "val2017.zip").exists()


def test_an_archive_without_an_image_that_is_labelled_is_refused(small_coco: Any, tmp_path: Path) -> None:
    small_coco.served = tmp_path / "other"
    with zipfile.ZipFile(tmp_path / "less.zip", "w") as archive:
        archive.writestr("val2017/000000000000.jpg", b"")
    values = yaml.safe_load(small_coco.sources.read_text())
    less = (tmp_path / "less.zip").read_bytes()
    values["coco"]["images"] = stored(tmp_path / "other", "zips", "val2017.zip", less, "unused")
    values["coco"]["images"]["address"] = str(tmp_path / "other" / "zips")
    small_coco.sources.write_text(yaml.safe_dump(values))

    with pytest.raises(VerificationError, match="lacks 5 of the images"):
        fetched_coco(Sources.read(small_coco.sources).coco, tmp_path / "cache", STAGE)
    assert not (tmp_path / "cache" / COCO_FOLDER).exists()


def test_a_checkpoint_comes_from_its_address_and_stays(small_coco: Any, tmp_path: Path) -> None:
    detector, sources = published_detectors()["yolov5s"], Sources.read(small_coco.sources)
    path = fetched_checkpoint(detector, sources, tmp_path / "cache", STAGE)
    assert Path(path).read_bytes() == b"weights"
    assert fetched_checkpoint(detector, sources, tmp_path / "cache", STAGE) == path
    assert small_coco.asked == ["/v7.0/yolov5s.pt"]


def test_a_checkpoint_by_its_published_name_is_put_into_the_cache(
    small_coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str) -> Path:
        Path(name).write_bytes(b"published")
        return Path(name)

    monkeypatch.setattr("detectors.ultralytics.assets.download", download)
    before = Path.cwd()
    path = fetched_checkpoint(
        published_detectors()["yolo11s"], Sources.read(small_coco.sources), tmp_path / "cache", STAGE
    )
    assert Path(path) == tmp_path / "cache" / "checkpoints" / "yolo11s.pt"
    assert Path(path).read_bytes() == b"published" and Path.cwd() == before


def test_a_file_and_the_embedded_detector_are_not_fetched(small_coco: Any, tmp_path: Path) -> None:
    sources = Sources.read(small_coco.sources)
    for checkpoint in ("embedded", "/models/best.pt"):
        assert fetched_checkpoint(Detector("best", checkpoint, None), sources, tmp_path, STAGE) == checkpoint
    assert not small_coco.asked


def test_the_sources_of_the_project_cover_what_no_family_fetches_itself() -> None:
    sources = Sources.read(SOURCES)
    anchor_based = {name for name in published_detectors() if name.startswith("yolov5")}
    assert sources.checkpoints.keys() == anchor_based


def test_a_source_without_a_digest_is_refused(small_coco: Any, tmp_path: Path) -> None:
    values = yaml.safe_load(small_coco.sources.read_text())
    del values["coco"]["images"]["sha256"]
    small_coco.sources.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="sha256"):
        Sources.read(small_coco.sources)


def test_what_is_no_archive_is_an_error_of_one_line(small_coco: Any, tmp_path: Path) -> None:
    values = yaml.safe_load(small_coco.sources.read_text())
    values["coco"]["annotations"] = stored(tmp_path / "other", "a", "labels.zip", b"text", "unused")
    values["coco"]["annotations"]["address"] = str(tmp_path / "other" / "a")
    small_coco.sources.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match="cannot be unpacked") as caught:
        fetched_coco(Sources.read(small_coco.sources).coco, tmp_path / "cache", STAGE)
    assert "\n" not in str(caught.value)
