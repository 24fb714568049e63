"""XML that was made to harm is refused in one line, within bounds of time and memory."""

import random
from pathlib import Path

import pytest

from label_formats.pascal_voc import MAX_BYTES, annotation_files, is_voc, read_annotation
from schemas.errors import InputError
from tests.hostile.conftest import refused
from tests.hostile.mutation import mutated

WHOLE = (
    b"<?xml version='1.0'?><annotation><size><width>64</width><height>32</height></size><object><name>cat</name>"
    b"<difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>"
    b"</annotation>"
)


def bomb() -> bytes:
    """A billion laughs: ten entities, each ten of the one before."""
    entities = b"".join(b"<!ENTITY l%d '%s'>" % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10))
    return b"<!DOCTYPE annotation [<!ENTITY l0 'lol'>" + entities + b"]><annotation>&l9;</annotation>"


HOSTILE = {
    "bomb": bomb(),
    "quadratic": b"<!DOCTYPE a [<!ENTITY e '"
    + b"a" * 50_000
    + b"'>]><annotation>"
    + b"&e;" * 50_000
    + b"</annotation>",
    "reads-a-file": b"<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><annotation>&e;</annotation>",
    "asks-an-address": b"<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/a.dtd'><annotation/>",
    "parameter-entity": b"<!DOCTYPE a [<!ENTITY % e SYSTEM 'file:///etc/passwd'> %e;]><annotation/>",
    "huge": b"<annotation>" + b" " * MAX_BYTES + b"</annotation>",
    "many": b"<annotation>" + b"<a/>" * 200_000 + b"</annotation>",
    "deep": b"<annotation>" + b"<a>" * 100_000,
    "undefined-entity": b"<annotation>&e;</annotation>",
    "unknown-encoding": b"<?xml version='1.0' encoding='nowhere'?><annotation/>",
    "rot13": b"<?xml version='1.0' encoding='rot13'?><annotation/>",
    "empty": b"",
    "binary": bytes(range(256)),
    "html": b"<html><body>404</body></html>",
    "two-roots": b"<annotation/><annotation/>",
    "nan": WHOLE.replace(b">10<", b">nan<"),
    "infinite": WHOLE.replace(b">10<", b">1e999<"),
    "wordy": WHOLE.replace(b">10<", b">ten<"),
    "no-edge": WHOLE.replace(b"<xmax>10</xmax>", b""),
    "no-box": WHOLE.replace(b"bndbox", b"polygon"),
    "no-name": WHOLE.replace(b">cat<", b"> <"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_xml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    assert str(path) in refused(lambda: read_annotation(path))


def test_the_whole_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(WHOLE)
    annotation = read_annotation(path)
    assert annotation.size == (64, 32)
    assert [(each.name, each.box, each.difficult) for each in annotation.objects] == [("cat", (0, 1.5, 10, 20), True)]


def test_mutated_annotations_are_read_or_refused(tmp_path: Path, no_time_limit: None) -> None:
    path, outcomes = tmp_path / "a.xml", set()
    generator = random.Random(0)
    for _ in range(1000):
        path.write_bytes(mutated(WHOLE, generator))
        try:
            read_annotation(path)
        except InputError as error:
            outcomes.add("refused")
            assert "\n" not in str(error)
        else:
            outcomes.add("read")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", "a\\b", "a\0b"])
def test_a_list_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "Annotations").mkdir()
    split = tmp_path / "ImageSets" / "Main" / "test.txt"
    split.parent.mkdir(parents=True)
    split.write_text(f"{name}\n")
    assert is_voc(split)
    assert "one name a line" in refused(lambda: annotation_files(split))
