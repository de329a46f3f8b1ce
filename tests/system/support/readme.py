"""The README's code, so that tests run what people copy."""

import re

from support.paths import ROOT

README = ROOT / "README.md"


def blocks(begin: str, end: str, language: str = "") -> list[str]:
    """The fenced blocks of this language between two texts of the README, each of which is there once."""
    text = README.read_text()
    for mark in (begin, end):
        assert text.count(mark) == 1, f"{README}: {mark!r} stands there {text.count(mark)} times"
    part = text[text.index(begin):text.index(end)]
    found = [code for named, code in re.findall(r"^```(\w*)\n(.*?)^```$", part, re.DOTALL | re.MULTILINE) if named == language]
    assert found, f"{README}: there is no block of {language or 'no language'} after {begin!r}"
    return found
