"""The stage as a user and a conductor see it: what it writes, when it goes on, what it refuses."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from detectors.average_precision import average_precision
from detectors.detections import Detections
from detectors.protocol import Detector, Suppression
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.calibration_set import HELD_BACK_FOLDER, MANIFEST, CalibrationSetManifest, LabelMode, LabelStatistics
from schemas.errors import ExitCode
from schemas.image_size import ImageSize
from schemas.synth_config import InversionConfig
from stages.shards import open_calibration_set
from stages.storage import file_digest
from synth_job import job
from synth_job.images import levels
from synth_job.inversion import Course, Inversion

Synth = Callable[..., Result]
SECOND = ("calib-000001.tar", "calib-000001.json")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(folder.glob("calib-*"))}


def one_line(result: Result, code: ExitCode) -> str:
    """The one line with which the stage failed."""
    assert result.exit_code == code, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("zsq synth: ")
    return line


def tables(result: Result) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return [event for event in events if event["event"] == "table"]


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    """Two boxes of two images, as COCO and as YOLO labels."""
    coco = tmp_path / "instances.json"
    coco.write_text(
        json.dumps(
            {
                "images": [{"id": 7, "width": 100, "height": 50}, {"id": 9, "width": 40, "height": 40}],
                "categories": [{"id": 3, "name": "ring"}, {"id": 1, "name": "square"}],
                "annotations": [
                    {"image_id": 7, "category_id": 3, "bbox": [0, 0, 50, 25]},
                    {"image_id": 9, "category_id": 1, "bbox": [10, 10, 20, 20]},
                ],
            }
        )
    )
    yolo = tmp_path / "labels"
    yolo.mkdir()
    (yolo / "a.txt").write_text("1 0.25 0.375 0.5 0.25\n")
    (yolo / "b.txt").write_text("2 0.5 0.5 0.5 0.5\n")
    return {"coco": coco, "yolo": yolo}


@pytest.mark.parametrize("source", ["adaptive", "random", "tile", "multi", "coco", "yolo"])
def test_every_label_source_makes_a_whole_set(
    synth: Synth, tmp_path: Path, given: dict[str, Path], teacher: Detector, source: str
) -> None:
    settings: dict[str, Any] = {"labels__source": source}
    if source in given:
        settings = {"labels__source": "given", "labels__path": str(given[source])}
    result = synth(tmp_path / "set", **settings)
    assert result.exit_code == 0, result.output

    opened = open_calibration_set(tmp_path / "set")
    manifest = opened.manifest
    assert manifest.label_mode is (LabelMode.GIVEN if source in given else LabelMode.SAMPLED)
    assert (manifest.samples, manifest.image_size, len(manifest.shards)) == (4, ImageSize.square(64), 2)
    assert manifest.teacher == teacher.identity
    labels = [sample.labels for sample in opened.samples]
    assert manifest.statistics == LabelStatistics.of(labels, teacher.identity.class_names)
    assert all(label.boxes for label in labels)
    origins = {"adaptive": {"sampled", "relabelled"}, "coco": {"given"}, "yolo": {"given"}}.get(source, {"sampled"})
    assert manifest.statistics.origin_histogram.keys() <= origins
    counts = {len(label.boxes) for label in labels}
    assert {"random": counts == {1}, "tile": counts == {4}, "multi": counts <= {2, 3, 4, 5}}.get(source, True)
    if source in given:
        (x, y, w, h), box = labels[0].boxes[0].bbox, labels[0].boxes[0]
        assert (x, y, w, h) == pytest.approx((0, 16, 32, 16))
        assert teacher.identity.class_names[box.category_id] == "ring"
        assert labels[2].boxes == labels[0].boxes, "given labels start again from the first"
    pixels = np.stack([sample.image() for sample in opened.samples])
    assert (pixels.shape, pixels.dtype) == ((4, 64, 64, 3), np.uint8)
    assert pixels.std() > 1


def test_a_detector_without_statistics_is_served_and_told(
    synth: Synth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UltralyticsDetector, "statistics_sites", lambda self: [])
    result = synth(tmp_path, labels__source="random", images=1)
    assert result.exit_code == 0, result.output
    assert "neither batch norm nor attention" in result.stdout
    assert "the teacher sees few of the labels" in result.stdout, "after three iterations"


def test_agreement_is_the_teacher_on_the_stored_images(finished: Path, teacher: Detector) -> None:
    opened = open_calibration_set(finished)
    pixels = np.stack([sample.image() for sample in opened.samples])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    found = teacher.predict(images, Suppression(0.001, iou=0.7))
    truth = [Detections.from_labels(sample.labels) for sample in opened.samples]
    expected, _ = average_precision(truth, found, teacher.identity.class_names)
    assert opened.manifest.teacher_agreement == expected


def test_the_closing_table_and_the_contact_sheet_are_there(synth: Synth, tmp_path: Path) -> None:
    result = synth(tmp_path, labels__source="tile")
    (table,) = tables(result)
    rows = dict(table["rows"])
    assert rows["images"] == "4 of 64 px in 2 shards"
    assert rows["labels"].startswith("sampled, 16 boxes")
    with Image.open(rows["contact sheet"]) as sheet:
        assert (sheet.format, sheet.size) == ("PNG", (4 * 204 + 4, 204 + 4))


def test_the_teachers_own_size_is_the_default(synth: Synth, tmp_path: Path, teacher: Detector) -> None:
    result = synth(tmp_path, labels__source="random", image_size=None, images=1, inversion__iterations=1)
    assert result.exit_code == 0, result.output
    assert (
        open_calibration_set(tmp_path).manifest.image_size
        == ImageSize.square(teacher.identity.input_size)
        == ImageSize.square(160)
    )


def test_images_may_start_from_those_of_label_sampling(synth: Synth, tmp_path: Path) -> None:
    settings = {"labels__source": "adaptive", "images": 2, "labels__size": 96}
    for name in ("noise", "sampled"):
        assert synth(tmp_path / name, inversion__initialisation=name, **settings).exit_code == 0
    noise, sampled = (open_calibration_set(tmp_path / name) for name in ("noise", "sampled"))
    assert noise.samples[0].labels == sampled.samples[0].labels
    assert not np.array_equal(noise.samples[0].image(), sampled.samples[0].image())
    assert sampled.samples[0].image().shape == (64, 64, 3)


def test_images_grow_through_the_levels_with_their_labels(
    synth: Synth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, float]] = []

    def watched(
        self: Inversion, images: torch.Tensor, labels: list[Detections], course: Course, *others: Any
    ) -> torch.Tensor:
        seen.append((images.shape[-1], course.iterations, float(labels[0].boxes[0, 2])))
        return run(self, images, labels, course, *others)

    run = Inversion.run
    monkeypatch.setattr(Inversion, "run", watched)
    settings = {"labels__source": "random", "images": 1, "inversion__iterations": 5, "inversion__levels": [0.5, 1]}
    assert synth(tmp_path, image_size=128, **settings).exit_code == 0
    assert [entry[:2] for entry in seen] == [(64, 2), (128, 3)]
    assert seen[1][2] == pytest.approx(2 * seen[0][2])
    (sample,) = open_calibration_set(tmp_path).samples
    assert sample.image().shape == (128, 128, 3)


def test_levels_split_the_iterations_and_equal_sides_join() -> None:
    config = InversionConfig(iterations=11, levels=(0.5, 0.5, 1.0))
    assert levels(config, ImageSize.square(320), 32) == [(ImageSize.square(160), 6), (ImageSize.square(320), 5)]
    assert levels(config, ImageSize.square(32), 32) == [(ImageSize.square(32), 11)], "no side is below the stride"


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    synth: Synth, finished: Path, tmp_path: Path
) -> None:
    assert synth(tmp_path / "again", labels__source="random").exit_code == 0
    assert digests(tmp_path / "again") == digests(finished)
    assert synth(tmp_path / "other", labels__source="random", seed=1).exit_code == 0
    ours, theirs = (open_calibration_set(folder) for folder in (finished, tmp_path / "other"))
    for mine, other in zip(ours.samples, theirs.samples, strict=True):
        assert mine.labels != other.labels
        assert not np.array_equal(mine.image(), other.image())


def test_images_of_a_set_differ(finished: Path) -> None:
    images = [sample.image().tobytes() for sample in open_calibration_set(finished).samples]
    assert len(set(images)) == len(images)


def test_an_adaptive_set_is_reproducible_too(synth: Synth, tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert synth(tmp_path / name, labels__source="adaptive", images=2).exit_code == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


def test_a_finished_set_is_up_to_date_and_stays_untouched(synth: Synth, finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    result = synth(finished, labels__source="random")
    assert result.exit_code == 0
    assert "up to date" in result.stdout
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_an_interrupted_run_goes_on_where_it_stopped(synth: Synth, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(finished, folder)
    for name in (MANIFEST, *SECOND):
        (folder / name).unlink()
    first = (folder / "calib-000000.tar").stat()

    assert synth(folder, labels__source="random").exit_code == 0
    assert digests(folder) == digests(finished)
    after = (folder / "calib-000000.tar").stat()
    assert (after.st_mtime_ns, after.st_ino) == (first.st_mtime_ns, first.st_ino)
    mine, theirs = (open_calibration_set(where).manifest for where in (folder, finished))
    assert mine.digest == theirs.digest
    assert mine.statistics == theirs.statistics
    assert mine.teacher_agreement == theirs.teacher_agreement


def test_a_shard_without_its_record_is_made_again(synth: Synth, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(finished, folder)
    (folder / MANIFEST).unlink()
    (folder / "calib-000001.json").unlink()
    (folder / "calib-000001.tar").write_bytes(b"half a shard")
    assert synth(folder, labels__source="random").exit_code == 0
    assert digests(folder) == digests(finished)


def test_sigterm_stops_between_shards_and_the_next_run_finishes(
    synth: Synth, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_terminate(*arguments: Any, **settings: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)  # arrives while the shard is at work
        return write(*arguments, **settings)

    write = job.write_shard
    monkeypatch.setattr(job, "write_shard", write_and_terminate)
    line = one_line(synth(tmp_path, labels__source="random"), ExitCode.STOPPED)
    assert "run the same command to go on" in line
    assert sorted(digests(tmp_path)) == ["calib-000000.json", "calib-000000.tar"]
    assert not (tmp_path / MANIFEST).exists()

    monkeypatch.setattr(job, "write_shard", write)
    assert synth(tmp_path, labels__source="random").exit_code == 0
    assert digests(tmp_path) == digests(finished)


def test_sigterm_within_a_shard_drops_that_shard_only(
    synth: Synth, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def invert_and_terminate(*arguments: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 2:  # one batch per shard: this is the second shard
            os.kill(os.getpid(), signal.SIGTERM)
        return run(*arguments)

    run = Inversion.run
    monkeypatch.setattr(Inversion, "run", invert_and_terminate)
    one_line(synth(tmp_path, labels__source="random"), ExitCode.STOPPED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calib-000000.json", "calib-000000.tar"]
    assert synth(tmp_path, labels__source="random").exit_code == 0
    assert digests(tmp_path) == digests(finished)


def test_ranks_share_the_shards_and_the_last_to_end_publishes_the_same_set(
    synth: Synth, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    first = synth(tmp_path, labels__source="random")
    assert first.exit_code == 0 and "1 of 2 shards are still to come" in first.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SECOND)
    monkeypatch.setenv("RANK", "0")
    assert synth(tmp_path, labels__source="random").exit_code == 0
    assert digests(tmp_path) == digests(finished)
    assert open_calibration_set(tmp_path).manifest.digest == open_calibration_set(finished).manifest.digest


def test_a_rank_that_comes_late_leaves_the_published_set_alone(
    synth: Synth, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(finished, folder)
    manifest = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).unlink()

    def load_while_another_rank_publishes(*arguments: Any) -> Detector:
        (folder / MANIFEST).write_bytes(manifest)
        return load(*arguments)

    load = job.load_teacher
    monkeypatch.setattr(job, "load_teacher", load_while_another_rank_publishes)
    monkeypatch.setattr(job, "teacher_agreement", lambda *_: pytest.fail("the set was taken apart again"))
    assert synth(folder, labels__source="random").exit_code == 0
    assert (folder / MANIFEST).read_bytes() == manifest


def test_a_shard_that_is_gone_is_made_again(synth: Synth, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(finished, folder)
    (folder / MANIFEST).unlink()
    (folder / SECOND[0]).unlink()
    assert synth(folder, labels__source="random").exit_code == 0
    assert digests(folder) == digests(finished)


def test_other_settings_in_the_same_folder_are_refused_and_named(synth: Synth, finished: Path) -> None:
    before = digests(finished)
    line = one_line(synth(finished, labels__source="random", seed=5, inversion__iterations=4), ExitCode.BAD_INPUT)
    assert "seed: 0 → 5" in line
    assert "inversion.iterations: 3 → 4" in line
    assert "--overwrite" in line
    assert digests(finished) == before
    assert (finished / MANIFEST).exists()


def test_overwriting_replaces_the_whole_set(synth: Synth, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(finished, folder)
    assert synth(folder, "--overwrite", labels__source="tile", images=2).exit_code == 0
    opened = open_calibration_set(folder)
    assert opened.manifest.samples == 2
    assert opened.manifest.synth.labels.source == "tile"
    named = {shard.file for shard in opened.manifest.shards}
    assert {path.name for path in folder.glob("*.tar")} == named, (
        "a reader of *.tar must not find shards of the old set"
    )


def test_an_unfinished_set_with_other_settings_is_refused(synth: Synth, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(finished, folder)
    (folder / MANIFEST).unlink()
    before = digests(folder)
    line = one_line(synth(folder, labels__source="random", seed=5), ExitCode.BAD_INPUT)
    assert "--overwrite" in line
    assert digests(folder) == before


def test_a_finished_shard_that_changed_since_is_found(synth: Synth, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(finished, folder)
    (folder / MANIFEST).unlink()
    content = bytearray((folder / "calib-000000.tar").read_bytes())
    content[700] ^= 1
    (folder / "calib-000000.tar").write_bytes(content)
    assert "does not match its digest" in one_line(synth(folder, labels__source="random"), ExitCode.UNVERIFIED)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"image_size": 65}, "image_size: got 65"),
        ({"labels__size": 100}, "labels.size: got 100"),
        ({"device": "cuda:77"}, "device: got 'cuda:77'"),
        ({"teacher__path": "/none/teacher.pt"}, "/none/teacher.pt"),
        ({"labels__source": "given", "labels__path": "/none"}, "/none"),
        ({"labels__source": "given"}, "path is not set"),
        ({"labels__warm_up": 99, "labels__source": "adaptive"}, "warm_up 99"),
        ({"images": 0}, "images: got 0"),
        ({"imagez": 3}, "did you mean 'images'?"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    synth: Synth, tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    result = synth(tmp_path / "set", **{"labels__source": "random"} | settings)
    assert named in one_line(result, ExitCode.BAD_INPUT)
    assert not (tmp_path / "set").exists()


def test_changed_labels_are_another_set(synth: Synth, tmp_path: Path, given: dict[str, Path]) -> None:
    settings = {"labels__source": "given", "labels__path": str(given["yolo"]), "images": 1}
    assert synth(tmp_path / "set", **settings).exit_code == 0
    (given["yolo"] / "b.txt").write_text("3 0.5 0.5 0.5 0.5\n")
    line = one_line(synth(tmp_path / "set", **settings), ExitCode.BAD_INPUT)
    assert "labels" in line
    moved = tmp_path / "moved"
    given["yolo"].rename(moved)
    (moved / "b.txt").write_text("2 0.5 0.5 0.5 0.5\n")
    again = synth(tmp_path / "set", **settings | {"labels__path": str(moved)})
    assert "up to date" in again.stdout, "the content of the labels counts, not where they lie"


def test_shards_carry_their_own_digest_and_key(finished: Path) -> None:
    manifest = open_calibration_set(finished).manifest
    assert [shard.first_sample for shard in manifest.shards] == [0, 2]
    for shard in manifest.shards:
        content = (finished / shard.file).read_bytes()
        assert (shard.sha256, shard.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
        assert shard.key == manifest.provenance.key


def test_images_are_held_back_in_a_set_of_their_own_with_another_seed(
    synth: Synth, tmp_path: Path, finished: Path
) -> None:
    result = synth(tmp_path, labels__source="random", held_back=1)
    assert result.exit_code == 0, result.output
    made, held_back = (open_calibration_set(folder) for folder in (tmp_path, tmp_path / HELD_BACK_FOLDER))
    assert made.manifest.digest == open_calibration_set(finished).manifest.digest, "the set does not depend on it"
    assert (made.manifest.samples, held_back.manifest.samples) == (4, 1)
    assert held_back.manifest.seed != made.manifest.seed
    assert not np.array_equal(made.samples[0].image(), held_back.samples[0].image())
    again = synth(tmp_path, labels__source="random", held_back=1)
    assert again.stdout.count("up to date") == 2


def test_large_images_climb_through_resolutions_unless_told_otherwise() -> None:
    assert InversionConfig().levels_at(ImageSize.square(640)) == (0.5, 0.5, 0.5, 1.0)
    assert InversionConfig().levels_at(ImageSize.square(320)) == (1.0,)
    assert InversionConfig(levels=(1.0,)).levels_at(ImageSize.square(640)) == (1.0,)
    assert levels(InversionConfig(iterations=8), ImageSize.square(160), 32, smallest=128) == [
        (ImageSize.square(160), 8)
    ]
    config = InversionConfig(iterations=8, levels=(0.2, 1.0))
    sides = [(level.height, steps) for level, steps in levels(config, ImageSize.square(160), 32, smallest=128)]
    assert sides == [(128, 4), (160, 4)]


def test_beside_a_given_set_nothing_is_made_but_what_is_held_back(
    synth: Callable[..., Result], finished: Path, tmp_path: Path
) -> None:
    result = synth(tmp_path / "out", "--given-set", str(finished))
    assert result.exit_code == 0, result.output
    assert "nothing to make" in result.stdout and not (tmp_path / "out" / MANIFEST).exists()
    result = synth(tmp_path / "out", "--given-set", str(finished), held_back=1, labels__source="random")
    assert result.exit_code == 0, result.output
    assert CalibrationSetManifest.read(tmp_path / "out" / HELD_BACK_FOLDER / MANIFEST).samples == 1
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_given_set_that_is_none_is_refused(synth: Callable[..., Result], tmp_path: Path) -> None:
    result = synth(tmp_path / "out", "--given-set", str(tmp_path))
    assert result.exit_code == 2 and "no finished calibration set here" in result.stderr
