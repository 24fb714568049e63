"""Copies of private images that somebody smuggled into a set are found, whatever was done to them, and nothing else."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.privacy.check import check_privacy
from pipeline.privacy.copies import KINDS, altered
from pipeline.privacy.measures import PixelMeasure
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ConfigError, InputError, ZsqError
from schemas.image_size import ImageSize
from schemas.privacy import PrivacyReport, Verdict
from stages.pixels import Pixels
from stages.stage import Stage
from tests.pipeline.privacy.conftest import SIDE, photograph, unrelated

SetOf = Callable[[Path, Sequence[Pixels]], CalibrationSetManifest]


def checked(folder: Path, against: Path) -> PrivacyReport:
    return check_privacy(folder, against, lambda _: [PixelMeasure()], Stage("set privacy")).report


def test_smuggled_copies_are_found_and_named(photographs: Path, set_of: SetOf, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    clean = [unrelated(seed) for seed in range(6)]
    sources = [f"{seed:03d}.png" for seed in range(1, 30, 3)][: len(KINDS)]
    copies = [
        altered(np.asarray(photograph(int(name[:3]))), kind, ImageSize.square(SIDE), generator)
        for kind, name in zip(KINDS, sources, strict=True)
    ]
    set_of(tmp_path / "set", [*clean, *copies])
    report = checked(tmp_path / "set", photographs)
    found = {sample.sample: sample.nearest[0].image for sample in report.samples if sample.copy_like}
    assert found == dict(enumerate(sources, start=len(clean)))
    assert report.record.verdict is Verdict.COPIES and report.record.copy_like == len(KINDS)


def test_a_clean_set_is_called_so_and_the_check_finds_what_it_plants(
    photographs: Path, set_of: SetOf, tmp_path: Path
) -> None:
    set_of(tmp_path / "set", [unrelated(seed) for seed in range(8)])
    record = checked(tmp_path / "set", photographs).record
    assert (record.verdict, record.copy_like, record.images, record.real_images) == (Verdict.NOTHING_FOUND, 0, 8, 30)
    assert {each.kind for each in record.planted} == set(KINDS)
    found = {each.kind: each.found / each.planted for each in record.planted}
    assert min(found[kind] for kind in KINDS if kind not in ("cropped", "noise")) >= 0.8, found
    assert min(found.values()) >= 0.3, found


def test_a_copy_of_a_frame_among_frames_that_are_all_alike_is_found(set_of: SetOf, tmp_path: Path) -> None:
    frame, generator = np.asarray(photograph(0)).astype(float), np.random.default_rng(3)
    (tmp_path / "video").mkdir()
    for number in range(20):
        pixels = (frame + generator.normal(0, 4, frame.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "video" / f"{number}.png")
    copy = altered(frame.astype(np.uint8), "brighter", ImageSize.square(SIDE), generator)
    set_of(tmp_path / "set", [unrelated(0), copy])
    report = checked(tmp_path / "set", tmp_path / "video")
    assert [sample.copy_like for sample in report.samples] == [False, True]
    assert report.real[0].near_each_other == 1.0


def test_on_blank_images_the_check_says_that_it_says_nothing(set_of: SetOf, tmp_path: Path) -> None:
    (tmp_path / "blank").mkdir()
    for number in range(12):
        Image.new("L", (50, 40), 20 * number).save(tmp_path / "blank" / f"{number}.png")
    set_of(tmp_path / "set", [unrelated(0)])
    assert checked(tmp_path / "set", tmp_path / "blank").record.verdict is Verdict.INCONCLUSIVE


def test_grey_images_of_odd_sizes_and_16_bits_are_compared(set_of: SetOf, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    for seed in range(12):
        grey = photograph(seed).convert("L")
        if seed % 2:
            grey = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        grey.resize((31 + 40 * seed, 500 - 40 * seed)).save(tmp_path / "odd" / f"{seed:02d}.png")
    set_of(tmp_path / "set", [unrelated(0), np.asarray(photograph(5).resize((SIDE, SIDE)))])
    report = checked(tmp_path / "set", tmp_path / "odd")
    assert [sample.copy_like for sample in report.samples] == [False, True]
    assert report.samples[1].nearest[0].image == "05.png"


def test_hidden_images_are_left_out_and_counted(photographs: Path, set_of: SetOf, tmp_path: Path) -> None:
    (tmp_path / "private").symlink_to(photographs)
    set_of(tmp_path / "set", [np.asarray(photograph(99).resize((SIDE, SIDE)))])
    hidden = photographs / ".099.png"
    photograph(99).save(hidden)
    try:
        report = checked(tmp_path / "set", tmp_path / "private")
    finally:
        hidden.unlink()
    assert report.record.copy_like == 0 and report.left_out == ("1 hidden image file",)


@pytest.mark.parametrize(
    ("against", "error", "words"),
    [
        ("nowhere", InputError, "no such folder"),
        ("empty", InputError, "holds 0 images"),
        ("few", InputError, "holds 3 images.*at least 10"),
        ("set", ConfigError, "of the set itself"),
        (".", ConfigError, "of the set itself"),
        ("broken", InputError, "broken.png: cannot be decoded"),
        ("cut", InputError, "cut.png: cannot be decoded"),
    ],
)
def test_a_folder_that_cannot_be_compared_says_so_in_one_line(
    against: str, error: type[ZsqError], words: str, set_of: SetOf, tmp_path: Path
) -> None:
    set_of(tmp_path / "set", [unrelated(0)])
    for name, number in (("empty", 0), ("few", 3), ("broken", 12), ("cut", 12)):
        (tmp_path / name).mkdir()
        for seed in range(number):
            photograph(seed).save(tmp_path / name / f"{seed}.png")
    (tmp_path / "broken" / "broken.png").write_text("not an image")
    whole = (tmp_path / "cut" / "1.png").read_bytes()
    (tmp_path / "cut" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(error, match=words) as raised:
        checked(tmp_path / "set", tmp_path / against)
    assert "\n" not in str(raised.value)
