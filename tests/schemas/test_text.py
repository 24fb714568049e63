"""Foreign text in messages: nothing that a terminal acts on, no secret of a URL, no endless line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.text import MAX_SHOWN, printable, redacted, shown

SECRET = "s3cr3tpw"


@given(st.text())
def test_whatever_the_text_one_printable_line_comes_out(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 6 * MAX_SHOWN + 3


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_what_is_printable_stays_and_json_stays_json(text: str) -> None:
    assert printable(text, keep=text) == text
    document = json.dumps({"name": text}, ensure_ascii=False)
    assert json.loads(printable(document)) == {"name": text}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\x1b]0;x\x07", r"\u001b]0;x\u0007"),
        ("a\nzsq: b", r"a\u000azsq: b"),
        ("\u202eabc\U000e0041", r"\u202eabc\udb40\udc41"),
        ("Fahrradständer 猫 🐈", "Fahrradständer 猫 🐈"),
    ],
)
def test_control_characters_are_written_out(text: str, said: str) -> None:
    assert printable(text) == said


def test_a_very_long_message_loses_its_middle() -> None:
    assert len(shown("x" * 10_000_000)) < MAX_SHOWN + 10


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host/set",
        f"https://{SECRET}@host:80/set",
        f"http://user:p@{SECRET}@host/set",
        f"s3://key:{SECRET}@bucket/set",
        f"http://host/set?token={SECRET}&x=1",
        f"http://host/set?X-Amz-Signature={SECRET}",
        f"http://host/set#{SECRET}",
    ],
)
def test_secrets_of_urls_are_in_no_message(url: str) -> None:
    for text in (redacted(f"{url}/manifest.json: is not there"), str(InputError(f"{url!r}: no such folder"))):
        assert SECRET not in text
        assert url.partition("://")[0] in text


@pytest.mark.parametrize("text", ["a@b.example", "what? and why", "https://host/set", "file:///x@y/set"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text).rpartition("/")[2] == text.rpartition("/")[2]
