"""Foreign text in messages: what a terminal would act on is written out, and the secrets of URLs are left out."""

import re

MAX_SHOWN = 4000
"""Most characters of a message that are shown."""
USER = re.compile(r"(?<=://)[^/\s'\"]*@")
QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s'\"?#]*)[?#][^\s'\"]*")
HIDDEN = "***"


def redacted(text: str) -> str:
    """The text, its URLs without user names, passwords, queries and fragments: tokens lie there."""
    return QUERY.sub(rf"\1?{HIDDEN}", USER.sub(f"{HIDDEN}@", text)) if "://" in text else text


def printable(text: str, keep: str = "") -> str:
    r"""The text on one line: control sequences, line ends and marks that turn its direction are written as `\u001b`.

    Args:
        text: whatever somebody wrote.
        keep: characters that stay all the same.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escaped(each) for each in text)


def shown(text: str) -> str:
    """A message as a person may see it: printable, without secrets, its middle left out where it is very long."""
    if len(text) > MAX_SHOWN:
        text = f"{text[: MAX_SHOWN // 2]} … {text[-MAX_SHOWN // 2 :]}"
    return redacted(printable(text))


def _escaped(character: str) -> str:
    """As JSON writes it."""
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
